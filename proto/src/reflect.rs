//! An event's fields by number, and what they are called: for what works on any of them, such as filters.
//!
//! Generated for `Event`, for what agents report them in, and for all that is in them, without a copy and without a second schema.

use std::{collections::HashMap, fmt};

use pbjson_types::Duration;
use prost::bytes::Bytes;

use crate::Timestamp;

/// A message whose fields can be read by number.
pub trait Message: fmt::Debug + Send + Sync {
    /// What fields there are.
    fn info(&self) -> &'static MessageInfo;
    /// `Unset` too where there is no field of this number.
    fn field(&self, number: u32) -> Value<'_>;
}

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// a field that knows whether it is set, and is not
    Unset,
    Bool(bool),
    /// enums too
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Timestamp(&'a Timestamp),
    Duration(&'a Duration),
    Message(&'a dyn Message),
    List(&'a dyn List),
    Map(&'a dyn Map),
}

/// A repeated field.
pub trait List: fmt::Debug + Send + Sync {
    fn count(&self) -> usize;
    fn at(&self, index: usize) -> Option<Value<'_>>;
}

/// A map field; keys are strings.
pub trait Map: fmt::Debug + Send + Sync {
    fn count(&self) -> usize;
    fn at(&self, key: &str) -> Option<Value<'_>>;
    /// in no order
    fn keys(&self) -> Box<dyn Iterator<Item = &str> + '_>;
}

/// What can be in a field.
pub trait Element {
    fn value(&self) -> Value<'_>;
}

/// What a message's fields are.
#[derive(Debug)]
pub struct MessageInfo {
    /// "Executed"
    pub name: &'static str,
    /// of one in memory, in bytes, without what it points to
    pub size: usize,
    pub fields: &'static [FieldInfo],
}

#[derive(Debug)]
pub struct FieldInfo {
    pub number: u32,
    /// "session_started"
    pub name: &'static str,
    /// "sessionStarted"
    pub json: &'static str,
    /// of the elements, or of the map's values
    pub kind: Kind,
    pub shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// its default value is the same as not being there
    Plain,
    /// knows whether it is set
    Optional,
    List,
    /// from strings
    Map,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Timestamp,
    Duration,
    Enum(&'static EnumInfo),
    Message(&'static MessageInfo),
}

#[derive(Debug)]
pub struct EnumInfo {
    /// "EntryMethod"
    pub name: &'static str,
    pub values: &'static [(i32, &'static str)],
}

/// The fields of an event.
#[must_use]
pub fn event() -> &'static MessageInfo {
    &crate::v1::INFO_EVENT
}

/// The fields of what an agent sends.
#[must_use]
pub fn report() -> &'static MessageInfo {
    &crate::v1::INFO_REPORTREQUEST
}

impl MessageInfo {
    /// By its name in JSON or in the proto.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&'static FieldInfo> {
        self.fields.iter().find(|field| field.json == name || field.name == name)
    }
}

impl EnumInfo {
    #[must_use]
    pub fn name_of(&self, number: i64) -> Option<&'static str> {
        self.values.iter().find(|(n, _)| i64::from(*n) == number).map(|(_, name)| *name)
    }
}

impl<T: Element + fmt::Debug + Send + Sync> List for Vec<T> {
    fn count(&self) -> usize {
        self.len()
    }

    fn at(&self, index: usize) -> Option<Value<'_>> {
        self.get(index).map(Element::value)
    }
}

impl<T: Element + fmt::Debug + Send + Sync> Map for HashMap<String, T> {
    fn count(&self) -> usize {
        self.len()
    }

    fn at(&self, key: &str) -> Option<Value<'_>> {
        self.get(key).map(Element::value)
    }

    fn keys(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(self.keys().map(String::as_str))
    }
}

macro_rules! element {
    ($($type:ty: $from:ident => $value:expr;)*) => {
        $(impl Element for $type {
            fn value(&self) -> Value<'_> {
                let $from = self;
                $value
            }
        })*
    };
}

element! {
    bool: v => Value::Bool(*v);
    i32: v => Value::Int(i64::from(*v));
    i64: v => Value::Int(*v);
    u32: v => Value::Uint(u64::from(*v));
    u64: v => Value::Uint(*v);
    f32: v => Value::Double(f64::from(*v));
    f64: v => Value::Double(*v);
    String: v => Value::Text(v);
    Bytes: v => Value::Bytes(v);
    Timestamp: v => Value::Timestamp(v);
    Duration: v => Value::Duration(v);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{self, event::Body};

    #[test]
    fn fields_are_read_by_number() {
        let executed = v1::Executed {
            argv: vec!["ls".to_owned(), "-l".to_owned()],
            process: Some(v1::Process { pid: 7, ..Default::default() }),
            root: Some(false),
            ..Default::default()
        };
        let event = v1::Event { body: Some(Body::Executed(executed)), ..Default::default() };
        let field = |name: &str| super::event().field(name).unwrap().number;
        assert_eq!(field("sessionStarted"), field("session_started"));
        assert!(matches!(event.field(field("sessionStarted")), Value::Unset));
        assert!(matches!(event.field(field("container")), Value::Unset));
        let Value::Message(executed) = event.field(field("executed")) else { panic!("no message") };
        let field = |name: &str| executed.info().field(name).unwrap().number;
        let Value::List(argv) = executed.field(field("argv")) else { panic!("no list") };
        assert_eq!(argv.count(), 2);
        assert!(matches!(argv.at(1), Some(Value::Text("-l"))));
        assert!(argv.at(2).is_none());
        assert!(matches!(executed.field(field("root")), Value::Bool(false)));
        assert!(matches!(executed.field(field("truncated")), Value::Unset));
        assert!(matches!(executed.field(field("path")), Value::Text("")));
        assert!(matches!(executed.field(99), Value::Unset));
    }

    #[test]
    fn names_are_those_of_json() {
        let started = event().field("session_started").unwrap();
        let Kind::Message(started) = started.kind else { panic!("no message") };
        let Kind::Enum(method) = started.field("method").unwrap().kind else { panic!("no enum") };
        assert_eq!((method.name, method.name_of(1)), ("EntryMethod", Some("RUNTIME_EXEC")));
        let labels = |info: &MessageInfo| info.field("labels").map(|field| field.shape);
        let Kind::Message(container) = event().field("container").unwrap().kind else { panic!("no message") };
        let Kind::Message(pod) = container.field("pod").unwrap().kind else { panic!("no message") };
        assert_eq!(labels(pod), Some(Shape::Map));
    }
}
