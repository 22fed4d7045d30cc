//! From text to the tree of the `cel` crate, with the place of every node.

use cel::{
    Env,
    common::ast::{IdedExpr, SourceInfo},
};

use super::{FilterError, MAX_BYTES};

/// A tree, and where in the text its nodes are.
pub(super) struct Parsed<'a> {
    pub(super) tree: IdedExpr,
    places: SourceInfo,
    text: &'a str,
}

pub(super) fn parse(text: &str) -> Result<Parsed<'_>, FilterError> {
    if text.len() > MAX_BYTES {
        let why = format!("a filter has at most {MAX_BYTES} bytes, this one has {}", text.len());
        return Err(FilterError { line: 1, column: 1, why });
    }
    // An environment without macros leaves them as they are written: loops are recognized by their names.
    let parser = Env::default().with_optional_support(false).parser();
    match parser.parse_with_source_info(text) {
        Ok((tree, places)) => Ok(Parsed { tree, places, text }),
        Err(errors) => {
            let first = errors.errors.first();
            let why = first.map_or_else(|| "this is no CEL".to_owned(), |error| say(&error.msg));
            let (line, column) = first.map_or((1, 1), |error| error.pos);
            let at_least_one = |n: isize| usize::try_from(n).unwrap_or(1).max(1);
            Err(FilterError { line: at_least_one(line), column: at_least_one(column), why })
        }
    }
}

/// The parser's message in fewer words: without all else that could have stood there.
fn say(message: &str) -> String {
    let message = message.strip_prefix("Syntax error: ").unwrap_or(message);
    let quoted = |prefix| {
        let rest = message.strip_prefix(prefix)?;
        Some(rest.split_once(" expecting ").map_or(rest, |(quoted, _)| quoted))
    };
    let unexpected = quoted("mismatched input ")
        .or_else(|| quoted("extraneous input "))
        .or_else(|| quoted("no viable alternative at input "));
    match (unexpected, quoted("token recognition error at: ")) {
        (Some("'<EOF>'"), _) => "something is missing at the end".to_owned(),
        (Some(what), _) => format!("{what} is not expected here"),
        (None, Some(what)) => format!("{what} has no meaning in CEL"),
        (None, None) => message.replace("'<EOF>'", "the end"),
    }
}

impl Parsed<'_> {
    /// An error at a node; `id` is the node's.
    pub(super) fn error(&self, id: u64, why: impl Into<String>) -> FilterError {
        let start = self.places.offset_for(id).map_or(0, |(start, _)| start);
        let start = usize::try_from(start).unwrap_or(0);
        // A selection stands at its dot, a call at its parenthesis; both are looked for at their name.
        let before = self.text.get(..start).unwrap_or_default();
        let start = match self.text.as_bytes().get(start) {
            Some(b'.') => {
                let rest = self.text.get(start + 1..).unwrap_or_default();
                self.text.len() - rest.trim_start().len()
            }
            Some(b'(') => before.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '_').len(),
            _ => start,
        };
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        FilterError {
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
            why: why.into(),
        }
    }
}
