//! Audit events of the API server, as it writes them, and what is kept of them.
//!
//! `audit.k8s.io/v1` and `v1beta1` are alike in all that is read here. What is not known is passed over; what is too long
//! is cut, and said to be.

use std::{borrow::Cow, collections::BTreeMap};

use podtrail_proto::{
    Timestamp,
    v1::{self, api_request::Action, event::Body},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{ephemeral, uri};
use crate::{escape, trail::Moment};

/// Bytes of a URI, and of the command in it. The API server's own limit for a request's head is 1 MiB.
const MAX_COMMAND: usize = 1 << 20;
const MAX_URI: usize = 64 * 1024;
/// Of a name, a group, a reason.
const MAX_TEXT: usize = 16 * 1024;
/// Groups of a user, and their extra values.
const MAX_MANY: usize = 4096;
/// All of one request: what a reader cannot be sent is worth nothing.
const MAX_REQUEST: usize = 4 << 20;
/// Of what is quoted in an error.
const MAX_QUOTED: usize = 300;
/// Years 1 to 9999, which is what a protobuf timestamp may say.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// Why something is no audit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// not JSON
    #[error("it is no JSON: {0}")]
    Json(String),
    /// another kind of object
    #[error(
        "it is {kind:?} of {version:?}, and not an EventList or Event of audit.k8s.io/v1 or v1beta1: point the API server's audit here, and nothing else"
    )]
    Kind { kind: String, version: String },
    /// one event cannot be read
    #[error("items[{at}] is no audit event: {why}")]
    Item { at: usize, why: String },
}

/// What one body or line said.
#[derive(Debug, Default, PartialEq)]
pub struct Batch {
    /// those that lead into a container
    pub requests: Vec<v1::ApiRequest>,
    /// all of them
    pub events: u64,
    /// of their stages, by the API server's clock
    pub first: Option<Moment>,
    pub last: Option<Moment>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    #[serde(borrow)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow)]
    api_version: Option<Cow<'a, str>>,
    #[serde(borrow)]
    items: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event<'a> {
    #[serde(rename = "auditID")]
    audit_id: Option<String>,
    stage: Option<String>,
    #[serde(rename = "requestURI")]
    request_uri: Option<String>,
    verb: Option<String>,
    user: Option<User>,
    impersonated_user: Option<User>,
    #[serde(rename = "sourceIPs")]
    source_ips: Option<Vec<String>>,
    user_agent: Option<String>,
    object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
    #[serde(borrow)]
    request_object: Option<&'a RawValue>,
    request_received_timestamp: Option<String>,
    stage_timestamp: Option<String>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct User {
    username: Option<String>,
    uid: Option<String>,
    groups: Option<Vec<String>>,
    extra: Option<BTreeMap<String, Option<Vec<String>>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef {
    resource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    api_group: Option<String>,
    subresource: Option<String>,
}

#[derive(Deserialize)]
struct ResponseStatus {
    code: Option<i32>,
}

impl Batch {
    /// Reads a body: an `EventList`, or one `Event`.
    pub fn parse(body: &[u8]) -> Result<Self, AuditError> {
        let Head { kind, api_version, items } = serde_json::from_slice(body).map_err(|e| json(&e))?;
        let (kind, version) = (kind.unwrap_or_default(), api_version.unwrap_or_default());
        let mut batch = Self::default();
        match (&*version, &*kind) {
            ("audit.k8s.io/v1" | "audit.k8s.io/v1beta1", "EventList") => {
                // Nobody else keeps them: one at a time, so that only what is kept takes memory.
                let Some(items) = items else { return Ok(batch) };
                let mut list = serde_json::Deserializer::from_str(items.get());
                let read = serde::Deserializer::deserialize_option(&mut list, Items(&mut batch));
                read.map_err(|e| AuditError::Item { at: index(&batch), why: quoted(&e.to_string()) })?;
            }
            ("audit.k8s.io/v1" | "audit.k8s.io/v1beta1", "Event") => {
                batch.add(serde_json::from_slice(body).map_err(|e| json(&e))?);
            }
            _ => return Err(AuditError::Kind { kind: quoted(&kind), version: quoted(&version) }),
        }
        Ok(batch)
    }

    fn add(&mut self, event: Event<'_>) {
        self.events += 1;
        if let Some(stage) =
            event.stage_timestamp.as_deref().and_then(time).map(|t| Moment::from_timestamp(&t))
        {
            self.first = Some(self.first.map_or(stage, |first| first.min(stage)));
            self.last = Some(self.last.map_or(stage, |last| last.max(stage)));
        }
        self.requests.extend(request(event));
    }

    /// What both said.
    pub(super) fn and(&mut self, other: Self) {
        let Self { requests, events, first, last } = other;
        self.requests.extend(requests);
        self.events += events;
        self.first = self.first.into_iter().chain(first).min();
        self.last = self.last.into_iter().chain(last).max();
    }
}

/// The list's items, as they come.
struct Items<'b>(&'b mut Batch);

impl<'de> serde::de::Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of audit events")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: serde::Deserializer<'de>>(self, list: D) -> Result<(), D::Error> {
        list.deserialize_seq(self)
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(event) = list.next_element()? {
            self.0.add(event);
        }
        Ok(())
    }
}

fn index(batch: &Batch) -> usize {
    usize::try_from(batch.events).unwrap_or(usize::MAX)
}

fn json(e: &serde_json::Error) -> AuditError {
    AuditError::Json(quoted(&e.to_string()))
}

/// Fit for an answer and a log: an error quotes what it found.
fn quoted(text: &str) -> String {
    escape::guard(text.get(..text.floor_char_boundary(MAX_QUOTED)).unwrap_or_default()).into_owned()
}

fn time(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    let time = Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() };
    (SECONDS.contains(&time.seconds) && time.nanos >= 0).then_some(time)
}

/// Texts, cut where they are too long, or too many.
struct Cutter {
    cut: bool,
    left: usize,
}

impl Cutter {
    fn new() -> Self {
        Self { cut: false, left: MAX_REQUEST }
    }

    fn text(&mut self, text: Option<String>, max: usize) -> String {
        let mut text = text.unwrap_or_default();
        let max = max.min(self.left);
        if text.len() > max {
            text.truncate(text.floor_char_boundary(max));
            text.shrink_to_fit();
            self.cut = true;
        }
        self.left -= text.len();
        text
    }

    fn name(&mut self, text: Option<String>) -> String {
        self.text(text, MAX_TEXT)
    }

    fn names(&mut self, names: Option<Vec<String>>) -> Vec<String> {
        let mut names = names.unwrap_or_default();
        self.cut |= names.len() > MAX_MANY;
        names.truncate(MAX_MANY);
        names.into_iter().map(|name| self.name(Some(name))).collect()
    }

    fn user(&mut self, user: Option<User>) -> Option<v1::User> {
        let User { username, uid, groups, extra } = user?;
        let extra = extra.unwrap_or_default();
        self.cut |= extra.len() > MAX_MANY;
        let mut extra: Vec<_> = extra.into_iter().take(MAX_MANY).collect();
        let mut left = MAX_MANY;
        let extra = extra.drain(..).map(|(key, values)| {
            let mut values = values.unwrap_or_default();
            self.cut |= values.len() > left;
            values.truncate(left);
            left -= values.len();
            v1::Extra { key: self.name(Some(key)), values: self.names(Some(values)) }
        });
        let extra = extra.collect();
        Some(v1::User { name: self.name(username), uid: self.name(uid), groups: self.names(groups), extra })
    }
}

/// What is kept of an event; `None`: it leads into no container.
fn request(event: Event<'_>) -> Option<v1::ApiRequest> {
    let Event {
        audit_id,
        stage,
        request_uri,
        verb,
        user,
        impersonated_user,
        source_ips,
        user_agent,
        object_ref,
        response_status,
        request_object,
        request_received_timestamp,
        stage_timestamp,
        annotations,
    } = event;
    let uri = request_uri.unwrap_or_default();
    let verb = verb.unwrap_or_default();
    let object = object_ref.unwrap_or_default();
    let found = Found::of(&object, &verb, &uri)?;
    let mut cutter = Cutter::new();
    let mut request = v1::ApiRequest { action: Some(found.action().into()), ..v1::ApiRequest::default() };
    let ObjectRef { resource: _, namespace, name, api_group: _, subresource: _ } = object;
    match found {
        Found::Pod(action) => {
            request.namespace = cutter.name(namespace);
            request.pod = cutter.name(name);
            match action {
                Action::EphemeralContainer => ephemeral::read(request_object, &mut request),
                Action::Exec | Action::Attach => streams(&uri, &mut request, false),
                Action::Unspecified | Action::PortForward | Action::NodeProxy => {}
            }
        }
        Found::Kubelet(call, node) => {
            request.node = cutter.name(node);
            if let Some(uri::Kubelet { run, namespace, pod, container }) = call {
                request.namespace = cutter.name(Some(namespace));
                request.pod = cutter.name(Some(pod));
                streams(&uri, &mut request, run);
                request.container = cutter.name(Some(container));
            }
        }
    }
    request.container = cutter.name(Some(std::mem::take(&mut request.container)));
    bound_command(&mut request.command, &mut cutter);
    request.ephemeral_containers = cutter.names(Some(std::mem::take(&mut request.ephemeral_containers)));
    request.target_container = cutter.name(Some(std::mem::take(&mut request.target_container)));
    let mut annotations = annotations.unwrap_or_default();
    request.decision = cutter.name(annotations.remove("authorization.k8s.io/decision"));
    request.reason = cutter.name(annotations.remove("authorization.k8s.io/reason"));
    request.audit_id = cutter.name(audit_id);
    request.stage = cutter.name(stage);
    request.verb = cutter.name(Some(verb));
    request.request_uri = cutter.text(Some(uri), MAX_URI);
    request.user = cutter.user(user);
    request.impersonated = cutter.user(impersonated_user);
    request.source_ips = cutter.names(source_ips);
    request.user_agent = cutter.name(user_agent);
    request.code = response_status.and_then(|status| status.code);
    request.received = request_received_timestamp.as_deref().and_then(time);
    request.stage_time = stage_timestamp.as_deref().and_then(time);
    request.truncated = cutter.cut;
    Some(request)
}

fn bound_command(command: &mut Vec<String>, cutter: &mut Cutter) {
    let all = MAX_COMMAND.min(cutter.left);
    let mut left = all;
    // An empty argument takes two bytes as well.
    let fits = command.iter().take_while(|argument| {
        let bytes = argument.len() + 2;
        let fits = bytes <= left;
        if fits {
            left -= bytes;
        }
        fits
    });
    let fits = fits.count();
    cutter.left -= all - left;
    cutter.cut |= fits < command.len();
    command.truncate(fits);
}

/// Why a request is kept.
enum Found {
    Pod(Action),
    /// to the kubelet, past the API server's own rules; the node's name, where it was asked by that
    Kubelet(Option<uri::Kubelet>, Option<String>),
}

impl Found {
    fn of(object: &ObjectRef, verb: &str, uri: &str) -> Option<Self> {
        if object.api_group.as_deref().is_some_and(|group| !group.is_empty()) {
            return None;
        }
        let action = match (object.resource.as_deref()?, object.subresource.as_deref()?) {
            ("pods", "exec") => Action::Exec,
            ("pods", "attach") => Action::Attach,
            ("pods", "portforward") => Action::PortForward,
            ("pods", "ephemeralcontainers") => Action::EphemeralContainer,
            ("nodes", "proxy") => {
                let path = uri::behind_proxy(uri, false);
                let node = object.name.as_deref().map(|name| uri::proxied(name).to_owned());
                let measuring = verb == "get" && uri::is_measuring(&path);
                return (!measuring).then(|| Self::Kubelet(uri::kubelet(&path), node));
            }
            ("pods" | "services", "proxy") => {
                return Some(Self::Kubelet(Some(uri::kubelet(&uri::behind_proxy(uri, true))?), None));
            }
            _ => return None,
        };
        // Who only looks at them changes nothing.
        (action != Action::EphemeralContainer || verb != "get").then_some(Self::Pod(action))
    }

    fn action(&self) -> Action {
        match self {
            Self::Pod(action) => *action,
            Self::Kubelet(..) => Action::NodeProxy,
        }
    }
}

/// What an exec or attach asks for. The kubelet has other names for the same.
fn streams(uri: &str, request: &mut v1::ApiRequest, run: bool) {
    (request.stdin, request.tty) = (Some(false), Some(false));
    // Of several values the first counts, but for the command.
    let mut seen = [false; 5];
    let mut first = |at: usize| !std::mem::replace(&mut seen[at], true);
    for (name, value) in uri::parameters(uri) {
        match &*name {
            "command" if !run => request.command.push(value.into_owned()),
            "cmd" if run && first(0) => request.command = value.split(' ').map(str::to_owned).collect(),
            "container" if first(0) => request.container = value.into_owned(),
            "stdin" | "input" if first(1) => request.stdin = Some(uri::is_true(&value)),
            "stdout" | "output" if first(2) => request.stdout = Some(uri::is_true(&value)),
            "stderr" | "error" if first(3) => request.stderr = Some(uri::is_true(&value)),
            "tty" if first(4) => request.tty = Some(uri::is_true(&value)),
            _ => {}
        }
    }
}

/// A request as an event of the log.
pub(super) fn message(cluster: &str, source: &str, request: v1::ApiRequest) -> v1::Event {
    let mut request = request;
    source.clone_into(&mut request.source);
    let pod =
        v1::Pod { namespace: request.namespace.clone(), name: request.pod.clone(), ..v1::Pod::default() };
    let name = match request.ephemeral_containers.as_slice() {
        [only] => only,
        _ => &request.container,
    };
    let container = v1::Container { name: name.clone(), pod: Some(pod), ..v1::Container::default() };
    v1::Event {
        id: Some(v1::EventId { cluster: cluster.to_owned(), ..v1::EventId::default() }),
        time: request.stage_time.or(request.received),
        // Of no namespace: only for those who may see all of them.
        container: (!request.namespace.is_empty()).then_some(container),
        body: Some(Body::ApiRequest(request)),
        ..v1::Event::default()
    }
}

#[cfg(test)]
#[path = "event_tests.rs"]
mod tests;
