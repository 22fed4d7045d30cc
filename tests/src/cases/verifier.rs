//! Whether the kernel's verifier has room left: what only just loads here does not load on the next kernel.

use anyhow::{Result, ensure};

use crate::{
    cases,
    harness::{
        Cx,
        verifier::{self, AT_MOST},
    },
};

cases! {
    "verifier",
    OwnAgent: every_program_takes_less_than_half_of_what_the_verifier_allows
}

fn every_program_takes_less_than_half_of_what_the_verifier_allows(_cx: &Cx) -> Result<()> {
    let (verified, ways) = verifier::of_agent()?;
    let known = |start: &str| verified.keys().any(|name| name.starts_with(start));
    for program in ["exec", "fork", "exit", "attach", "mkdir", "rmdir", "tasks", "setns_"] {
        ensure!(
            known(&format!("podtrail_{program}")),
            "nothing is said of {program}: {verified:?} ({ways:?})"
        );
    }
    println!();
    for (name, count) in &verified {
        println!("verified {count} {name}");
        ensure!(*count <= AT_MOST, "the verifier went through {count} instructions of {name}: {verified:?}");
        ensure!(*count > 0, "nothing was verified of {name}");
    }
    Ok(())
}
