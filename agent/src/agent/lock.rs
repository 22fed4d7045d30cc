//! One agent a node: two would put their programs beside one another and see everything twice.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

/// Why the lock was not given.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// another agent runs on this node
    #[error("another podtrail-agent runs on this node already{}: stop it first", pid(*_0))]
    Held(Option<u32>),
    /// cannot {call} {path}: {source}
    #[error("cannot {call} {}: {source}{}", path.display(), hint(source))]
    Io { call: &'static str, path: PathBuf, source: io::Error },
}

fn pid(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied { " (run as root)" } else { "" }
}

/// Held as long as the agent lives; the kernel gives it back however the agent ends. The file stays: removing it
/// would let two agents hold locks on two files of the same name.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Takes the lock, or says who has it.
    pub fn take(path: &Path) -> Result<Self, LockError> {
        let io = |call| move |source| LockError::Io { call, path: path.to_owned(), source };
        if let Some(dir) = path.parent() {
            make_dir(dir).map_err(io("make the directory of"))?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o644)
            .open(path)
            .map_err(io("open"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                file.set_len(0).map_err(io("write"))?;
                file.rewind().map_err(io("write"))?;
                writeln!(file, "{}", std::process::id()).map_err(io("write"))?;
                Ok(Self { _file: file })
            }
            Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => Err(LockError::Held(read_pid(&mut file))),
            Err((_, errno)) => Err(io("lock")(errno.into())),
        }
    }
}

/// The pid of the agent that has the lock; 0 where its pid is not known, `None` where none has it, or nobody may look.
#[must_use]
pub fn holder(path: &Path) -> Option<u32> {
    let mut file = File::open(path).ok()?;
    let pid = read_pid(&mut file);
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_free) => None,
        Err(_) => Some(pid.unwrap_or(0)),
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    Read::by_ref(file).take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// A directory that everybody may enter, as those below `/run` are, whatever the umask says.
pub(crate) fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_the_pid_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/agent.lock");
        assert_eq!(holder(&path), None);
        let first = Lock::take(&path).unwrap();
        assert_eq!(holder(&path), Some(std::process::id()));
        let error = Lock::take(&path).unwrap_err();
        assert!(matches!(error, LockError::Held(Some(pid)) if pid == std::process::id()), "{error}");
        assert!(error.to_string().contains(&format!("(pid {})", std::process::id())), "{error}");
        drop(first);
        assert_eq!(holder(&path), None);
        Lock::take(&path).unwrap();
    }

    #[test]
    fn what_another_program_wrote_there_is_no_pid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.lock");
        let _first = Lock::take(&path).unwrap();
        fs::write(&path, b"\xff\x1b[2J").unwrap();
        assert!(matches!(Lock::take(&path), Err(LockError::Held(None))));
    }

    #[test]
    fn a_place_where_nothing_can_be_made_is_named() {
        let error = Lock::take(Path::new("/proc/none/agent.lock")).unwrap_err().to_string();
        assert!(error.starts_with("cannot make the directory of /proc/none/agent.lock: "), "{error}");
    }
}
