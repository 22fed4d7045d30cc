//! `cargo xtask image`: the container images, without a daemon and without a base: each is one layer, of our programs
//! and what a resolver and a runtime look for. The same programs make the same bytes, so the digest says what is in it.

mod oci;
mod programs;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

pub(crate) use self::programs::{PROGRAMS, Profile, build};
use crate::{root, sh::step};

/// Options of `image`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How the programs are built; an image that is shipped is of `dist`
    #[arg(long, value_enum, default_value_t = Profile::Dist)]
    profile: Profile,
    /// What comes before podtrail-agent and podtrail-collector in the images' names
    #[arg(long, value_name = "REGISTRY", default_value = "registry.example.com")]
    registry: String,
    /// Where the archives go [default: target/image]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Only the files, in folders `agent` and `collector`: what the Containerfile copies
    #[arg(long, value_name = "DIR")]
    unpacked: Option<PathBuf>,
}

/// One image.
struct Image {
    name: &'static str,
    programs: &'static [&'static str],
    /// `UID:GID`
    user: &'static str,
    about: &'static str,
}

const IMAGES: [Image; 2] = [
    Image {
        name: "agent",
        programs: &["podtrail-agent", "podtrail"],
        // It reads what is root's: the capabilities that it has are in the manifest.
        user: "0:0",
        about: "The audit trail for what happens inside pods after somebody gets in: the agent of a node",
    },
    Image {
        name: "collector",
        programs: &["podtrail-collector", "podtrail"],
        user: "65532:65532",
        about: "The audit trail for what happens inside pods after somebody gets in: the collector",
    },
];

/// Whom the images know. Nothing logs in.
const PASSWD: &str = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// A file of an image.
struct File {
    /// without the slash that it begins with
    path: String,
    bytes: Vec<u8>,
    mode: u32,
}

/// An image that was made.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) archive: PathBuf,
    pub(crate) digest: String,
}

/// Builds them, and says what they are.
pub(crate) fn run(options: &Options) -> Result<()> {
    let programs = build(options.profile)?;
    if let Some(dir) = &options.unpacked {
        for image in &IMAGES {
            unpack(&files(image, &programs)?, &dir.join(image.name))?;
        }
        return Ok(());
    }
    let out = options.out.clone().unwrap_or_else(folder);
    for Made { archive, digest } in make(&programs, &options.registry, &out)? {
        let size =
            fs::metadata(&archive).with_context(|| format!("cannot read {}", archive.display()))?.len();
        println!("{} {digest} {:.1} MiB", archive.display(), bytes_in_mib(size));
    }
    Ok(())
}

/// Where images go.
pub(crate) fn folder() -> PathBuf {
    root::target().join("image")
}

/// For the tests: of the programs that they are built with anyway.
pub(crate) fn for_tests() -> Result<()> {
    step("images");
    let programs = build(Profile::Dev)?;
    make(&programs, "localhost", &folder()).map(drop)
}

/// Archives of all images with programs from a folder.
fn make(programs: &Path, registry: &str, out: &Path) -> Result<Vec<Made>> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let version = env!("CARGO_PKG_VERSION");
    let arch = architecture();
    IMAGES
        .iter()
        .map(|image| {
            let described = oci::Described {
                reference: format!("{registry}/podtrail-{}:{version}", image.name),
                architecture: arch,
                user: image.user,
                entrypoint: format!("/usr/bin/podtrail-{}", image.name),
                labels: [
                    ("org.opencontainers.image.title", format!("podtrail-{}", image.name)),
                    ("org.opencontainers.image.description", image.about.to_owned()),
                    ("org.opencontainers.image.version", version.to_owned()),
                    ("org.opencontainers.image.licenses", "Apache-2.0 OR MIT".to_owned()),
                ],
            };
            let (bytes, digest) = oci::archive(&files(image, programs)?, &described)?;
            let archive = out.join(format!("podtrail-{}-{arch}.tar", image.name));
            fs::write(&archive, bytes).with_context(|| format!("cannot write {}", archive.display()))?;
            Ok(Made { archive, digest })
        })
        .collect()
}

/// As images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Everything that is in an image, by path.
fn files(image: &Image, programs: &Path) -> Result<Vec<File>> {
    let text =
        |path: &str, text: &str| File { path: path.to_owned(), bytes: text.as_bytes().to_vec(), mode: 0o644 };
    let mut files =
        vec![text("etc/passwd", PASSWD), text("etc/group", GROUP), text("etc/nsswitch.conf", NSSWITCH)];
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let path = root::workspace().join(licence);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        files.push(File { path: format!("usr/share/doc/podtrail/{licence}"), bytes, mode: 0o644 });
    }
    for program in image.programs {
        let path = programs.join(program);
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        files.push(File { path: format!("usr/bin/{program}"), bytes, mode: 0o755 });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn unpack(files: &[File], dir: &Path) -> Result<()> {
    for File { path, bytes, mode } in files {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        }
        fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(*mode))?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn bytes_in_mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Vec<File> {
        let file =
            |path: &str, mode| File { path: path.to_owned(), bytes: path.repeat(900).into_bytes(), mode };
        vec![
            file("etc/passwd", 0o644),
            file("usr/bin/podtrail", 0o755),
            file("usr/bin/podtrail-agent", 0o755),
        ]
    }

    fn described() -> oci::Described {
        oci::Described {
            reference: "localhost/podtrail/agent:1".to_owned(),
            architecture: "amd64",
            user: "65532:65532",
            entrypoint: "/usr/bin/podtrail-agent".to_owned(),
            labels: ["a", "b", "c", "d"].map(|label| (label, label.to_owned())),
        }
    }

    #[test]
    fn the_same_files_are_the_same_image() {
        let first = oci::archive(&files(), &described()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert!(oci::archive(&files(), &described()).unwrap() == first, "what time it is must not matter");
        let mut changed = files();
        changed.last_mut().unwrap().bytes.push(0);
        assert_ne!(oci::archive(&changed, &described()).unwrap().1, first.1);
    }

    /// As a runtime reads it: by digests alone.
    #[test]
    fn an_image_holds_what_it_says() {
        let (archive, digest) = oci::archive(&files(), &described()).unwrap();
        let mut blobs = std::collections::BTreeMap::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
            blobs.insert(entry.path().unwrap().display().to_string(), bytes);
        }
        let blob = |digest: &str| {
            let hex = digest.strip_prefix("sha256:").unwrap();
            let bytes = blobs.get(&format!("blobs/sha256/{hex}")).unwrap();
            assert_eq!(oci::digest(bytes), digest);
            bytes.clone()
        };
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        let index = json(blobs.get("index.json").unwrap());
        assert_eq!(index["manifests"][0]["digest"], digest);
        let manifest = json(&blob(&digest));
        let config = json(&blob(manifest["config"]["digest"].as_str().unwrap()));
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/podtrail-agent");
        let layer = blob(manifest["layers"][0]["digest"].as_str().unwrap());
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(layer.as_slice()), &mut plain).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], oci::digest(&plain));
        let mut seen = Vec::new();
        for entry in tar::Archive::new(plain.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
            let path = entry.path().unwrap().display().to_string();
            if header.entry_type().is_file() {
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut bytes).unwrap();
                let told = files().into_iter().find(|file| file.path == path).unwrap();
                assert!(told.bytes == bytes && told.mode == header.mode().unwrap(), "{path}");
            }
            seen.push(path);
        }
        let all = ["etc/", "etc/passwd", "usr/", "usr/bin/", "usr/bin/podtrail", "usr/bin/podtrail-agent"];
        assert_eq!(seen, all);
    }
}
