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
    /// what the events will lack, and the fields without which they do
    pub(crate) lacks: Vec<(&'static str, Vec<String>)>,
}

impl Found {
    /// The first field that is not there of those without which the events lack `what`.
    pub(crate) fn absent_of(&self, what: &str) -> Option<String> {
        let mut absent = FIELDS.iter().zip(&self.values).filter(|(_, value)| **value == ABSENT);
        let of = |field: &Field| matches!(field.without, Without::Lacks(lacks) if lacks == what);
        absent.find(|(field, _)| of(field)).map(|(field, _)| shown(field))
    }
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
                Without::Refuse => found.missing.push(shown(field)),
                Without::Lacks(what) => match found.lacks.iter_mut().find(|(known, _)| *known == what) {
                    Some((_, fields)) => fields.push(shown(field)),
                    None => found.lacks.push((what, vec![shown(field)])),
                },
            }
        }
        found.values.push(value.unwrap_or(ABSENT));
    }
    found
}

/// A field as the kernel calls it.
fn shown(field: &Field) -> String {
    let Field { name: _, of, members, size: _, without: _ } = field;
    if members.is_empty() { format!("struct {of}") } else { format!("{of}.{}", members.join("|")) }
}

fn value(btf: &Btf, field: &Field) -> Option<u32> {
    let Field { name: _, of, members, size, without: _ } = field;
    if members.is_empty() {
        return btf.size(of);
    }
    members.iter().find_map(|name| {
        let (name, index) = indexed(name);
        let member = btf.member(of, &[name])?;
        // A member that has changed its size has changed its meaning: better refused than misread.
        match index {
            None if *size != 0 && member.size.is_some_and(|s| s != *size) => None,
            None => Some(member.offset),
            Some(index) => {
                let at = index.checked_mul(*size)?;
                let fits = member.size.is_some_and(|s| s.is_multiple_of(*size) && at < s);
                if fits { member.offset.checked_add(at) } else { None }
            }
        }
    })
}

/// "regs[1]" → "regs" and 1.
fn indexed(name: &str) -> (&str, Option<u32>) {
    let of_array = name.strip_suffix(']').and_then(|name| name.split_once('['));
    of_array.map_or((name, None), |(name, index)| (name, index.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_arrays_have_an_index() {
        assert_eq!(indexed("regs[2]"), ("regs", Some(2)));
        assert_eq!(indexed("orig_x0"), ("orig_x0", None));
    }

    #[test]
    fn the_running_kernel_has_every_field() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else { return };
        let btf = Btf::parse(bytes, &structs()).unwrap();
        let found = find(&btf);
        assert_eq!(found.missing, Vec::<String>::new());
        assert_eq!(found.lacks, []);
        assert_eq!(found.values.len(), FIELDS.len());
    }
}
