//! Certificates and rights that change while streams are open.

use std::{os::unix::fs::symlink, time::Duration};

use podtrail::{
    spool::{self, Identity, Spool},
    uplink,
};

use super::{super::event, *};

const SIEM: &str =
    "[[principal]]\nname = \"siem\"\nverbs = [\"tail\"]\nnamespaces = [\"*\"]\nfields = [\"*\"]\n";
const OTHER: &str =
    "[[principal]]\nname = \"other\"\nverbs = [\"tail\"]\nnamespaces = [\"*\"]\nfields = [\"*\"]\n";

/// As Kubernetes does it: files are links into `..data`, which is a link itself, and is swapped.
fn swap(dir: &Path, version: &str, write: impl FnOnce(&Path)) {
    let new = dir.join(version);
    write(&new);
    symlink(version, dir.join("..next")).unwrap();
    fs::rename(dir.join("..next"), dir.join("..data")).unwrap();
    for file in ["ca.pem", "cert.pem", "key.pem"] {
        let link = dir.join(file);
        if !link.is_symlink() {
            _ = fs::remove_file(&link);
            symlink(format!("..data/{file}"), link).unwrap();
        }
    }
}

#[tokio::test]
async fn certificates_change_under_open_streams() {
    let place = Place::new();
    let server = place.path("server");
    swap(&server, "..1", |dir| place.server().write(dir, &place.authority.pem()));
    let collector = place.start(SIEM);
    let siem = place.reader("siem");
    let mut old = tail(&collector, siem.clone(), From::Oldest(true)).await.unwrap();
    report(&collector, place.agent("n"), "n", vec![event("n", 1, 1)]).await.unwrap();
    assert_eq!(next(&mut old).await.unwrap().unwrap().id.unwrap().seq, 1);

    // A key that is not the certificate's: told once, and what was there stays.
    swap(&server, "..2", |dir| {
        place.server().write(dir, &place.authority.pem());
        fs::write(dir.join("key.pem"), place.server().key).unwrap();
    });
    told(&collector, &["cannot be reloaded", "is not the key of"], 1).await;
    tail(&collector, siem.clone(), From::Latest(true)).await.unwrap();

    // A new authority on both sides: those with the new one come in, the stream of before goes on.
    let new = Authority::new("new");
    let issued = new.issue(Wanted { hosts: &["127.0.0.1"], ..Wanted::default() });
    swap(&server, "..3", |dir| issued.write(dir, &new.pem()));
    told(&collector, &["certificates reloaded"], 1).await;
    assert!(tail(&collector, siem, From::Latest(true)).await.is_err());
    let of_new = |name: &str, uri: &str| {
        new.of(&[uri]).write(&place.path(name), &new.pem());
        files(&place.path(name))
    };
    let agent = of_new("new-agent", "podtrail://agent/c/n");
    report(&collector, agent, "n", vec![event("n", 1, 2)]).await.unwrap();
    assert_eq!(next(&mut old).await.unwrap().unwrap().id.unwrap().seq, 2);
    let mut fresh =
        tail(&collector, of_new("new-siem", "podtrail://reader/siem"), From::Oldest(true)).await.unwrap();
    assert_eq!(next(&mut fresh).await.unwrap().unwrap().id.unwrap().seq, 1);
    assert_eq!(lines(&collector, &["cannot be reloaded"]), 1);
    let expiry = collector.metric("podtrail_tls_certificate_expiry_timestamp_seconds ");
    assert!(expiry > 1.8e9, "{expiry}");
}

#[tokio::test]
async fn a_call_ends_with_its_certificate() {
    let place = Place::new();
    let collector = place.start(SIEM);
    let at = SystemTime::now() + Duration::from_secs(3);
    let expires = Some(at);
    let short =
        place.authority.issue(Wanted { uris: &["podtrail://reader/siem"], expires, ..Wanted::default() });
    let mut tail = tail(&collector, place.files("short", &short), From::Latest(true)).await.unwrap();
    let (code, why) = code(next(&mut tail).await);
    assert_eq!(
        (code, why.as_str()),
        (Code::Unauthenticated, "the certificate has expired: connect again with a new one")
    );
    assert!(SystemTime::now() >= at - Duration::from_secs(1));
}

#[tokio::test]
async fn principals_change_while_they_read() {
    let place = Place::new();
    let collector = place.start(&(SIEM.to_owned() + OTHER));
    let mut siem = tail(&collector, place.reader("siem"), From::Latest(true)).await.unwrap();
    let mut other = tail(&collector, place.reader("other"), From::Latest(true)).await.unwrap();
    let path = place.path("collector.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{text}\n[[principal]]\nname = \"wrong\"\nverbs = [\"read\"]\n")).unwrap();
    told(&collector, &["cannot be reloaded", "is none of tail, subscribe, sessions, nodes"], 1).await;
    fs::write(&path, text.replace(SIEM, "")).unwrap();
    told(&collector, &["principals reloaded", "principals=1"], 1).await;
    let (code_, why) = code(next(&mut siem).await);
    assert_eq!(
        (code_, why.as_str()),
        (Code::Unavailable, "the rights of this principal have changed: come again")
    );
    assert_eq!(
        code(tail(&collector, place.reader("siem"), From::Latest(true)).await).0,
        Code::PermissionDenied
    );
    // Who was not meant goes on.
    report(&collector, place.agent("n"), "n", vec![event("n", 1, 1)]).await.unwrap();
    assert_eq!(next(&mut other).await.unwrap().unwrap().id.unwrap().seq, 1);
    assert_eq!(lines(&collector, &["restart the collector"]), 0);
    fs::write(&path, format!("max-age = \"1h\"\n{}", text.replace(SIEM, ""))).unwrap();
    told(&collector, &["restart the collector"], 1).await;
}

#[tokio::test]
async fn an_agent_takes_up_its_new_certificate() {
    let place = Place::new();
    let collector = place.start(SIEM);
    // Its first certificate is another node's: refused, and tried again, until there is a good one.
    let mine = place.files("agent", &place.authority.of(&["podtrail://agent/c/other"]));
    let identity = Identity { cluster: "c".to_owned(), node: "n".to_owned(), epoch: 1 };
    let spool =
        std::sync::Arc::new(Spool::new(identity, spool::Options { max_bytes: 1 << 20, acknowledged: true }));
    let (state, _) = tokio::sync::watch::channel(uplink::State::default());
    let options = uplink::Options {
        collector: format!("https://{}", collector.grpc),
        tls: Some(std::sync::Arc::new(ClientTls::new(mine))),
        hello: hello("n", 1),
        backoff: uplink::Backoff::default(),
    };
    let mut uplink = tokio::spawn(uplink::run(spool, options, state));
    told(&collector, &["msg=refused", "reason=foreign_node"], 1).await;
    place.files("agent", &place.authority.of(&["podtrail://agent/c/n"]));
    told(&collector, &["agent connected", "node=n"], 1).await;
    uplink.abort();
    assert!((&mut uplink).await.is_err());
}
