//! Who comes in, and as whom.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::{super::event, *};

const NOBODY: &str = "[[principal]]\nname = \"siem\"\nverbs = [\"tail\", \"sessions\"]\nnamespaces = [\"*\"]\nfields = [\"*\"]\n";

#[tokio::test]
async fn without_a_good_certificate_nobody_comes_in() {
    let place = Place::new();
    let collector = place.start(NOBODY);
    let other = Authority::new("other");
    let siem = "podtrail://reader/siem";
    let foreign = place.files("foreign", &other.of(&[siem]));
    let expired = place.files(
        "expired",
        &place.authority.issue(Wanted { uris: &[siem], expires: ended(), ..Wanted::default() }),
    );
    let two = place.files("two", &place.authority.of(&[siem, "podtrail://agent/c/n"]));
    let mut before = 0.0;
    for files in [foreign, expired, two] {
        let why = channel(&collector, files).await.unwrap_err();
        assert!(why.contains("received fatal alert"), "{why}");
        before = more_refused(&collector, "certificate", before).await;
    }
    // No certificate at all.
    let mut roots = RootCertStore::empty();
    let ca = place.authority.pem();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = tokio::net::TcpStream::connect(collector.grpc).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    // With TLS 1.3 the client is done before the server has looked.
    let mut tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
    let error = tls.read_u8().await.unwrap_err().to_string();
    assert!(error.contains("CertificateRequired"), "{error}");
    more_refused(&collector, "no_certificate", 0.0).await;
    // No TLS at all.
    let mut tcp = tokio::net::TcpStream::connect(collector.grpc).await.unwrap();
    tcp.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    _ = tcp.read_to_end(&mut Vec::new()).await;
    more_refused(&collector, "handshake", 0.0).await;
    // All of it came from one address, within a minute.
    assert_eq!(lines(&collector, &["msg=refused", "peer=127.0.0.1"]), 1, "{}", collector.log.lock().unwrap());
    // Those who are welcome are still.
    tail(&collector, place.reader("siem"), From::Oldest(true)).await.unwrap();
}

#[tokio::test]
async fn a_collector_of_another_authority_or_name_is_not_believed() {
    let place = Place::new();
    let collector = place.start(NOBODY);
    let issued = place.authority.of(&["podtrail://reader/siem"]);
    let dir = place.path("credulous");
    issued.write(&dir, &Authority::new("other").pem());
    let error = channel(&collector, files(&dir)).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    drop(collector);
    // An agent's certificate is no collector's, though the authority is the same.
    place.authority.of(&["podtrail://agent/c/n"]).write(&place.path("server"), &place.authority.pem());
    let impostor = place.start(NOBODY);
    let error = channel(&impostor, place.files("good", &issued)).await.unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn an_agent_reports_as_its_own_node_and_nothing_else() {
    let place = Place::new();
    let collector = place.start(NOBODY);
    let own = vec![event("n1", 1, 1), event("n1", 1, 2)];
    assert_eq!(report(&collector, place.agent("n1"), "n1", own.clone()).await.unwrap(), 2);
    for times in [1.0, 2.0] {
        let foreign = report(&collector, place.agent("n2"), "n1", own.clone()).await;
        let (code, why) = code(foreign);
        assert_eq!(code, Code::PermissionDenied);
        assert_eq!(
            why,
            "agent c/n2 may not report as node n1 of cluster c: its certificate does not name that"
        );
        assert_eq!(refused(&collector, "foreign_node"), times);
    }
    told(&collector, &["msg=refused", "peer=\"agent c/n2\"", "reason=foreign_node"], 1).await;
    assert_eq!(lines(&collector, &["msg=refused"]), 1);
    // The same node of another cluster is another node.
    let elsewhere = place.named("podtrail://agent/d/n1");
    assert_eq!(code(report(&collector, elsewhere, "n1", own.clone()).await).0, Code::PermissionDenied);
    // Who reads does not report, and the other way round; who has no name does neither.
    let unnamed = place.files("unnamed", &place.authority.of(&[]));
    for files in [place.reader("siem"), unnamed.clone()] {
        let (code, why) = code(report(&collector, files, "n1", own.clone()).await);
        assert!(code == Code::PermissionDenied && why.contains("podtrail://agent/CLUSTER/NODE"), "{why}");
    }
    for files in [place.agent("n1"), unnamed.clone()] {
        let (code, why) = code(tail(&collector, files, From::Oldest(true)).await);
        assert!(code == Code::PermissionDenied && why.contains("podtrail://reader/PRINCIPAL"), "{why}");
    }
    assert_eq!(refused(&collector, "identity"), 4.0);
    // Health is for everybody with a certificate.
    let mut health =
        tonic_health::pb::health_client::HealthClient::new(channel(&collector, unnamed).await.unwrap());
    let request = tonic_health::pb::HealthCheckRequest { service: "podtrail.v1.Ingest".to_owned() };
    assert_eq!(health.check(request).await.unwrap().into_inner().status, 1);
    // Only what the node itself said is there.
    let mut events = tail(&collector, place.reader("siem"), From::Oldest(true)).await.unwrap();
    for seq in [1, 2] {
        assert_eq!(next(&mut events).await.unwrap().unwrap().id.unwrap().seq, seq);
    }
}

#[tokio::test]
async fn a_kubelets_certificate_is_its_nodes_and_no_readers() {
    let place = Place::new();
    let kubernetes = Authority::new("kubernetes");
    fs::write(place.path("kubernetes.pem"), kubernetes.pem()).unwrap();
    let keys = format!("kubelet-ca = {:?}\nkubelet-cluster = \"c\"\n", place.file("kubernetes.pem"));
    let collector = place.start(&(keys + NOBODY));
    let of = |name: &str, subject| {
        let uris = &["podtrail://reader/siem"];
        let wanted = Wanted { uris, subject: Some(subject), ..Wanted::default() };
        place.files(name, &kubernetes.issue(wanted))
    };
    let kubelet = of("kubelet", ("system:nodes", "system:node:n1"));
    assert_eq!(report(&collector, kubelet.clone(), "n1", vec![event("n1", 1, 1)]).await.unwrap(), 1);
    assert_eq!(code(report(&collector, kubelet.clone(), "n2", vec![]).await).0, Code::PermissionDenied);
    // Whatever else that authority signs: a name of ours in it is not believed.
    assert_eq!(code(tail(&collector, kubelet, From::Oldest(true)).await).0, Code::PermissionDenied);
    let admin = of("admin", ("system:masters", "kubernetes-admin"));
    assert!(tail(&collector, admin, From::Oldest(true)).await.is_err());
    more_refused(&collector, "certificate", 0.0).await;
    // Those of the own authority go on as ever.
    assert_eq!(report(&collector, place.agent("n2"), "n2", vec![event("n2", 1, 1)]).await.unwrap(), 1);
    tail(&collector, place.reader("siem"), From::Oldest(true)).await.unwrap();
}

#[tokio::test]
async fn each_peer_has_so_many_calls_and_messages_are_bounded() {
    let place = Place::new();
    let principals = NOBODY.replace("siem", "other") + NOBODY;
    let collector = place.start(&format!("streams-per-peer = 2\n{principals}"));
    let siem = place.reader("siem");
    let first = tail(&collector, siem.clone(), From::Latest(true)).await.unwrap();
    let _second = tail(&collector, siem.clone(), From::Latest(true)).await.unwrap();
    let (code_, why) = code(tail(&collector, siem.clone(), From::Latest(true)).await);
    assert_eq!(
        (code_, why.as_str()),
        (Code::ResourceExhausted, "reader siem has 2 calls open already: end some, or try later")
    );
    assert_eq!(refused(&collector, "streams"), 1.0);
    tail(&collector, place.reader("other"), From::Latest(true)).await.unwrap();
    drop(first);
    timeout(SOON, async {
        while tail(&collector, siem.clone(), From::Latest(true)).await.is_err() {
            sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    // A message that is too long: of an agent, and of a reader.
    let mut huge = event("n1", 1, 1);
    huge.session_id = "x".repeat(33 << 20);
    let (code_, why) = code(report(&collector, place.agent("n1"), "n1", vec![huge]).await);
    assert!(code_ == Code::OutOfRange && why.contains("too large"), "{code_:?} {why}");
    assert_eq!(refused(&collector, "message_too_long"), 1.0);
    let question = v1::ListSessionsRequest { pod: "x".repeat(1 << 20), ..v1::ListSessionsRequest::default() };
    let answer = trail(&collector, place.reader("other")).await.list_sessions(question).await;
    assert_eq!(code(answer).0, Code::OutOfRange);
    assert_eq!(refused(&collector, "message_too_long"), 2.0);
    told(&collector, &["msg=refused", "reason=message_too_long", "peer=\"agent c/n1\""], 1).await;
}

#[test]
fn without_certificates_a_collector_does_not_leave_loopback_and_bad_ones_are_named() {
    let place = Place::new();
    fs::write(place.path("server/key.pem"), place.server().key).unwrap();
    let mut command = command(&place.path("data"));
    for (flag, file) in [("--tls-ca", "ca"), ("--tls-cert", "cert"), ("--tls-key", "key")] {
        command.arg(flag).arg(place.path(&format!("server/{file}.pem")));
    }
    let (code, why) = super::super::fails(command);
    let (cert, key) = (place.file("server/cert.pem"), place.file("server/key.pem"));
    assert_eq!(
        (code, why.trim_end()),
        (Some(1), format!("podtrail-collector: {key} is not the key of {cert}: write both anew").as_str())
    );
}

#[tokio::test]
async fn the_command_line_shows_its_certificate() {
    let place = Place::new();
    let collector = place.start(NOBODY);
    report(&collector, place.agent("n1"), "n1", vec![event("n1", 1, 1)]).await.unwrap();
    let podtrail = |Files { ca, cert, key }: Files, args: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_podtrail"));
        command.args(args).env("PODTRAIL_COLLECTOR", format!("https://{}", collector.grpc));
        command.env("PODTRAIL_TLS_CA", ca).env("PODTRAIL_TLS_CERT", cert).env("PODTRAIL_TLS_KEY", key);
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let args = ["tail", "--from", "oldest", "--no-follow", "-o", "json"];
    let (code, out, err) = podtrail(place.reader("siem"), &args);
    assert_eq!((code, out.lines().count(), err.as_str()), (Some(0), 1, ""), "{out}");
    assert!(out.contains("\"n1 1 1\""), "{out}");
    let (code, _, err) = podtrail(place.reader("siem"), &["nodes"]);
    assert_eq!(
        (code, err.as_str()),
        (Some(1), "podtrail: \"siem\" may not nodes: its [[principal]] has no such verb\n")
    );
    let (code, _, err) = podtrail(place.reader("stranger"), &args);
    assert!(code == Some(1) && err.contains("\"stranger\" may not tail"), "{err}");
    let expired = place.authority.issue(Wanted { expires: ended(), ..Wanted::default() });
    let (code, _, err) = podtrail(place.files("expired", &expired), &args);
    assert!(code == Some(1) && err.contains("it refuses our certificate (CertificateExpired)"), "{err}");
    let nothing = Files { ca: "/none".into(), ..place.reader("siem") };
    let (code, _, err) = podtrail(nothing, &args);
    assert!(code == Some(1) && err.starts_with("podtrail: cannot read /none: No such file"), "{err}");
}
