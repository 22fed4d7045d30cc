//! The functions that filters have: what they take, what they give, what they do.

use std::{borrow::Cow, fmt};

use jiff::tz::Offset;
use podtrail_proto::reflect;

use super::{
    eval::{MISTYPED, OVERFLOW, Stop},
    program::{Function, Part},
    time,
    types::Type,
    value::{SECOND, Value},
};

/// What an argument must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Timestamp,
    Duration,
    AnyList,
    TextList,
    AnyMap,
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// `size(x)`
    Global,
    /// `x.size()`
    Member,
    Both,
}

/// One form of a function.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) name: &'static str,
    pub(super) style: Style,
    pub(super) takes: &'static [Takes],
    pub(super) gives: Type,
    pub(super) function: Function,
}

const fn form(
    name: &'static str,
    style: Style,
    takes: &'static [Takes],
    gives: Type,
    function: Function,
) -> Form {
    Form { name, style, takes, gives, function }
}

/// All but `matches`, whose pattern is compiled with the filter.
pub(super) const FORMS: &[Form] = {
    use Function as F;
    use Style::{Both, Global, Member};
    use Takes as T;
    &[
        form("size", Both, &[T::Text], Type::Int, F::Size),
        form("size", Both, &[T::Bytes], Type::Int, F::Size),
        form("size", Both, &[T::AnyList], Type::Int, F::Size),
        form("size", Both, &[T::AnyMap], Type::Int, F::Size),
        form("contains", Member, &[T::Text, T::Text], Type::Bool, F::Contains),
        form("startsWith", Member, &[T::Text, T::Text], Type::Bool, F::StartsWith),
        form("endsWith", Member, &[T::Text, T::Text], Type::Bool, F::EndsWith),
        form("lowerAscii", Member, &[T::Text], Type::Text, F::LowerAscii),
        form("upperAscii", Member, &[T::Text], Type::Text, F::UpperAscii),
        form("join", Member, &[T::TextList], Type::Text, F::Join),
        form("join", Member, &[T::TextList, T::Text], Type::Text, F::Join),
        form("int", Global, &[T::Int], Type::Int, F::ToInt),
        form("int", Global, &[T::Uint], Type::Int, F::ToInt),
        form("int", Global, &[T::Double], Type::Int, F::ToInt),
        form("int", Global, &[T::Text], Type::Int, F::ToInt),
        form("int", Global, &[T::Timestamp], Type::Int, F::ToInt),
        form("uint", Global, &[T::Uint], Type::Uint, F::ToUint),
        form("uint", Global, &[T::Int], Type::Uint, F::ToUint),
        form("uint", Global, &[T::Double], Type::Uint, F::ToUint),
        form("uint", Global, &[T::Text], Type::Uint, F::ToUint),
        form("double", Global, &[T::Double], Type::Double, F::ToDouble),
        form("double", Global, &[T::Int], Type::Double, F::ToDouble),
        form("double", Global, &[T::Uint], Type::Double, F::ToDouble),
        form("double", Global, &[T::Text], Type::Double, F::ToDouble),
        form("string", Global, &[T::Text], Type::Text, F::ToText),
        form("string", Global, &[T::Bool], Type::Text, F::ToText),
        form("string", Global, &[T::Int], Type::Text, F::ToText),
        form("string", Global, &[T::Uint], Type::Text, F::ToText),
        form("string", Global, &[T::Double], Type::Text, F::ToText),
        form("string", Global, &[T::Bytes], Type::Text, F::ToText),
        form("string", Global, &[T::Timestamp], Type::Text, F::ToText),
        form("string", Global, &[T::Duration], Type::Text, F::ToText),
        form("bytes", Global, &[T::Bytes], Type::Bytes, F::ToBytes),
        form("bytes", Global, &[T::Text], Type::Bytes, F::ToBytes),
        form("timestamp", Global, &[T::Timestamp], Type::Timestamp, F::ToTimestamp),
        form("timestamp", Global, &[T::Text], Type::Timestamp, F::ToTimestamp),
        form("timestamp", Global, &[T::Int], Type::Timestamp, F::ToTimestamp),
        form("duration", Global, &[T::Duration], Type::Duration, F::ToDuration),
        form("duration", Global, &[T::Text], Type::Duration, F::ToDuration),
        form("getFullYear", Member, &[T::Timestamp], Type::Int, F::Part(Part::FullYear)),
        form("getFullYear", Member, &[T::Timestamp, T::Text], Type::Int, F::Part(Part::FullYear)),
        form("getMonth", Member, &[T::Timestamp], Type::Int, F::Part(Part::Month)),
        form("getMonth", Member, &[T::Timestamp, T::Text], Type::Int, F::Part(Part::Month)),
        form("getDate", Member, &[T::Timestamp], Type::Int, F::Part(Part::Date)),
        form("getDate", Member, &[T::Timestamp, T::Text], Type::Int, F::Part(Part::Date)),
        form("getDayOfMonth", Member, &[T::Timestamp], Type::Int, F::Part(Part::DayOfMonth)),
        form("getDayOfMonth", Member, &[T::Timestamp, T::Text], Type::Int, F::Part(Part::DayOfMonth)),
        form("getDayOfWeek", Member, &[T::Timestamp], Type::Int, F::Part(Part::DayOfWeek)),
        form("getDayOfWeek", Member, &[T::Timestamp, T::Text], Type::Int, F::Part(Part::DayOfWeek)),
        form("getDayOfYear", Member, &[T::Timestamp], Type::Int, F::Part(Part::DayOfYear)),
        form("getDayOfYear", Member, &[T::Timestamp, T::Text], Type::Int, F::Part(Part::DayOfYear)),
        form("getHours", Member, &[T::Timestamp], Type::Int, F::Part(Part::Hours)),
        form("getHours", Member, &[T::Timestamp, T::Text], Type::Int, F::Part(Part::Hours)),
        form("getHours", Member, &[T::Duration], Type::Int, F::Part(Part::Hours)),
        form("getMinutes", Member, &[T::Timestamp], Type::Int, F::Part(Part::Minutes)),
        form("getMinutes", Member, &[T::Timestamp, T::Text], Type::Int, F::Part(Part::Minutes)),
        form("getMinutes", Member, &[T::Duration], Type::Int, F::Part(Part::Minutes)),
        form("getSeconds", Member, &[T::Timestamp], Type::Int, F::Part(Part::Seconds)),
        form("getSeconds", Member, &[T::Timestamp, T::Text], Type::Int, F::Part(Part::Seconds)),
        form("getSeconds", Member, &[T::Duration], Type::Int, F::Part(Part::Seconds)),
        form("getMilliseconds", Member, &[T::Timestamp], Type::Int, F::Part(Part::Milliseconds)),
        form("getMilliseconds", Member, &[T::Timestamp, T::Text], Type::Int, F::Part(Part::Milliseconds)),
        form("getMilliseconds", Member, &[T::Duration], Type::Int, F::Part(Part::Milliseconds)),
    ]
};

impl Takes {
    pub(super) fn fits(self, given: &Type) -> bool {
        match given {
            // Only `[]` has elements of any type.
            Type::Any => true,
            Type::Bool => self == Self::Bool,
            Type::Int => self == Self::Int,
            Type::Uint => self == Self::Uint,
            Type::Double => self == Self::Double,
            Type::Text | Type::Enum(_) => self == Self::Text,
            Type::Bytes => self == Self::Bytes,
            Type::Timestamp => self == Self::Timestamp,
            Type::Duration => self == Self::Duration,
            Type::List(of) => self == Self::AnyList || (self == Self::TextList && of.fits(&Type::Text)),
            Type::Map(_) => self == Self::AnyMap,
            Type::Message(_) => false,
        }
    }

    /// As the documents name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::Text => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "timestamp",
            Self::Duration => "duration",
            Self::AnyList => "list",
            Self::TextList => "list(string)",
            Self::AnyMap => "map",
        }
    }
}

fn undefined(why: &'static str) -> impl FnOnce() -> Stop {
    move || Stop::Undefined(why)
}

/// A function of one value. `Join` is not here: what it costs depends on what is in the list.
pub(super) fn call_one(function: Function, of: Value<'_>) -> Result<Value<'_>, Stop> {
    match function {
        Function::Size => {
            let size = match &of {
                Value::Text(text) => text.chars().count(),
                Value::Bytes(bytes) => bytes.len(),
                Value::List(list) => list.count(),
                Value::Map(map, _) => map.map_or(0, reflect::Map::count),
                _ => return Err(MISTYPED),
            };
            i64::try_from(size).map(Value::Int).map_err(|_| OVERFLOW)
        }
        Function::LowerAscii | Function::UpperAscii => {
            let Value::Text(mut text) = of else { return Err(MISTYPED) };
            let lower = function == Function::LowerAscii;
            if text.bytes().any(|b| if lower { b.is_ascii_uppercase() } else { b.is_ascii_lowercase() }) {
                let text = text.to_mut();
                if lower { text.make_ascii_lowercase() } else { text.make_ascii_uppercase() }
            }
            Ok(Value::Text(text))
        }
        Function::ToInt => to_int(&of),
        Function::ToUint => to_uint(&of),
        Function::ToDouble => to_double(of),
        Function::ToText => to_text(of),
        Function::ToBytes => match of {
            Value::Bytes(_) => Ok(of),
            Value::Text(Cow::Borrowed(text)) => Ok(Value::Bytes(Cow::Borrowed(text.as_bytes()))),
            Value::Text(Cow::Owned(text)) => Ok(Value::Bytes(Cow::Owned(text.into_bytes()))),
            _ => Err(MISTYPED),
        },
        Function::ToTimestamp => match &of {
            Value::Timestamp(_) => Ok(of),
            Value::Int(seconds) => Ok(Value::Timestamp(i128::from(*seconds) * SECOND)),
            Value::Text(text) => time::timestamp(text)
                .map(Value::Timestamp)
                .ok_or_else(undefined("no time as RFC 3339 has it, such as 2026-11-22T20:14:00Z")),
            _ => Err(MISTYPED),
        },
        Function::ToDuration => match &of {
            Value::Duration(_) => Ok(of),
            Value::Text(text) => time::duration(text)
                .map(Value::Duration)
                .ok_or_else(undefined("no duration, such as 1h30m, 1.5s or 100ms")),
            _ => Err(MISTYPED),
        },
        Function::Part(part) => match &of {
            Value::Timestamp(at) => {
                time::part_of_timestamp(part, *at, Offset::UTC).map(Value::Int).ok_or(OVERFLOW)
            }
            Value::Duration(span) => time::part_of_duration(part, *span).map(Value::Int).ok_or(OVERFLOW),
            _ => Err(MISTYPED),
        },
        Function::Contains | Function::StartsWith | Function::EndsWith | Function::Join => Err(MISTYPED),
    }
}

/// A function of two values.
pub(super) fn call_two<'a>(function: Function, of: &Value<'a>, other: &Value<'a>) -> Result<Value<'a>, Stop> {
    match (function, of, other) {
        (Function::Contains, Value::Text(of), Value::Text(part)) => Ok(Value::Bool(of.contains(&**part))),
        (Function::StartsWith, Value::Text(of), Value::Text(part)) => {
            Ok(Value::Bool(of.starts_with(&**part)))
        }
        (Function::EndsWith, Value::Text(of), Value::Text(part)) => Ok(Value::Bool(of.ends_with(&**part))),
        (Function::Part(part), Value::Timestamp(at), Value::Text(zone)) => {
            let offset =
                time::offset(zone).ok_or_else(undefined("no time zone: UTC, or an offset such as +02:00"))?;
            time::part_of_timestamp(part, *at, offset).map(Value::Int).ok_or(OVERFLOW)
        }
        _ => Err(MISTYPED),
    }
}

fn to_int<'a>(of: &Value<'_>) -> Result<Value<'a>, Stop> {
    match of {
        Value::Int(v) => Some(*v),
        Value::Uint(v) => i64::try_from(*v).ok(),
        Value::Double(v) => whole(*v).and_then(|v| i64::try_from(v).ok()),
        Value::Text(text) => {
            return text.parse().map(Value::Int).map_err(|_| Stop::Undefined("no whole number"));
        }
        Value::Timestamp(at) => i64::try_from(at.div_euclid(SECOND)).ok(),
        _ => return Err(MISTYPED),
    }
    .map(Value::Int)
    .ok_or(OVERFLOW)
}

fn to_uint<'a>(of: &Value<'_>) -> Result<Value<'a>, Stop> {
    match of {
        Value::Uint(v) => Some(*v),
        Value::Int(v) => u64::try_from(*v).ok(),
        Value::Double(v) => whole(*v).and_then(|v| u64::try_from(v).ok()),
        Value::Text(text) => {
            return text
                .parse()
                .map(Value::Uint)
                .map_err(|_| Stop::Undefined("no whole number that is not negative"));
        }
        _ => return Err(MISTYPED),
    }
    .map(Value::Uint)
    .ok_or(OVERFLOW)
}

/// Towards zero.
fn whole(double: f64) -> Option<i128> {
    #[expect(clippy::cast_possible_truncation, reason = "a cast of a double keeps to the type's ends")]
    double.is_finite().then_some(double.trunc() as i128)
}

fn to_double(of: Value<'_>) -> Result<Value<'_>, Stop> {
    match of {
        Value::Double(_) => Ok(of),
        #[expect(clippy::cast_precision_loss, reason = "what a double is")]
        Value::Int(v) => Ok(Value::Double(v as f64)),
        #[expect(clippy::cast_precision_loss, reason = "what a double is")]
        Value::Uint(v) => Ok(Value::Double(v as f64)),
        Value::Text(text) => text.parse().map(Value::Double).map_err(|_| Stop::Undefined("no number")),
        _ => Err(MISTYPED),
    }
}

fn to_text(of: Value<'_>) -> Result<Value<'_>, Stop> {
    let text = match of {
        Value::Text(_) => return Ok(of),
        Value::Bool(v) => v.to_string(),
        Value::Int(v) => v.to_string(),
        Value::Uint(v) => v.to_string(),
        Value::Double(v) => v.to_string(),
        Value::Bytes(bytes) => {
            let text = match bytes {
                Cow::Borrowed(bytes) => std::str::from_utf8(bytes).map(Cow::Borrowed).ok(),
                Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).ok(),
            };
            return text.map(Value::Text).ok_or_else(undefined("these bytes are no UTF-8"));
        }
        Value::Timestamp(at) => time::timestamp_text(at).ok_or(OVERFLOW)?,
        Value::Duration(span) => time::duration_text(span),
        _ => return Err(MISTYPED),
    };
    Ok(Value::Text(Cow::Owned(text)))
}

/// `string.contains(string)`
impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, style, takes, gives: _, function: _ } = self;
        let names: Vec<&str> = takes.iter().map(|takes| takes.name()).collect();
        match (style, names.as_slice()) {
            (Style::Member, [of, rest @ ..]) => write!(f, "{of}.{name}({})", rest.join(", ")),
            (Style::Global | Style::Both | Style::Member, all) => write!(f, "{name}({})", all.join(", ")),
        }
    }
}
