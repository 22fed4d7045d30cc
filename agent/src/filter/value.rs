//! What an expression is of one event: mostly borrowed from it.

use std::{borrow::Cow, cmp::Ordering, sync::Arc};

use podtrail_proto::{
    Duration, Timestamp,
    reflect::{self, Kind, Shape},
};

/// Nanoseconds of a second.
pub(super) const SECOND: i128 = 1_000_000_000;

/// See the module.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    /// nanoseconds since 1970: no sum of what messages can hold overflows
    Timestamp(i128),
    /// nanoseconds
    Duration(i128),
    /// without: not set, all its fields have their defaults
    Message(Option<&'a dyn reflect::Message>),
    List(List<'a>),
    Map(Option<&'a dyn reflect::Map>, Kind),
}

#[derive(Clone, Debug)]
pub(super) enum List<'a> {
    Proto(&'a dyn reflect::List, Kind),
    Made(Arc<[Value<'a>]>),
}

impl<'a> List<'a> {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Proto(list, _) => list.count(),
            Self::Made(values) => values.len(),
        }
    }

    pub(super) fn at(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Self::Proto(list, kind) => list.at(index).map(|value| Value::of(value, *kind)),
            Self::Made(values) => values.get(index).cloned(),
        }
    }
}

impl<'a> Value<'a> {
    /// From a message's field.
    pub(super) fn of(value: reflect::Value<'a>, kind: Kind) -> Self {
        match value {
            reflect::Value::Unset => Self::default_of(kind),
            reflect::Value::Bool(v) => Self::Bool(v),
            reflect::Value::Int(v) => match kind {
                // As in JSON: what has no name is its number.
                Kind::Enum(info) => {
                    Self::Text(info.name_of(v).map_or_else(|| Cow::Owned(v.to_string()), Cow::Borrowed))
                }
                _ => Self::Int(v),
            },
            reflect::Value::Uint(v) => Self::Uint(v),
            reflect::Value::Double(v) => Self::Double(v),
            reflect::Value::Text(v) => Self::Text(Cow::Borrowed(v)),
            reflect::Value::Bytes(v) => Self::Bytes(Cow::Borrowed(v)),
            reflect::Value::Timestamp(Timestamp { seconds, nanos }) => {
                Self::Timestamp(i128::from(*seconds) * SECOND + i128::from(*nanos))
            }
            reflect::Value::Duration(Duration { seconds, nanos }) => {
                Self::Duration(i128::from(*seconds) * SECOND + i128::from(*nanos))
            }
            reflect::Value::Message(v) => Self::Message(Some(v)),
            reflect::Value::List(v) => Self::List(List::Proto(v, kind)),
            reflect::Value::Map(v) => Self::Map(Some(v), kind),
        }
    }

    /// What a field is that is not there.
    pub(super) fn default_of_field(kind: Kind, shape: Shape) -> Self {
        match shape {
            Shape::Plain | Shape::Optional => Self::default_of(kind),
            Shape::List => Self::List(List::Made(Arc::from([]))),
            Shape::Map => Self::Map(None, kind),
        }
    }

    pub(super) fn default_of(kind: Kind) -> Self {
        match kind {
            Kind::Bool => Self::Bool(false),
            Kind::Int => Self::Int(0),
            Kind::Uint => Self::Uint(0),
            Kind::Double => Self::Double(0.0),
            Kind::Text => Self::text(""),
            Kind::Bytes => Self::Bytes(Cow::Borrowed(&[])),
            Kind::Timestamp => Self::Timestamp(0),
            Kind::Duration => Self::Duration(0),
            Kind::Enum(info) => Self::text(info.name_of(0).unwrap_or_default()),
            Kind::Message(_) => Self::Message(None),
        }
    }

    pub(super) const fn text(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// Bytes that comparing or searching it looks at.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            _ => 0,
        }
    }

    /// `None`: they have no order, as NaN has none. Lists are compared elsewhere: it costs.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Bytes(a), Self::Bytes(b)) => Some(a.cmp(b)),
            (Self::Timestamp(a), Self::Timestamp(b)) | (Self::Duration(a), Self::Duration(b)) => {
                Some(a.cmp(b))
            }
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Double(a), b) => compare_double(*a, b.whole()?),
            (a, Self::Double(b)) => compare_double(*b, a.whole()?).map(Ordering::reverse),
            (a, b) => Some(a.whole()?.cmp(&b.whole()?)),
        }
    }

    /// An int or a uint.
    pub(super) fn whole(&self) -> Option<i128> {
        match self {
            Self::Int(v) => Some(i128::from(*v)),
            Self::Uint(v) => Some(i128::from(*v)),
            _ => None,
        }
    }
}

/// Exact, where a conversion of the whole number would round.
fn compare_double(double: f64, whole: i128) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    let floor = double.floor();
    #[expect(clippy::cast_possible_truncation, reason = "a cast of a double keeps to the type's ends")]
    let rounded = floor as i128;
    Some(rounded.cmp(&whole).then(if double > floor { Ordering::Greater } else { Ordering::Equal }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_by_what_they_are() {
        let less = |a: &Value<'_>, b: &Value<'_>| {
            assert_eq!(a.compare(b), Some(Ordering::Less), "{a:?} {b:?}");
            assert_eq!(b.compare(a), Some(Ordering::Greater), "{b:?} {a:?}");
        };
        less(&Value::Int(-1), &Value::Uint(u64::MAX));
        less(&Value::Double(0.5), &Value::Uint(1));
        less(&Value::Double(-0.5), &Value::Int(0));
        less(&Value::Uint(u64::MAX), &Value::Double(f64::INFINITY));
        // As a double the first is 2^53.
        less(&Value::Double(9_007_199_254_740_992.0), &Value::Int(9_007_199_254_740_993));
        less(&Value::Double(f64::NEG_INFINITY), &Value::Int(i64::MIN));
        assert_eq!(Value::Uint(1).compare(&Value::Int(1)), Some(Ordering::Equal));
        assert_eq!(Value::Double(f64::NAN).compare(&Value::Int(1)), None);
    }
}
