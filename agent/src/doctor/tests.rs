use super::*;

fn report() -> Report {
    Report {
        version: "1".to_owned(),
        can_run: false,
        kernel: "6.1".to_owned(),
        arch: "x86_64".to_owned(),
        btf: None,
        capabilities: vec!["CAP_BPF".to_owned()],
        cgroups: Some(Cgroups {
            mode: "v1".to_owned(),
            mount: "/sys/fs/cgroup/pids\u{1b}[2J".to_owned(),
            controller: Some("pids".to_owned()),
            whole: true,
        }),
        host_namespaces: HostNamespaces {
            mount: 1,
            pid: 2,
            user: 3,
            cgroup: 4,
            found_by: "/proc/1/ns/mnt".to_owned(),
        },
        hooks: vec![
            Hook { name: "exec".to_owned(), kind: "btf tracepoint".to_owned(), reason: String::new() },
            Hook { name: "setns".to_owned(), kind: "kprobe".to_owned(), reason: "fexit: no".to_owned() },
        ],
        tried_out_us: Some(12_345),
        node: Node { open_files_limit: Some(1024), ..Node::default() },
        runtimes: vec![
            Runtime {
                socket: "/run/containerd/containerd.sock".to_owned(),
                version: None,
                error: Some("it does not speak CRI\u{1b}".to_owned()),
            },
            Runtime {
                socket: "/run/crio/crio.sock".to_owned(),
                version: Some("cri-o 1.33".to_owned()),
                error: None,
            },
        ],
        pinned: Vec::new(),
        problems: vec![Problem { what: "no BTF".to_owned(), fix: "another kernel".to_owned(), fatal: true }],
    }
}

#[test]
fn the_table_says_everything_and_the_verdict_last() {
    let text = text(&report());
    let rows: Vec<&str> = text.lines().collect();
    for expected in [
        "kernel          6.1 x86_64",
        "types (BTF)     none",
        "capabilities    CAP_BPF",
        "cgroups         v1 at /sys/fs/cgroup/pids\\x1b[2J, by pids",
        "namespaces      mount 1 (by /proc/1/ns/mnt), pid 2, user 3",
        "limits          locked memory unlimited, open files 1024",
        "hooks           exec                  btf tracepoint",
        "                setns                 kprobe   because fexit: no",
        "tried out       in 12.3 ms: what they report is so",
        "runtime         it does not speak CRI\\x1b at /run/containerd/containerd.sock",
        "                cri-o 1.33 at /run/crio/crio.sock",
        "missing         no BTF",
        "                → another kernel",
    ] {
        assert!(rows.contains(&expected), "{expected:?} not in\n{text}");
    }
    assert_eq!(rows.last(), Some(&"The agent cannot run here."));
}

#[test]
fn json_has_its_shape() {
    let json = serde_json::to_value(report()).unwrap();
    assert_eq!(json["canRun"], false);
    assert_eq!(json["btf"], serde_json::Value::Null);
    assert_eq!(json["hostNamespaces"]["foundBy"], "/proc/1/ns/mnt");
    assert_eq!(json["hooks"][1]["reason"], "fexit: no");
    assert_eq!(json["problems"][0]["fatal"], true);
    assert_eq!(json["runtimes"][1]["version"], "cri-o 1.33");
    assert_eq!(json["node"]["lockedMemoryLimit"], serde_json::Value::Null);
    assert_eq!(json["cgroups"]["mode"], "v1");
}

#[tokio::test]
async fn this_machine_is_told_as_it_is() {
    let flags = crate::config::agent::Flags::default();
    let report = examine(&AgentConfig::load(flags).unwrap(), Vec::new());
    let release = nix::sys::utsname::uname().unwrap();
    assert_eq!(report.kernel, release.release().to_str().unwrap());
    assert_eq!(report.can_run, report.problems.iter().all(|problem| !problem.fatal), "{report:#?}");
    assert!(report.can_run || report.hooks.is_empty() || nix::unistd::geteuid().is_root(), "{report:#?}");
    for problem in &report.problems {
        assert!(!problem.fix.is_empty(), "{problem:?}");
    }
}
