//! What cannot be tested on some machine, and why: told as skipped, and a failure wherever there is another way.

use std::env;

use super::host;

/// What a machine may lack.
#[derive(Clone, Copy, Debug)]
enum Lacks {
    /// containers are in no cgroup of v2
    V2,
}

impl Lacks {
    fn is_so(self) -> bool {
        match self {
            Self::V2 => host().told_by().is_ok_and(|hierarchy| !hierarchy.v2),
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::V2 => "containers are in cgroups of v1 here, and this is about v2",
        }
    }
}

const CASES: &[(&str, Lacks)] = &[
    ("entries::exec_by_runc_in_cgroup_v2", Lacks::V2),
    ("entries::cloned_into_the_cgroup_by_hand", Lacks::V2),
];

/// Beginnings of the names of cases to be run; none: all are.
const ONLY: &str = "PODTRAIL_ITEST_ONLY";

/// Why this case is left out on this machine, if it is.
pub(crate) fn reason(case: &str) -> Option<&'static str> {
    let only = env::var(ONLY).unwrap_or_default();
    if !only.is_empty() && !only.split(',').any(|word| case.contains(word)) {
        return Some("not in this part of the tests");
    }
    let listed = CASES.iter().find(|(name, lacks)| *name == case && lacks.is_so());
    listed.map(|(_, lacks)| lacks.reason())
}

/// Fails if a case is listed, or asked for, that is none.
pub(crate) fn check(names: &[&str]) -> anyhow::Result<()> {
    if let Some((listed, _)) = CASES.iter().find(|(listed, _)| !names.contains(listed)) {
        anyhow::bail!("{listed} is to be left out somewhere, and is no test");
    }
    let only = env::var(ONLY).unwrap_or_default();
    match only.split(',').find(|word| !names.iter().any(|name| name.contains(word))) {
        Some(word) => anyhow::bail!("{ONLY} has {word}, which is in no test's name"),
        None => Ok(()),
    }
}
