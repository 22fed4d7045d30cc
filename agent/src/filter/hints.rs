//! What helps somebody who wrote a filter that is wrong: what was most likely meant.

use podtrail_proto::reflect::{self, EnumInfo, MessageInfo};

use super::{functions::FORMS, types::Type};

/// How to make two types that do not fit, fit.
pub(super) fn hint(a: &Type, b: &Type) -> &'static str {
    match (a, b) {
        (Type::Uint, Type::Int) | (Type::Int, Type::Uint) => {
            ": write 1u for a uint, or convert with int(…) or uint(…)"
        }
        (Type::Double, Type::Int | Type::Uint) | (Type::Int | Type::Uint, Type::Double) => {
            ": convert with double(…)"
        }
        (Type::Timestamp, Type::Text) | (Type::Text, Type::Timestamp) => {
            ": write timestamp(\"2026-11-22T20:14:00Z\")"
        }
        (Type::Duration, Type::Text | Type::Int) | (Type::Text | Type::Int, Type::Duration) => {
            ": write duration(\"1h30m\")"
        }
        (Type::Bytes, Type::Text) | (Type::Text, Type::Bytes) => ": write b\"…\" for bytes",
        _ => "",
    }
}

pub(super) fn unknown_field<'a>(
    info: &MessageInfo,
    name: &str,
    more: impl Iterator<Item = &'a str>,
) -> String {
    let names = info.fields.iter().map(|field| field.json).chain(more);
    let whose = if std::ptr::eq(info, reflect::event()) { "an event" } else { info.name };
    match nearest(name, names) {
        Some(near) => format!("{whose} has no field {name}; did you mean {near}?"),
        None => {
            let names: Vec<&str> = info.fields.iter().map(|field| field.json).collect();
            format!("{whose} has no field {name}; it has {}", names.join(", "))
        }
    }
}

pub(super) fn unknown_function(name: &str) -> String {
    let macros = ["has", "all", "exists", "exists_one", "filter", "map", "matches"];
    match nearest(name, FORMS.iter().map(|form| form.name).chain(macros)) {
        Some(near) => format!("there is no function {name}(); did you mean {near}()?"),
        None => format!("there is no function {name}()"),
    }
}

pub(super) fn not_one_of(info: &EnumInfo, text: &str) -> String {
    match nearest(text, info.values.iter().map(|(_, name)| *name)) {
        Some(near) => format!("no {} is called {text:?}; did you mean {near:?}?", info.name),
        None => {
            let names: Vec<&str> = info.values.iter().map(|(_, name)| *name).collect();
            format!("no {} is called {text:?}; there is {}", info.name, names.join(", "))
        }
    }
}

/// What was most likely meant.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // What is as long as a filter is nobody's typing error.
    if name.len() > 64 {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    names
        .map(|other| (strsim::damerau_levenshtein(&lower, &other.to_ascii_lowercase()), other))
        .filter(|(distance, _)| *distance <= 1 + name.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, other)| other)
}
