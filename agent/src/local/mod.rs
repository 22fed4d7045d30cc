//! The node's socket: `podtrail.v1.Trail` over the spool, for `podtrail` on the same machine.
//!
//! Who may read it may read every command of the node: root, and one group, which is root's unless another is named.
//! Never more.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{net::UnixListener, task::JoinHandle, time::timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::{
    agent::lock::make_dir,
    spool::Spool,
    trail::{Indexed, log::Limits, service::Service, viewer::Viewer},
};

/// Read and write for owner and group.
const MODE: u32 = 0o660;

/// How long readers get to hear that it is over.
const GOODBYE: Duration = Duration::from_secs(1);

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// something that is no socket has its name
    #[error("{} exists and is no socket: remove it, or choose another --socket", _0.display())]
    NotASocket(PathBuf),
    /// somebody answers on it
    #[error("another process serves {}: stop it, or choose another --socket", _0.display())]
    InUse(PathBuf),
    /// cannot {call} {path}: {source}
    #[error("cannot {call} {}: {source}", path.display())]
    Io { call: &'static str, path: PathBuf, source: io::Error },
}

/// The socket, while it is served.
#[derive(Debug)]
pub struct Local {
    socket: Socket,
    server: JoinHandle<()>,
    shutdown: CancellationToken,
}

/// The socket's name in the file system, removed when dropped, if it is still ours.
#[derive(Debug)]
struct Socket {
    path: PathBuf,
    inode: u64,
}

impl Local {
    /// Starts to serve. `group` may read too; `max_bytes` is what readers are told of how much is kept.
    pub fn open(
        path: &Path,
        group: Option<u32>,
        indexed: Arc<Indexed<Spool>>,
        max_bytes: usize,
    ) -> Result<Self, LocalError> {
        let (listener, socket) = bind(path, group)?;
        let shutdown = CancellationToken::new();
        // Kept by size alone: no age.
        let retention =
            Limits { max_age: Duration::ZERO, max_bytes: u64::try_from(max_bytes).unwrap_or(u64::MAX) };
        let service =
            Service::new(indexed, retention, shutdown.clone(), Viewer::everything("node")).into_server();
        let over = shutdown.clone();
        let server = tokio::spawn(async move {
            let served = Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(UnixListenerStream::new(listener), over.cancelled_owned())
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "the node's socket is not served any more");
            }
        });
        Ok(Self { socket, server, shutdown })
    }

    /// Ends what readers have open, and removes the socket.
    pub async fn close(self) {
        let Self { socket, mut server, shutdown } = self;
        shutdown.cancel();
        if timeout(GOODBYE, &mut server).await.is_err() {
            server.abort();
        }
        drop(socket);
    }
}

/// Made under another name and moved into place: nobody ever sees it with other permissions, and that of a dead
/// agent is replaced at once.
fn bind(path: &Path, group: Option<u32>) -> Result<(UnixListener, Socket), LocalError> {
    let io = |call| move |source| LocalError::Io { call, path: path.to_owned(), source };
    if let Some(dir) = path.parent() {
        make_dir(dir).map_err(io("make the directory of"))?;
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => return Err(LocalError::NotASocket(path.to_owned())),
        Ok(_) if UnixStream::connect(path).is_ok() => return Err(LocalError::InUse(path.to_owned())),
        _ => {}
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    // Left by an agent with the same pid that was killed in this very place.
    let _ = fs::remove_file(&temporary);
    let listener = UnixListener::bind(&temporary).map_err(io("make the socket"))?;
    let placed = chown(&temporary, None, group)
        .and_then(|()| fs::set_permissions(&temporary, fs::Permissions::from_mode(MODE)))
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| fs::symlink_metadata(path));
    match placed {
        Ok(meta) => Ok((listener, Socket { path: path.to_owned(), inode: meta.ino() })),
        Err(source) => {
            let _ = fs::remove_file(&temporary);
            Err(io("place the socket")(source))
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let Self { path, inode } = self;
        if fs::symlink_metadata(&*path).is_ok_and(|meta| meta.ino() == *inode) {
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests;
