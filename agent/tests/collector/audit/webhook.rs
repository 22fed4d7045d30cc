//! Batches as API servers post them, and as they should not.

use std::{
    fs,
    io::Write as _,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use podtrail_proto::v1::tail_request::From;

use super::{
    super::tls::{
        Place,
        authority::{Authority, Wanted},
        lines, more_refused, next, refused, tail,
    },
    *,
};

fn zip(bytes: &[u8]) -> Vec<u8> {
    let mut zipped = GzEncoder::new(Vec::new(), Compression::default());
    zipped.write_all(bytes).unwrap();
    zipped.finish().unwrap()
}

/// A body of so many bytes that is audit, and of nothing that is kept.
fn large(bytes: usize) -> Vec<u8> {
    let (head, tail) = (r#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{"pad":""#, "\"}]}");
    [head.as_bytes(), &vec![b'x'; bytes - head.len() - tail.len()], tail.as_bytes()].concat()
}

/// Gaps in what was audited, as the log tells them.
async fn gaps(collector: &Collector) -> Vec<v1::Gap> {
    let events = collector.events().await.into_iter();
    events
        .filter_map(|(_, event)| match event.body {
            Some(Body::Gap(gap)) => Some(gap),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn bodies_of_a_real_api_server_are_kept_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let collector = with_webhook(dir.path());
    let mut client = Client::plain(collector.audit.unwrap()).await;
    // One after the other on one connection.
    for post in [POST_3, POST_5, POST_8] {
        let answer = client.post(post).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    }
    let requests = requests(&collector).await;
    assert_eq!(
        stages(&requests),
        [
            "07b0f52a ResponseStarted",
            "9ecebbbb ResponseStarted",
            "9ecebbbb ResponseComplete",
            "5fb12cc6 ResponseStarted",
            "5fb12cc6 ResponseComplete",
        ]
    );
    assert!(requests.iter().all(|request| request.source == "webhook 127.0.0.1"));
    let exec = &requests[1];
    assert_eq!(exec.command, ["/bin/sh", "-c", "id; cat /proc/self/cgroup; echo $$"]);
    assert_eq!((exec.user.as_ref().unwrap().name.as_str(), exec.code()), ("alice@example.com", 500));
    assert_eq!(collector.metric("podtrail_collector_audit_events_total"), 8.0);
    assert_eq!(collector.metric("podtrail_collector_audit_requests_total"), 5.0);
    // What is of the cluster is of no node.
    let nodes = collector.trail().await.list_nodes(v1::ListNodesRequest {}).await.unwrap();
    assert_eq!(nodes.into_inner().nodes, []);
}

#[tokio::test]
async fn gzip_chunks_and_v1beta1_say_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    for form in 0..5 {
        let collector = with_webhook(&dir.path().join(form.to_string()));
        let mut client = Client::plain(collector.audit.unwrap()).await;
        let answer = match form {
            0 => client.post(POST_5).await,
            1 => client.post_with("Content-Encoding: gzip\r\n", &zip(POST_5)).await,
            2 => {
                let body = String::from_utf8(POST_5.to_vec()).unwrap();
                client.post(body.replace("audit.k8s.io/v1", "audit.k8s.io/v1beta1").as_bytes()).await
            }
            // Several gzips are one, and a body may come in pieces of any size, with others between them.
            3 => {
                let (a, b) = POST_5.split_at(1000);
                client.post_with("Content-Encoding: GZIP\r\n", &[zip(a), zip(b)].concat()).await
            }
            _ => {
                let head = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
                client.send(head.as_bytes()).await;
                for piece in POST_5.chunks(777) {
                    client.send(format!("{:x}\r\n", piece.len()).as_bytes()).await;
                    client.send(&[piece, b"\r\n"].concat()).await;
                }
                client.send(b"0\r\n\r\n").await;
                client.answer().await
            }
        };
        assert_eq!(answer.unwrap().status, 200, "{form}");
        let requests = requests(&collector).await;
        assert_eq!(requests.len(), 4);
        if form == 0 {
            expected = requests;
        } else {
            assert_eq!(requests, expected, "{form}");
        }
    }
}

#[tokio::test]
async fn a_batch_that_comes_again_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let collector = with_webhook(dir.path());
    let mut client = Client::plain(collector.audit.unwrap()).await;
    for _ in 0..3 {
        assert_eq!(client.post(RUN).await.unwrap().status, 200);
    }
    // Also at the same time, and over a restart; and what is new beside what is old.
    let clients = (0..8).map(|_| async {
        let mut client = Client::plain(collector.audit.unwrap()).await;
        assert_eq!(client.post(RUN).await.unwrap().status, 200);
    });
    futures::future::join_all(clients).await;
    let first = requests(&collector).await;
    assert_eq!(first.len(), 27);
    assert_eq!(collector.metric("podtrail_collector_audit_duplicates_total"), 270.0);
    drop(collector);
    let collector = with_webhook(dir.path());
    let mut client = Client::plain(collector.audit.unwrap()).await;
    assert_eq!(client.post(RUN).await.unwrap().status, 200);
    assert_eq!(requests(&collector).await, first);
    // An audit id is the client's to choose: another request with the same is another.
    let forged = String::from_utf8(POST_5.to_vec()).unwrap().replace("alice@example.com", "eve@example.com");
    assert_eq!(client.post(forged.as_bytes()).await.unwrap().status, 200);
    assert_eq!(requests(&collector).await.len(), 27 + 4);
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_in_one_line_and_leaves_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let collector = with_webhook(dir.path());
    let mut client = Client::plain(collector.audit.unwrap()).await;
    let half = &POST_5[..POST_5.len() / 2];
    let told = async |client: &mut Client, headers: &str, body: &[u8]| {
        let answer = client.post_with(headers, body).await.unwrap();
        assert_eq!(answer.body.lines().count(), 1, "{answer:?}");
        (answer.status, answer.body)
    };
    let (status, line) = told(&mut client, "", half).await;
    assert!(status == 400 && line.starts_with("it is no JSON: EOF while parsing"), "{status} {line}");
    let (status, line) = told(&mut client, "", b"{\"kind\":\"PodList\",\"apiVersion\":\"v1\"}").await;
    assert!(status == 400 && line.starts_with("it is \"PodList\" of \"v1\", and not an EventList"), "{line}");
    let bad = br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{},{"user":5}]}"#;
    let (status, line) = told(&mut client, "", bad).await;
    assert!(status == 400 && line.starts_with("items[1] is no audit event: invalid type"), "{line}");
    let (status, line) = told(&mut client, "Content-Encoding: gzip\r\n", POST_5).await;
    assert!(status == 400 && line.starts_with("it is no gzip: "), "{line}");
    let (status, line) = told(&mut client, "Content-Encoding: br\r\n", POST_5).await;
    assert_eq!(
        (status, &*line),
        (415, "\"br\" is no encoding that is known here: send it plain, or as gzip\n")
    );
    let mut client = Client::plain(collector.audit.unwrap()).await;
    client.send(b"GET /audit HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let answer = client.answer().await.unwrap();
    assert_eq!(
        (answer.status, &*answer.body),
        (405, "only POST: this is for the API server's audit webhook\n")
    );
    // However often such a thing comes, the log has one word of it a minute.
    let gaps = gaps(&collector).await;
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((gaps[0].source(), gaps[0].count(), gaps[0].exact()), (v1::GapSource::Audit, 1, false));
    assert!(gaps[0].detail.starts_with("a batch from webhook 127.0.0.1: it is no JSON: EOF"), "{gaps:?}");
    assert_eq!(refused(&collector, "audit_unreadable"), 3.0);
    assert_eq!(requests(&collector).await, []);
    // And what is good is still taken.
    assert_eq!(client.post(POST_5).await.unwrap().status, 200);
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let collector = start(dir.path(), &["--audit-listen", "127.0.0.1:0", "--audit-max-body", "1MiB"]);
    let address = collector.audit.unwrap();
    let most = 1 << 20;
    let mut client = Client::plain(address).await;
    assert_eq!(client.post(&large(most)).await.unwrap().status, 200);
    let line = "more than 1048576 bytes: lower the API server's --audit-webhook-batch-max-size, or raise --audit-max-body\n";
    // By what it says of itself, without a byte of the body;
    let mut client = Client::plain(address).await;
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n").await;
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, &*answer.body), (413, line));
    // in chunks, by what has come;
    let mut client = Client::plain(address).await;
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let piece = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    for _ in 0..17 {
        _ = client.0.write_all(&piece).await;
    }
    assert_eq!(client.answer().await.unwrap().status, 413);
    // and as gzip by what it would become.
    let mut client = Client::plain(address).await;
    let bomb = zip(&large(64 << 20));
    assert!(bomb.len() < most);
    let answer = client.post_with("Content-Encoding: gzip\r\n", &bomb).await.unwrap();
    assert_eq!((answer.status, &*answer.body), (413, line));
    assert_eq!(refused(&collector, "audit_too_large"), 3.0);
}

#[tokio::test]
async fn there_is_so_much_room_and_who_finds_none_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let collector = start(dir.path(), &["--audit-listen", "127.0.0.1:0", "--audit-max-body", "1MiB"]);
    let address = collector.audit.unwrap();
    // Four of them hold all there is, and send no more.
    let body = large(1 << 20);
    let mut holders = Vec::new();
    for _ in 0..4 {
        let mut client = Client::plain(address).await;
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        client.send(head.as_bytes()).await;
        client.send(&body[..body.len() - 1]).await;
        holders.push(client);
    }
    let full = async || collector.metric("podtrail_collector_audit_bytes") >= f64::from(4 << 20);
    timeout(SOON, async {
        while !full().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    let mut client = Client::plain(address).await;
    let answer = client.post(POST_5).await.unwrap();
    assert_eq!((answer.status, &*answer.body), (429, "no room for it now: come again\n"));
    assert!(answer.headers.contains("retry-after: 5"), "{answer:?}");
    for holder in &mut holders {
        holder.send(&body[body.len() - 1..]).await;
        assert_eq!(holder.answer().await.unwrap().status, 200);
    }
    assert_eq!(client.post(POST_5).await.unwrap().status, 200);
    assert_eq!(collector.metric("podtrail_collector_audit_bytes"), 0.0);
}

#[tokio::test]
async fn who_is_slow_is_cut_off_and_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let collector = with_webhook(dir.path());
    let address = collector.audit.unwrap();
    let mut slow = Client::plain(address).await;
    slow.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{").await;
    let began = Instant::now();
    let mut client = Client::plain(address).await;
    assert_eq!(client.post(POST_5).await.unwrap().status, 200);
    assert!(began.elapsed() < Duration::from_secs(20));
    // A byte now and then is not enough.
    let answer = loop {
        match timeout(Duration::from_secs(5), slow.answer()).await {
            Ok(answer) => break answer.unwrap(),
            Err(_elapsed) => _ = slow.0.write_all(b" ").await,
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it is still waited for");
    };
    assert_eq!((answer.status, &*answer.body), (408, "the body did not come within 30 s\n"));
    assert!(began.elapsed() >= Duration::from_secs(30));
    assert_eq!(gaps(&collector).await, [], "it comes again");
}

#[tokio::test]
async fn only_an_api_server_may_post() {
    let place = Place::new();
    let kubernetes = Authority::new("kubernetes");
    fs::write(place.path("kubernetes.pem"), kubernetes.pem()).unwrap();
    let siem = "[[principal]]\nname = \"siem\"\nverbs = [\"tail\"]\nnamespaces = [\"*\"]\nfields = [\"*\"]\n";
    let collector = place.start(&format!(
        "audit-listen = \"127.0.0.1:0\"\naudit-ca = {:?}\naudit-client = \"kube-apiserver-audit\"\naudit-cluster = \"east\"\n{siem}",
        place.file("kubernetes.pem")
    ));
    let ca = place.authority.pem();
    let address = collector.audit.unwrap();
    let of = |name: &str| {
        let wanted = Wanted { subject: Some(("system:masters", name)), ..Wanted::default() };
        place.files(name, &kubernetes.issue(wanted))
    };
    // By our own authority, with the cluster in the certificate; by the cluster's, with the name that was agreed.
    for (files, post) in
        [(place.named("podtrail://audit/west"), POST_3), (of("kube-apiserver-audit"), POST_5)]
    {
        let mut client = Client::tls(address, &ca, Some(&files)).await;
        assert_eq!(client.post(post).await.unwrap().status, 200);
    }
    // Others of ours are known, and may not.
    for (files, who) in [
        (place.agent("n1"), "agent c/n1"),
        (place.reader("siem"), "reader siem"),
        (place.files("unnamed", &place.authority.of(&[])), "a certificate without a podtrail:// name"),
    ] {
        let answer = Client::tls(address, &ca, Some(&files)).await.post(POST_8).await.unwrap();
        let expected =
            format!("{who} may not send audit: that takes a certificate with podtrail://audit/CLUSTER\n");
        assert_eq!((answer.status, answer.body), (403, expected));
    }
    assert_eq!(refused(&collector, "identity"), 3.0);
    // All else does not get so far: another of the cluster's, one of elsewhere, none, and no TLS.
    let elsewhere = place.files("elsewhere", &Authority::new("other").of(&["podtrail://audit/west"]));
    let mut before = 0.0;
    for files in [of("kubernetes-admin"), elsewhere] {
        Client::tls(address, &ca, Some(&files)).await.post(POST_8).await.unwrap_err();
        before = more_refused(&collector, "certificate", before).await;
    }
    Client::tls(address, &ca, None).await.post(POST_8).await.unwrap_err();
    more_refused(&collector, "no_certificate", 0.0).await;
    Client::plain(address).await.post(POST_8).await.unwrap_err();
    more_refused(&collector, "handshake", 0.0).await;
    // What they posted is of their clusters.
    let mut events = tail(&collector, place.reader("siem"), From::Oldest(true)).await.unwrap();
    let mut clusters = Vec::new();
    while clusters.len() < 5 {
        let event = next(&mut events).await.unwrap().unwrap();
        if matches!(event.body, Some(Body::ApiRequest(_))) {
            clusters.push(event.id.unwrap().cluster);
        }
    }
    assert_eq!(clusters, ["west", "east", "east", "east", "east"]);
    assert_eq!(collector.metric("podtrail_collector_audit_events_total"), 7.0);
    // And an API server may do nothing but post.
    let audit = place.named("podtrail://audit/west");
    assert!(tail(&collector, audit, From::Oldest(true)).await.is_err());
}

#[tokio::test]
async fn who_may_see_a_namespace_sees_who_came_into_it() {
    let place = Place::new();
    let rights = |name: &str, namespaces: &str| {
        format!(
            "[[principal]]\nname = {name:?}\nverbs = [\"tail\"]\nnamespaces = [{namespaces:?}]\nfields = [\"*\"]\n"
        )
    };
    let collector = place.start(&format!(
        "audit-listen = \"127.0.0.1:0\"\n{}{}",
        rights("prod", "prod"),
        rights("dev", "dev")
    ));
    let files = place.named("podtrail://audit/c");
    let mut client = Client::tls(collector.audit.unwrap(), &place.authority.pem(), Some(&files)).await;
    // The second of them is of no pod.
    let proxy = r#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":[{"verb":"get","requestURI":"/api/v1/nodes/n/proxy/pods",
        "objectRef":{"resource":"nodes","subresource":"proxy","name":"n"}}]}"#;
    let dev = String::from_utf8(POST_3.to_vec()).unwrap().replace("\"prod\"", "\"dev\"");
    for post in [POST_3, proxy.as_bytes(), dev.as_bytes()] {
        assert_eq!(client.post(post).await.unwrap().status, 200);
    }
    for (who, other) in [("prod", "dev"), ("dev", "prod")] {
        let request = v1::TailRequest {
            from: Some(From::Oldest(true)),
            follow: Some(false),
            filter: "apiRequest.user.name == 'alice@example.com' || container.pod.namespace != ''".to_owned(),
        };
        let mut trail = super::super::tls::trail(&collector, place.reader(who)).await;
        let mut events = trail.tail(request).await.unwrap().into_inner();
        let mut seen = Vec::new();
        while let Some(response) = timeout(SOON, events.message()).await.unwrap().unwrap() {
            let event = response.event.unwrap();
            seen.push(event.container.unwrap().pod.unwrap().namespace);
        }
        assert_eq!(seen, [who], "and nothing of {other}");
    }
}

/// Posts as an API server does: after any failure again, until it is taken.
async fn post_until_taken(address: impl Fn() -> Option<SocketAddr>, body: &[u8]) {
    loop {
        if let Some(address) = address()
            && let Ok(tcp) = TcpStream::connect(address).await
            && let Ok(answer) = Client(Box::new(tcp)).post(body).await
            && answer.status == 200
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A batch like that of the real run, with ids of its own.
fn batch(number: usize) -> Vec<u8> {
    String::from_utf8(POST_5.to_vec())
        .unwrap()
        .replace("\"auditID\":\"", &format!("\"auditID\":\"{number:08}-"))
        .into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_it_has_every_batch_that_was_taken_once() {
    const KILLS: usize = 6;
    let dir = tempfile::tempdir().unwrap();
    let address = Arc::new(std::sync::Mutex::new(None));
    let enough = Arc::new(AtomicBool::new(false));
    // Each posts batches of its own until it was killed often enough, and counts what was taken.
    let posting: Vec<_> = (0..4)
        .map(|client| {
            let (address, enough) = (address.clone(), enough.clone());
            tokio::spawn(async move {
                let mut taken = 0;
                while !enough.load(Ordering::Relaxed) {
                    post_until_taken(|| *address.lock().unwrap(), &batch(client * 1_000_000 + taken)).await;
                    taken += 1;
                }
                taken
            })
        })
        .collect();
    let mut dice = super::super::Dice(std::process::id().into());
    for _ in 0..KILLS {
        let collector = with_webhook(dir.path());
        *address.lock().unwrap() = collector.audit;
        tokio::time::sleep(Duration::from_millis(50 + dice.throw(300))).await;
        kill(Pid::from_raw(i32::try_from(collector.child.id()).unwrap()), Signal::SIGKILL).unwrap();
    }
    let collector = with_webhook(dir.path());
    *address.lock().unwrap() = collector.audit;
    enough.store(true, Ordering::Relaxed);
    let mut taken = 0;
    for client in posting {
        taken += timeout(SOON, client).await.expect("it is not taken").unwrap();
    }
    assert!(taken > 50, "hardly anything was posted: {taken}");
    let mut kept: Vec<String> =
        requests(&collector).await.iter().map(|r| format!("{} {} {}", r.audit_id, r.stage, r.verb)).collect();
    let all = kept.len();
    kept.sort();
    kept.dedup();
    assert_eq!((kept.len(), all), (taken * 4, taken * 4));
}

#[tokio::test]
async fn a_source_that_falls_silent_is_told_and_does_not_take_the_collector_away() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--audit-listen", "127.0.0.1:0", "--audit-stale-after", "1s"];
    let collector = start(dir.path(), &flags);
    super::super::full::readiness(&collector, "HTTP/1.1 200 ").await;
    let remark = async |expected: &str| {
        let waited = timeout(SOON, async {
            loop {
                let ready = collector.get("/readyz");
                assert!(ready.starts_with("HTTP/1.1 200 "), "{ready}");
                if ready.lines().any(|line| line.starts_with(expected)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "no {expected:?} in {}", collector.get("/readyz"));
    };
    remark("audit: ready, but nothing was heard yet").await;
    let mut client = Client::plain(collector.audit.unwrap()).await;
    client.post(POST_8).await.unwrap();
    remark("audit: ready, but nothing from webhook 127.0.0.1 of default for ").await;
    let stale = "podtrail_collector_audit_stale{cluster=\"default\",source=\"webhook 127.0.0.1\"}";
    assert_eq!(collector.metric(stale), 1.0);
    assert_eq!(lines(&collector, &["level=warn", "audit is not heard any more", "webhook 127.0.0.1"]), 1);
    client.post(POST_8).await.unwrap();
    assert_eq!(collector.metric(stale), 0.0);
    assert_eq!(lines(&collector, &["audit is heard again"]), 1);
}

#[tokio::test]
async fn while_the_log_cannot_be_written_the_api_server_is_told_to_come_again() {
    use super::super::full::{limit, limited_with, readiness};

    let dir = tempfile::tempdir().unwrap();
    let mut inner = command(dir.path());
    inner.args(["--audit-listen", "127.0.0.1:0"]);
    let collector = limited_with(&inner);
    let mut client = Client::plain(collector.audit.unwrap()).await;
    assert_eq!(client.post(POST_3).await.unwrap().status, 200);
    limit(&collector, Some(0));
    for _ in 0..2 {
        let answer = client.post(POST_5).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (503, "the log cannot be written now: come again\n"));
        assert!(answer.headers.contains("retry-after: 5"), "{answer:?}");
        readiness(&collector, "log: not ready: the log cannot be written: ").await;
    }
    limit(&collector, None);
    readiness(&collector, "log: ready").await;
    for _ in 0..2 {
        assert_eq!(client.post(POST_5).await.unwrap().status, 200);
    }
    assert_eq!(requests(&collector).await.len(), 5);
}

#[tokio::test]
async fn what_clients_make_up_is_kept_as_told_and_moves_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let collector = with_webhook(dir.path());
    let mut client = Client::plain(collector.audit.unwrap()).await;
    let forged = |from: &str, to: &str| String::from_utf8(POST_3.to_vec()).unwrap().replace(from, to);
    // A clock that is nowhere, a pod that is not there, a path that leaves its place, and what a terminal would obey.
    let bodies = [
        forged("\"2026-11-22T19:23:55.492063Z\"", "\"9990-01-01T00:00:00Z\""),
        forged("\"2026-11-22T19:23:55.492063Z\"", "\"0001-01-01T00:00:00Z\""),
        forged("\"2026-11-22T19:23:55.492063Z\"", "\"\\u001b[2J\""),
        forged("web-0", "no-such-pod"),
        forged("container=app", "container=..%2F..%2Fetc&container=app&tty=%1b%5b2J"),
        forged("alice@example.com", "\\u001b]0;root\\u0007\\u202e\\u0000"),
    ];
    for body in &bodies {
        assert_eq!(client.post(body.as_bytes()).await.unwrap().status, 200, "{body}");
    }
    assert_eq!(client.post(POST_5).await.unwrap().status, 200);
    let found = requests(&collector).await;
    let times: Vec<_> = found.iter().map(|r| r.stage_time.as_ref().map(|time| time.seconds)).collect();
    let (real, late, early) = (1_795_375_435, 253_086_768_000, -62_135_596_800);
    assert_eq!(times[..6], [Some(late), Some(early), None, Some(real), Some(real), Some(real)]);
    assert_eq!(found[3].pod, "no-such-pod");
    assert_eq!((found[4].container.as_str(), found[4].tty), ("../../etc", Some(true)));
    assert_eq!(found[5].user.as_ref().unwrap().name, "\u{1b}]0;root\u{7}\u{202e}\0");
    assert_eq!(found.len(), 6 + 4);
    // The log's order is that of arrival, and its own times are the collector's.
    let since = podtrail::trail::Moment::now().before(Duration::from_secs(60)).timestamp();
    let request =
        v1::TailRequest { from: Some(From::Time(since)), follow: Some(false), ..v1::TailRequest::default() };
    let mut tail = collector.trail().await.tail(request).await.unwrap().into_inner();
    let mut logged = 0;
    while let Some(response) = timeout(SOON, tail.message()).await.unwrap().unwrap() {
        logged += usize::from(matches!(response.event.unwrap().body, Some(Body::ApiRequest(_))));
    }
    assert_eq!(logged, 10);
    // None of it comes to a terminal as it is.
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_podtrail"))
        .args([
            "tail",
            "--collector",
            &format!("http://{}", collector.grpc),
            "--from",
            "oldest",
            "--no-follow",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().count() >= 10 && !text.contains(['\u{1b}', '\u{7}', '\u{202e}', '\0']), "{text:?}");
}
