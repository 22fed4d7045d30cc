//! Generates the Rust of `podtrail.v1`, and of what container runtimes are asked, without a `protoc` on the machine.

mod reflect;

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=podtrail");
    println!("cargo:rerun-if-changed=build");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let files = protox::compile(["podtrail/v1/podtrail.proto"], ["."])?;
    let descriptors = files.encode_to_vec();
    fs::write(out.join("podtrail.v1.bin"), &descriptors)?;

    fs::write(out.join("podtrail.v1.reflect.rs"), reflect::generate(&files, "ReportRequest")?)?;

    tonic_prost_build::configure()
        .bytes(".")
        .compile_well_known_types(true)
        .extern_path(".google.protobuf.Timestamp", "crate::Timestamp")
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds(files)?;
    pbjson_build::Builder::new().register_descriptors(&descriptors)?.build(&[".podtrail.v1"])?;
    runtimes()
}

/// What container runtimes are asked, on the node.
fn runtimes() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=runtime");
    let files = ["cri.proto", "containerd_events.proto", "containerd_tasks.proto"];
    let files = protox::compile(files, ["runtime"])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
