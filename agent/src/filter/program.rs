//! An expression that has been checked: every type fits, every name is a number.

use std::sync::Arc;

use podtrail_proto::reflect::{Kind, Shape};
use regex::Regex;

use super::value::Value;

#[derive(Clone, Debug)]
pub(super) enum Node {
    Const(Value<'static>),
    /// of the event, where no message is named
    Field {
        of: Option<Box<Node>>,
        number: u32,
        kind: Kind,
        shape: Shape,
    },
    /// `has(…)`
    Has {
        of: Option<Box<Node>>,
        number: u32,
        shape: Shape,
    },
    HasKey {
        map: Box<Node>,
        key: Box<str>,
    },
    /// a loop's variable, by how many loops are around its own
    Variable(usize),
    Not(Box<Node>),
    Negative(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    If(Box<[Node; 3]>),
    Compare(Comparison, Box<Node>, Box<Node>),
    Calculate(Calculation, Box<Node>, Box<Node>),
    /// the second holds the first
    In(Box<Node>, Box<Node>),
    /// with what it is where there is none
    Index(Box<Node>, Box<Node>, Value<'static>),
    List(Vec<Node>),
    Call(Function, Vec<Node>),
    Matches(Box<Node>, Arc<Regex>),
    Loop(Box<Loop>),
}

#[derive(Clone, Debug)]
pub(super) struct Loop {
    pub(super) kind: LoopKind,
    /// of its variable
    pub(super) slot: usize,
    pub(super) range: Node,
    /// what must be true of an element; of `map`: which elements are taken
    pub(super) condition: Option<Node>,
    /// of `map`: what becomes of an element
    pub(super) transform: Option<Node>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoopKind {
    All,
    Exists,
    ExistsOne,
    /// `filter` too
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calculation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    LowerAscii,
    UpperAscii,
    Join,
    ToInt,
    ToUint,
    ToDouble,
    ToText,
    ToBytes,
    ToTimestamp,
    ToDuration,
    Part(Part),
}

/// A part of a timestamp; of a duration: all of it, in that unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    FullYear,
    /// from 0
    Month,
    /// of the month, from 1
    Date,
    /// of the month, from 0
    DayOfMonth,
    /// 0 is Sunday
    DayOfWeek,
    /// from 0
    DayOfYear,
    Hours,
    Minutes,
    Seconds,
    Milliseconds,
}
