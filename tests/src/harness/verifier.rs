//! How much of the verifier's budget each BPF program takes: read from the verifier's own words.
//!
//! An agent is traced while it loads its programs: into each call of `bpf(BPF_PROG_LOAD)` a log of the verifier's
//! statistics is put. That works with every kernel that the agent runs on; `bpf_prog_info.verified_insns` is there from
//! 5.16 only.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fs,
    io::{IoSlice, IoSliceMut},
    os::unix::process::CommandExt as _,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    libc,
    sys::{
        ptrace::{self, Options},
        signal::Signal,
        uio::{RemoteIoVec, process_vm_readv, process_vm_writev},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// Instructions that the verifier goes through at most, for who has CAP_BPF (include/linux/bpf.h,
/// `BPF_COMPLEXITY_LIMIT_INSNS`).
const LIMIT: u64 = 1_000_000;

/// A program over this fails: the next kernel's verifier may go through it twice as often.
pub(crate) const AT_MOST: u64 = LIMIT / 2;

/// The ways to see system calls, each forced once.
pub(crate) const WAYS: [&str; 3] = ["fexit", "kprobe", "tracepoint"];

// `union bpf_attr` of BPF_PROG_LOAD, include/uapi/linux/bpf.h: unchanged since 4.15.
const PROG_LOAD: u64 = 5;
const LOG_LEVEL: usize = 24;
const LOG_END: usize = 40;
const NAME: usize = 48;
const ATTR_LEN: usize = 64;
/// `BPF_LOG_STATS`
const STATISTICS: u32 = 4;

/// Bytes of a program's name in the kernel.
const NAME_MAX: usize = 15;
/// Whole names with that many.
const JUST_AS_LONG: [&str; 3] = ["podtrail_attach", "podtrail_execed", "podtrail_exited"];

/// Room for the log, below the caller's stack.
const LOG_LEN: usize = 2048;
const BELOW_STACK: u64 = 32 << 10;

/// Instructions that the verifier went through, by program. Programs of which there is one for each way have it in their
/// name.
pub(crate) type Verified = BTreeMap<String, u64>;

/// What the verifier says of all programs, in every way that this kernel has; and those ways.
pub(crate) fn of_agent() -> Result<(Verified, Vec<&'static str>)> {
    let mut all = Verified::new();
    let mut ways = Vec::new();
    let mut refused = String::new();
    for way in WAYS {
        let traced = Command::new("/proc/self/exe")
            .args(["helper", "verifier", "podtrail-agent", "doctor", "-o", "json", "--setns", way])
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&traced.stdout);
        // Not every kernel lets every way be used, and doctor says so by its exit code.
        if !traced.status.success() {
            refused.push_str(&String::from_utf8_lossy(&traced.stderr));
            continue;
        }
        ways.push(way);
        for line in said.lines() {
            let (name, count) = line.split_once(' ').with_context(|| format!("no program: {line}"))?;
            // Of programs of which there is one for each way, the kernel has cut that off.
            let name = if name.len() == NAME_MAX && !JUST_AS_LONG.contains(&name) {
                format!("{name}… ({way})")
            } else {
                name.to_owned()
            };
            let most = all.entry(name).or_default();
            *most = count.parse::<u64>().with_context(|| format!("no count: {line}"))?.max(*most);
        }
    }
    ensure!(!ways.is_empty(), "no way to see system calls works here: {refused}");
    Ok((all, ways))
}

/// `helper verifier NAME ARG…`: runs this program under the name NAME, prints what the verifier said of each program that
/// it loaded, and ends as it does.
pub(crate) fn trace(args: &[OsString]) -> Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["helper", "traced"]).args(args).stdout(Stdio::null());
    let child = command.spawn().context("cannot start what is to be traced")?;
    let root = Pid::from_raw(child.id().cast_signed());
    // It stops at its exec, having asked for it.
    let stopped = waitpid(root, None)?;
    ensure!(matches!(stopped, WaitStatus::Stopped(_, Signal::SIGTRAP)), "it did not stop: {stopped:?}");
    ptrace::setoptions(
        root,
        Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL,
    )?;
    ptrace::syscall(root, None)?;
    let code = follow(root)?;
    ensure!(code == 0, "it ended with {code}");
    Ok(())
}

/// `helper traced NAME ARG…`: lets itself be traced and becomes the program.
pub(crate) fn traced(args: &[OsString]) -> Result<()> {
    let Some((name, args)) = args.split_first() else { bail!("traced NAME ARG…") };
    ptrace::traceme().context("cannot be traced")?;
    Err(Command::new("/proc/self/exe").arg0(name).args(args).exec()).context("cannot become it")
}

fn follow(root: Pid) -> Result<i32> {
    let mut loading: HashMap<Pid, Load> = HashMap::new();
    let mut inside: HashMap<Pid, bool> = HashMap::new();
    loop {
        let task = match waitpid(None, Some(WaitPidFlag::__WALL))? {
            WaitStatus::Exited(task, code) if task == root => return Ok(code),
            WaitStatus::Signaled(task, signal, _) if task == root => bail!("{signal} ended it"),
            WaitStatus::PtraceSyscall(task) => {
                let now = inside.entry(task).or_default();
                *now = !*now;
                if *now {
                    loading.extend(Load::begin(root, task)?.map(|load| (task, load)));
                } else if let Some(load) = loading.remove(&task) {
                    load.end(task)?;
                }
                task
            }
            WaitStatus::Stopped(task, signal) => {
                // A new thread's first stop, and the group's, are ptrace's own.
                let signal = Some(signal).filter(|s| !matches!(s, Signal::SIGSTOP | Signal::SIGTRAP));
                go_on(task, signal)?;
                continue;
            }
            WaitStatus::PtraceEvent(task, ..) => task,
            _ => continue,
        };
        go_on(task, None)?;
    }
}

fn go_on(task: Pid, signal: Option<Signal>) -> Result<()> {
    match ptrace::syscall(task, signal) {
        // It was killed meanwhile.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// A program being loaded.
struct Load {
    name: String,
    attr: usize,
    /// what stood there
    was: [u8; LOG_END - LOG_LEVEL],
    log: usize,
}

impl Load {
    /// If the call that `task` begins is one: asks for the statistics.
    fn begin(process: Pid, task: Pid) -> Result<Option<Self>> {
        let call = fs::read_to_string(format!("/proc/{process}/task/{task}/syscall")).unwrap_or_default();
        let words: Vec<&str> = call.split_whitespace().collect();
        // Number, six arguments, stack pointer, program counter.
        let [number, command, attr, length, _, _, _, stack, _] = words[..] else { return Ok(None) };
        let hex = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16);
        if number.parse() != Ok(libc::SYS_bpf) || hex(command)? != PROG_LOAD {
            return Ok(None);
        }
        ensure!(hex(length)? >= ATTR_LEN as u64, "a short bpf_attr: {call}");
        let attr = usize::try_from(hex(attr)?)?;
        let mut bytes = [0; ATTR_LEN];
        peek(task, attr, &mut bytes)?;
        let name = bytes.get(NAME..).unwrap_or_default().split(|byte| *byte == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(name).into_owned();
        let was: [u8; LOG_END - LOG_LEVEL] = bytes.get(LOG_LEVEL..LOG_END).unwrap_or_default().try_into()?;
        // Others are little ones that try what the kernel can do; and whoever wants a log has a reason.
        let ours = name.starts_with("podtrail_") || name.starts_with("hook_");
        if !ours || was != [0; LOG_END - LOG_LEVEL] {
            return Ok(None);
        }
        let log = usize::try_from((hex(stack)? - BELOW_STACK) & !15)?;
        let mut wanted = Vec::new();
        wanted.extend_from_slice(&STATISTICS.to_ne_bytes());
        wanted.extend_from_slice(&u32::try_from(LOG_LEN)?.to_ne_bytes());
        wanted.extend_from_slice(&u64::try_from(log)?.to_ne_bytes());
        poke(task, attr + LOG_LEVEL, &wanted)?;
        Ok(Some(Self { name, attr, was, log }))
    }

    /// Prints what the verifier said, and puts back what stood there.
    fn end(self, task: Pid) -> Result<()> {
        let Self { name, attr, was, log } = self;
        poke(task, attr + LOG_LEVEL, &was)?;
        let mut said = [0; LOG_LEN];
        peek(task, log, &mut said)?;
        let said = String::from_utf8_lossy(said.split(|byte| *byte == 0).next().unwrap_or_default());
        // From 7 on functions are counted one by one besides, in a line `insns processed 139+7880`.
        let mut counts =
            said.lines().filter_map(|line| line.strip_prefix("processed ")?.split_once(" insns"));
        let Some((count, _)) = counts.next() else { bail!("the verifier said nothing of {name}: {said:?}") };
        println!("{name} {count}");
        Ok(())
    }
}

fn peek(task: Pid, at: usize, to: &mut [u8]) -> Result<()> {
    let len = to.len();
    let read = process_vm_readv(task, &mut [IoSliceMut::new(to)], &[RemoteIoVec { base: at, len }])
        .context("peek")?;
    ensure!(read == len, "only {read} of {len} bytes");
    Ok(())
}

fn poke(task: Pid, at: usize, from: &[u8]) -> Result<()> {
    let remote = RemoteIoVec { base: at, len: from.len() };
    let written = process_vm_writev(task, &[IoSlice::new(from)], &[remote]).context("poke")?;
    ensure!(written == from.len(), "only {written} of {} bytes", from.len());
    Ok(())
}
