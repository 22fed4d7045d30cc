//! Writes `podtrail_proto::reflect::Message` for an event and all that is in it: its fields by number, and what they
//! are called.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

const PACKAGE: &str = ".podtrail.v1.";

/// Everything that the package names, by its full name.
struct Names<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
}

/// The code for `root` and every message in it.
pub(crate) fn generate(files: &FileDescriptorSet, root: &str) -> Result<String, String> {
    let mut names = Names { messages: BTreeMap::new(), enums: BTreeMap::new() };
    for file in files.file.iter().filter(|file| file.package() == "podtrail.v1") {
        for e in &file.enum_type {
            names.enums.insert(format!("{PACKAGE}{}", e.name()), e);
        }
        for message in &file.message_type {
            collect(&mut names, PACKAGE, message);
        }
    }

    let (mut messages, mut enums) = (BTreeSet::new(), BTreeSet::new());
    let mut todo = vec![format!("{PACKAGE}{root}")];
    let mut out = String::new();
    while let Some(name) = todo.pop() {
        if !messages.insert(name.clone()) {
            continue;
        }
        let message = names.messages.get(&name).ok_or_else(|| format!("no message {name}"))?;
        for field in &message.field {
            match field.r#type() {
                Type::Message if well_known(field).is_none() && entry(&names, field).is_none() => {
                    todo.push(field.type_name().to_owned());
                }
                Type::Enum => {
                    enums.insert(field.type_name().to_owned());
                }
                _ => {}
            }
        }
        write_message(&mut out, &names, &name, message)?;
    }
    for name in enums {
        let e = names.enums.get(&name).ok_or_else(|| format!("no enum {name}"))?;
        let values: String = e.value.iter().map(|v| format!("({}, {:?}), ", v.number(), v.name())).collect();
        _ = writeln!(
            out,
            "pub(crate) static {}: crate::reflect::EnumInfo = \
             crate::reflect::EnumInfo {{ name: {:?}, values: &[{values}] }};",
            constant(&name),
            e.name()
        );
    }
    Ok(out)
}

fn collect<'a>(names: &mut Names<'a>, within: &str, message: &'a DescriptorProto) {
    let name = format!("{within}{}", message.name());
    for e in &message.enum_type {
        names.enums.insert(format!("{name}.{}", e.name()), e);
    }
    for nested in &message.nested_type {
        collect(names, &format!("{name}."), nested);
    }
    names.messages.insert(name, message);
}

fn write_message(
    out: &mut String,
    names: &Names<'_>,
    full_name: &str,
    message: &DescriptorProto,
) -> Result<(), String> {
    let (mut infos, mut arms) = (String::new(), String::new());
    for field in &message.field {
        let (number, name) = (field.number(), field.name());
        let rust = rust_name(name);
        let map = entry(names, field);
        let kind = match map {
            Some(entry) => {
                let [key, value] = entry.field.as_slice() else { return Err(format!("{name}: what map?")) };
                if key.r#type() != Type::String {
                    return Err(format!("{name}: only maps from strings can be looked into"));
                }
                kind(value)?
            }
            None => kind(field)?,
        };
        let repeated = field.label() == Label::Repeated;
        let optional = field.proto3_optional();
        let one_of = field.oneof_index.filter(|_| !optional);
        let single = field.r#type() == Type::Message || optional || one_of.is_some();
        let shape = match (map.is_some(), repeated, single) {
            (true, ..) => "Map",
            (_, true, _) => "List",
            (.., true) => "Optional",
            (.., false) => "Plain",
        };
        _ = writeln!(
            infos,
            "        crate::reflect::FieldInfo {{ number: {number}, name: {name:?}, json: {:?}, \
             kind: crate::reflect::Kind::{kind}, shape: crate::reflect::Shape::{shape} }},",
            field.json_name()
        );
        let value = match (shape, one_of) {
            ("Map", _) => format!("crate::reflect::Value::Map(&self.{rust})"),
            ("List", _) => format!("crate::reflect::Value::List(&self.{rust})"),
            (_, Some(index)) => {
                let index = usize::try_from(index).map_err(|e| e.to_string())?;
                let of = message.oneof_decl.get(index).ok_or("no such oneof")?.name();
                let module = full_name.trim_start_matches(PACKAGE).to_lowercase();
                format!(
                    "match &self.{} {{ Some({module}::{}::{}(value)) => value.value(), _ => crate::reflect::Value::Unset }}",
                    rust_name(of),
                    camel(of),
                    camel(name)
                )
            }
            ("Optional", _) => {
                format!("self.{rust}.as_ref().map_or(crate::reflect::Value::Unset, |value| value.value())")
            }
            _ => format!("self.{rust}.value()"),
        };
        _ = writeln!(arms, "            {number} => {value},");
    }
    let rust = message.name();
    let info = constant(full_name);
    // A message of lists alone has no use for it.
    let uses = if arms.contains("value()") { "        use crate::reflect::Element as _;\n" } else { "" };
    _ = write!(
        out,
        "pub(crate) static {info}: crate::reflect::MessageInfo = crate::reflect::MessageInfo {{
    name: {rust:?},
    size: ::core::mem::size_of::<{rust}>(),
    fields: &[
{infos}    ],
}};
impl crate::reflect::Message for {rust} {{
    fn info(&self) -> &'static crate::reflect::MessageInfo {{
        &{info}
    }}
    fn field(&self, number: u32) -> crate::reflect::Value<'_> {{
{uses}        match number {{
{arms}            _ => crate::reflect::Value::Unset,
        }}
    }}
}}
impl crate::reflect::Element for {rust} {{
    fn value(&self) -> crate::reflect::Value<'_> {{
        crate::reflect::Value::Message(self)
    }}
}}
",
    );
    Ok(())
}

fn kind(field: &FieldDescriptorProto) -> Result<String, String> {
    Ok(match field.r#type() {
        Type::Bool => "Bool".to_owned(),
        Type::Int32 | Type::Int64 | Type::Sint32 | Type::Sint64 | Type::Sfixed32 | Type::Sfixed64 => {
            "Int".to_owned()
        }
        Type::Uint32 | Type::Uint64 | Type::Fixed32 | Type::Fixed64 => "Uint".to_owned(),
        Type::Double | Type::Float => "Double".to_owned(),
        Type::String => "Text".to_owned(),
        Type::Bytes => "Bytes".to_owned(),
        Type::Enum => format!("Enum(&{})", constant(field.type_name())),
        Type::Message => match well_known(field) {
            Some(kind) => kind.to_owned(),
            None => format!("Message(&{})", constant(field.type_name())),
        },
        Type::Group => return Err(format!("{}: groups are not of this century", field.name())),
    })
}

fn well_known(field: &FieldDescriptorProto) -> Option<&'static str> {
    match field.type_name() {
        ".google.protobuf.Timestamp" => Some("Timestamp"),
        ".google.protobuf.Duration" => Some("Duration"),
        _ => None,
    }
}

/// The entry of a map field.
fn entry<'a>(names: &Names<'a>, field: &FieldDescriptorProto) -> Option<&'a DescriptorProto> {
    let message = names.messages.get(field.type_name()).copied()?;
    message.options.as_ref().is_some_and(prost_types::MessageOptions::map_entry).then_some(message)
}

fn constant(full_name: &str) -> String {
    format!("INFO_{}", full_name.trim_start_matches(PACKAGE).replace('.', "_").to_uppercase())
}

fn camel(name: &str) -> String {
    let mut out = String::new();
    for word in name.split('_') {
        let mut chars = word.chars();
        out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        out.extend(chars);
    }
    out
}

fn rust_name(name: &str) -> String {
    match name {
        "type" | "match" | "move" | "mod" | "ref" | "use" | "where" => format!("r#{name}"),
        _ => name.to_owned(),
    }
}
