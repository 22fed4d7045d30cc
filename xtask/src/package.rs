//! `cargo xtask package`: the Debian package, for nodes without Kubernetes. dpkg-deb makes it of a folder; nothing in it
//! says when it was made.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    image::{self, Profile},
    root,
    sh::{cmd, step},
};

/// Options of `package`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How the programs are built; a package that is shipped is of `dist`
    #[arg(long, value_enum, default_value_t = Profile::Dist)]
    profile: Profile,
}

/// Of the package itself, at a version of podtrail.
const REVISION: u32 = 1;
const MAINTAINER: &str = "the podtrail authors <podtrail@podtrail.invalid>";
/// For every file: it only has to be the same each time. The same moment as text.
const EPOCH: &str = "1767225600";
const DATE: &str = "Thu, 01 Jan 2026 00:00:00 +0000";

/// What goes where, from `deploy/package`.
const FILES: [(&str, &str); 7] = [
    ("podtrail-agent.service", "lib/systemd/system/podtrail-agent.service"),
    ("podtrail-collector.service", "lib/systemd/system/podtrail-collector.service"),
    ("podtrail.sysusers", "usr/lib/sysusers.d/podtrail.conf"),
    ("agent.toml", "etc/podtrail/agent.toml"),
    ("collector.toml", "etc/podtrail/collector.toml"),
    ("lintian-overrides", "usr/share/lintian/overrides/podtrail"),
    ("copyright", "usr/share/doc/podtrail/copyright"),
];
/// Beside the package's files.
const DOCUMENTS: [(&str, &str); 3] = [
    ("CHANGELOG.md", "usr/share/doc/podtrail/changelog"),
    ("deploy/certificates.sh", "usr/share/doc/podtrail/examples/certificates.sh"),
    ("deploy/audit/policy.yaml", "usr/share/doc/podtrail/examples/audit-policy.yaml"),
];
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

pub(crate) fn run(options: &Options) -> Result<()> {
    let package = make(options.profile, "xz")?;
    println!("{}", package.display());
    Ok(())
}

/// For the tests: of the programs that they are built with anyway.
pub(crate) fn for_tests() -> Result<()> {
    step("package");
    make(Profile::Dev, "gzip").map(drop)
}

fn make(profile: Profile, compression: &str) -> Result<PathBuf> {
    let programs = image::build(profile)?;
    let out = root::target().join("package");
    let tree = out.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    let ours = root::workspace().join("deploy/package");
    for program in image::PROGRAMS {
        put(&programs.join(program), &tree.join("usr/bin").join(program), 0o755)?;
    }
    for (from, to) in FILES {
        put(&ours.join(from), &tree.join(to), 0o644)?;
    }
    for (from, to) in DOCUMENTS {
        put(&root::workspace().join(from), &tree.join(to), 0o644)?;
    }
    for script in SCRIPTS {
        put(&ours.join(script), &tree.join("DEBIAN").join(script), 0o755)?;
    }
    let architecture = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let version = format!("{}-{REVISION}", env!("CARGO_PKG_VERSION"));
    let entry = format!(
        "podtrail ({version}) unstable; urgency=medium\n\n  * See changelog.gz.\n\n -- {MAINTAINER}  {DATE}\n"
    );
    let changes = tree.join("usr/share/doc/podtrail");
    write(&changes.join("changelog.Debian"), entry.as_bytes(), 0o644)?;
    for name in ["changelog", "changelog.Debian"] {
        cmd("gzip").arg("-9n").arg(changes.join(name)).quiet().run()?;
    }
    let control = format!(
        "Package: podtrail\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: {MAINTAINER}\n\
         Installed-Size: {}\nRecommends: systemd\nSection: admin\nPriority: optional\n\
         Homepage: https://github.com/podtrail/podtrail\n\
         Description: audit trail for what happens inside pods after somebody gets in\n \
         podtrail records every program that is executed in a container after somebody\n \
         got in, with its arguments and its end, tied to its session, and a count of\n \
         whatever could not be recorded.\n .\n \
         This package has the agent of a node, the collector, and the command line.\n \
         Neither daemon is started before somebody enables it.\n",
        size(&tree)?.div_ceil(1024)
    );
    write(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
    let conffiles = "/etc/podtrail/agent.toml\n/etc/podtrail/collector.toml\n";
    write(&tree.join("DEBIAN/conffiles"), conffiles.as_bytes(), 0o644)?;
    let package = out.join(format!("podtrail_{version}_{architecture}.deb"));
    cmd("dpkg-deb")
        .env("SOURCE_DATE_EPOCH", EPOCH)
        .args(["--root-owner-group", "-Z", compression, "--build"])
        .arg(&tree)
        .arg(&package)
        .run()?;
    Ok(package)
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    write(to, &bytes, mode)
}

fn write(to: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let folder = to.parent().context("no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for folder in folder.ancestors().take_while(|folder| folder.starts_with(root::target())) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

/// Bytes of all files below.
fn size(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}
