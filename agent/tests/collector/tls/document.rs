//! What docs/certificates.md says to type, typed.

use super::{super::event, *};

const DOCUMENT: &str = include_str!("../../../../docs/certificates.md");

/// The blocks of this language, one after the other.
fn blocks(language: &str) -> String {
    let begin = format!("```{language}\n");
    let blocks = DOCUMENT.split(&begin).skip(1).filter_map(|rest| rest.split_once("```"));
    blocks.map(|(block, _)| block).collect()
}

#[tokio::test]
async fn certificates_made_as_the_document_says_do_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let made =
        std::process::Command::new("sh").args(["-euc", &blocks("sh")]).current_dir(dir.path()).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let of = |name: &str| {
        let file = |name: String| dir.path().join(name);
        Files {
            ca: file("ca.pem".to_owned()),
            cert: file(format!("{name}.pem")),
            key: file(format!("{name}-key.pem")),
        }
    };
    fs::write(dir.path().join("collector.toml"), blocks("toml")).unwrap();
    let mut command = command(&dir.path().join("data"));
    let Files { ca, cert, key } = of("collector");
    command.arg("--config").arg(dir.path().join("collector.toml"));
    command.arg("--tls-ca").arg(ca).arg("--tls-cert").arg(cert).arg("--tls-key").arg(key);
    let collector = start_with(command);
    let channel_ = channel(&collector, of("node-1")).await.unwrap();
    let (tx, rx) = mpsc::channel(1);
    let hello = v1::Hello { cluster: "prod".to_owned(), ..hello("node-1", 1) };
    let mut event = event("node-1", 1, 1);
    event.id.as_mut().unwrap().cluster = "prod".to_owned();
    let request = v1::ReportRequest { hello: Some(hello), events: vec![event], gone: Vec::new() };
    tx.send(request).await.unwrap();
    let mut answers = IngestClient::new(channel_).report(ReceiverStream::new(rx)).await.unwrap().into_inner();
    assert_eq!(timeout(SOON, answers.message()).await.unwrap().unwrap().unwrap().acked_seq, 1);
    // The principal may list nodes, and not tail.
    let nodes = trail(&collector, of("siem")).await.list_nodes(v1::ListNodesRequest {}).await.unwrap();
    assert_eq!(nodes.into_inner().nodes[0].name, "node-1");
    assert_eq!(code(tail(&collector, of("siem"), From::Oldest(true)).await).0, Code::PermissionDenied);
}
