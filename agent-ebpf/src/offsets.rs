//! Every kernel field that the BPF programs read, in one place: user space finds each in the running kernel's BTF
//! and sets [`Offsets`] before load. Nothing here is an offset: those move between kernels.

use crate::layout::ABSENT;

/// Where user space finds a field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// name in [`Offsets`]
    pub name: &'static str,
    /// the struct in the kernel's BTF; empty name: the struct's own size is wanted
    pub of: &'static str,
    /// the member, by the names it has had, newest first; `name[n]`: the one with this index of an array of such members;
    /// empty: the size of `of`
    pub members: &'static [&'static str],
    /// bytes of the member; 0: not checked (it is a struct or an array)
    pub size: u32,
    /// without it the agent cannot run; otherwise what is missing in the events
    pub without: Without,
}

/// What is lost where a kernel has no such field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Without {
    /// the agent does not run
    Refuse,
    /// these facts are missing in the events
    Lacks(&'static str),
}

macro_rules! offsets {
    ($($name:ident: $of:literal [$($member:literal),*] $size:literal $without:expr;)*) => {
        /// Byte offsets (or sizes) in the running kernel's structs; [`ABSENT`] where it has none.
        #[repr(C)]
        #[derive(Clone, Copy, Debug)]
        pub struct Offsets { $(pub $name: u32),* }

        /// What [`Offsets`] is made from, in its order.
        pub const FIELDS: &[Field] = &[$(Field {
            name: stringify!($name), of: $of, members: &[$($member),*], size: $size, without: $without,
        }),*];

        impl Offsets {
            /// Nothing found yet.
            pub const NONE: Self = Self { $($name: ABSENT),* };
        }
    };
}

use Without::{Lacks, Refuse};

offsets! {
    task_tgid: "task_struct" ["tgid"] 4 Refuse;
    task_pid: "task_struct" ["pid"] 4 Refuse;
    task_leader: "task_struct" ["group_leader"] 8 Refuse;
    task_parent: "task_struct" ["real_parent"] 8 Refuse;
    task_start: "task_struct" ["start_boottime", "real_start_time"] 8 Refuse;
    task_cgroups: "task_struct" ["cgroups"] 8 Refuse;
    task_nsproxy: "task_struct" ["nsproxy"] 8 Refuse;
    task_thread_pid: "task_struct" ["thread_pid"] 8 Refuse;
    task_cred: "task_struct" ["cred"] 8 Refuse;
    task_fs: "task_struct" ["fs"] 8 Refuse;
    task_mm: "task_struct" ["mm"] 8 Refuse;
    task_signal: "task_struct" ["signal"] 8 Refuse;
    task_exit_code: "task_struct" ["exit_code"] 4 Refuse;
    task_exec_id: "task_struct" ["self_exec_id"] 8 Refuse;
    task_comm: "task_struct" ["comm"] 0 Refuse;
    task_files: "task_struct" ["files"] 8 Lacks("what standard input and output are open to");
    task_loginuid: "task_struct" ["loginuid"] 4 Lacks("the node's login user (a kernel without audit)");
    task_sessionid: "task_struct" ["sessionid"] 4 Lacks("the node's audit session (a kernel without audit)");
    css_set_dfl_cgrp: "css_set" ["dfl_cgrp"] 8 Refuse;
    css_set_subsys: "css_set" ["subsys"] 0 Refuse;
    css_cgroup: "cgroup_subsys_state" ["cgroup"] 8 Refuse;
    css_parent: "cgroup_subsys_state" ["parent"] 8 Refuse;
    cgroup_self: "cgroup" ["self"] 0 Refuse;
    cgroup_kn: "cgroup" ["kn"] 8 Refuse;
    cgroup_root: "cgroup" ["root"] 8 Refuse;
    kn_id: "kernfs_node" ["id"] 8 Refuse;
    kn_name: "kernfs_node" ["name"] 8 Refuse;
    root_hierarchy: "cgroup_root" ["hierarchy_id"] 4 Refuse;
    nsproxy_mnt: "nsproxy" ["mnt_ns"] 8 Refuse;
    nsproxy_pid: "nsproxy" ["pid_ns_for_children"] 8 Refuse;
    nsproxy_net: "nsproxy" ["net_ns"] 8 Refuse;
    mnt_ns_common: "mnt_namespace" ["ns"] 0 Refuse;
    pid_ns_common: "pid_namespace" ["ns"] 0 Refuse;
    user_ns_common: "user_namespace" ["ns"] 0 Refuse;
    user_ns_uid_map: "user_namespace" ["uid_map"] 0 Refuse;
    user_ns_gid_map: "user_namespace" ["gid_map"] 0 Refuse;
    uid_map_count: "uid_gid_map" ["nr_extents"] 4 Refuse;
    uid_map_extents: "uid_gid_map" ["extent"] 0 Refuse;
    net_common: "net" ["ns"] 0 Lacks("the network namespace (a kernel without network namespaces)");
    ns_inum: "ns_common" ["inum"] 4 Refuse;
    pid_level: "pid" ["level"] 4 Refuse;
    pid_numbers: "pid" ["numbers"] 0 Refuse;
    upid_ns: "upid" ["ns"] 8 Refuse;
    upid_size: "upid" [] 0 Refuse;
    cred_uid: "cred" ["uid"] 4 Refuse;
    cred_gid: "cred" ["gid"] 4 Refuse;
    cred_euid: "cred" ["euid"] 4 Refuse;
    cred_egid: "cred" ["egid"] 4 Refuse;
    cred_cap_effective: "cred" ["cap_effective"] 8 Refuse;
    cred_cap_permitted: "cred" ["cap_permitted"] 8 Refuse;
    cred_user_ns: "cred" ["user_ns"] 8 Refuse;
    mm_arg_start: "mm_struct" ["arg_start"] 8 Refuse;
    mm_arg_end: "mm_struct" ["arg_end"] 8 Refuse;
    mm_env_start: "mm_struct" ["env_start"] 8 Lacks("the API server's ids of requests, from environments");
    mm_env_end: "mm_struct" ["env_end"] 8 Lacks("the API server's ids of requests, from environments");
    mm_exe_file: "mm_struct" ["exe_file"] 8 Refuse;
    bprm_filename: "linux_binprm" ["filename"] 8 Refuse;
    bprm_interp: "linux_binprm" ["interp"] 8 Refuse;
    files_fdt: "files_struct" ["fdt"] 8 Lacks("what standard input and output are open to");
    fdt_fd: "fdtable" ["fd"] 8 Lacks("what standard input and output are open to");
    file_path: "file" ["f_path"] 0 Refuse;
    file_inode: "file" ["f_inode"] 8 Refuse;
    path_mnt: "path" ["mnt"] 8 Refuse;
    path_dentry: "path" ["dentry"] 8 Refuse;
    dentry_name: "dentry" ["d_name"] 0 Refuse;
    dentry_inode: "dentry" ["d_inode"] 8 Lacks("processes that took the node's root directory for theirs");
    dentry_parent: "dentry" ["d_parent"] 8 Refuse;
    qstr_name: "qstr" ["name"] 8 Refuse;
    qstr_len: "qstr" ["len"] 4 Refuse;
    vfsmount_root: "vfsmount" ["mnt_root"] 8 Refuse;
    mount_mnt: "mount" ["mnt"] 0 Refuse;
    mount_parent: "mount" ["mnt_parent"] 8 Refuse;
    mount_mountpoint: "mount" ["mnt_mountpoint"] 8 Refuse;
    mount_ns: "mount" ["mnt_ns"] 8 Refuse;
    fs_root: "fs_struct" ["root"] 0 Lacks("processes that took the node's root directory for theirs");
    fs_pwd: "fs_struct" ["pwd"] 0 Refuse;
    inode_ino: "inode" ["i_ino"] 8 Refuse;
    inode_mode: "inode" ["i_mode"] 2 Refuse;
    inode_rdev: "inode" ["i_rdev"] 4 Lacks("what standard input and output are open to");
    inode_nlink: "inode" ["i_nlink", "__i_nlink"] 4 Refuse;
    inode_sb: "inode" ["i_sb"] 8 Refuse;
    inode_size: "inode" [] 0 Refuse;
    sb_dev: "super_block" ["s_dev"] 4 Refuse;
    sb_magic: "super_block" ["s_magic"] 8 Refuse;
    signal_live: "signal_struct" ["live"] 4 Refuse;
    signal_flags: "signal_struct" ["flags"] 4 Refuse;
    signal_exit_code: "signal_struct" ["group_exit_code"] 4 Refuse;
    signal_tty: "signal_struct" ["tty"] 8 Refuse;
    tty_driver: "tty_struct" ["driver"] 8 Lacks("terminals (a kernel without them)");
    tty_index: "tty_struct" ["index"] 4 Lacks("terminals (a kernel without them)");
    tty_name: "tty_struct" ["name"] 0 Lacks("names of terminals");
    tty_driver_major: "tty_driver" ["major"] 4 Lacks("terminals (a kernel without them)");
    tty_driver_minor: "tty_driver" ["minor_start"] 4 Lacks("terminals (a kernel without them)");
    task_stack: "task_struct" ["stack"] 8 Lacks("failed execs");
    regs_size: "pt_regs" [] 0 Lacks("failed execs");
    regs_call: "pt_regs" ["orig_ax", "syscallno"] 0 Lacks("failed execs");
    regs_first: "pt_regs" ["di", "orig_x0"] 8 Lacks("failed execs");
    regs_second: "pt_regs" ["si", "regs[1]"] 8 Lacks("failed execs");
    regs_third: "pt_regs" ["dx", "regs[2]"] 8 Lacks("failed execs");
}

const _: () = assert!(size_of::<Offsets>() == FIELDS.len() * 4);
