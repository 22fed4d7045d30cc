//! Where container runtimes listen on a node, and how they are reached.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

/// Where runtimes are usually found: containerd, CRI-O, the containerd of k3s and rke2, of k0s and of MicroK8s, and
/// Docker by cri-dockerd.
pub const PLACES: [&str; 9] = [
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
    "/run/cri-dockerd.sock",
    "/var/run/containerd/containerd.sock",
    "/var/run/crio/crio.sock",
    "/var/run/cri-dockerd.sock",
];

const CONNECT_WAIT: Duration = Duration::from_secs(2);

/// Which runtime to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Socket {
    /// the first of [`PLACES`] that answers
    #[default]
    Auto,
    At(PathBuf),
    /// none: nobody is asked
    Nowhere,
}

impl Socket {
    /// Where there is something to connect to now.
    #[must_use]
    pub fn places(&self) -> Vec<PathBuf> {
        match self {
            Self::Auto => there(&PLACES.map(PathBuf::from)),
            Self::At(path) => there(std::slice::from_ref(path)),
            Self::Nowhere => Vec::new(),
        }
    }
}

/// Those that exist, each once: /var/run is mostly /run.
fn there(paths: &[PathBuf]) -> Vec<PathBuf> {
    let mut real = Vec::new();
    let mut found = Vec::new();
    for path in paths {
        if let Ok(canonical) = path.canonicalize()
            && !real.contains(&canonical)
        {
            real.push(canonical);
            found.push(path.clone());
        }
    }
    found
}

/// Connects at the first call, and again whenever the connection is gone.
pub(super) fn channel(path: &Path) -> Channel {
    let path = path.to_path_buf();
    let connect = move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    };
    // The name is in the requests' headers, and nobody resolves it.
    Endpoint::from_static("http://localhost")
        .connect_timeout(CONNECT_WAIT)
        .connect_with_connector_lazy(service_fn(connect))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_place_counts_once_and_only_where_something_is() {
        let dir = tempfile::tempdir().unwrap();
        let [run, also, nothing] = ["run", "also", "nothing"].map(|name| dir.path().join(name));
        std::fs::create_dir(&run).unwrap();
        symlink(&run, &also).unwrap();
        std::fs::write(run.join("a.sock"), "").unwrap();
        let all = [nothing.join("a.sock"), run.join("a.sock"), also.join("a.sock")];
        assert_eq!(there(&all), [run.join("a.sock")]);
        assert_eq!(Socket::At(nothing).places(), Vec::<PathBuf>::new());
        assert_eq!(Socket::Nowhere.places(), Vec::<PathBuf>::new());
    }
}
