//! The initramfs: runtimes with their libraries, the test program, and an init that mounts what a node has.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::{archive::Userland, folder, plan::Arch};
use crate::sh::cmd;

const INIT: &str = include_str!("init.sh");

/// Modules that nodes have loaded, and cloud kernels of old do not have built in.
const MODULES: &[&str] = &["overlay", "tun", "veth", "loop"];

/// The test program without what only a debugger reads: an initramfs is in memory.
pub(super) fn stripped(arch: Arch, program: &Path) -> Result<PathBuf> {
    let to = folder()?.join(format!("podtrail-itest-{}", arch.as_str()));
    let strip = if Arch::own() == Some(arch) { "strip" } else { "aarch64-linux-gnu-strip" };
    cmd(strip).args(["--strip-debug", "-o"]).arg(&to).arg(program).quiet().run()?;
    Ok(to)
}

/// Makes the initramfs.
pub(super) fn build(userland: &Userland, program: &Path) -> Result<PathBuf> {
    let dir = folder()?;
    let named = format!("{}-{}", userland.name, userland.arch.as_str());
    let (root, image) = (dir.join(format!("{named}.root")), dir.join(format!("{named}.cpio")));
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    cmd("cp").arg("-a").arg(&userland.tree).arg(&root).quiet().run()?;
    // Manuals and their like.
    let _ = fs::remove_dir_all(root.join("usr/share"));
    for (link, to) in [("lib", "usr/lib"), ("lib64", "usr/lib64"), ("bin", "usr/bin"), ("sbin", "usr/sbin")] {
        if !root.join(link).exists() {
            fs::create_dir_all(root.join(to))?;
            symlink(to, root.join(link))?;
        }
    }
    for mount in ["proc", "sys", "dev", "tmp", "run", "root", "etc", "var", "modules"] {
        fs::create_dir_all(root.join(mount))?;
    }
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    let busybox =
        ["bin/busybox", "usr/bin/busybox"].map(|place| root.join(place)).into_iter().find(|p| p.exists());
    let Some(busybox) = busybox else { bail!("no busybox in {}", userland.tree.display()) };
    let sh = root.join("bin/sh");
    if !sh.exists() {
        symlink(busybox.file_name().unwrap_or_default(), &sh)?;
    }
    fs::copy(program, root.join("podtrail-itest")).context("cannot copy the test program")?;
    let init = root.join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    modules(userland, &root.join("modules"))?;

    let list = format!("find . -print0 | cpio --null --create --format=newc --quiet > '{}'", image.display());
    let made = cmd("sh").args(["-c", &list]).current_dir(&root).quiet().status()?;
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    if !made {
        bail!("cannot make {}", image.display());
    }
    Ok(image)
}

/// The modules and those that they need, numbered in the order in which they must be loaded.
fn modules(userland: &Userland, to: &Path) -> Result<()> {
    let Some(modules) = &userland.modules else { return Ok(()) };
    let mut files = Vec::new();
    let mut folders = vec![modules.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    let mut number = 0;
    for name in MODULES {
        let file = files.iter().find(|file| {
            let file = file.file_name().unwrap_or_default().to_string_lossy();
            file.strip_prefix(name).is_some_and(|rest| rest == ".ko" || rest == ".ko.xz" || rest == ".ko.zst")
        });
        // Not there: built in.
        let Some(file) = file else { continue };
        let to = to.join(format!("{number:02}-{name}.ko"));
        number += 1;
        match file.extension().and_then(|end| end.to_str()) {
            Some("xz") => cmd("sh")
                .args(["-c", &format!("xz -dc '{}' > '{}'", file.display(), to.display())])
                .quiet()
                .run()?,
            Some("zst") => cmd("zstd").args(["-q", "-d", "-o"]).arg(&to).arg(file).quiet().run()?,
            _ => _ = fs::copy(file, &to).with_context(|| format!("cannot copy {}", file.display()))?,
        }
    }
    Ok(())
}
