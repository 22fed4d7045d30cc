//! Embeds the BPF object that `cargo xtask build-ebpf` makes.
//!
//! Without it the crate still builds, so that editors and `cargo check` work on a fresh clone; such an agent says so
//! and does not run.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

fn main() -> io::Result<()> {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    // Beside the other build results, wherever those are.
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| manifest.join("../target"), PathBuf::from);
    let built = target.join("bpf/podtrail.bpf.o");
    println!("cargo:rerun-if-changed={}", built.display());
    println!("cargo:rerun-if-env-changed=CARGO_TARGET_DIR");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("podtrail.bpf.o");
    embed(&built, &out)
}

fn embed(built: &Path, out: &Path) -> io::Result<()> {
    match fs::copy(built, out) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            println!("cargo:warning=no BPF object: the agent will not run; `cargo xtask build` makes both");
            fs::write(out, [])
        }
        Err(e) => Err(e),
    }
}
