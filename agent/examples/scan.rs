use podtrail::container::*;
struct T;
impl ExactStart for T {
    fn start_time(&self, pid: u32) -> Option<u64> {
        Some(process::glance(&Host::default(), pid)?.start_ticks * 10_000_000)
    }
}
fn main() {
    let host = Host::default();
    let h = Hierarchy::find(&host).unwrap();
    let ns = host_namespaces(&host);
    println!("{h:?}\n{ns:?}");
    let t = std::time::Instant::now();
    let s = recover(
        &Scan {
            host: &host,
            hierarchy: &h,
            namespaces: &ns,
            time: podtrail::event::BootTime(1),
            self_pid: std::process::id(),
        },
        &T,
    )
    .unwrap();
    println!("{:?}", t.elapsed());
    for (f, (id, c)) in s.containers.iter().zip(&s.cgroups) {
        println!(
            "{} {:?} state {} container {} init {:?} mnt {} pid {}",
            id,
            String::from_utf8_lossy(&f.path),
            c.state,
            c.container,
            c.init.tgid,
            c.mnt_ns,
            c.pid_ns
        );
    }
    println!(
        "ns {:?}\ntasks {:?}\nunkeyed {:?}",
        s.namespaces,
        s.tasks.iter().map(|(k, t)| (k.tgid, t.kind, t.container, t.entry.tgid)).collect::<Vec<_>>(),
        s.unkeyed
    );
    for r in &s.recovered {
        println!("SESSION {:?} {} by", r.kind, r.entry.tgid);
        for p in &r.processes {
            println!(
                "   {} parent {} {:?} exe {:?} cwd {:?} tty {:?} {:?} {:?}",
                p.process.key.tgid,
                p.process.parent.tgid,
                String::from_utf8_lossy(&p.argv.bytes),
                String::from_utf8_lossy(&p.path),
                String::from_utf8_lossy(&p.cwd),
                p.tty,
                p.credentials,
                p.executable
            );
        }
    }
    let mut d = Directory::default();
    d.seed(podtrail::event::BootTime(1), &s.containers);
    for c in d.containers() {
        println!("{c:?}");
    }
    let mut o = Owners::new(host, h, ns);
    for (n, c) in &s.namespaces {
        println!(
            "owner of {n}: {:?} (is {c})",
            o.find(podtrail::event::BootTime(2), *n, 0, &d).or_else(|| o.find(
                podtrail::event::BootTime(2),
                0,
                *n,
                &d
            ))
        );
    }
}
