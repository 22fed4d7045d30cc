//! Finds every field of [`podtrail_ebpf::offsets`] in the running kernel's BTF.

use podtrail_ebpf::{
    layout::ABSENT,
    offsets::{FIELDS, Field, Without},
};

use super::btf::Btf;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// in the order of `Offsets`' fields
    pub(crate) values: Vec<u32>,
    /// fields without which the agent does not run
    pub(crate) missing: Vec<String>,
    /// what the events will lack
    pub(crate) lacks: Vec<&'static str>,
}

/// Names of the structs that are asked for.
pub(crate) fn structs() -> Vec<&'static str> {
    let mut names: Vec<_> = FIELDS.iter().map(|f| f.of).collect();
    names.dedup();
    names
}

pub(crate) fn find(btf: &Btf) -> Found {
    let mut found = Found::default();
    for field in FIELDS {
        let value = value(btf, field);
        if value.is_none() {
            match field.without {
                Without::Refuse => found.missing.push(format!("{}.{}", field.of, field.members.join("|"))),
                Without::Lacks(what) => {
                    if !found.lacks.contains(&what) {
                        found.lacks.push(what);
                    }
                }
            }
        }
        found.values.push(value.unwrap_or(ABSENT));
    }
    found
}

fn value(btf: &Btf, field: &Field) -> Option<u32> {
    let Field { name: _, of, members, size, without: _ } = field;
    if members.is_empty() {
        return btf.size(of);
    }
    let member = btf.member(of, members)?;
    // A member that has changed its size has changed its meaning: better refused than misread.
    if *size != 0 && member.size.is_some_and(|s| s != *size) { None } else { Some(member.offset) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_every_field() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
        let btf = Btf::parse(bytes, &structs()).unwrap();
        let found = find(&btf);
        assert_eq!(found.missing, Vec::<String>::new());
        assert_eq!(found.values.len(), FIELDS.len());
    }
}
