//! `[[principal]]`: who may read, and what of it. See [`crate::trail::rights`] for what each key means.

use std::collections::BTreeSet;

use super::settings::{
    Kind, Settings, Table,
    value::{self, one_of, quoted},
};
use crate::trail::{
    rights::{Fields, Principal, Rights},
    viewer::Verb,
};

pub(super) const PRINCIPAL: Kind =
    Kind { name: "principal", keys: &["name", "verbs", "namespaces", "fields"] };

/// The principals of a file. Each name once.
pub(super) fn check(settings: &mut Settings) -> Vec<Principal> {
    let mut names = BTreeSet::new();
    settings.tables(PRINCIPAL.name, |table| {
        let name = table.need("name", String::new(), |text| {
            let name = value::name(text)?;
            if names.insert(name.clone()) {
                Ok(name)
            } else {
                Err(format!("{} is there already", quoted(text)))
            }
        });
        let verbs = table.list("verbs", |text| one_of(text, &Verb::NAMES)).unwrap_or_default();
        let namespaces = table.list("namespaces", namespace).unwrap_or_default();
        let rights = Rights {
            verbs: verbs.into_iter().collect(),
            namespaces: namespaces.into_iter().collect(),
            fields: fields(table),
        };
        Principal { name, rights }
    })
}

fn fields(table: &mut Table) -> Fields {
    let names = table
        .list("fields", |text| {
            // Each by itself, so that every wrong one is told in its place.
            Fields::compile([text]).map(|_alone| text.to_owned()).map_err(|e| e.to_string())
        })
        .unwrap_or_default();
    Fields::compile(names.iter().map(String::as_str)).unwrap_or_default()
}

/// A namespace, or a pattern of them.
fn namespace(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '*';
    if text.is_empty() || text.len() > 63 || !text.chars().all(good) {
        return Err(format!("{} is no namespace, like prod, team-* or *", quoted(text)));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trail::rights::Namespaces;

    fn load(text: &str) -> Result<Vec<Principal>, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut settings = Settings::read(Some(file.path()), &[], &[PRINCIPAL]).unwrap();
        let principals = check(&mut settings);
        let path = file.path().display().to_string();
        settings.finish(principals).map_err(|e| e.to_string().replace(&path, "F"))
    }

    #[test]
    fn nothing_is_allowed_unless_it_is_said() {
        let principals = load(
            "[[principal]]\nname = \"siem\"\nverbs = [\"subscribe\", \"nodes\"]\nnamespaces = [\"prod\", \"team-*\"]\n\
             fields = [\"*\", \"!executed.argv\"]\n[[principal]]\nname = \"new\"\n",
        )
        .unwrap();
        let siem = Rights {
            verbs: [Verb::Subscribe, Verb::Nodes].into(),
            namespaces: Namespaces::Some(vec!["prod".to_owned(), "team-*".to_owned()]),
            fields: Fields::compile(["*", "!executed.argv"]).unwrap(),
        };
        assert_eq!(
            principals,
            [
                Principal { name: "siem".to_owned(), rights: siem },
                Principal { name: "new".to_owned(), rights: Rights::default() },
            ]
        );
    }

    #[test]
    fn everything_wrong_is_told_in_its_place() {
        let told = load(
            "[[principal]]\nname = \"a b\"\nverbs = [\"tail\", \"read\"]\nnamespaces = [\"Prod\"]\n\
             fields = [\"*\", \"!exec\", \"!executed.agv\"]\n[[principal]]\nverb = [\"tail\"]\n\
             [[principal]]\nname = \"x\"\n[[principal]]\nname = \"x\"\nverbs = \"tail\"\n",
        )
        .unwrap_err();
        for expected in [
            "F:2:1: principal.name: \"a b\" is no name",
            "F:3:18: principal.verbs: \"read\" is none of tail, subscribe, sessions, nodes",
            "F:4:15: principal.namespaces: \"Prod\" is no namespace, like prod, team-* or *",
            "F:5:16: principal.fields: \"!exec\": event has no field \"exec\"; it has: id, time",
            "F:5:25: principal.fields: \"!executed.agv\": executed has no field \"agv\"",
            "F:6:1: principal: name is missing",
            "F:7:1: principal.verb: no such key; there are: name, verbs, namespaces, fields",
            "F:11:1: principal.name: \"x\" is there already",
            "F:12:1: principal.verbs: a single value stands where a list belongs",
        ] {
            assert!(told.lines().any(|line| line.starts_with(expected)), "{expected} not in\n{told}");
        }
        assert_eq!(told.lines().count(), 9, "{told}");
    }
}
