//! `cargo xtask deny`: licences, sources, doubled and vulnerable dependencies, as `deny.toml` has them.

use anyhow::Result;

use crate::{
    setup,
    sh::{Cmd, cmd, step},
};

/// Checks what `deny.toml` asks; what of it needs the advisory database only if that can be had.
pub(crate) fn run() -> Result<()> {
    let program = setup::cargo_deny()?;
    let deny = |subcommand: &[&str]| -> Cmd {
        cmd(&program).args(["--workspace", "--all-features"]).args(subcommand)
    };
    step("licences, bans, sources");
    deny(&["check", "licenses", "bans", "sources"]).run()?;
    step("advisories");
    if deny(&["fetch", "db"]).status()? {
        deny(&["check", "--disable-fetch", "advisories"]).run()
    } else {
        eprintln!(
            "warning: the advisory database could not be fetched (github.com/RustSec/advisory-db): \
             advisories were NOT checked"
        );
        Ok(())
    }
}
