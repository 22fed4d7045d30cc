//! The image that containers of tests are of: busybox.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{super::host, IMAGE};

/// An OCI image of busybox, as an archive, and its manifest's digest.
pub(super) fn of_busybox(dir: &Path) -> Result<(PathBuf, String)> {
    let root = dir.join("root");
    let layout = dir.join("layout");
    for part in ["bin", "proc", "dev", "tmp"] {
        fs::create_dir_all(root.join(part))?;
    }
    let busybox = host().busybox.as_ref().context("no busybox")?;
    fs::copy(busybox, root.join("bin/busybox")).context("cannot copy busybox")?;
    for applet in ["sh", "ls", "cat", "echo", "true", "false", "sleep", "id", "env", "tty"] {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let store = |bytes: &[u8]| -> Result<String> {
        let digest = HEXLOWER.encode(&Sha256::digest(bytes));
        fs::write(blobs.join(&digest), bytes)?;
        Ok(format!("sha256:{digest}"))
    };
    let layer = fs::read(tar(&root, &dir.join("layer.tar"))?)?;
    let layer_digest = store(&layer)?;
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = serde_json::to_vec(&json!({
        "architecture": arch,
        "os": "linux",
        "config": {"Entrypoint": ["/bin/sleep", "1000000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    }))?;
    let config_digest = store(&config)?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": config_digest,
            "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer_digest,
            "size": layer.len(),
        }],
    }))?;
    let digest = store(&manifest)?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest,
            "size": manifest.len(),
            "annotations": {"io.containerd.image.name": IMAGE},
        }],
    });
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    Ok((tar(&layout, &dir.join("image.tar"))?, digest))
}

fn tar(dir: &Path, archive: &Path) -> Result<PathBuf> {
    let status = Command::new("tar").arg("-C").arg(dir).arg("-cf").arg(archive).arg(".").status()?;
    ensure!(status.success(), "tar ended with {status}");
    Ok(archive.to_path_buf())
}
