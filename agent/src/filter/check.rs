//! From the parser's tree to a program: every name is found, every type fits, and what it may cost is known.

use std::sync::Arc;

use cel::common::ast::{CallExpr, Expr, IdedExpr, ListExpr, LiteralValue, SelectExpr, operators};
use podtrail_proto::{
    reflect::{self, FieldInfo},
    v1,
};
use regex::RegexBuilder;

use super::{
    FilterError, MAX_LOOPS, MAX_NESTING, MAX_PATTERN_MEMORY, MAX_STEPS,
    eval::{Evaluation, Stop},
    functions::{FORMS, Form, Style},
    hints::{hint, not_one_of, unknown_field, unknown_function},
    parse::Parsed,
    program::{Calculation, Comparison, Function, Loop, LoopKind, Node},
    types::Type,
    value::{List, Value},
};

/// How many elements a list of an event is taken to have, where the cost is estimated before there is one.
const USUAL_ELEMENTS: usize = 16;

/// A part of the program.
struct Checked {
    node: Node,
    is: Type,
    /// steps, on an ordinary event
    steps: usize,
    /// elements, where it is a list
    elements: usize,
}

struct Checker<'a> {
    parsed: &'a Parsed<'a>,
    /// variables of the loops around, the innermost last
    variables: Vec<(&'a str, Type)>,
    nesting: usize,
}

type Result<T> = std::result::Result<T, FilterError>;

/// The whole expression, which must say yes or no.
pub(super) fn check(parsed: &Parsed<'_>) -> Result<Node> {
    let mut checker = Checker { parsed, variables: Vec::new(), nesting: 0 };
    let whole = checker.expression(&parsed.tree)?;
    if !matches!(whole.is, Type::Bool) {
        let why = match whole.is {
            Type::Message(info) => format!("a filter is a bool, this is a {}: say has(…)", info.name),
            other => format!("a filter is a bool, this is: {other}"),
        };
        return Err(parsed.error(parsed.tree.id, why));
    }
    Ok(whole.node)
}

impl<'a> Checker<'a> {
    fn error<T>(&self, at: &IdedExpr, why: impl Into<String>) -> Result<T> {
        Err(self.parsed.error(at.id, why))
    }

    fn expression(&mut self, at: &'a IdedExpr) -> Result<Checked> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return self.error(at, format!("nested more than {MAX_NESTING} deep"));
        }
        let checked = match &at.expr {
            Expr::Literal(literal) => self.literal(at, literal),
            Expr::Ident(name) => self.name(at, name),
            Expr::Select(select) => self.select(at, select),
            Expr::Call(call) => self.call(at, call),
            Expr::List(list) => self.list(list),
            Expr::Map(_) => self.error(at, "filters have no map literals: compare with ==, or use a list"),
            Expr::Struct(_) => self.error(at, "filters make no messages: compare their fields"),
            Expr::Comprehension(_) | Expr::Unspecified => self.error(at, "this is no expression of a filter"),
        }?;
        if checked.steps > MAX_STEPS {
            return self.error(at, "this costs too much: it goes too often through long lists");
        }
        self.nesting -= 1;
        Ok(checked)
    }

    fn literal(&self, at: &IdedExpr, literal: &LiteralValue) -> Result<Checked> {
        let (value, is) = match literal {
            LiteralValue::Boolean(v) => (Value::Bool(*v.inner()), Type::Bool),
            LiteralValue::Int(v) => (Value::Int(*v.inner()), Type::Int),
            LiteralValue::UInt(v) => (Value::Uint(*v.inner()), Type::Uint),
            LiteralValue::Double(v) => (Value::Double(*v.inner()), Type::Double),
            LiteralValue::String(v) => (Value::Text(v.inner().to_owned().into()), Type::Text),
            LiteralValue::Bytes(v) => (Value::Bytes(v.inner().to_owned().into()), Type::Bytes),
            LiteralValue::Null => {
                return self.error(at, "nothing in an event is null: say has(…) or !has(…)");
            }
        };
        Ok(Checked { node: Node::Const(value), is, steps: 1, elements: 0 })
    }

    fn name(&self, at: &IdedExpr, name: &str) -> Result<Checked> {
        // A leading dot means: not a variable.
        let (name, absolute) = match name.strip_prefix('.') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let variable = self.variables.iter().enumerate().rev().find(|(_, (variable, _))| *variable == name);
        if let Some((slot, (_, is))) = variable.filter(|_| !absolute) {
            let node = Node::Variable(slot);
            return Ok(Checked { node, is: is.clone(), steps: 1, elements: USUAL_ELEMENTS });
        }
        let Some(field) = reflect::event().field(name) else {
            let why = unknown_field(reflect::event(), name, self.variables.iter().map(|(name, _)| *name));
            return self.error(at, why);
        };
        Ok(field_of(None, field))
    }

    fn select(&mut self, at: &'a IdedExpr, select: &'a SelectExpr) -> Result<Checked> {
        let of = self.expression(&select.operand)?;
        match &of.is {
            Type::Message(info) => match info.field(&select.field) {
                Some(field) => Ok(field_of(Some(of), field)),
                None => self.error(at, unknown_field(info, &select.field, std::iter::empty())),
            },
            Type::Map(value) => {
                let is = (**value).clone();
                let key = Node::Const(Value::Text(select.field.clone().into()));
                let steps = of.steps + 2;
                let default = default_of(&is);
                let node = Node::Index(Box::new(of.node), Box::new(key), default);
                Ok(Checked { node, is, steps, elements: USUAL_ELEMENTS })
            }
            other => self.error(at, format!("{other} has no fields")),
        }
    }

    fn has(&mut self, at: &'a IdedExpr, argument: &'a IdedExpr) -> Result<Checked> {
        let (node, steps) = match &argument.expr {
            Expr::Ident(name) => {
                let name = name.strip_prefix('.').unwrap_or(name);
                let Some(field) = reflect::event().field(name) else {
                    return self.error(argument, unknown_field(reflect::event(), name, std::iter::empty()));
                };
                (Node::Has { of: None, number: field.number, shape: field.shape }, 1)
            }
            Expr::Select(select) => {
                let of = self.expression(&select.operand)?;
                let node = match &of.is {
                    Type::Message(info) => match info.field(&select.field) {
                        Some(field) => Node::Has {
                            of: Some(Box::new(of.node)),
                            number: field.number,
                            shape: field.shape,
                        },
                        None => {
                            let why = unknown_field(info, &select.field, std::iter::empty());
                            return self.error(argument, why);
                        }
                    },
                    Type::Map(_) => {
                        Node::HasKey { map: Box::new(of.node), key: select.field.as_str().into() }
                    }
                    other => return self.error(argument, format!("{other} has no fields")),
                };
                (node, of.steps + 1)
            }
            _ => return self.error(at, "has() wants a field, as in has(executed.tty)"),
        };
        Ok(Checked { node, is: Type::Bool, steps, elements: 0 })
    }

    fn list(&mut self, list: &'a ListExpr) -> Result<Checked> {
        let (mut nodes, mut is, mut steps) = (Vec::new(), Type::Any, 1_usize);
        for element in &list.elements {
            let checked = self.expression(element)?;
            let Some(joined) = is.join(&checked.is) else {
                return self.error(element, format!("a list of {is} cannot hold: {}", checked.is));
            };
            is = joined;
            steps = steps.saturating_add(checked.steps);
            nodes.push(checked.node);
        }
        let elements = nodes.len();
        let constants: Option<Vec<_>> = nodes
            .iter()
            .map(|node| if let Node::Const(value) = node { Some(value.clone()) } else { None })
            .collect();
        let node = match constants {
            // Made once, not for every event.
            Some(values) => Node::Const(Value::List(List::Made(values.into()))),
            None => Node::List(nodes),
        };
        Ok(Checked { node, is: Type::List(Box::new(is)), steps, elements })
    }

    fn call(&mut self, at: &'a IdedExpr, call: &'a CallExpr) -> Result<Checked> {
        let name = call.func_name.as_str();
        match (name, call.target.as_deref(), call.args.as_slice()) {
            (operators::LOGICAL_AND, None, [a, b]) => self.logic(a, b, Node::And),
            (operators::LOGICAL_OR, None, [a, b]) => self.logic(a, b, Node::Or),
            (operators::LOGICAL_NOT, None, [of]) => {
                let of = self.truth(of)?;
                Ok(Checked {
                    node: Node::Not(Box::new(of.node)),
                    is: Type::Bool,
                    steps: of.steps + 1,
                    elements: 0,
                })
            }
            (operators::NEGATE, None, [of]) => self.negative(at, of),
            (operators::CONDITIONAL, None, [condition, yes, no]) => self.condition(at, condition, yes, no),
            (operators::EQUALS, None, [a, b]) => self.compare(at, Comparison::Equal, a, b),
            (operators::NOT_EQUALS, None, [a, b]) => self.compare(at, Comparison::NotEqual, a, b),
            (operators::LESS, None, [a, b]) => self.compare(at, Comparison::Less, a, b),
            (operators::LESS_EQUALS, None, [a, b]) => self.compare(at, Comparison::LessOrEqual, a, b),
            (operators::GREATER, None, [a, b]) => self.compare(at, Comparison::Greater, a, b),
            (operators::GREATER_EQUALS, None, [a, b]) => self.compare(at, Comparison::GreaterOrEqual, a, b),
            (operators::ADD, None, [a, b]) => self.calculate(at, Calculation::Add, a, b),
            (operators::SUBSTRACT, None, [a, b]) => self.calculate(at, Calculation::Subtract, a, b),
            (operators::MULTIPLY, None, [a, b]) => self.calculate(at, Calculation::Multiply, a, b),
            (operators::DIVIDE, None, [a, b]) => self.calculate(at, Calculation::Divide, a, b),
            (operators::MODULO, None, [a, b]) => self.calculate(at, Calculation::Remainder, a, b),
            (operators::IN, None, [element, all]) => self.is_in(at, element, all),
            (operators::INDEX, None, [of, index]) => self.index(at, of, index),
            (operators::HAS, None, [argument]) => self.has(at, argument),
            (operators::HAS, None, _) => self.error(at, "has() wants one field, as in has(executed.tty)"),
            ("matches", Some(text), [pattern]) | ("matches", None, [text, pattern]) => {
                self.matches(at, text, pattern)
            }
            (_, Some(range), arguments) if is_loop(name) => self.run(at, name, range, arguments),
            (_, target, arguments) => self.function(at, name, target, arguments),
        }
    }

    fn truth(&mut self, at: &'a IdedExpr) -> Result<Checked> {
        let checked = self.expression(at)?;
        if matches!(checked.is, Type::Bool) {
            return Ok(checked);
        }
        let why = match checked.is {
            Type::Message(info) => format!("a bool is wanted here, this is a {}: say has(…)", info.name),
            other => format!("a bool is wanted here, this is: {other}"),
        };
        self.error(at, why)
    }

    fn logic(
        &mut self,
        a: &'a IdedExpr,
        b: &'a IdedExpr,
        node: fn(Box<Node>, Box<Node>) -> Node,
    ) -> Result<Checked> {
        let (a, b) = (self.truth(a)?, self.truth(b)?);
        let steps = a.steps.saturating_add(b.steps).saturating_add(1);
        Ok(Checked { node: node(Box::new(a.node), Box::new(b.node)), is: Type::Bool, steps, elements: 0 })
    }

    fn negative(&mut self, at: &IdedExpr, of: &'a IdedExpr) -> Result<Checked> {
        let of = self.expression(of)?;
        if !matches!(of.is, Type::Int | Type::Double | Type::Duration) {
            return self.error(at, format!("there is no negative of {}", of.is));
        }
        let node = fold(Node::Negative(Box::new(of.node)), |why| self.parsed.error(at.id, why))?;
        Ok(Checked { node, is: of.is, steps: of.steps + 1, elements: 0 })
    }

    fn condition(
        &mut self,
        at: &IdedExpr,
        condition: &'a IdedExpr,
        yes: &'a IdedExpr,
        no: &'a IdedExpr,
    ) -> Result<Checked> {
        let (condition, yes, no) = (self.truth(condition)?, self.expression(yes)?, self.expression(no)?);
        let Some(is) = yes.is.join(&no.is) else {
            return self.error(at, format!("both sides must be of one type, not {} and {}", yes.is, no.is));
        };
        let steps = condition.steps.saturating_add(yes.steps.max(no.steps)).saturating_add(1);
        let elements = yes.elements.max(no.elements);
        Ok(Checked { node: Node::If(Box::new([condition.node, yes.node, no.node])), is, steps, elements })
    }

    fn compare(
        &mut self,
        at: &IdedExpr,
        comparison: Comparison,
        a: &'a IdedExpr,
        b: &'a IdedExpr,
    ) -> Result<Checked> {
        let (left, right) = (self.expression(a)?, self.expression(b)?);
        let equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
        let fits = if equality { left.is.equals(&right.is) } else { left.is.orders(&right.is) };
        if !fits {
            let why = match (&left.is, &right.is) {
                (Type::Message(info), _) | (_, Type::Message(info)) => {
                    format!("{} cannot be compared: compare its fields, or say has(…)", info.name)
                }
                (left, right) => format!("{left} cannot be compared with {right}{}", hint(left, right)),
            };
            return self.error(at, why);
        }
        if equality {
            self.one_of(&left.is, &right.node, b)?;
            self.one_of(&right.is, &left.node, a)?;
        }
        let elements = left.elements.min(right.elements);
        let steps = left.steps.saturating_add(right.steps).saturating_add(1 + elements);
        let node = Node::Compare(comparison, Box::new(left.node), Box::new(right.node));
        Ok(Checked { node, is: Type::Bool, steps, elements: 0 })
    }

    /// A word that an enum is compared with must be one of its own: a misspelt one would never match, in silence.
    fn one_of(&self, is: &Type, with: &Node, at: &IdedExpr) -> Result<()> {
        let (Type::Enum(info), Node::Const(Value::Text(text))) = (is, with) else { return Ok(()) };
        if info.values.iter().any(|(_, name)| *name == &**text) {
            return Ok(());
        }
        self.error(at, not_one_of(info, text))
    }

    fn calculate(
        &mut self,
        at: &IdedExpr,
        calculation: Calculation,
        a: &'a IdedExpr,
        b: &'a IdedExpr,
    ) -> Result<Checked> {
        use Calculation::{Add, Remainder, Subtract};
        let (a, b) = (self.expression(a)?, self.expression(b)?);
        let is = match (calculation, &a.is, &b.is) {
            (Add, Type::Text | Type::Enum(_), Type::Text | Type::Enum(_)) => Type::Text,
            (Add, Type::Bytes, Type::Bytes) => Type::Bytes,
            (Add, Type::List(_), Type::List(_)) => match a.is.join(&b.is) {
                Some(is) => is,
                None => return self.error(at, format!("{} and {} do not make one list", a.is, b.is)),
            },
            (Add, Type::Timestamp, Type::Duration) | (Add, Type::Duration, Type::Timestamp) => {
                Type::Timestamp
            }
            (Subtract, Type::Timestamp, Type::Duration) => Type::Timestamp,
            (Add | Subtract, Type::Duration, Type::Duration)
            | (Subtract, Type::Timestamp, Type::Timestamp) => Type::Duration,
            (_, Type::Int, Type::Int) => Type::Int,
            (_, Type::Uint, Type::Uint) => Type::Uint,
            (calculation, Type::Double, Type::Double) if calculation != Remainder => Type::Double,
            (_, a, b) => {
                return self.error(at, format!("this cannot be done with {a} and {b}{}", hint(a, b)));
            }
        };
        let elements = a.elements + b.elements;
        let steps = a.steps.saturating_add(b.steps).saturating_add(1 + elements);
        let node = Node::Calculate(calculation, Box::new(a.node), Box::new(b.node));
        let node = fold(node, |why| self.parsed.error(at.id, why))?;
        Ok(Checked { node, is, steps, elements })
    }

    fn is_in(&mut self, at: &IdedExpr, element: &'a IdedExpr, all: &'a IdedExpr) -> Result<Checked> {
        let (one, many) = (self.expression(element)?, self.expression(all)?);
        match &many.is {
            Type::List(of) if of.equals(&one.is) => {
                if let (Expr::List(list), Type::Enum(info)) = (&all.expr, &one.is) {
                    for element in &list.elements {
                        if let Expr::Literal(LiteralValue::String(text)) = &element.expr
                            && !info.values.iter().any(|(_, name)| *name == text.inner())
                        {
                            return self.error(element, not_one_of(info, text.inner()));
                        }
                    }
                }
                self.one_of(of, &one.node, element)?;
            }
            Type::Map(_) if one.is.fits(&Type::Text) => {}
            Type::List(_) | Type::Map(_) => {
                return self.error(at, format!("{} cannot hold: {}", many.is, one.is));
            }
            other => {
                return self.error(at, format!("in wants a list or a map after it, not: {other}"));
            }
        }
        let steps = one.steps.saturating_add(many.steps).saturating_add(1 + many.elements);
        let node = Node::In(Box::new(one.node), Box::new(many.node));
        Ok(Checked { node, is: Type::Bool, steps, elements: 0 })
    }

    fn index(&mut self, at: &IdedExpr, of: &'a IdedExpr, index: &'a IdedExpr) -> Result<Checked> {
        let (of, index) = (self.expression(of)?, self.expression(index)?);
        let is = match (&of.is, &index.is) {
            (Type::List(is), Type::Int | Type::Uint) | (Type::Map(is), Type::Text | Type::Enum(_)) => {
                (**is).clone()
            }
            (Type::List(_), other) => {
                return self.error(at, format!("a list's index is an int, not: {other}"));
            }
            (Type::Map(_), other) => return self.error(at, format!("a map's key is a string, not: {other}")),
            (other, _) => return self.error(at, format!("{other} has no elements")),
        };
        let default = default_of(&is);
        let steps = of.steps.saturating_add(index.steps).saturating_add(1);
        let node = Node::Index(Box::new(of.node), Box::new(index.node), default);
        Ok(Checked { node, is, steps, elements: USUAL_ELEMENTS })
    }

    fn matches(&mut self, at: &IdedExpr, text: &'a IdedExpr, pattern: &'a IdedExpr) -> Result<Checked> {
        let text = self.expression(text)?;
        if !text.is.fits(&Type::Text) {
            return self.error(at, format!("matches() looks at a string, not: {}", text.is));
        }
        let Expr::Literal(LiteralValue::String(literal)) = &pattern.expr else {
            return self.error(pattern, "matches() wants its pattern in quotes: it is compiled once");
        };
        let compiled = RegexBuilder::new(literal.inner())
            .size_limit(MAX_PATTERN_MEMORY)
            .dfa_size_limit(MAX_PATTERN_MEMORY)
            .build();
        let compiled = match compiled {
            Ok(compiled) => compiled,
            Err(regex::Error::CompiledTooBig(_)) => {
                return self.error(pattern, "this pattern is too large: repeat less");
            }
            Err(error) => {
                // The last line says what is wrong, those before it draw where.
                let text = error.to_string();
                let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
                return self.error(pattern, format!("this is no regular expression: {why}"));
            }
        };
        let node = Node::Matches(Box::new(text.node), Arc::new(compiled));
        Ok(Checked { node, is: Type::Bool, steps: text.steps + 1, elements: 0 })
    }

    fn run(
        &mut self,
        at: &'a IdedExpr,
        name: &str,
        range: &'a IdedExpr,
        arguments: &'a [IdedExpr],
    ) -> Result<Checked> {
        let (variable, body) = match arguments {
            [variable, body @ ..] if body.len() == 1 || (body.len() == 2 && name == operators::MAP) => {
                (variable, body)
            }
            _ => return self.error(at, format!("{name}() is written as list.{name}(x, …)")),
        };
        let Expr::Ident(variable_name) = &variable.expr else {
            return self.error(variable, format!("a name is wanted here, as in list.{name}(x, …)"));
        };
        let of = self.expression(range)?;
        let element = match &of.is {
            Type::List(element) => (**element).clone(),
            Type::Map(_) => Type::Text,
            other => return self.error(at, format!("{name}() goes through a list or a map, not: {other}")),
        };
        let slot = self.variables.len();
        if slot == MAX_LOOPS {
            return self.error(at, format!("loops stand at most {MAX_LOOPS} deep within one another"));
        }
        self.variables.push((variable_name, element.clone()));
        let (kind, condition, transform) = match (name, body) {
            (operators::ALL, [body]) => (LoopKind::All, Some(self.truth(body)?), None),
            (operators::EXISTS, [body]) => (LoopKind::Exists, Some(self.truth(body)?), None),
            (operators::FILTER, [body]) => (LoopKind::Map, Some(self.truth(body)?), None),
            (operators::MAP, [body]) => (LoopKind::Map, None, Some(self.expression(body)?)),
            (operators::MAP, [condition, body]) => {
                (LoopKind::Map, Some(self.truth(condition)?), Some(self.expression(body)?))
            }
            (_, [body, ..]) => (LoopKind::ExistsOne, Some(self.truth(body)?), None),
            (_, []) => return self.error(at, format!("{name}() is written as list.{name}(x, …)")),
        };
        self.variables.pop();

        let is = match (kind, &transform) {
            (LoopKind::Map, Some(transform)) => Type::List(Box::new(transform.is.clone())),
            (LoopKind::Map, None) => Type::List(Box::new(element)),
            (LoopKind::All | LoopKind::Exists | LoopKind::ExistsOne, _) => Type::Bool,
        };
        let body = [&condition, &transform].into_iter().flatten().map(|part| part.steps).sum::<usize>() + 1;
        let steps = of.elements.saturating_mul(body).saturating_add(of.steps).saturating_add(1);
        let elements = if kind == LoopKind::Map { of.elements } else { 0 };
        let node = Node::Loop(Box::new(Loop {
            kind,
            slot,
            range: of.node,
            condition: condition.map(|part| part.node),
            transform: transform.map(|part| part.node),
        }));
        Ok(Checked { node, is, steps, elements })
    }

    fn function(
        &mut self,
        at: &IdedExpr,
        name: &str,
        target: Option<&'a IdedExpr>,
        arguments: &'a [IdedExpr],
    ) -> Result<Checked> {
        let named: Vec<&Form> = FORMS.iter().filter(|form| form.name == name).collect();
        if named.is_empty() {
            return self.error(at, unknown_function(name));
        }
        let written = if target.is_some() { Style::Member } else { Style::Global };
        let given = target.into_iter().chain(arguments);
        let given: Vec<Checked> = given.map(|argument| self.expression(argument)).collect::<Result<_>>()?;
        let fits = |form: &&Form| {
            (form.style == Style::Both || form.style == written)
                && form.takes.len() == given.len()
                && form.takes.iter().zip(&given).all(|(takes, given)| takes.fits(&given.is))
        };
        let Some(form) = named.iter().copied().find(fits) else {
            let types: Vec<String> = given.iter().map(|given| given.is.to_string()).collect();
            let types = types.join(", ");
            let forms: Vec<String> = named.iter().map(ToString::to_string).collect();
            return self
                .error(at, format!("{name}() does not take ({types}); there is: {}", forms.join(", ")));
        };
        let listed = given.iter().map(|given| given.elements).max().unwrap_or(0);
        let each = if form.function == Function::Join { listed } else { 0 };
        let steps = given.iter().fold(1 + each, |sum, given| sum.saturating_add(given.steps));
        let node = Node::Call(form.function, given.into_iter().map(|given| given.node).collect());
        let node = fold(node, |why| self.parsed.error(at.id, why))?;
        Ok(Checked { node, is: form.gives.clone(), steps, elements: 0 })
    }
}

fn field_of(of: Option<Checked>, field: &'static FieldInfo) -> Checked {
    let steps = of.as_ref().map_or(1, |of| of.steps + 1);
    let of = of.map(|of| Box::new(of.node));
    let node = Node::Field { of, number: field.number, kind: field.kind, shape: field.shape };
    Checked { node, is: Type::of(field), steps, elements: USUAL_ELEMENTS }
}

fn is_loop(name: &str) -> bool {
    matches!(
        name,
        operators::ALL
            | operators::EXISTS
            | operators::EXISTS_ONE
            | "existsOne"
            | operators::MAP
            | operators::FILTER
    )
}

/// What an element is that is not there.
fn default_of(is: &Type) -> Value<'static> {
    match is {
        Type::Bool => Value::Bool(false),
        Type::Int => Value::Int(0),
        Type::Uint => Value::Uint(0),
        Type::Double => Value::Double(0.0),
        Type::Text | Type::Any => Value::text(""),
        Type::Bytes => Value::Bytes((&[]).into()),
        Type::Timestamp => Value::Timestamp(0),
        Type::Duration => Value::Duration(0),
        Type::Enum(info) => Value::text(info.name_of(0).unwrap_or_default()),
        Type::Message(_) => Value::Message(None),
        Type::List(_) => Value::List(List::Made(Arc::from([]))),
        Type::Map(_) => Value::Map(None, reflect::Kind::Text),
    }
}

/// What needs no event is calculated now; where that fails, it would fail for every event.
fn fold(node: Node, error: impl FnOnce(&str) -> FilterError) -> Result<Node> {
    let constant = match &node {
        Node::Negative(of) => matches!(**of, Node::Const(_)),
        Node::Calculate(_, a, b) => matches!((&**a, &**b), (Node::Const(_), Node::Const(_))),
        Node::Call(_, arguments) => arguments.iter().all(|node| matches!(node, Node::Const(_))),
        _ => false,
    };
    if !constant {
        return Ok(node);
    }
    let event = v1::Event::default();
    let value = Evaluation::new(&event, MAX_STEPS).value(&node);
    match value {
        Ok(value) => Ok(Node::Const(owned(value))),
        Err(Stop::Undefined(why)) => Err(error(why)),
        Err(Stop::Steps) => Err(error("this costs too much")),
    }
}

/// A value that borrows from no event.
fn owned(value: Value<'_>) -> Value<'static> {
    match value {
        Value::Bool(v) => Value::Bool(v),
        Value::Int(v) => Value::Int(v),
        Value::Uint(v) => Value::Uint(v),
        Value::Double(v) => Value::Double(v),
        Value::Text(v) => Value::Text(v.into_owned().into()),
        Value::Bytes(v) => Value::Bytes(v.into_owned().into()),
        Value::Timestamp(v) => Value::Timestamp(v),
        Value::Duration(v) => Value::Duration(v),
        Value::Message(_) => Value::Message(None),
        Value::Map(_, kind) => Value::Map(None, kind),
        Value::List(list) => {
            Value::List(List::Made((0..list.count()).filter_map(|at| list.at(at)).map(owned).collect()))
        }
    }
}
