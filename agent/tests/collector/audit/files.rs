//! Audit log files, as API servers write them and rotation leaves them.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::*;

/// A folder with an audit log, and the collector that follows it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("log")).unwrap();
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("log/audit.log")
    }

    fn start(&self) -> Collector {
        let path = self.path().display().to_string();
        start(&self.dir.path().join("data"), &["--audit-log", &path, "--audit-cluster", "east"])
    }

    fn write(&self, bytes: &[u8]) {
        append(&self.path(), bytes);
    }
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = File::options().create(true).append(true).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

/// The events of a list as lines, as an API server writes them.
fn lines(list: &[u8]) -> Vec<String> {
    let list: serde_json::Value = serde_json::from_slice(list).unwrap();
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|item| {
            let mut item = item.clone();
            item["kind"] = "Event".into();
            item["apiVersion"] = "audit.k8s.io/v1".into();
            format!("{item}\n")
        })
        .collect()
}

/// Waits until so many requests are there, and no more.
async fn until(collector: &Collector, wanted: usize) -> Vec<v1::ApiRequest> {
    let mut found = Vec::new();
    for _ in 0..2000 {
        found = requests(collector).await;
        if found.len() >= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(found.len(), wanted, "{}", collector.log.lock().unwrap());
    found
}

async fn gaps(collector: &Collector) -> Vec<String> {
    let events = collector.events().await.into_iter();
    events
        .filter_map(|(_, event)| match event.body {
            Some(Body::Gap(gap)) => {
                assert_eq!(gap.source(), v1::GapSource::Audit);
                Some(gap.detail)
            }
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn a_real_run_is_read_from_a_file_as_from_the_webhook() {
    let place = Place::new();
    let collector = place.start();
    assert!(collector.get("/readyz").contains("audit: ready, but nothing was heard yet"));
    let lines = lines(RUN);
    place.write(lines.concat().as_bytes());
    let requests = until(&collector, 27).await;
    let source = format!("file {}", place.path().display());
    assert!(requests.iter().all(|request| request.source == source));
    assert_eq!(requests[4].command, ["/bin/sh", "-c", "tty; echo interactive"]);
    assert!(collector.events().await.iter().all(|(_, event)| event.id.as_ref().unwrap().cluster == "east"));
    // The same by the webhook is the same.
    drop(collector);
    let path = place.path().display().to_string();
    let data = place.dir.path().join("data");
    let flags = ["--audit-log", &path, "--audit-cluster", "east", "--audit-listen", "127.0.0.1:0"];
    let collector = start(&data, &flags);
    let mut client = Client::plain(collector.audit.unwrap()).await;
    assert_eq!(client.post(RUN).await.unwrap().status, 200);
    assert_eq!(super::requests(&collector).await, requests);
    assert_eq!(gaps(&collector).await, [""; 0]);
}

#[tokio::test]
async fn what_is_no_audit_and_what_is_cut_leave_gaps() {
    let place = Place::new();
    let lines = lines(POST_5);
    place.write(lines[1].as_bytes());
    place.write(b"\x1b[2J no audit\n");
    place.write(lines[2].as_bytes());
    let collector = place.start();
    until(&collector, 2).await;
    let path = place.path().display().to_string();
    let told = gaps(&collector).await;
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with(&format!("{path}: a line is no audit event: it is no JSON: ")), "{told:?}");
    File::options().write(true).open(place.path()).unwrap().set_len(0).unwrap();
    place.write(lines[3].as_bytes());
    until(&collector, 3).await;
    assert_eq!(gaps(&collector).await[1], format!("{path}: it was cut: what was not read before is gone"));
    assert_eq!(collector.metric("podtrail_collector_audit_unreadable_total"), 2.0);
    // While nobody looked it was replaced, and what it was is gone.
    drop(collector);
    fs::remove_file(place.path()).unwrap();
    place.write(lines[4].as_bytes());
    let collector = place.start();
    until(&collector, 4).await;
    assert_eq!(
        gaps(&collector).await[2..],
        [format!("{path}: the file that was read before is gone, or was cut")]
    );
}

/// Writes numbered requests, a few at a time, and rotates as an API server does: its own name, and files before.
fn write_all(path: &Path, count: usize, each: usize) {
    let pattern = &lines(POST_5)[1];
    let mut size = 0;
    let mut rotated = 0;
    for number in 0..count {
        let line = pattern.replace("\"auditID\":\"", &format!("\"auditID\":\"{number:08}-"));
        // Sometimes in two writes.
        let (head, tail) = line.split_at(if number % 7 == 0 { line.len() / 2 } else { line.len() });
        append(path, head.as_bytes());
        if !tail.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
            append(path, tail.as_bytes());
        }
        size += 1;
        if size == each {
            size = 0;
            rotated += 1;
            let name = format!("audit-2026-11-22T19-23-51.{rotated:03}.log");
            fs::rename(path, path.with_file_name(name)).unwrap();
            File::create(path).unwrap();
        }
        if number % 20 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_files_are_rotated_it_has_every_request_once() {
    const COUNT: usize = 3000;
    let place = Place::new();
    // There is a place to go on from before the first kill.
    place.write(b"");
    let mut collector = place.start();
    let position = async |collector: &Collector| {
        while !collector.log.lock().unwrap().contains("audit file is read") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, position(&collector)).await.unwrap();
    let path = place.path();
    let writing = std::thread::spawn(move || write_all(&path, COUNT, 150));
    let mut dice = super::super::Dice(std::process::id().into());
    let mut kills = 0;
    while !writing.is_finished() || kills < 4 {
        tokio::time::sleep(Duration::from_millis(50 + dice.throw(400))).await;
        kill(Pid::from_raw(i32::try_from(collector.child.id()).unwrap()), Signal::SIGKILL).unwrap();
        kills += 1;
        drop(collector);
        collector = place.start();
    }
    writing.join().unwrap();
    let found = until(&collector, COUNT).await;
    let mut numbers = BTreeMap::new();
    for request in &found {
        *numbers.entry(request.audit_id[..8].parse::<usize>().unwrap()).or_insert(0) += 1;
    }
    assert_eq!(numbers.len(), COUNT);
    assert!(numbers.values().all(|times| *times == 1), "{numbers:?}");
    assert_eq!(gaps(&collector).await, [""; 0]);
}
