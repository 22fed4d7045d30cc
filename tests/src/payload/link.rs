//! A bad network between two network namespaces: a process that passes packets of IP from one to the other, late, out
//! of order, twice, or not at all.
//!
//! `netem` would do it where the kernel has it; this works everywhere. Both namespaces are this process's own, and
//! gone with it and with those that joined them: there is nothing to remove.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, BufRead, Read, Write},
    os::fd::{AsFd, AsRawFd},
    process::{Command, ExitCode},
    sync::mpsc::{Receiver, TryRecvError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
};

use super::tun;
use crate::text;

/// Where the two ends are. Without TLS daemons talk over loopback addresses alone; what such an address belongs to is a
/// question of the namespace.
pub(crate) const ENDS: [&str; 2] = ["127.1.0.1", "127.1.0.2"];

/// Packets that wait: more are dropped, as by a router.
const QUEUE: usize = 4096;
/// Looks at its orders at least so often.
const TICK: Duration = Duration::from_millis(5);

/// How bad it is.
#[derive(Clone, Copy, Debug, Default)]
struct Weather {
    cut: bool,
    /// of each packet, drawn anew, in milliseconds
    delay: (u64, u64),
    /// of a thousand packets
    lost: u32,
    doubled: u32,
}

/// What it did.
#[derive(Debug, Default)]
struct Counts {
    passed: u64,
    dropped: u64,
    doubled: u64,
    overtaken: u64,
}

/// A packet that waits: until when, its number, the end that it goes to, its bytes.
type Waiting = Reverse<(Instant, u64, usize, Vec<u8>)>;

/// `link BUSYBOX SEED`: prints the descriptors of the two namespaces; then takes orders, a line each: `cut`, or
/// `pass FROM TO LOST DOUBLED`. At the end of its input it prints what it did.
pub(super) fn run(args: &[OsString]) -> Result<ExitCode> {
    let [busybox, seed] = args else { bail!("link BUSYBOX SEED") };
    let mut random = fastrand::Rng::with_seed(text(seed)?.parse()?);
    let [first, second] = ENDS;
    let near = end(busybox, first, second)?;
    let far = end(busybox, second, first)?;
    println!("{} {}", near.namespace.as_raw_fd(), far.namespace.as_raw_fd());
    io::stdout().flush()?;
    let counts = pass([near.device, far.device], &orders(), &mut random)?;
    let Counts { passed, dropped, doubled, overtaken } = counts;
    println!("{passed} {dropped} {doubled} {overtaken}");
    Ok(ExitCode::SUCCESS)
}

struct End {
    namespace: File,
    device: File,
}

/// A new network namespace with one device: its address is `own`, and `other` is reached through it.
fn end(busybox: &OsStr, own: &str, other: &str) -> Result<End> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    let namespace = File::open("/proc/thread-self/ns/net")?;
    let device = tun::open("link")?;
    fs::write("/proc/sys/net/ipv4/conf/link/route_localnet", "1")
        .context("cannot route loopback addresses")?;
    for args in [&["addr", "add", own, "peer", other, "dev", "link"][..], &["link", "set", "link", "up"]] {
        let status = Command::new(busybox).arg("ip").args(args).status()?;
        ensure!(status.success(), "ip {args:?}: {status}");
    }
    Ok(End { namespace, device })
}

/// What standard input says, line by line.
fn orders() -> Receiver<String> {
    let (send, orders) = channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    orders
}

fn parse(order: &str) -> Result<Weather> {
    if order == "cut" {
        return Ok(Weather { cut: true, ..Weather::default() });
    }
    let numbers: Vec<u32> =
        order.split(' ').skip(1).map(|word| Ok(word.parse()?)).collect::<Result<_>>().context("no order")?;
    let [from, to, lost, doubled] = numbers[..] else { bail!("no order: {order}") };
    Ok(Weather { cut: false, delay: (from.into(), to.into()), lost, doubled })
}

/// Passes packets until nobody gives orders any more.
fn pass(mut ends: [File; 2], orders: &Receiver<String>, random: &mut fastrand::Rng) -> Result<Counts> {
    let mut counts = Counts::default();
    let mut weather = Weather::default();
    let mut waiting: BinaryHeap<Waiting> = BinaryHeap::new();
    let mut newest = [0_u64; 2];
    let mut number = 0;
    let mut packet = vec![0; 1 << 16];
    loop {
        match orders.try_recv() {
            Ok(order) => weather = parse(&order)?,
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(counts),
        }
        for (from, end) in ends.iter_mut().enumerate() {
            while let Some(bytes) = receive(end, &mut packet)? {
                if weather.cut || random.u32(0..1000) < weather.lost || waiting.len() >= QUEUE {
                    counts.dropped += 1;
                    continue;
                }
                let copies = 1 + u32::from(random.u32(0..1000) < weather.doubled);
                counts.doubled += u64::from(copies - 1);
                for _ in 0..copies {
                    number += 1;
                    let delay = Duration::from_millis(random.u64(weather.delay.0..=weather.delay.1));
                    waiting.push(Reverse((Instant::now() + delay, number, 1 - from, bytes.to_vec())));
                }
            }
        }
        let now = Instant::now();
        while let Some(Reverse((due, _, _, _))) = waiting.peek()
            && *due <= now
            && let Some(Reverse((_, number, to, bytes))) = waiting.pop()
        {
            // What was on its way when the line was cut is gone too.
            let (Some(end), Some(newest), false) = (ends.get_mut(to), newest.get_mut(to), weather.cut) else {
                counts.dropped += 1;
                continue;
            };
            if number < *newest {
                counts.overtaken += 1;
            }
            *newest = number.max(*newest);
            // A device that takes no more drops it, as devices do.
            match end.write_all(&bytes) {
                Ok(()) => counts.passed += 1,
                Err(_) => counts.dropped += 1,
            }
        }
        let wait = waiting.peek().map_or(TICK, |Reverse((due, ..))| due.saturating_duration_since(now));
        let wait = PollTimeout::try_from(wait.min(TICK)).unwrap_or(PollTimeout::ZERO);
        let [near, far] = &ends;
        let mut polled = [near, far].map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
        match poll(&mut polled, wait) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// The next packet that came into the device.
fn receive<'p>(end: &mut File, packet: &'p mut [u8]) -> Result<Option<&'p [u8]>> {
    match end.read(packet) {
        Ok(length) => Ok(packet.get(..length)),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(e) => Err(e.into()),
    }
}
