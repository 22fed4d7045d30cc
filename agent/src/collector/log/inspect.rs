//! What fjall takes for granted when it opens a store, and is not so where the disk is damaged.
//!
//! It would be aborted (lengths without end are asked of the memory), panic later, or remove what it finds no name for.
//! The formats are those of the crates `lsm-tree` 3 and `sfa` 1; all numbers are little-endian.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_128;

/// What is wrong with the keyspaces in `folder`, if anything is. What cannot be read is left to the store.
pub(super) fn keyspaces(folder: &Path) -> Option<String> {
    let manifests = entries(folder).find_map(|keyspace| manifest(&keyspace));
    let contents = || {
        let file = find(folder, &preposterous)?;
        Some(format!("the table of contents of {} is damaged", file.display()))
    };
    manifests.or_else(contents)
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path())
}

/// The store believes a keyspace's manifest without looking at its checksum, and removes a keyspace that has none.
///
/// ```text
/// current    number of the manifest u64 · xxh3 of the whole file u128 · kind of checksum u8
/// v<NUMBER>  the manifest: which tables there are
/// ```
fn manifest(keyspace: &Path) -> Option<String> {
    let damaged = || Some(format!("the manifest of {} is damaged", keyspace.display()));
    let current = match fs::read(keyspace.join("current")) {
        Ok(current) => current,
        // One that was only begun has no tables.
        Err(e)
            if e.kind() == io::ErrorKind::NotFound && entries(&keyspace.join("tables")).next().is_none() =>
        {
            return None;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return damaged(),
        Err(_) => return None,
    };
    let Some((number, rest)) = current.split_first_chunk() else { return damaged() };
    let Some((sum, [0])) = rest.split_first_chunk() else { return damaged() };
    match fs::read(keyspace.join(format!("v{}", u64::from_le_bytes(*number)))) {
        Ok(manifest) if xxh3_128(&manifest) == u128::from_le_bytes(*sum) => None,
        Err(e) if e.kind() != io::ErrorKind::NotFound => None,
        Ok(_) | Err(_) => damaged(),
    }
}

/// The first file below `folder` of which `is` holds. What cannot be read is left to the store.
fn find(folder: &Path, is: &impl Fn(&Path) -> io::Result<bool>) -> Option<PathBuf> {
    entries(folder).find_map(|path| {
        if path.is_dir() { find(&path, is) } else { is(&path).unwrap_or(false).then_some(path) }
    })
}

/// Whether a file says that it has more sections than it has room for:
///
/// ```text
/// sections · "TOC!" · count u32 · count × (position u64 · length u64 · length of its name u16 · name)
/// · "SFA!" · version u8 · kind of checksum u8 · checksum u128 · position of the contents u64 · their length u64
/// ```
/// What is of another form is not judged.
fn preposterous(path: &Path) -> io::Result<bool> {
    const TRAILER: u64 = 4 + 1 + 1 + 16 + 8 + 8;
    const ENTRY: u64 = 8 + 8 + 2;
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let Some(at) = len.checked_sub(TRAILER) else { return Ok(false) };
    let mut trailer = [0; 30];
    file.read_exact_at(&mut trailer, at)?;
    let (Some(b"SFA!"), Some(position)) = (trailer.first_chunk(), trailer.last_chunk()) else {
        return Ok(false);
    };
    let mut head = [0; 8];
    file.read_exact_at(&mut head, u64::from_le_bytes(*position))?;
    let (Some(b"TOC!"), Some(count)) = (head.first_chunk(), head.last_chunk()) else { return Ok(false) };
    Ok(u64::from(u32::from_le_bytes(*count)) * ENTRY > len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_that_is_not_what_it_was_is_seen_whichever_byte_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let keyspace = dir.path().join("1");
        fs::create_dir_all(keyspace.join("tables")).unwrap();
        let whole = || keyspaces(dir.path());
        assert_eq!(whole(), None, "only begun");
        let manifest = b"which tables there are";
        let current = [&7_u64.to_le_bytes()[..], &xxh3_128(manifest).to_le_bytes(), &[0]].concat();
        for (name, bytes) in [("v7", &manifest[..]), ("current", &current)] {
            fs::write(keyspace.join("v7"), manifest).unwrap();
            fs::write(keyspace.join("current"), &current).unwrap();
            fs::write(keyspace.join("v6"), "an older one").unwrap();
            assert_eq!(whole(), None);
            let path = keyspace.join(name);
            for at in 0..bytes.len() {
                let mut changed = bytes.to_vec();
                changed[at] ^= 1;
                fs::write(&path, &changed).unwrap();
                assert!(whole().unwrap().contains("the manifest of"), "{name} changed at {at}");
                fs::write(&path, &bytes[..at]).unwrap();
                assert!(whole().is_some(), "{name} cut at {at}");
            }
            fs::remove_file(&path).unwrap();
            fs::write(keyspace.join("tables/1"), "").unwrap();
            assert!(whole().is_some(), "{name} removed");
        }
    }
}
