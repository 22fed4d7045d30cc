//! What is in `deploy/`: that the manifests are what Kubernetes' published types are, that their parts fit together and fit
//! the daemons, that alerts look at metrics that there are, and that the scripts do what they say.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in its helpers too"
)]

mod alerts;
mod certificates;
mod custom;
mod detector;
mod fit;
mod schema;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

/// `deploy/`.
fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy")
}

/// Overlays, by name.
fn overlays() -> Vec<String> {
    names(&deploy().join("kustomize/overlays"))
}

/// Components, by name.
fn components() -> Vec<String> {
    names(&deploy().join("kustomize/components"))
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

/// What an overlay is made of.
fn overlay(name: &str) -> Vec<Value> {
    render(&deploy().join("kustomize/overlays").join(name))
}

/// The base with components.
fn with(components: &[&str]) -> Vec<Value> {
    // Kustomize follows no absolute paths, and none that leave a copy.
    let dir = tempfile::tempdir_in(deploy().join("kustomize")).unwrap();
    let listed: String = components.iter().map(|name| format!("  - ../components/{name}\n")).collect();
    let components = if listed.is_empty() { String::new() } else { format!("components:\n{listed}") };
    fs::write(
        dir.path().join("kustomization.yaml"),
        format!(
            "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: podtrail\n\
             resources: [../base]\n{components}"
        ),
    )
    .unwrap();
    render(dir.path())
}

/// Every object of every overlay, and of each component by itself, with what it comes from.
fn everything() -> Vec<(String, Vec<Value>)> {
    let overlays = overlays().into_iter().map(|name| (format!("overlays/{name}"), overlay(&name)));
    let alone = components().into_iter().map(|name| (format!("components/{name}"), with(&[&name])));
    overlays.chain(alone).collect()
}

/// As `kubectl kustomize` prints it.
fn render(dir: &Path) -> Vec<Value> {
    // Where `cargo xtask setup` puts tools: in the target folder, whatever target this was built for.
    let ours = || {
        let folders = Path::new(env!("CARGO_TARGET_TMPDIR")).ancestors();
        folders.map(|folder| folder.join("tools/bin/kustomize")).find(|program| program.exists())
    };
    let program =
        env::var_os("KUSTOMIZE").map(PathBuf::from).or_else(ours).unwrap_or_else(|| "kustomize".into());
    let output =
        Command::new(&program).arg("build").arg(dir).stdin(Stdio::null()).output().unwrap_or_else(|e| {
            panic!("cannot run {}: {e}: run `cargo xtask setup`, or set KUSTOMIZE", program.display())
        });
    assert!(output.status.success(), "{}: {}", dir.display(), String::from_utf8_lossy(&output.stderr));
    let warned = String::from_utf8_lossy(&output.stderr);
    assert!(warned.is_empty(), "{}: {warned}", dir.display());
    serde_saphyr::from_multiple(&String::from_utf8(output.stdout).unwrap()).unwrap()
}

/// The only object of this kind and name.
fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found: Vec<_> = objects
        .iter()
        .filter(|object| object["kind"] == kind && object["metadata"]["name"] == name)
        .collect();
    match found.as_slice() {
        [only] => only,
        several => panic!("{} objects are {kind} {name}", several.len()),
    }
}

/// Elements of a list; of nothing, none.
fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}
