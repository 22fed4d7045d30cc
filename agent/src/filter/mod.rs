//! Filters over events: CEL over the event's own fields.
//!
//! Compiled once, with every name and type checked; then asked for each event, in a bounded number of steps and
//! without a copy of the event. It has no clock, no I/O, and never panics, whatever the text and whatever the event:
//! both come from outside.
//!
//! Two things are as protobuf has them and not as CEL's own maps do: a field that is not set has its default value,
//! and so has an element of an event's list or map that is not there. So `executed.argv[1] == "-c"` is false, not an
//! error, where there is one argument. Where an expression has no value all the same (an overflow, a division by
//! zero), or costs too much for this event, the event passes and is counted: a filter must not hide by failing.
//!
//! | module | what it does |
//! |---|---|
//! | `parse` | text → the `cel` crate's tree, with the place of each node |
//! | `check` | tree → program: names, types, costs |
//! | `types`, `functions` | what an expression can be, and what can be done with it |
//! | `eval` | program and event → yes or no |

mod check;
mod eval;
mod functions;
mod hints;
#[cfg(test)]
mod page_tests;
mod parse;
mod program;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
mod time;
mod types;
mod value;

use std::{fmt, sync::Arc, thread};

use podtrail_proto::v1::{self, event::Body};

use self::{
    eval::{Evaluation, Stop},
    program::Node,
};

/// Bytes of a filter's text.
pub const MAX_BYTES: usize = 4096;
/// Steps for one event; `examples/filter_cost.rs` measures how long they take. The longest argv that an agent sends
/// without being told otherwise (64 KiB, [`crate::config`]) can be gone through several times.
pub const MAX_STEPS: usize = 500_000;
/// Loops within one another.
const MAX_LOOPS: usize = 3;
/// Expressions within one another.
const MAX_NESTING: usize = 100;
/// What a compiled pattern may take, and each cache of its automaton.
const MAX_PATTERN_MEMORY: usize = 256 * 1024;
/// What parsing the worst text of [`MAX_BYTES`] takes, several times over; only what is used is ever backed by memory.
const PARSER_STACK: usize = 32 * 1024 * 1024;

/// A filter that does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter, line {line}, column {column}: {why}")]
pub struct FilterError {
    /// from 1
    pub line: usize,
    /// from 1, in characters
    pub column: usize,
    pub why: String,
}

impl FilterError {
    /// From what [`Self`] says of itself, as it comes in a `Status`.
    #[must_use]
    pub fn read(message: &str) -> Option<Self> {
        let (line, rest) = message.strip_prefix("filter, line ")?.split_once(", column ")?;
        let (column, why) = rest.split_once(": ")?;
        Some(Self { line: line.parse().ok()?, column: column.parse().ok()?, why: why.to_owned() })
    }
}

/// Compiled once, asked for every event.
#[derive(Clone)]
pub struct Filter {
    /// none: everything matches
    program: Option<Arc<Node>>,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter").field("everything", &self.program.is_none()).finish_non_exhaustive()
    }
}

/// What a filter says of an event, where it does not say yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    #[error("the filter takes more than {MAX_STEPS} steps for this event")]
    TooExpensive,
    #[error("the filter has no value for this event: {0}")]
    Undefined(&'static str),
}

impl Filter {
    /// Compiles and checks types. Nothing, or white space: everything matches.
    pub fn compile(text: &str) -> Result<Self, FilterError> {
        if text.trim().is_empty() {
            return Ok(Self { program: None });
        }
        // The parser recurses, and a text of its choice decides how deep: it gets a stack that is deep enough. Should it
        // ever panic, this ends its thread and no other.
        let compile = || parse::parse(text).and_then(|parsed| check::check(&parsed));
        let failed = |why: &str| FilterError { line: 1, column: 1, why: why.to_owned() };
        let program = thread::scope(|scope| {
            let parser = thread::Builder::new().name("filter".to_owned()).stack_size(PARSER_STACK);
            match parser.spawn_scoped(scope, compile).map(thread::ScopedJoinHandle::join) {
                Ok(Ok(program)) => program,
                Ok(Err(_panic)) => Err(failed("the parser cannot read this: write it in another way")),
                Err(_) => Err(failed("no thread to compile it: try again later")),
            }
        })?;
        Ok(Self { program: Some(Arc::new(program)) })
    }

    /// Whether the event is to be delivered. What says that something is missing passes every filter.
    #[must_use]
    pub fn passes(&self, event: &v1::Event) -> bool {
        matches!(event.body, Some(Body::Gap(_) | Body::AgentState(_))) || self.matches(event)
    }

    /// Whether the expression is true of the event, or may be.
    #[must_use]
    pub fn matches(&self, event: &v1::Event) -> bool {
        self.decide(event).unwrap_or_else(|undecided| {
            let reason = match undecided {
                Undecided::TooExpensive => "steps",
                Undecided::Undefined(_) => "undefined",
            };
            metrics::counter!("podtrail_filter_undecided_total", "reason" => reason).increment(1);
            true
        })
    }

    /// Whether the expression is true of the event.
    pub fn decide(&self, event: &v1::Event) -> Result<bool, Undecided> {
        let Some(program) = &self.program else { return Ok(true) };
        Evaluation::new(event, MAX_STEPS).truth(program).map_err(|stop| match stop {
            Stop::Steps => Undecided::TooExpensive,
            Stop::Undefined(why) => Undecided::Undefined(why),
        })
    }
}
