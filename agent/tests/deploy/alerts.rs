//! Every metric is in the documentation, and every alert looks at metrics that there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use podtrail::{agent, collector, telemetry::Metrics};
use podtrail_proto::v1::GapSource;

use crate::{components, deploy, list, object, text, with};

/// What daemons say of their metrics: description by name.
#[derive(Clone, Debug, Default)]
struct Catalogue(Arc<Mutex<BTreeMap<String, String>>>);

impl Catalogue {
    fn note(&self, name: &KeyName, description: &SharedString) {
        self.0.lock().unwrap().insert(name.as_str().to_owned(), description.to_string());
    }
}

impl Recorder for Catalogue {
    fn describe_counter(&self, name: KeyName, _: Option<Unit>, description: SharedString) {
        self.note(&name, &description);
    }

    fn describe_gauge(&self, name: KeyName, _: Option<Unit>, description: SharedString) {
        self.note(&name, &description);
    }

    fn describe_histogram(&self, name: KeyName, _: Option<Unit>, description: SharedString) {
        self.note(&name, &description);
    }

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

fn described() -> BTreeMap<String, String> {
    let catalogue = Catalogue::default();
    metrics::with_local_recorder(&catalogue, || {
        Metrics::describe();
        agent::describe();
        collector::describe();
    });
    let all = catalogue.0.lock().unwrap().clone();
    assert!(all.len() > 40, "{all:#?}");
    all
}

/// The workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn files(dir: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, ending, found);
        } else if path.extension().is_some_and(|found| found == ending) {
            found.push(path);
        }
    }
}

/// Words of a text that are as metrics are called.
fn words(text: &str) -> BTreeSet<&str> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let all = text.split(|c: char| !word(c));
    let is = |word: &str, prefix| {
        word.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    all.filter(|word| is(word, "podtrail_") || is(word, "process_")).collect()
}

#[test]
fn what_is_measured_is_described() {
    let described = described();
    let mut sources = Vec::new();
    files(&root().join("agent/src"), "rs", &mut sources);
    let mut missing = Vec::new();
    for path in sources {
        let source = fs::read_to_string(&path).unwrap();
        for begin in ["describe_counter!(", "describe_gauge!(", "describe_histogram!("] {
            for call in source.split(begin).skip(1) {
                let Some(name) = call.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next())
                else {
                    continue;
                };
                if !described.contains_key(name) {
                    missing.push(format!("{}: {name}", path.display()));
                }
            }
        }
    }
    assert!(missing.is_empty(), "in no `describe` of agent or collector: {missing:#?}");
}

#[test]
fn alerts_look_at_what_there_is() {
    let described = described();
    let objects = with(&["monitoring"]);
    let rules = object(&objects, "PrometheusRule", "podtrail");
    let mut alerts = BTreeSet::new();
    for rule in list(&rules["spec"]["groups"]).flat_map(|group| list(&group["rules"])) {
        let (name, expr) = (text(&rule["alert"]), text(&rule["expr"]));
        assert!(alerts.insert(name), "{name} is there twice");
        let looked_at = words(expr);
        assert!(!looked_at.is_empty() || expr.contains("up{"), "{name}: {expr}");
        for metric in looked_at {
            assert!(described.contains_key(metric), "{name}: there is no {metric}");
        }
        for (open, close) in [('(', ')'), ('[', ']'), ('{', '}')] {
            assert_eq!(expr.matches(open).count(), expr.matches(close).count(), "{name}: {expr}");
        }
        assert!(["critical", "warning"].contains(&text(&rule["labels"]["severity"])), "{name}");
        assert!(rule["annotations"]["summary"].is_string(), "{name}");
    }
    // Prometheus calls a job by the service.
    for job in ["podtrail-agent", "collector"] {
        object(&objects, "Service", job);
        assert!(rules.to_string().contains(&format!("job=\\\"{job}\\\"")), "{job}");
    }
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    for alert in &alerts {
        assert!(page.contains(&format!("| `{alert}` |")), "docs/operations.md does not explain {alert}");
    }
    let explained = page.lines().filter_map(|line| line.strip_prefix("| `Podtrail")?.split('`').next());
    for alert in explained {
        assert!(
            alerts.contains(format!("Podtrail{alert}").as_str()),
            "docs/operations.md: there is no Podtrail{alert}"
        );
    }
}

#[test]
fn the_documentation_has_every_metric_and_no_other() {
    let described = described();
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let told: BTreeSet<_> = page
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line.split('`').nth(1)?.split('{').next())
        .collect();
    for (metric, description) in &described {
        assert!(
            told.contains(metric.as_str()),
            "docs/operations.md has no row for `{metric}` ({description})"
        );
    }
    let programs = programs();
    let mut pages = vec![root().join("README.md")];
    files(&root().join("docs"), "md", &mut pages);
    for component in components() {
        files(&deploy().join("kustomize/components").join(component), "yaml", &mut pages);
    }
    for path in pages {
        let page = fs::read_to_string(&path).unwrap();
        for word in words(&page) {
            let suffix = ["_sum", "_count", "_bucket"].iter().find_map(|suffix| word.strip_suffix(suffix));
            let is = |name: &str| described.contains_key(name);
            assert!(
                is(word)
                    || suffix.is_some_and(is)
                    || word.ends_with('_')
                    || NO_METRICS.contains(&word)
                    || programs.contains(word),
                "{}: there is no metric {word}",
                path.display()
            );
        }
    }
}

#[test]
fn every_kind_of_gap_is_explained() {
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let sources = (1..).map_while(|number| GapSource::try_from(number).ok());
    let mut count = 0;
    for source in sources {
        let row = format!("`{}`", source.as_str_name());
        assert!(page.lines().any(|line| line.starts_with('|') && line.contains(&row)), "no row for {row}");
        count += 1;
    }
    assert!(count >= 13, "{count}");
}

/// Called alike, and something else.
const NO_METRICS: [&str; 5] =
    ["podtrail_proto", "podtrail_ebpf", "podtrail_agent", "podtrail_collector", "podtrail_tests"];

/// The BPF programs, by the names that the kernel gives them: the first 15 bytes.
fn programs() -> BTreeSet<String> {
    let source = fs::read_to_string(root().join("agent-ebpf/src/main.rs")).unwrap();
    let names = source.lines().filter_map(|line| line.strip_prefix("pub fn ")?.split('(').next());
    names.map(|name| name.chars().take(15).collect()).collect()
}

#[test]
fn the_collector_says_what_it_describes() {
    let described = described();
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_podtrail-collector"))
        .args([
            "run",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
            "--audit-listen",
            "127.0.0.1:0",
        ])
        .arg("--data")
        .arg(dir.path())
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let address = lines.find_map(|line| {
        line.contains("msg=listening ")
            .then(|| line.split(" metrics=").nth(1)?.split(' ').next().map(str::to_owned))?
    });
    // Whatever else it says must not fill the pipe.
    let drained = std::thread::spawn(move || lines.for_each(drop));
    let mut stream = TcpStream::connect(address.unwrap()).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    drained.join().unwrap();
    let told: BTreeSet<_> =
        answer.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(told.len() > 25, "{answer}");
    for name in &told {
        assert!(described.contains_key(*name), "{name} is described nowhere");
    }
    let alerts = fs::read_to_string(deploy().join("kustomize/components/monitoring/alerts.yaml")).unwrap();
    for name in words(&alerts).into_iter().filter(|name| name.starts_with("podtrail_collector_")) {
        assert!(told.contains(name) || LATER.contains(&name), "{name} is not in: {answer}");
    }
}

/// There is one for each subscription, output, API server, watch, and reason.
const LATER: [&str; 7] = [
    "podtrail_collector_watch_connected",
    "podtrail_collector_watch_gaps_total",
    "podtrail_collector_node_conditions",
    "podtrail_collector_subscription_lag_events",
    "podtrail_collector_output_up",
    "podtrail_collector_audit_stale",
    "podtrail_collector_refused_total",
];
