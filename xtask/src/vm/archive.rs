//! Debian's archive, by an apt of our own: its configuration, state and cache are in the target folder, and nothing of
//! the machine's apt is read or written. Debian's keyring says what is genuine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{folder, plan::Arch};
use crate::sh::{Cmd, cmd, step};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Suite and archive.
type Source = (&'static str, &'static str);

/// A release of Debian, with the line of kernels that is its own.
#[derive(Debug)]
pub(super) struct Release {
    name: &'static str,
    /// as it was published, and its updates
    sources: &'static [Source],
    /// begins the names of the kernel's packages, before the version
    kernel: &'static str,
    line: &'static str,
    /// follows the architecture in them
    ending: &'static str,
    /// the archive's lists say until when they are good, and this one is not renewed everywhere
    may_be_old: bool,
}

const MAIN: &str = "http://deb.debian.org/debian";
const SECURITY: &str = "http://deb.debian.org/debian-security";

pub(super) static BULLSEYE: Release = Release {
    name: "bullseye",
    sources: &[("bullseye", MAIN), ("bullseye-security", SECURITY)],
    kernel: "linux-image-",
    line: "5.10.0-",
    // The unsigned ones are listed, and gone.
    ending: "",
    may_be_old: true,
};
pub(super) static BOOKWORM: Release = Release {
    name: "bookworm",
    sources: &[("bookworm", MAIN), ("bookworm-security", SECURITY)],
    kernel: "linux-image-",
    line: "6.1.0-",
    ending: "-unsigned",
    may_be_old: false,
};
pub(super) static TRIXIE: Release = Release {
    name: "trixie",
    sources: &[("trixie", MAIN), ("trixie-security", SECURITY)],
    kernel: "linux-image-",
    line: "6.12.",
    ending: "-unsigned",
    may_be_old: false,
};
pub(super) static SID: Release = Release {
    name: "sid",
    sources: &[("sid", MAIN)],
    kernel: "linux-binary-",
    line: "7.",
    ending: "",
    may_be_old: true,
};

/// What a virtual machine is made of.
#[derive(Clone, Debug)]
pub(super) struct Userland {
    pub(super) name: &'static str,
    pub(super) arch: Arch,
    pub(super) kernel: PathBuf,
    pub(super) kernel_version: String,
    /// `runc 1.1.5, crun 1.8.1`
    pub(super) runtimes: String,
    /// runtimes, busybox, and the libraries that they need
    pub(super) tree: PathBuf,
    pub(super) modules: Option<PathBuf>,
}

/// Gets it, unless it is here.
pub(super) fn fetch(release: &'static Release, arch: Arch) -> Result<Userland> {
    let dir = folder()?.join(format!("{}-{}", release.name, arch.debian()));
    let done = dir.join("done");
    if !done.exists() {
        step(&format!("fetching kernel and runtimes of Debian {} for {}", release.name, arch.debian()));
        let get = |sources| twice(|| download(release, sources, arch, &dir));
        match get(release.sources) {
            // Of releases that are no longer kept, some updates are listed, and gone.
            Err(error) if release.may_be_old => {
                eprintln!("{error:#}: as it was published, without updates");
                get(release.sources.get(..1).unwrap_or_default())
            }
            got => got,
        }
        .with_context(|| needs(release.name))?;
        fs::write(&done, "").with_context(|| format!("cannot write {}", done.display()))?;
    }
    found(release, arch, &dir)
}

/// Rust's standard library for arm64, of exactly the version of Debian's compiler that is installed here.
pub(super) fn rust_library(version: &str) -> Result<PathBuf> {
    let dir = folder()?.join(format!("rust-arm64-{version}"));
    let done = dir.join("done");
    if !done.exists() {
        step("fetching Rust's standard library for arm64");
        let package = format!("libstd-rust-web-dev={version}");
        let fetched = dir.join("packages");
        twice(|| {
            prepare(&BOOKWORM, BOOKWORM.sources, Arch::Aarch64, &dir)?;
            fs::create_dir_all(&fetched)?;
            apt(&dir, "apt-get").current_dir(&fetched).args(["download", "-q", &package]).run()?;
            unpack(&fetched, &dir.join("tree"))
        })
        .with_context(|| needs(BOOKWORM.name))?;
        fs::write(&done, "").with_context(|| format!("cannot write {}", done.display()))?;
    }
    let library = dir.join("tree/usr/lib/rustlib/aarch64-unknown-linux-gnu/lib");
    if !library.is_dir() {
        bail!("{} is missing: remove {} and try again", library.display(), dir.display());
    }
    Ok(library)
}

fn needs(name: &str) -> String {
    format!("Debian {name} could not be fetched: {MAIN} must be reached, once for each target folder")
}

/// Once more where it failed, from the beginning: while an archive is renewed, its lists and packages do not fit, and
/// apt's own retries ask for the same again.
fn twice(job: impl Fn() -> Result<()>) -> Result<()> {
    job().or_else(|error| {
        eprintln!("{error:#}: once more");
        job()
    })
}

/// An apt of its own, with what the archive has now.
fn prepare(release: &Release, sources: &[Source], arch: Arch, dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    for part in
        ["etc/preferences.d", "state/lists/partial", "cache/archives/partial", "none", "kernel", "tree"]
    {
        let part = dir.join(part);
        fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
    }
    let put = |name: &str, text: &str| -> Result<()> {
        fs::write(dir.join(name), text).with_context(|| format!("cannot write {name} in {}", dir.display()))
    };
    let source = |(suite, archive): &Source| format!("deb [signed-by={KEYRING}] {archive} {suite} main\n");
    put("sources.list", &sources.iter().map(source).collect::<String>())?;
    put("status", "")?;
    put("apt.conf", &configuration(dir, arch, release.may_be_old))?;
    apt(dir, "apt-get").args(["update", "-q", "--error-on=any"]).run()
}

fn download(release: &Release, sources: &[Source], arch: Arch, dir: &Path) -> Result<()> {
    prepare(release, sources, arch, dir)?;
    let kernel = newest(release, arch, dir)?;
    // The machine of these packages has nothing yet, so apt brings the libraries that they need.
    apt(dir, "apt-get")
        .args(["install", "-q", "-y", "--download-only", "runc", "crun", "busybox-static"])
        .run()?;
    let archives = dir.join("cache/archives");
    unpack(&archives, &dir.join("tree"))?;
    let mut packages = vec![kernel.clone()];
    // From 7 on modules are packages of their own.
    packages.extend(kernel.strip_prefix("linux-binary-").map(|version| format!("linux-modules-{version}")));
    let fetched = dir.join("kernel-packages");
    fs::create_dir_all(&fetched)?;
    apt(dir, "apt-get").current_dir(&fetched).args(["download", "-q"]).args(packages).run()?;
    unpack(&fetched, &dir.join("kernel"))
}

fn configuration(dir: &Path, arch: Arch, may_be_old: bool) -> String {
    let (dir, arch) = (dir.display(), arch.debian());
    let valid = if may_be_old { "Acquire::Check-Valid-Until \"false\";\n" } else { "" };
    format!(
        "Dir \"{dir}/\";\nDir::Etc \"{dir}/etc\";\nDir::Etc::sourcelist \"{dir}/sources.list\";\n\
         Dir::Etc::sourceparts \"{dir}/none\";\nDir::Etc::main \"{dir}/none/none\";\nDir::Etc::parts \"{dir}/none\";\n\
         Dir::State \"{dir}/state\";\nDir::State::status \"{dir}/status\";\nDir::Cache \"{dir}/cache\";\n\
         APT::Architecture \"{arch}\";\nAPT::Architectures {{ \"{arch}\"; }};\nAcquire::Retries \"5\";\nAPT::Install-Recommends \"false\";\n\
         APT::Sandbox::User \"root\";\nAcquire::Languages \"none\";\n{valid}"
    )
}

fn apt(dir: &Path, program: &str) -> Cmd {
    cmd(program).env("APT_CONFIG", dir.join("apt.conf")).env("DEBIAN_FRONTEND", "noninteractive")
}

/// The kernel's package of the highest version.
fn newest(release: &Release, arch: Arch, dir: &Path) -> Result<String> {
    let begin = format!("{}{}", release.kernel, release.line);
    let ending = format!("-cloud-{}{}", arch.debian(), release.ending);
    let listed = apt(dir, "apt-cache").args(["search", "--names-only", &format!("^{begin}")]).peek()?;
    let listed = listed.context("apt-cache is missing")?;
    let names = listed.lines().filter_map(|line| line.split(' ').next());
    let kernels = names.filter(|name| {
        name.strip_prefix(&*begin).and_then(|rest| rest.strip_suffix(&*ending)).is_some_and(|version| {
            // Neither `-rt` nor `-dbg`, nor a backport's.
            version
                .bytes()
                .all(|b| b.is_ascii_digit() || b == b'.' || b == b'-' || b == b'+' || b.is_ascii_lowercase())
                && !version.contains("rt-")
        })
    });
    let numbers = |name: &str| -> Vec<u64> {
        name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
    };
    match kernels.max_by_key(|name| numbers(name)) {
        Some(name) => Ok(name.to_owned()),
        None => bail!("Debian {} has no kernel {begin}*{ending}", release.name),
    }
}

fn unpack(packages: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(packages).with_context(|| format!("cannot read {}", packages.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            cmd("dpkg-deb").arg("-x").arg(&path).arg(to).quiet().run()?;
        }
    }
    Ok(())
}

fn found(release: &'static Release, arch: Arch, dir: &Path) -> Result<Userland> {
    let (kernel_version, kernel) = kernel(&dir.join("kernel"))
        .with_context(|| format!("no kernel: remove {} and try again", dir.display()))?;
    let modules =
        ["lib/modules", "usr/lib/modules"].map(|place| dir.join("kernel").join(place).join(&kernel_version));
    let version = |name: &str| -> Result<String> {
        let archives = dir.join("cache/archives");
        for entry in fs::read_dir(&archives).with_context(|| format!("cannot read {}", archives.display()))? {
            let file = entry?.file_name().to_string_lossy().into_owned();
            let version =
                file.strip_prefix(&format!("{name}_")).and_then(|rest| rest.split(['+', '_', '-']).next());
            if let Some(version) = version {
                return Ok(format!("{name} {version}"));
            }
        }
        bail!("no {name} in {}", archives.display())
    };
    Ok(Userland {
        name: release.name,
        arch,
        kernel,
        kernel_version,
        runtimes: format!("{}, {}", version("runc")?, version("crun")?),
        tree: dir.join("tree"),
        modules: modules.into_iter().find(|place| place.is_dir()),
    })
}

/// Its version and its file: in `/boot`, or, of late, beside its modules.
fn kernel(root: &Path) -> Result<(String, PathBuf)> {
    let names = |folder: &Path| -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path())).collect()
    };
    let in_boot = names(&root.join("boot")).into_iter();
    let in_boot = in_boot.filter_map(|(name, path)| Some((name.strip_prefix("vmlinuz-")?.to_owned(), path)));
    let beside = names(&root.join("usr/lib/modules")).into_iter();
    let beside = beside.map(|(version, folder)| (version, folder.join("vmlinuz")));
    in_boot.chain(beside).find(|(_, path)| path.is_file()).context("no vmlinuz where it should be")
}
