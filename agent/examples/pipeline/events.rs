//! Events as an agent makes them in a session: a command, its exit, and so on.

use bytes::Bytes;
use podtrail::trail::Moment;
use podtrail_proto::{
    Duration,
    v1::{self, event::Body},
};
use prost::Message as _;

const COMMANDS: [(&str, &[&str]); 8] = [
    ("/usr/bin/ls", &["ls", "-la", "/var/www/html"]),
    ("/usr/bin/grep", &["grep", "-rn", "password", "/etc/nginx/conf.d"]),
    ("/usr/bin/cat", &["cat", "/proc/self/mountinfo"]),
    ("/usr/bin/id", &["id"]),
    ("/usr/bin/curl", &["curl", "-fsS", "--max-time", "5", "http://169.254.169.254/latest/meta-data/"]),
    ("/bin/busybox", &["sed", "-i", "s/debug = false/debug = true/", "/etc/app/settings.toml"]),
    ("/usr/bin/find", &["find", "/", "-xdev", "-perm", "-4000", "-type", "f"]),
    ("/usr/bin/psql", &["psql", "-h", "db-0.prod", "-U", "app", "-c", "select count(*) from users"]),
];

/// Makes the events of one node. Not random: the same for every run, but for their times.
#[derive(Debug)]
pub(crate) struct Maker {
    seq: u64,
    boottime: u64,
    executed: Vec<v1::Event>,
    exited: v1::Event,
    random: fastrand::Rng,
}

impl Maker {
    pub(crate) fn new(id: v1::EventId) -> Self {
        let mut random = fastrand::Rng::with_seed(id.epoch ^ (id.node.len() as u64) << 32);
        let hex = |random: &mut fastrand::Rng, n: usize| -> String {
            (0..n).map(|_| char::from_digit(random.u32(0..16), 16).unwrap_or('0')).collect()
        };
        let event = v1::Event {
            container: Some(v1::Container {
                id: hex(&mut random, 64),
                cgroup_id: random.u64(10_000..1_000_000),
                runtime: "containerd".to_owned(),
                pod: Some(v1::Pod { uid: hex(&mut random, 36), ..Default::default() }),
                ..Default::default()
            }),
            session_id: hex(&mut random, 16),
            id: Some(id),
            ..Default::default()
        };
        let executed = COMMANDS.map(|(path, argv)| {
            let executed = v1::Executed {
                path: path.to_owned(),
                argv: argv.iter().map(|arg| (*arg).to_owned()).collect(),
                argv_bytes: Some(argv.iter().map(|arg| arg.len() as u64 + 1).sum()),
                truncated: Some(false),
                cwd: "/var/www/html".to_owned(),
                credentials: Some(v1::Credentials {
                    uid: Some(0),
                    gid: Some(0),
                    effective_uid: Some(0),
                    effective_gid: Some(0),
                    effective_capabilities: 0xa804_25fb,
                    permitted_capabilities: 0xa804_25fb,
                    ..Default::default()
                }),
                executable: Some(v1::Executable { inode: 1_234_567, device_minor: 45, ..Default::default() }),
                namespaces: Some(v1::Namespaces {
                    mount: 4_026_532_700,
                    pid: 4_026_532_701,
                    user: 4_026_531_837,
                    network: 4_026_532_702,
                }),
                root: Some(false),
                cgroup_id: 123_456,
                ..Default::default()
            };
            v1::Event { body: Some(Body::Executed(executed)), ..event.clone() }
        });
        let exited = v1::Exited { exit_code: Some(0), ..Default::default() };
        let exited = v1::Event { body: Some(Body::Exited(exited)), ..event };
        let boottime = 86_400_000_000_000 + random.u64(0..1_000_000_000_000);
        Self { seq: 0, boottime, executed: executed.into(), exited, random }
    }

    /// The next one, and its number.
    pub(crate) fn next(&mut self, now: Moment) -> (u64, Bytes) {
        self.seq += 1;
        self.boottime += self.random.u64(50_000..500_000);
        let pid = u32::try_from(4_000 + self.seq / 2 % 28_000).unwrap_or(0);
        let process = v1::Process {
            pid,
            start_time: self.boottime - self.boottime % 10_000_000,
            parent_pid: 3_999,
            parent_start_time: 86_400_120_000_000,
            comm: "sh".to_owned(),
        };
        let event = if self.seq % 2 == 1 {
            let n = self.random.usize(0..self.executed.len());
            &mut self.executed[n]
        } else {
            &mut self.exited
        };
        if let Some(id) = &mut event.id {
            id.seq = self.seq;
        }
        event.time = Some(now.timestamp());
        event.boottime_ns = self.boottime;
        match &mut event.body {
            Some(Body::Executed(executed)) => executed.process = Some(process),
            Some(Body::Exited(exited)) => {
                exited.process = Some(process);
                let nanos = self.random.i32(400_000..9_000_000);
                exited.duration = Some(Duration { seconds: 0, nanos });
            }
            _ => {}
        }
        (self.seq, event.encode_to_vec().into())
    }
}
