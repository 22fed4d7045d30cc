//! What a program is of one event, in a bounded number of steps.
//!
//! A step is about what looking at a field costs; text costs one for every [`BYTES_A_STEP`], so that a filter that
//! makes text or lists is bounded in memory by the same number.

use std::{borrow::Cow, sync::Arc};

use podtrail_proto::{
    reflect::{self, Message, Shape},
    v1,
};

use super::{
    MAX_LOOPS, functions,
    program::{Calculation, Comparison, Function, Loop, LoopKind, Node},
    value::{List, Value},
};

/// Bytes that are looked at or written for a step.
const BYTES_A_STEP: usize = 16;
/// Steps for an element that is kept in a list: memory costs more than time.
const STEPS_AN_ELEMENT: usize = 4;

/// Why an expression has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// it used up its steps
    Steps,
    /// it has none for this event, and why
    Undefined(&'static str),
}

pub(super) const OVERFLOW: Stop = Stop::Undefined("the result is too large for its type");
/// What the checker has ruled out.
pub(super) const MISTYPED: Stop = Stop::Undefined("the types do not fit");

type Result<'a> = std::result::Result<Value<'a>, Stop>;

/// Evaluates one program on one event.
pub(super) struct Evaluation<'a> {
    event: &'a v1::Event,
    steps_left: usize,
    variables: [Option<Value<'a>>; MAX_LOOPS],
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(event: &'a v1::Event, steps: usize) -> Self {
        Self { event, steps_left: steps, variables: [const { None }; MAX_LOOPS] }
    }

    fn spend(&mut self, steps: usize) -> std::result::Result<(), Stop> {
        self.steps_left = self.steps_left.checked_sub(steps).ok_or(Stop::Steps)?;
        Ok(())
    }

    fn spend_bytes(&mut self, bytes: usize) -> std::result::Result<(), Stop> {
        self.spend(bytes / BYTES_A_STEP)
    }

    pub(super) fn truth(&mut self, node: &'a Node) -> std::result::Result<bool, Stop> {
        match self.value(node)? {
            Value::Bool(truth) => Ok(truth),
            _ => Err(MISTYPED),
        }
    }

    pub(super) fn value(&mut self, node: &'a Node) -> Result<'a> {
        self.spend(1)?;
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Field { of, number, kind, shape } => Ok(match self.message(of.as_deref())? {
                None => Value::default_of_field(*kind, *shape),
                Some(message) => Value::of(message.field(*number), *kind),
            }),
            Node::Has { of, number, shape } => {
                let message = self.message(of.as_deref())?;
                Ok(Value::Bool(message.is_some_and(|message| is_set(message.field(*number), *shape))))
            }
            Node::HasKey { map, key } => {
                let Value::Map(map, _) = self.value(map)? else { return Err(MISTYPED) };
                Ok(Value::Bool(map.is_some_and(|map| map.at(key).is_some())))
            }
            Node::Variable(slot) => self.variables.get(*slot).cloned().flatten().ok_or(MISTYPED),
            Node::Not(of) => Ok(Value::Bool(!self.truth(of)?)),
            Node::Negative(of) => match self.value(of)? {
                Value::Int(v) => v.checked_neg().map(Value::Int).ok_or(OVERFLOW),
                Value::Double(v) => Ok(Value::Double(-v)),
                Value::Duration(v) => Ok(Value::Duration(-v)),
                _ => Err(MISTYPED),
            },
            Node::And(a, b) => self.logic(a, b, false),
            Node::Or(a, b) => self.logic(a, b, true),
            Node::If(parts) => {
                let [condition, yes, no] = &**parts;
                if self.truth(condition)? { self.value(yes) } else { self.value(no) }
            }
            Node::Compare(comparison, a, b) => {
                let (a, b) = (self.value(a)?, self.value(b)?);
                self.compare(*comparison, &a, &b).map(Value::Bool)
            }
            Node::Calculate(calculation, a, b) => {
                let (a, b) = (self.value(a)?, self.value(b)?);
                self.calculate(*calculation, a, b)
            }
            Node::In(element, all) => {
                let (element, all) = (self.value(element)?, self.value(all)?);
                self.is_in(&element, &all).map(Value::Bool)
            }
            Node::Index(of, at, default) => {
                let (of, at) = (self.value(of)?, self.value(at)?);
                Ok(index(&of, &at)?.unwrap_or_else(|| default.clone()))
            }
            Node::List(nodes) => {
                self.spend(nodes.len() * STEPS_AN_ELEMENT)?;
                let values: std::result::Result<Arc<[_]>, _> =
                    nodes.iter().map(|node| self.value(node)).collect();
                Ok(Value::List(List::Made(values?)))
            }
            Node::Call(function, arguments) => self.call(*function, arguments),
            Node::Matches(text, pattern) => {
                let Value::Text(text) = self.value(text)? else { return Err(MISTYPED) };
                // An automaton looks at each byte, whatever the pattern.
                self.spend(text.len())?;
                Ok(Value::Bool(pattern.is_match(&text)))
            }
            Node::Loop(of) => self.run(of),
        }
    }

    fn message(&mut self, of: Option<&'a Node>) -> std::result::Result<Option<&'a dyn Message>, Stop> {
        let Some(of) = of else { return Ok(Some(self.event)) };
        match self.value(of)? {
            Value::Message(message) => Ok(message),
            _ => Err(MISTYPED),
        }
    }

    /// What decides is one of both; as CEL has it, also where the other has no value.
    fn logic(&mut self, a: &'a Node, b: &'a Node, decides: bool) -> Result<'a> {
        let first = self.truth(a);
        if first == Ok(decides) || first == Err(Stop::Steps) {
            return first.map(Value::Bool);
        }
        match self.truth(b) {
            Ok(second) if second == decides => Ok(Value::Bool(decides)),
            Err(stop) => Err(stop),
            Ok(_) => first.map(|_| Value::Bool(!decides)),
        }
    }

    fn equal(&mut self, a: &Value<'_>, b: &Value<'_>) -> std::result::Result<bool, Stop> {
        let (Value::List(first), Value::List(second)) = (a, b) else {
            if a.len() == b.len() {
                self.spend_bytes(a.len())?;
            }
            return Ok(a.compare(b).is_some_and(std::cmp::Ordering::is_eq));
        };
        if first.count() != second.count() {
            return Ok(false);
        }
        for at in 0..first.count() {
            self.spend(1)?;
            let (Some(a), Some(b)) = (first.at(at), second.at(at)) else { return Ok(false) };
            if !self.equal(&a, &b)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn compare(
        &mut self,
        comparison: Comparison,
        a: &Value<'_>,
        b: &Value<'_>,
    ) -> std::result::Result<bool, Stop> {
        match comparison {
            Comparison::Equal => return self.equal(a, b),
            Comparison::NotEqual => return Ok(!self.equal(a, b)?),
            Comparison::Less | Comparison::LessOrEqual | Comparison::Greater | Comparison::GreaterOrEqual => {
            }
        }
        self.spend_bytes(a.len().min(b.len()))?;
        // NaN is neither less nor greater.
        let Some(order) = a.compare(b) else { return Ok(false) };
        Ok(match comparison {
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
            Comparison::Equal => order.is_eq(),
            Comparison::NotEqual => order.is_ne(),
        })
    }

    fn calculate(&mut self, calculation: Calculation, a: Value<'a>, b: Value<'a>) -> Result<'a> {
        match (calculation, a, b) {
            (Calculation::Add, Value::Text(a), Value::Text(b)) => {
                self.spend_bytes(a.len() + b.len())?;
                Ok(Value::Text(a + b))
            }
            (Calculation::Add, Value::Bytes(a), Value::Bytes(b)) => {
                self.spend_bytes(a.len() + b.len())?;
                Ok(Value::Bytes(Cow::Owned([a, b].concat())))
            }
            (Calculation::Add, Value::List(a), Value::List(b)) => {
                self.spend((a.count() + b.count()) * STEPS_AN_ELEMENT)?;
                let elements = |list: List<'a>| (0..list.count()).filter_map(move |at| list.at(at));
                Ok(Value::List(List::Made(elements(a).chain(elements(b)).collect())))
            }
            (_, a, b) => calculate(calculation, &a, &b),
        }
    }

    fn is_in(&mut self, element: &Value<'_>, all: &Value<'_>) -> std::result::Result<bool, Stop> {
        match all {
            Value::List(list) => {
                for at in 0..list.count() {
                    self.spend(1)?;
                    if let Some(one) = list.at(at)
                        && self.equal(element, &one)?
                    {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Value::Map(map, _) => match element {
                Value::Text(key) => Ok(map.is_some_and(|map| map.at(key).is_some())),
                _ => Err(MISTYPED),
            },
            _ => Err(MISTYPED),
        }
    }

    fn call(&mut self, function: Function, arguments: &'a [Node]) -> Result<'a> {
        let value = match arguments {
            [of] => {
                let of = self.value(of)?;
                if let (Function::Join, Value::List(list)) = (function, &of) {
                    return self.join(list, "");
                }
                self.spend_bytes(of.len())?;
                functions::call_one(function, of)
            }
            [of, other] => {
                let (of, other) = (self.value(of)?, self.value(other)?);
                if let (Function::Join, Value::List(list), Value::Text(separator)) = (function, &of, &other) {
                    return self.join(list, separator);
                }
                self.spend_bytes(of.len() + other.len())?;
                functions::call_two(function, &of, &other)
            }
            _ => Err(MISTYPED),
        }?;
        Ok(value)
    }

    fn join(&mut self, list: &List<'a>, separator: &str) -> Result<'a> {
        let mut out = String::new();
        for at in 0..list.count() {
            let Some(Value::Text(text)) = list.at(at) else { return Err(MISTYPED) };
            self.spend(1)?;
            self.spend_bytes(text.len() + separator.len())?;
            if at > 0 {
                out.push_str(separator);
            }
            out.push_str(&text);
        }
        Ok(Value::Text(Cow::Owned(out)))
    }

    fn run(&mut self, of: &'a Loop) -> Result<'a> {
        let Loop { kind, slot, range, condition, transform } = of;
        let range = match self.value(range)? {
            Value::List(list) => list,
            Value::Map(map, _) => self.keys(map)?,
            _ => return Err(MISTYPED),
        };
        let mut undefined = None;
        let mut found = 0_u32;
        let mut kept = Vec::new();
        for at in 0..range.count() {
            self.spend(1)?;
            let Some(element) = range.at(at) else { break };
            let Some(variable) = self.variables.get_mut(*slot) else { return Err(MISTYPED) };
            *variable = Some(element.clone());
            let holds = match condition {
                None => Ok(true),
                Some(condition) => self.truth(condition),
            };
            match (kind, holds) {
                (_, Err(Stop::Steps)) => return Err(Stop::Steps),
                (LoopKind::All, Ok(false)) => return Ok(Value::Bool(false)),
                (LoopKind::Exists, Ok(true)) => return Ok(Value::Bool(true)),
                // Another element may still decide.
                (LoopKind::All | LoopKind::Exists, Err(stop)) => undefined = Some(stop),
                (LoopKind::ExistsOne | LoopKind::Map, Err(stop)) => return Err(stop),
                (LoopKind::ExistsOne, Ok(true)) => found = found.saturating_add(1),
                (LoopKind::Map, Ok(true)) => {
                    self.spend(STEPS_AN_ELEMENT)?;
                    kept.push(match transform {
                        None => element,
                        Some(transform) => self.value(transform)?,
                    });
                }
                (LoopKind::All, Ok(true)) | (_, Ok(false)) => {}
            }
        }
        match (kind, undefined) {
            (_, Some(stop)) => Err(stop),
            (LoopKind::All, None) => Ok(Value::Bool(true)),
            (LoopKind::Exists, None) => Ok(Value::Bool(false)),
            (LoopKind::ExistsOne, None) => Ok(Value::Bool(found == 1)),
            (LoopKind::Map, None) => Ok(Value::List(List::Made(kept.into()))),
        }
    }

    /// A map is gone through by its keys, in their order: what a filter says does not depend on chance.
    fn keys(&mut self, map: Option<&'a dyn reflect::Map>) -> std::result::Result<List<'a>, Stop> {
        let mut keys: Vec<&str> = Vec::new();
        if let Some(map) = map {
            self.spend(map.count() * STEPS_AN_ELEMENT)?;
            keys.extend(map.keys());
        }
        keys.sort_unstable();
        Ok(List::Made(keys.into_iter().map(|key| Value::Text(Cow::Borrowed(key))).collect()))
    }
}

/// As `has` means it: a field that does not know whether it is set, is where it is not its default.
fn is_set(value: reflect::Value<'_>, shape: Shape) -> bool {
    match value {
        reflect::Value::Unset => false,
        reflect::Value::List(list) => list.count() > 0,
        reflect::Value::Map(map) => map.count() > 0,
        reflect::Value::Bool(false)
        | reflect::Value::Int(0)
        | reflect::Value::Uint(0)
        | reflect::Value::Text("")
        | reflect::Value::Bytes([]) => shape == Shape::Optional,
        reflect::Value::Double(v) => shape == Shape::Optional || v != 0.0,
        _ => true,
    }
}

/// `None`: there is nothing at that place.
fn index<'a>(of: &Value<'a>, at: &Value<'_>) -> std::result::Result<Option<Value<'a>>, Stop> {
    match (of, at) {
        (Value::List(list), at) => {
            let at = at.whole().ok_or(MISTYPED)?;
            Ok(usize::try_from(at).ok().and_then(|at| list.at(at)))
        }
        (Value::Map(map, kind), Value::Text(key)) => {
            Ok(map.and_then(|map| map.at(key)).map(|value| Value::of(value, *kind)))
        }
        _ => Err(MISTYPED),
    }
}

/// Of numbers, and of times.
fn calculate(
    calculation: Calculation,
    a: &Value<'_>,
    b: &Value<'_>,
) -> std::result::Result<Value<'static>, Stop> {
    let divides = matches!(calculation, Calculation::Divide | Calculation::Remainder);
    if divides && matches!(b, Value::Int(0) | Value::Uint(0)) {
        return Err(Stop::Undefined("division by zero"));
    }
    macro_rules! whole {
        ($a:expr, $b:expr) => {
            match calculation {
                Calculation::Add => $a.checked_add(*$b),
                Calculation::Subtract => $a.checked_sub(*$b),
                Calculation::Multiply => $a.checked_mul(*$b),
                Calculation::Divide => $a.checked_div(*$b),
                Calculation::Remainder => $a.checked_rem(*$b),
            }
        };
    }
    let sum = |a: &i128, b: &i128| match calculation {
        Calculation::Add => a.checked_add(*b),
        Calculation::Subtract => a.checked_sub(*b),
        Calculation::Multiply | Calculation::Divide | Calculation::Remainder => None,
    };
    let value = match (a, b) {
        (Value::Int(a), Value::Int(b)) => whole!(a, b).map(Value::Int),
        (Value::Uint(a), Value::Uint(b)) => whole!(a, b).map(Value::Uint),
        (Value::Double(a), Value::Double(b)) => Some(Value::Double(match calculation {
            Calculation::Add => a + b,
            Calculation::Subtract => a - b,
            Calculation::Multiply => a * b,
            Calculation::Divide => a / b,
            Calculation::Remainder => a % b,
        })),
        (Value::Timestamp(a), Value::Timestamp(b)) | (Value::Duration(a), Value::Duration(b)) => {
            sum(a, b).map(Value::Duration)
        }
        (Value::Timestamp(a), Value::Duration(b)) | (Value::Duration(a), Value::Timestamp(b)) => {
            sum(a, b).map(Value::Timestamp)
        }
        _ => return Err(MISTYPED),
    };
    value.ok_or(OVERFLOW)
}
