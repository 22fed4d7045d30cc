//! `docs/filters.md` says what is: every field, every function, and examples that compile.

use std::fmt::Write as _;

use podtrail_proto::reflect::{self, Kind, MessageInfo};

use super::{Filter, functions::FORMS, types::Type};

const BEGIN: &str = "<!-- fields: begin -->\n";
const END: &str = "<!-- fields: end -->\n";

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/filters.md");
    std::fs::read_to_string(path).unwrap()
}

fn table(out: &mut String, done: &mut Vec<&'static str>, message: &'static MessageInfo) {
    if done.contains(&message.name) {
        return;
    }
    done.push(message.name);
    writeln!(out, "\n**{}**\n\n| field | type |\n|---|---|", message.name).unwrap();
    let mut inner = Vec::new();
    for field in message.fields {
        let mut is = Type::of(field).to_string();
        match field.kind {
            Kind::Enum(info) => {
                let names: Vec<&str> = info.values.iter().map(|(_, name)| *name).collect();
                write!(is, ": {}", names.join(", ")).unwrap();
            }
            Kind::Message(info) => inner.push(info),
            _ => {}
        }
        writeln!(out, "| `{}` | {is} |", field.json).unwrap();
    }
    for message in inner {
        table(out, done, message);
    }
}

#[test]
fn every_field_is_in_the_page() {
    let mut fields = String::new();
    table(&mut fields, &mut Vec::new(), reflect::event());
    fields.push('\n');
    let page = page();
    let (_, rest) = page.split_once(BEGIN).expect("the page says where the fields begin");
    let (written, _) = rest.split_once(END).expect("the page says where the fields end");
    assert!(written == fields, "between {BEGIN}and {END}in docs/filters.md must stand:\n{fields}");
}

#[test]
fn every_function_is_in_the_page() {
    let page = page();
    let words = ["has(", "all(", "exists(", "exists_one(", "filter(", "map(", "matches("];
    for name in FORMS.iter().map(|form| format!("{}(", form.name)).chain(words.map(str::to_owned)) {
        assert!(page.contains(&format!("`{name}")) || page.contains(&format!(".{name}")), "{name}");
    }
}

#[test]
fn every_example_of_the_page_and_of_the_help_compiles() {
    let page = page();
    let mut examples: Vec<String> = page
        .split("```cel\n")
        .skip(1)
        .filter_map(|rest| Some(rest.split_once("```")?.0.to_owned()))
        .collect();
    assert!(examples.len() >= 8, "{examples:?}");
    let help = include_str!("../cli/args.rs");
    let before = examples.len();
    examples.extend(help.lines().filter_map(|line| {
        Some(line.trim().strip_prefix("///   --filter '")?.strip_suffix('\'')?.to_owned())
    }));
    assert_eq!(examples.len(), before + 3, "the help has three");
    for example in examples {
        Filter::compile(&example).unwrap_or_else(|error| panic!("{example}\n{error}"));
    }
}
