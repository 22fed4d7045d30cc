//! Attach and port-forward start no process: the API server alone knows of them. They become sessions without commands,
//! on no node that is known, whose user is that of the request.

use podtrail_proto::v1::{self, EntryMethod, api_request::Action, event::Body};
use sha2::{Digest as _, Sha256};

use super::{
    Known,
    request::{Request, RequestKey},
    verdict::Conclusion,
};
use crate::trail::Moment;

/// Which kind of session a request is by itself; `None`: none.
#[must_use]
pub fn method(request: &Request) -> Option<EntryMethod> {
    let method = match request.action {
        Action::Attach => EntryMethod::Attach,
        Action::PortForward => EntryMethod::PortForward,
        _ => return None,
    };
    request.went_through().then_some(method)
}

/// The same for the same request, whenever it is asked. Lengths are in it, so that no two requests have one text.
#[must_use]
pub fn id(key: &RequestKey) -> String {
    let RequestKey { cluster, audit_id, user, uri, received } = key;
    let mut hash = Sha256::new();
    for text in [cluster, audit_id, user, uri] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    hash.update(received.0.to_be_bytes());
    let digest = hash.finalize();
    format!("api-{}", data_encoding::HEXLOWER.encode(digest.get(..12).unwrap_or_default()))
}

/// What is not in the log yet of the session that this request is.
#[must_use]
pub fn events(request: &Request, known: Known, now: Moment) -> Vec<v1::Event> {
    let Some(method) = method(request) else { return Vec::new() };
    let event = |time: Moment, body| v1::Event {
        id: Some(v1::EventId { cluster: request.pod.cluster.clone(), node: String::new(), epoch: 0, seq: 0 }),
        time: Some(time.timestamp()),
        container: Some(v1::Container {
            name: request.container.clone(),
            pod: Some(v1::Pod {
                namespace: request.pod.namespace.clone(),
                name: request.pod.name.clone(),
                ..v1::Pod::default()
            }),
            ..v1::Container::default()
        }),
        session_id: id(&request.key),
        body: Some(body),
        ..v1::Event::default()
    };
    let mut events = Vec::new();
    if !known.started {
        let mut evidence = vec![match method {
            EntryMethod::Attach => "a request to attach: it starts no process".to_owned(),
            _ => "a request to forward ports: it starts no process".to_owned(),
        }];
        if request.proxied {
            evidence.push("by way of the proxy of a node or a pod".to_owned());
        }
        let started = v1::SessionStarted {
            method: Some(method.into()),
            evidence,
            interactive: Some(request.tty),
            entered: Some(request.begin().timestamp()),
            exec_audit_id: request.key.audit_id.clone(),
            recovered: Some(false),
            ..v1::SessionStarted::default()
        };
        events.push(event(request.begin(), Body::SessionStarted(started)));
    }
    if !known.attributed {
        let evidence = ["the session is this request itself".to_owned()];
        let conclusion = Conclusion::new(v1::Verdict::Matched, evidence, &[request]);
        events.push(event(now, Body::Attributed(conclusion.message(method, None))));
    }
    if let Some(complete) = request.complete.filter(|_| !known.ended) {
        let ended = v1::SessionEnded {
            duration: Some(complete.since(request.begin()).into()),
            commands: Some(0),
            lost: Some(0),
            ..v1::SessionEnded::default()
        };
        events.push(event(complete, Body::SessionEnded(ended)));
    }
    events
}
