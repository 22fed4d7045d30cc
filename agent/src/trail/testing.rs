//! Events as tests need them.

use podtrail_proto::v1::{self, event::Body};

use super::Moment;

pub(crate) const SECOND: i64 = 1_000_000_000;

/// Number `seq` of `node`, at `at` seconds, with this session (empty: none).
pub(crate) fn event(node: &str, seq: u64, at: i64, session: &str, body: Body) -> v1::Event {
    v1::Event {
        id: Some(v1::EventId { cluster: "c".to_owned(), node: node.to_owned(), epoch: 1, seq }),
        time: Some(Moment(at * SECOND).timestamp()),
        session_id: session.to_owned(),
        body: Some(body),
        ..v1::Event::default()
    }
}

pub(crate) fn started(entered: i64, method: v1::EntryMethod) -> Body {
    Body::SessionStarted(v1::SessionStarted {
        method: Some(method.into()),
        entered: Some(Moment(entered * SECOND).timestamp()),
        ..v1::SessionStarted::default()
    })
}

pub(crate) fn executed(argv: &[&str], root: bool) -> Body {
    Body::Executed(v1::Executed {
        argv: argv.iter().map(|&a| a.to_owned()).collect(),
        root: Some(root),
        ..v1::Executed::default()
    })
}

pub(crate) fn exited() -> Body {
    Body::Exited(v1::Exited::default())
}

pub(crate) fn ended(lost: u64) -> Body {
    Body::SessionEnded(v1::SessionEnded { lost: Some(lost), ..v1::SessionEnded::default() })
}

pub(crate) fn gap(source: v1::GapSource, count: u64, from: i64, to: i64, sessions: &[&str]) -> Body {
    Body::Gap(v1::Gap {
        source: Some(source.into()),
        count: Some(count),
        exact: Some(true),
        from: Some(Moment(from * SECOND).timestamp()),
        to: Some(Moment(to * SECOND).timestamp()),
        session_ids: sessions.iter().map(|&s| s.to_owned()).collect(),
        detail: String::new(),
    })
}

pub(crate) fn container(id: &str, pod: Option<(&str, &str)>) -> v1::Container {
    v1::Container {
        id: id.to_owned(),
        pod: pod.map(|(namespace, name)| v1::Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..v1::Pod::default()
        }),
        ..v1::Container::default()
    }
}
