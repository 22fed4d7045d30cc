//! How a task becomes a member of a container or of a session: decisions only, no state and no kernel.
//!
//! The rule: an **entry** into container C is a task that becomes a member of C (or of a cgroup below it) other
//! than by being forked by a task already in C. The first entry into a new container is its init; every later
//! entry is a session, inherited on fork from the *forking* task, until its last descendant exits. Two cases have
//! no entry and are found by namespaces: a task of the host that joined a container's mount or pid namespace, and
//! a task of a container that sees the host's mount namespace.
//!
//! Within an entry, execs that still see the mount namespace of whoever made the entry are the runtime at work.
//!
//! Each function takes what the maps and the kernel say and answers what is to be done; the BPF programs do it to
//! maps, the replay in user space to `HashMap`s. Both run exactly this code.

use crate::layout::{Cgroup, FollowedTask, Session, TaskKey, cgroup_state, entry_kind, task_kind};

/// Execs that a runtime may make inside the container's cgroup before the session sees the container: runc 1.4 and
/// newer re-executes itself there once. A third one is no runtime, but somebody who stays in the host's namespaces.
pub const STAGED_MAX: u32 = 2;

/// Mount and pid namespace of a task, as inode numbers. For `pid`, the one that the task itself is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Namespaces {
    pub mnt: u32,
    pub pid: u32,
}

/// A task's cgroup, resolved: the container that it belongs to, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// the cgroup whose state follows: the container's own where the task is below one
    pub id: u64,
    /// of [`cgroup_state`], never MEMBER
    pub state: u8,
    pub init: TaskKey,
    /// RUNNING: of the init; NAMED, FIRST: of whoever made the first entry
    pub mnt_ns: u32,
    pub pid_ns: u32,
}

impl Place {
    /// Outside every container.
    pub const HOST: Self =
        Self { id: 0, state: cgroup_state::HOST, init: TaskKey::NONE, mnt_ns: 0, pid_ns: 0 };

    /// From the map's value of cgroup `id`, which must not be a MEMBER.
    #[inline(always)]
    #[must_use]
    pub fn of(id: u64, cgroup: &Cgroup) -> Self {
        Self { id, state: cgroup.state, init: cgroup.init, mnt_ns: cgroup.mnt_ns, pid_ns: cgroup.pid_ns }
    }

    /// Whether tasks in it are a container's, by what is known now.
    #[inline(always)]
    #[must_use]
    pub fn is_container(&self) -> bool {
        self.state == cgroup_state::NAMED
            || self.state == cgroup_state::RUNNING
            || self.state == cgroup_state::ENDED
    }

    /// Whether a program that runs in it may be the first of a container.
    #[inline(always)]
    #[must_use]
    pub fn may_start(&self) -> bool {
        self.state == cgroup_state::NAMED
            || self.state == cgroup_state::FIRST
            || self.state == cgroup_state::ENDED
    }

    /// Whether the next entry is the first.
    #[inline(always)]
    fn awaits_first(&self) -> bool {
        self.state == cgroup_state::NEW
            || self.state == cgroup_state::ENDED
            || (self.state == cgroup_state::NAMED && self.init.is_none())
    }
}

/// What to do when `parent` forked `child`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// nothing to follow
    Ignore,
    /// the child is what its parent is: copy the parent's [`FollowedTask`]
    Inherit,
    /// the child was cloned into a container that nobody was in: it is the first entry
    First,
    /// the child was cloned into a running container: a session-to-be
    Enter,
    /// a container's workload cloned a child out into a cgroup without a container's name: follow the child as
    /// WORKLOAD of the container that `from` is, or its maker could pass it off as a container of its own
    Leave,
}

/// A process forked. `parent` and `session` are what is followed of the forking task (not of `real_parent`: runc
/// clones with CLONE_PARENT); `from` and `to` are the places of the forking task and of the child.
#[inline(always)]
#[must_use]
pub fn fork(parent: Option<&FollowedTask>, session: Option<&Session>, from: &Place, to: &Place) -> Fork {
    if let Some(task) = parent {
        if task.kind == task_kind::WORKLOAD {
            return Fork::Inherit;
        }
        if task.kind == task_kind::SESSION {
            // A join that has run nothing yet may be a runtime's stage, which now clones into the cgroup.
            let stage = session.is_some_and(|s| s.announced == 0 && s.kind == entry_kind::JOIN);
            if !(stage && from.id != to.id && (to.is_container() || to.awaits_first())) {
                return Fork::Inherit;
            }
        }
    }
    if to.state == cgroup_state::HOST || from.id == to.id {
        return Fork::Ignore;
    }
    if to.awaits_first() {
        return if from.is_container() && to.state == cgroup_state::NEW { Fork::Leave } else { Fork::First };
    }
    if to.is_container() { Fork::Enter } else { Fork::Ignore }
}

/// What to do when a task was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    Ignore,
    /// the first entry into a new container
    First,
    /// a session-to-be, of this [`entry_kind`]
    Enter(u8),
    /// a task of a container's workload left its cgroup: follow it as WORKLOAD of the container of its namespaces
    Leave,
}

/// A task was moved to `to`. The kernel tells after the fact, so where it came from is concluded:
/// `inside` says that the task sees the mount namespace, or is in the pid namespace, of a known container, whose
/// cgroup id is `owner`. A task that nothing is known of and that sees the namespaces of the container it is moved
/// to was in there before: init moving its children about.
#[inline(always)]
#[must_use]
pub fn attach(
    key: TaskKey,
    task: Option<&FollowedTask>,
    session: Option<&Session>,
    to: &Place,
    owner: Option<u64>,
    moved_itself: bool,
) -> Attach {
    let mut joining = false;
    if let Some(task) = task {
        if task.kind == task_kind::WORKLOAD || task.kind == task_kind::INIT {
            return Attach::Ignore;
        }
        joining = session.is_some_and(|s| s.announced == 0 && s.kind == entry_kind::JOIN);
        if !joining {
            return Attach::Ignore; // a session, once given, never changes with the cgroup
        }
    }
    if to.awaits_first() && (joining || owner.is_none() || to.state != cgroup_state::NEW) {
        return Attach::First;
    }
    if !to.is_container() {
        return if owner.is_some() && !joining { Attach::Leave } else { Attach::Ignore };
    }
    if to.init == key {
        return Attach::Ignore; // one tracepoint a hierarchy, or systemd and runc both
    }
    if !joining && owner == Some(to.id) {
        return Attach::Ignore;
    }
    Attach::Enter(if moved_itself { entry_kind::SELF_MOVED } else { entry_kind::RUNTIME })
}

/// What to do when a task ran a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exec {
    Ignore,
    /// the container's init: keep its namespaces, from now on the container runs
    Init,
    /// the same, in the pid namespace of another container: somebody put a container beside it, to look into it
    Ephemeral,
    /// the cgroup is no container's
    Host,
    /// the runtime at work within an entry
    Staging,
    /// a command of the task's session
    Command,
    /// a new session without an entry, of this [`entry_kind`], in the container with this cgroup id
    New(u8, u64),
}

/// What the maps know of the task that ran a program.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub task: Option<&'a FollowedTask>,
    pub session: Option<&'a Session>,
    /// its place
    pub place: Place,
    /// the container that its mount or pid namespace belongs to; asked for only where it differs from the host's
    pub owner: Option<u64>,
    /// it runs in the pid namespace of a running container that is another than its own, and no pod's sandbox
    pub beside: bool,
}

/// Whether a container of a pod is its sandbox, which is there to hold the namespaces that its containers may be told to
/// share: the first of the pod. `parent` is the cgroup above the container's.
#[inline(always)]
#[must_use]
pub fn is_sandbox(container: u64, parent: &Cgroup) -> bool {
    parent.pod != 0 && parent.first == container
}

/// A program runs. `self_exec`: it was named through a descriptor (`/proc/self/…`, `/dev/fd/…`), as runtimes do
/// when they execute a sealed copy of themselves.
#[inline(always)]
#[must_use]
pub fn exec(known: &Known<'_>, ns: Namespaces, host: Namespaces, self_exec: bool) -> Exec {
    if let (Some(task), Some(session)) = (known.task, known.session)
        && task.kind == task_kind::SESSION
    {
        return exec_in_session(session, &known.place, ns);
    }
    if known.task.is_some_and(|task| task.kind == task_kind::WORKLOAD) {
        return Exec::Ignore;
    }
    let init = if known.beside { Exec::Ephemeral } else { Exec::Init };
    match known.place.state {
        cgroup_state::RUNNING => {
            if ns.mnt == host.mnt && known.place.mnt_ns != 0 {
                Exec::New(entry_kind::HOST_NS, known.place.id)
            } else {
                Exec::Ignore
            }
        }
        cgroup_state::NAMED => {
            // The runtime is at work until its task sees something other than the host and than the runtime.
            let own_mnt = ns.mnt != host.mnt && ns.mnt != known.place.mnt_ns;
            if own_mnt || ns.pid != host.pid { init } else { Exec::Ignore }
        }
        cgroup_state::FIRST => {
            if ns.pid != host.pid {
                init
            } else if self_exec {
                Exec::Ignore
            } else {
                Exec::Host
            }
        }
        // What was taken for the init may have been a hook that the runtime ran inside before it (createContainer,
        // startContainer): the container goes on with the next program in it.
        cgroup_state::ENDED => {
            if ns.mnt != host.mnt || ns.pid != host.pid {
                init
            } else {
                Exec::Ignore
            }
        }
        _ => match known.owner {
            Some(container) => Exec::New(entry_kind::JOIN, container),
            None => Exec::Ignore,
        },
    }
}

/// Of an exec that [`exec`] says nothing of: whether a root directory that is the host's makes it a session all the same. It
/// is one of a container's workload, which sees the container's mounts, and the host's root among them: `chroot /host`.
#[inline(always)]
#[must_use]
pub fn may_have_host_root(known: &Known<'_>, ns: Namespaces, host: Namespaces) -> bool {
    known.session.is_none()
        && known.task.is_none_or(|task| task.kind == task_kind::INIT)
        && known.place.state == cgroup_state::RUNNING
        && known.place.mnt_ns != 0
        && ns.mnt != host.mnt
}

#[inline(always)]
fn exec_in_session(session: &Session, place: &Place, ns: Namespaces) -> Exec {
    if session.announced != 0 {
        return Exec::Command;
    }
    match session.kind {
        entry_kind::JOIN => {
            let mnt = session.joined_mnt_ns != 0 && ns.mnt == session.joined_mnt_ns;
            let pid = session.joined_pid_ns != 0 && ns.pid == session.joined_pid_ns;
            if mnt || pid { Exec::Command } else { Exec::Ignore }
        }
        entry_kind::RUNTIME => {
            let inside = place.state == cgroup_state::RUNNING
                && if place.mnt_ns == 0 {
                    // A container with the host's mounts: only its processes tell.
                    place.pid_ns != 0 && ns.pid == place.pid_ns
                } else {
                    ns.mnt == place.mnt_ns
                };
            if inside || ns.mnt != session.origin_mnt_ns || session.staged >= STAGED_MAX {
                Exec::Command
            } else {
                Exec::Staging
            }
        }
        _ => Exec::Command,
    }
}

/// What to do when a task joined namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    Ignore,
    /// a new session-to-be
    Start,
    /// one more namespace for the one that it is in
    Update,
}

/// A task joined namespaces: `mnt` is what it sees now, `pid` what its children will be in.
#[inline(always)]
#[must_use]
pub fn join(
    task: Option<&FollowedTask>,
    session: Option<&Session>,
    place: &Place,
    now: Namespaces,
    host: Namespaces,
) -> Join {
    if now.mnt == host.mnt && now.pid == host.pid {
        return Join::Ignore;
    }
    match (task, session) {
        (Some(task), Some(session)) if task.kind == task_kind::SESSION => {
            if session.kind == entry_kind::JOIN && session.announced == 0 {
                Join::Update
            } else {
                Join::Ignore
            }
        }
        (Some(_), _) => Join::Ignore,
        (None, _) => {
            // Runtimes at work inside a container's cgroup, and nested runtimes, join nothing new.
            if place.is_container() || place.state == cgroup_state::FIRST {
                Join::Ignore
            } else {
                Join::Start
            }
        }
    }
}

/// What a new cgroup is, by its name and its parent.
#[inline(always)]
#[must_use]
pub fn cgroup_created(name: Name, parent: Option<&Cgroup>) -> u8 {
    if let Some(parent) = parent {
        // A name that looks like a container's, made inside a container, is no other container.
        match parent.state {
            cgroup_state::NAMED | cgroup_state::RUNNING | cgroup_state::ENDED | cgroup_state::MEMBER => {
                return cgroup_state::MEMBER;
            }
            _ => {}
        }
    }
    match name {
        Name::Container => cgroup_state::NAMED,
        Name::Service => cgroup_state::HOST,
        Name::Pod | Name::Other => cgroup_state::NEW,
    }
}

/// What the name of a cgroup says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// of the form that a known runtime gives: 64 hex digits, maybe with `prefix-` and `.scope`
    Container,
    /// a service of the host's init system
    Service,
    /// a pod's: its containers' are below it
    Pod,
    Other,
}

/// Bytes of a cgroup's name that [`name`] looks at.
pub const NAME_MAX: usize = 128;

const ID_LEN: usize = 64;

/// Reads the last component of a cgroup's path. `len` bytes of `bytes` are the name.
///
/// Known forms: `<id>` and `cri-containerd-<id>.scope`, `crio-<id>.scope`, `docker-<id>.scope`,
/// `libpod-<id>.scope`, `libpod-<id>`, `nerdctl-<id>.scope`; not the monitors `crio-conmon-<id>.scope` and
/// `libpod-conmon-<id>.scope`. Of pods, the kubelet's: see [`is_pod`].
#[inline(always)]
#[must_use]
pub fn name(bytes: &[u8; NAME_MAX], len: usize) -> Name {
    let mut end = if len > NAME_MAX { NAME_MAX } else { len };
    if ends_with(bytes, end, b".service") {
        return Name::Service;
    }
    if is_pod(bytes, end) {
        return Name::Pod;
    }
    if ends_with(bytes, end, b".scope") {
        end -= 6;
    }
    if end < ID_LEN {
        return Name::Other;
    }
    let start = end - ID_LEN;
    let mut i = 0;
    while i < ID_LEN {
        let at = start + i;
        if at >= NAME_MAX {
            return Name::Other;
        }
        let c = bytes[at];
        if !matches!(c, b'0'..=b'9' | b'a'..=b'f') {
            return Name::Other;
        }
        i += 1;
    }
    if start == 0 {
        return Name::Container;
    }
    if !ends_with(bytes, start, b"-") || ends_with(bytes, start, b"conmon-") {
        return Name::Other;
    }
    Name::Container
}

/// `pod<uid>`, and with the systemd driver `kubepods-<qos>-pod<uid>.slice`. The uid is a UUID, whose hyphens systemd's
/// names have as underscores, or of static pods 32 hex digits. Podman's are `libpod_pod_<id>.slice`. Looked for is what stands
/// before each of them, at its place.
#[inline(always)]
fn is_pod(bytes: &[u8; NAME_MAX], end: usize) -> bool {
    let end = if ends_with(bytes, end, b".slice") { end - 6 } else { end };
    (end >= 36 && ends_with(bytes, end - 36, b"pod"))
        || (end >= 32 && ends_with(bytes, end - 32, b"pod"))
        || (end >= 64 && ends_with(bytes, end - 64, b"libpod_pod_"))
}

#[inline(always)]
fn ends_with<const N: usize>(bytes: &[u8; NAME_MAX], end: usize, suffix: &[u8; N]) -> bool {
    if end < N || end > NAME_MAX {
        return false;
    }
    let start = end - N;
    let mut i = 0;
    while i < N {
        let at = start + i;
        if at >= NAME_MAX || bytes[at] != suffix[i] {
            return false;
        }
        i += 1;
    }
    true
}
