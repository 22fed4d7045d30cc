use std::os::unix::net::UnixListener as StdListener;

use super::*;
use crate::spool::{Identity, Options};

fn indexed() -> Arc<Indexed<Spool>> {
    let identity = Identity { cluster: "c".to_owned(), node: "n".to_owned(), epoch: 1 };
    let spool = Spool::new(identity, Options { max_bytes: 1 << 20, acknowledged: false });
    Arc::new(Indexed::open(Arc::new(spool)).unwrap())
}

#[tokio::test]
async fn the_socket_is_the_owners_and_goes_with_the_agent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/agent.sock");
    let local = Local::open(&path, None, indexed(), 1 << 20).unwrap();
    let meta = fs::symlink_metadata(&path).unwrap();
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o7777, 0o660);
    let parent = path.parent().unwrap();
    assert_eq!(fs::metadata(parent).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_dir(parent).unwrap().count(), 1, "no other name is left");
    local.close().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn a_dead_agents_socket_is_replaced_and_a_living_ones_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    drop(StdListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = Local::open(&path, None, indexed(), 1 << 20).unwrap();
    let error = Local::open(&path, None, indexed(), 1 << 20).unwrap_err();
    assert!(matches!(error, LocalError::InUse(_)), "{error}");
    first.close().await;
}

#[tokio::test]
async fn another_agents_socket_is_not_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let local = Local::open(&path, None, indexed(), 1 << 20).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = StdListener::bind(&path).unwrap();
    local.close().await;
    assert!(path.exists());
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    fs::write(&path, "precious").unwrap();
    let error = Local::open(&path, None, indexed(), 1 << 20).unwrap_err().to_string();
    assert!(error.ends_with("exists and is no socket: remove it, or choose another --socket"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn a_group_may_read_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    // Only root may give a file to any group; others have one that is theirs.
    let group = if nix::unistd::geteuid().is_root() { 4711 } else { nix::unistd::getegid().as_raw() };
    let local = Local::open(&path, Some(group), indexed(), 1 << 20).unwrap();
    let meta = fs::symlink_metadata(&path).unwrap();
    assert_eq!((meta.gid(), meta.permissions().mode() & 0o7777), (group, 0o660));
    local.close().await;
}
