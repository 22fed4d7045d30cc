//! A command line by its digest: what is compared is exact, and nothing of a pod's specification is kept that may be
//! a secret.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::event::{Argv, Executed};

/// The arguments of a command, all of them and in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Command([u8; 16]);

impl Command {
    #[must_use]
    pub fn of<A: AsRef<[u8]>>(args: impl IntoIterator<Item = A>) -> Self {
        let mut hash = Sha256::new();
        for arg in args {
            let arg = arg.as_ref();
            hash.update(u64::try_from(arg.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(arg);
        }
        Self(first_half(hash))
    }
}

pub(super) fn first_half(hash: Sha256) -> [u8; 16] {
    let whole: [u8; 32] = hash.finalize().into();
    let mut half = [0; 16];
    half.copy_from_slice(whole.split_at(16).0);
    half
}

/// What a specification would have to say for this command to be run: as it stands, or, where it is a `#!` script,
/// the script's own name, which the kernel has put its interpreter before. Empty: its arguments are cut.
pub(super) fn could_be(executed: &Executed) -> Vec<Command> {
    let Argv { args, total: _, cut } = &executed.argv;
    if cut.is_some() {
        return Vec::new();
    }
    let mut all = vec![Command::of(args)];
    let Some(script) = &executed.script else { return all };
    // Interpreter, its one argument if it has one, the script as it was found, the arguments. A specification that
    // has a name only had it looked for in PATH.
    for at in 1..=2 {
        let Some((found, rest)) = args.get(at..).and_then(<[Vec<u8>]>::split_first) else { continue };
        if found != script {
            continue;
        }
        let name = script.rsplit(|c| *c == b'/').next().unwrap_or_default();
        for named in [script.as_slice(), name] {
            all.push(Command::of(std::iter::once(named).chain(rest.iter().map(Vec::as_slice))));
        }
    }
    all
}
