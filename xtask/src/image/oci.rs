//! An image as the Open Container Initiative lays it out, in one archive that every runtime imports. Nothing in it says
//! when or where it was made.

use std::{collections::BTreeSet, io::Write as _};

use anyhow::{Context, Result};
use data_encoding::HEXLOWER;
use flate2::{Compression, GzBuilder};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::File;

/// Compressing costs once, fetching each node.
const LEVEL: u32 = 6;

/// What is said of an image.
pub(super) struct Described {
    pub(super) reference: String,
    pub(super) architecture: &'static str,
    pub(super) user: &'static str,
    pub(super) entrypoint: String,
    pub(super) labels: [(&'static str, String); 4],
}

/// The archive, and the digest of its manifest.
pub(super) fn archive(files: &[File], described: &Described) -> Result<(Vec<u8>, String)> {
    let Described { reference, architecture, user, entrypoint, labels } = described;
    let labels: serde_json::Map<_, _> =
        labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let plain = layer(files)?;
    let mut packed = GzBuilder::new().mtime(0).write(Vec::new(), Compression::new(LEVEL));
    packed.write_all(&plain)?;
    let packed = packed.finish()?;
    let config = serde_json::to_vec(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "User": user,
            "Entrypoint": [entrypoint],
            "Env": ["PATH=/usr/bin"],
            "WorkingDir": "/",
            "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [digest(&plain)]},
    }))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest(&config),
            "size": config.len(),
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": digest(&packed),
            "size": packed.len(),
        }],
        "annotations": labels,
    }))?;
    let tag = reference.rsplit(':').next().unwrap_or_default();
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&manifest),
            "size": manifest.len(),
            "platform": {"architecture": architecture, "os": "linux"},
            "annotations": {
                "io.containerd.image.name": reference,
                "org.opencontainers.image.ref.name": tag,
            },
        }],
    }))?;
    let told = digest(&manifest);
    let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string().into_bytes();
    let mut archive = Builder::new(Vec::new());
    put(&mut archive, "oci-layout", &layout, 0o644)?;
    put(&mut archive, "index.json", &index, 0o644)?;
    let mut blobs = [config, manifest, packed].map(|bytes| (digest(&bytes), bytes));
    blobs.sort();
    for (digest, bytes) in &blobs {
        let hex = digest.split(':').next_back().unwrap_or_default();
        put(&mut archive, &format!("blobs/sha256/{hex}"), bytes, 0o644)?;
    }
    Ok((archive.into_inner().context("cannot make an archive")?, told))
}

/// Files, each folder before what is in it.
fn layer(files: &[File]) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    let mut folders = BTreeSet::new();
    for File { path, bytes, mode } in files {
        for (end, _) in path.match_indices('/') {
            let (folder, _) = path.split_at(end + 1);
            if folders.insert(folder) {
                let mut header = header(EntryType::Directory, 0o755, 0);
                builder.append_data(&mut header, folder, std::io::empty())?;
            }
        }
        put(&mut builder, path, bytes, *mode)?;
    }
    Ok(builder.into_inner()?)
}

fn put(builder: &mut Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    let mut header = header(EntryType::Regular, mode, u64::try_from(bytes.len())?);
    builder.append_data(&mut header, path, bytes).with_context(|| format!("cannot archive {path}"))
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// As images name their parts.
pub(super) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", HEXLOWER.encode(&Sha256::digest(bytes)))
}
