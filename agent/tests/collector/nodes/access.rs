//! Who asks the API server, and whom the collector takes for it: by TLS, a client's certificate, a command's credential.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};

use super::{
    super::tls::authority::{Authority, Wanted},
    *,
};

/// A cluster's authority, and an API server that takes its clients alone.
async fn cluster() -> (Authority, Server) {
    let authority = Authority::new("kubernetes");
    let own = authority.issue(Wanted { hosts: &["127.0.0.1"], ..Wanted::default() });
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(own.cert.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap(),
        )
        .unwrap();
    let server = Server::start_tls(config).await;
    server.put("nodes", node("n1", &[("X", "True", 10)]));
    (authority, server)
}

/// A collector with this kubeconfig.
fn place(server: &Server, ca: &str, user: &Value, client: Option<(&Authority, &str)>) -> Place {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ca.crt"), ca).unwrap();
    if let Some((authority, name)) = client {
        issue(authority, name, dir.path());
    }
    // As kubectl writes them: relative to the kubeconfig.
    let cluster =
        json!({ "server": format!("https://{}", server.address), "certificate-authority": "ca.crt" });
    let config = server.kubeconfig_of(dir.path(), &cluster, user);
    Place { dir, config }
}

/// A client's certificate and key.
fn issue(authority: &Authority, name: &str, dir: &Path) {
    let issued = authority.issue(Wanted { subject: Some(("podtrail", name)), ..Wanted::default() });
    fs::write(dir.join("client.crt"), &issued.cert).unwrap();
    fs::write(dir.join("client.key"), &issued.key).unwrap();
}

fn by_certificate() -> Value {
    json!({ "client-certificate": "client.crt", "client-key": "client.key" })
}

/// Waits until the API server has seen these.
async fn came(seen: impl Fn() -> Vec<String>, wanted: &[&str]) {
    let end = Instant::now() + SOON;
    while seen() != wanted {
        assert!(Instant::now() < end, "{:?}", seen());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until readiness has this.
async fn remarks(collector: &Collector, wanted: &str) {
    let end = Instant::now() + SOON;
    loop {
        let ready = collector.get("/readyz");
        if ready.contains(wanted) {
            return;
        }
        assert!(Instant::now() < end, "{wanted}\n{ready}\n{}", collector.log.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_a_certificate_and_by_the_next_where_that_is_replaced() {
    let (authority, server) = cluster().await;
    let place = place(&server, &authority.pem(), &by_certificate(), Some((&authority, "first")));
    let collector = place.start();
    until(&collector, &["n1: X FIRST True"]).await;
    assert_eq!(server.names(), ["first"]);
    issue(&authority, "second", place.dir.path());
    server.cut();
    came(|| server.names(), &["first", "second"]).await;
    server.put("nodes", node("n1", &[("X", "False", 20)]));
    until(&collector, &["n1: X RECOVERED False"]).await;
    assert_eq!(server.tokens(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_the_cluster_s_is_told_nothing_and_taken_for_nobody() {
    let (authority, server) = cluster().await;
    let other = Authority::new("another");
    // An API server of another authority; no certificate; one that the API server does not take.
    for (ca, client, why) in [
        (other.pem(), Some((&authority, "me")), "UnknownIssuer"),
        (authority.pem(), None, "CertificateRequired"),
        (authority.pem(), Some((&other, "me")), "UnknownCA"),
    ] {
        let user = if client.is_some() { by_certificate() } else { json!({ "token": "a-token" }) };
        let place = place(&server, &ca, &user, client);
        let collector = place.start();
        remarks(&collector, "nodes are not watched: it cannot be reached: ").await;
        remarks(&collector, why).await;
        assert_eq!(told(&collector).await, [""; 0]);
        assert!(!collector.log.lock().unwrap().contains("level=error"), "each attempt is told of");
        assert!(
            collector.metric("podtrail_collector_watch_errors_total{resource=\"nodes\",reason=\"connect\"}")
                >= 1.0
        );
    }
    assert_eq!((server.asked(), server.tokens(), server.names()), (vec![], vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_what_a_command_says_and_says_anew() {
    let server = Server::start().await;
    server.put("nodes", node("n1", &[("X", "True", 10)]));
    server.want("Bearer one");
    let dir = tempfile::tempdir().unwrap();
    let helper = dir.path().join("helper");
    let token = dir.path().join("token");
    let script = format!(
        "#!/bin/sh\nread -r token <{} || {{ echo no token >&2; exit 3; }}\n\
         echo '{{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{{\"token\":\"'$token'\"}}}}'\n",
        token.display()
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    let exec = json!({ "apiVersion": "client.authentication.k8s.io/v1", "command": helper,
                       "interactiveMode": "Never" });
    let cluster = json!({ "server": format!("http://{}", server.address) });
    let config = server.kubeconfig_of(dir.path(), &cluster, &json!({ "exec": exec }));
    let place = Place { dir, config };
    let collector = place.start();
    // It says nothing yet.
    remarks(&collector, "nodes are not watched: ").await;
    assert_eq!(server.tokens(), [""; 0]);
    fs::write(&token, "one\n").unwrap();
    until(&collector, &["n1: X FIRST True"]).await;
    assert_eq!(server.tokens(), ["Bearer one"]);
    // The API server takes the token no more, and the command has another.
    fs::write(&token, "two\n").unwrap();
    server.want("Bearer two");
    came(|| server.tokens(), &["Bearer one", "Bearer two"]).await;
    server.put("nodes", node("n1", &[("X", "False", 20)]));
    until(&collector, &["n1: X RECOVERED False"]).await;
}
