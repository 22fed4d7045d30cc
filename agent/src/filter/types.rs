//! What an expression can be, before there is an event.

use std::fmt;

use podtrail_proto::reflect::{EnumInfo, FieldInfo, Kind, MessageInfo, Shape};

/// The type of an expression.
#[derive(Clone, Debug)]
pub(super) enum Type {
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Timestamp,
    Duration,
    /// a string that is one of these names
    Enum(&'static EnumInfo),
    Message(&'static MessageInfo),
    List(Box<Type>),
    /// from strings
    Map(Box<Type>),
    /// of the elements of `[]`
    Any,
}

impl Type {
    pub(super) fn of(field: &FieldInfo) -> Self {
        let one = Self::of_kind(field.kind);
        match field.shape {
            Shape::Plain | Shape::Optional => one,
            Shape::List => Self::List(Box::new(one)),
            Shape::Map => Self::Map(Box::new(one)),
        }
    }

    pub(super) fn of_kind(kind: Kind) -> Self {
        match kind {
            Kind::Bool => Self::Bool,
            Kind::Int => Self::Int,
            Kind::Uint => Self::Uint,
            Kind::Double => Self::Double,
            Kind::Text => Self::Text,
            Kind::Bytes => Self::Bytes,
            Kind::Timestamp => Self::Timestamp,
            Kind::Duration => Self::Duration,
            Kind::Enum(info) => Self::Enum(info),
            Kind::Message(info) => Self::Message(info),
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Self::Int | Self::Uint | Self::Double)
    }

    /// Whether one can stand where the other is wanted.
    pub(super) fn fits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _)
            | (_, Self::Any)
            | (Self::Bool, Self::Bool)
            | (Self::Int, Self::Int)
            | (Self::Uint, Self::Uint)
            | (Self::Double, Self::Double)
            | (Self::Text | Self::Enum(_), Self::Text | Self::Enum(_))
            | (Self::Bytes, Self::Bytes)
            | (Self::Timestamp, Self::Timestamp)
            | (Self::Duration, Self::Duration) => true,
            (Self::Message(a), Self::Message(b)) => std::ptr::eq(*a, *b),
            (Self::List(a), Self::List(b)) | (Self::Map(a), Self::Map(b)) => a.fits(b),
            _ => false,
        }
    }

    /// Whether `==` has a meaning: numbers with all numbers.
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Message(_) | Self::Map(_), _) | (_, Self::Message(_) | Self::Map(_)) => false,
            (Self::List(a), Self::List(b)) => a.equals(b),
            _ => (self.is_number() && other.is_number()) || self.fits(other),
        }
    }

    /// Whether `<` has a meaning.
    pub(super) fn orders(&self, other: &Self) -> bool {
        !matches!((self, other), (Self::List(_) | Self::Any, _) | (_, Self::List(_) | Self::Any))
            && self.equals(other)
    }

    /// What both branches of a condition, or two elements of a list, have in common.
    pub(super) fn join(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, other) => Some(other.clone()),
            (Self::Enum(a), Self::Enum(b)) if std::ptr::eq(*a, *b) => Some(self.clone()),
            (Self::Text | Self::Enum(_), Self::Text | Self::Enum(_)) => Some(Self::Text),
            (Self::List(a), Self::List(b)) => Some(Self::List(Box::new(a.join(b)?))),
            _ => self.fits(other).then(|| self.clone()),
        }
    }
}

/// As people who write filters call it.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::Text => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::Enum(info) => f.write_str(info.name),
            Self::Message(info) => f.write_str(info.name),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(of) => write!(f, "map(string, {of})"),
            Self::Any => f.write_str("any"),
        }
    }
}
