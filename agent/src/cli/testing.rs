//! What the tests of several views show.

use podtrail_proto::v1;

/// 2026-11-22T20:14:02Z
pub(super) const BASE: i64 = 1_795_378_442;

/// A session that is over: the runtime's exec, with a terminal, into prod/payments-0/app on n1.
pub(super) fn session(id: &str) -> v1::Session {
    v1::Session {
        id: id.to_owned(),
        node: "n1".to_owned(),
        container: Some(v1::Container {
            id: "0123456789abcdef".to_owned(),
            name: "app".to_owned(),
            pod: Some(v1::Pod {
                namespace: "prod".to_owned(),
                name: "payments-0".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        started: Some(v1::SessionStarted {
            method: Some(v1::EntryMethod::RuntimeExec.into()),
            tty: Some(v1::Tty { name: "pts/0".to_owned(), major: 136, minor: 0 }),
            ..Default::default()
        }),
        ..Default::default()
    }
}
