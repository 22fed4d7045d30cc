//! What objects of the Kubernetes API say, as far as it is kept: bounded, and nothing in them is believed to be there.
//!
//! Each is read by itself: one that cannot be read hides no other. What nobody looks at (images, annotations) is passed over
//! and not built, which is most of a Node.

use std::collections::BTreeMap;

use podtrail_proto::v1;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::choice::Choice;
use crate::trail::Moment;

/// Longest name of an object: what Kubernetes allows.
pub(super) const MAX_NAME: usize = 253;
/// Longest word: a type, a reason, a component.
const MAX_WORD: usize = 256;
/// Longest text for people. Kubernetes cuts an Event's at 1 KiB; a condition's may be anything.
const MAX_TEXT: usize = 4096;
/// Conditions of a node. The log's index knows as many.
const MAX_CONDITIONS: usize = 100;
/// Longest resource version: today they are decimal numbers.
const MAX_VERSION: usize = 128;

/// Why an object is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum ObjectError {
    #[error("it is not what the API says it is: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has no name, or one that none can have")]
    Name,
    #[error("it has no resource version, or one longer than {MAX_VERSION} bytes")]
    Version,
}

/// A condition, as somebody reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reported {
    pub(super) kind: String,
    pub(super) status: String,
    pub(super) reason: String,
    pub(super) message: String,
    /// seconds since 1970
    pub(super) transition: Option<i64>,
    pub(super) heartbeat: Option<i64>,
    pub(super) truncated: bool,
}

/// A Node, with the conditions that are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) conditions: Vec<Reported>,
}

/// An Event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    pub(super) version: String,
    pub(super) time: Option<Moment>,
    pub(super) event: v1::ClusterEvent,
}

/// One page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct Page<'a> {
    #[serde(default)]
    pub(super) metadata: PageMeta,
    #[serde(borrow, default, deserialize_with = "or_default")]
    pub(super) items: Vec<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PageMeta {
    #[serde(deserialize_with = "or_default")]
    pub(super) resource_version: String,
    /// empty: this is the last page
    #[serde(rename = "continue", deserialize_with = "or_default")]
    pub(super) more: String,
}

/// One line of a watch.
#[derive(Debug, Deserialize)]
pub(super) struct Line<'a> {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(borrow)]
    pub(super) object: &'a RawValue,
}

/// Of a bookmark nothing else is looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    namespace: String,
    #[serde(deserialize_with = "or_default")]
    uid: String,
    #[serde(deserialize_with = "or_default")]
    resource_version: String,
    #[serde(deserialize_with = "or_default")]
    creation_timestamp: String,
}

#[derive(Debug, Deserialize)]
struct Bare {
    #[serde(default)]
    metadata: Meta,
}

#[derive(Debug, Deserialize)]
struct RawNode<'a> {
    #[serde(borrow, default)]
    metadata: NodeMeta<'a>,
    #[serde(default, deserialize_with = "or_default")]
    status: RawStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NodeMeta<'a> {
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    resource_version: String,
    #[serde(borrow)]
    managed_fields: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
struct RawStatus {
    #[serde(default, deserialize_with = "or_default")]
    conditions: Vec<RawCondition>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RawCondition {
    #[serde(rename = "type", deserialize_with = "or_default")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    status: String,
    #[serde(deserialize_with = "or_default")]
    reason: String,
    #[serde(deserialize_with = "or_default")]
    message: String,
    // The detector itself calls it `transition`.
    #[serde(alias = "transition", deserialize_with = "or_default")]
    last_transition_time: String,
    #[serde(deserialize_with = "or_default")]
    last_heartbeat_time: String,
}

#[derive(Debug, Deserialize)]
struct Managed<'a> {
    #[serde(default, deserialize_with = "or_default")]
    manager: String,
    #[serde(borrow, default, rename = "fieldsV1")]
    fields: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
struct StatusFields<'a> {
    #[serde(borrow, default, rename = "f:status")]
    status: ConditionFields<'a>,
}

#[derive(Debug, Default, Deserialize)]
struct ConditionFields<'a> {
    #[serde(borrow, default, rename = "f:conditions")]
    conditions: BTreeMap<String, &'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawEvent {
    metadata: Meta,
    #[serde(deserialize_with = "or_default")]
    involved_object: RawInvolved,
    #[serde(deserialize_with = "or_default")]
    reason: String,
    #[serde(deserialize_with = "or_default")]
    message: String,
    #[serde(deserialize_with = "or_default")]
    source: RawSource,
    #[serde(deserialize_with = "or_default")]
    first_timestamp: String,
    #[serde(deserialize_with = "or_default")]
    last_timestamp: String,
    count: Option<i64>,
    #[serde(rename = "type", deserialize_with = "or_default")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    event_time: String,
    #[serde(deserialize_with = "or_default")]
    series: RawSeries,
    #[serde(deserialize_with = "or_default")]
    action: String,
    #[serde(deserialize_with = "or_default")]
    reporting_component: String,
    #[serde(deserialize_with = "or_default")]
    reporting_instance: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawInvolved {
    #[serde(deserialize_with = "or_default")]
    kind: String,
    #[serde(deserialize_with = "or_default")]
    namespace: String,
    #[serde(deserialize_with = "or_default")]
    name: String,
    #[serde(deserialize_with = "or_default")]
    uid: String,
    #[serde(deserialize_with = "or_default")]
    api_version: String,
    #[serde(deserialize_with = "or_default")]
    field_path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RawSource {
    #[serde(deserialize_with = "or_default")]
    component: String,
    #[serde(deserialize_with = "or_default")]
    host: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSeries {
    count: Option<i64>,
    #[serde(deserialize_with = "or_default")]
    last_observed_time: String,
}

/// What is not there may also be `null`.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl Node {
    pub(super) fn parse(json: &str, choice: &Choice) -> Result<Self, ObjectError> {
        let RawNode { metadata, status } = serde_json::from_str(json)?;
        let NodeMeta { name, resource_version, managed_fields } = metadata;
        if !is_name(&name) {
            return Err(ObjectError::Name);
        }
        let owned = match choice.manager() {
            Some(manager) => owned(managed_fields, manager),
            None => Vec::new(),
        };
        let conditions = status.conditions.into_iter();
        let conditions = conditions.filter(|condition| choice.takes(&condition.kind, &owned));
        Ok(Self { name, version: version(resource_version)?, conditions: reported(conditions) })
    }
}

/// Those that somebody reports: the last of each type, bounded.
pub(super) fn reported(conditions: impl Iterator<Item = RawCondition>) -> Vec<Reported> {
    let mut found: Vec<Reported> = Vec::new();
    for condition in conditions.filter(|condition| !condition.kind.is_empty()) {
        let reported = Reported::from(condition);
        if let Some(known) = found.iter_mut().find(|known| known.kind == reported.kind) {
            *known = reported;
        } else if found.len() < MAX_CONDITIONS {
            found.push(reported);
        }
    }
    found
}

impl From<RawCondition> for Reported {
    fn from(raw: RawCondition) -> Self {
        let RawCondition { kind, status, reason, message, last_transition_time, last_heartbeat_time } = raw;
        let mut truncated = false;
        Self {
            kind: cut(kind, MAX_WORD, &mut truncated),
            status: cut(status, MAX_WORD, &mut truncated),
            reason: cut(reason, MAX_WORD, &mut truncated),
            message: cut(message, MAX_TEXT, &mut truncated),
            transition: moment(&last_transition_time).map(seconds),
            heartbeat: moment(&last_heartbeat_time).map(seconds),
            truncated,
        }
    }
}

/// Types of the conditions that this manager wrote, by a Node's managed fields.
fn owned(managed: Option<&RawValue>, manager: &str) -> Vec<String> {
    // Whoever cannot be understood owns nothing.
    let managed: Vec<Managed<'_>> =
        managed.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    let fields = managed.iter().filter(|entry| entry.manager == manager).filter_map(|entry| entry.fields);
    let fields = fields.filter_map(|raw| serde_json::from_str::<StatusFields<'_>>(raw.get()).ok());
    let mut types = Vec::new();
    for StatusFields { status: ConditionFields { conditions } } in fields {
        for key in conditions.keys() {
            #[derive(Deserialize)]
            struct Key {
                r#type: String,
            }
            // `k:{"type":"KernelDeadlock"}`
            let key = key.strip_prefix("k:").and_then(|key| serde_json::from_str::<Key>(key).ok());
            types.extend(key.map(|key| key.r#type));
        }
    }
    types
}

impl Event {
    pub(super) fn parse(json: &str) -> Result<Self, ObjectError> {
        let RawEvent {
            metadata,
            involved_object,
            reason,
            message,
            source,
            first_timestamp,
            last_timestamp,
            count,
            kind,
            event_time,
            series,
            action,
            reporting_component,
            reporting_instance,
        } = serde_json::from_str(json)?;
        let Meta { name, namespace, uid, resource_version, creation_timestamp } = metadata;
        if name.is_empty() {
            return Err(ObjectError::Name);
        }
        let created = moment(&creation_timestamp);
        let first = moment(&first_timestamp).or_else(|| moment(&event_time)).or(created);
        let last = moment(&series.last_observed_time).or_else(|| moment(&last_timestamp)).or(first);
        let count = series.count.or(count).and_then(|count| u64::try_from(count).ok());
        let mut truncated = false;
        let mut word = |text: String| cut(text, MAX_WORD, &mut truncated);
        let RawInvolved { kind: of_kind, namespace: within, name: of, uid: its_uid, api_version, field_path } =
            involved_object;
        let involved = v1::Involved {
            kind: word(of_kind),
            namespace: word(within),
            name: word(of),
            uid: word(its_uid),
            api_version: word(api_version),
            field_path: word(field_path),
        };
        let either = |own: String, other: String| if own.is_empty() { other } else { own };
        let version = version(resource_version)?;
        let event = v1::ClusterEvent {
            namespace: word(namespace),
            name: word(name),
            uid: word(uid),
            resource_version: version.clone(),
            r#type: word(kind),
            reason: word(reason),
            involved: Some(involved),
            component: word(either(source.component, reporting_component)),
            host: word(either(source.host, reporting_instance)),
            action: word(action),
            merged: message.starts_with("(combined from similar events)"),
            mangled: is_mangled(&message),
            message: cut(message, MAX_TEXT, &mut truncated),
            count: Some(count.unwrap_or(1).max(1)),
            first: first.map(Moment::timestamp),
            last: last.map(Moment::timestamp),
            updated: None,
            truncated,
        };
        Ok(Self { version, time: last, event })
    }
}

/// The name of an object that was deleted, and its version.
pub(super) fn deleted(json: &str) -> Result<(String, String), ObjectError> {
    let Bare { metadata: Meta { name, resource_version, .. } } = serde_json::from_str(json)?;
    if !is_name(&name) {
        return Err(ObjectError::Name);
    }
    Ok((name, version(resource_version)?))
}

/// The version that a bookmark stands for.
pub(super) fn bookmark(json: &str) -> Result<String, ObjectError> {
    let Bare { metadata } = serde_json::from_str(json)?;
    version(metadata.resource_version)
}

pub(super) fn version(text: String) -> Result<String, ObjectError> {
    if text.is_empty() || text.len() > MAX_VERSION {
        return Err(ObjectError::Version);
    }
    Ok(text)
}

pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME && !name.chars().any(char::is_control)
}

/// Go's `fmt` says so where a message was taken for its format: `90%!:(MISSING)`, `%!d(string=x)`, `%!(EXTRA int=1)`.
fn is_mangled(message: &str) -> bool {
    message.match_indices("%!").any(|(at, _)| {
        let after = message.get(at + 2..).unwrap_or_default();
        let mut rest = after.chars();
        let open = |c: Option<char>| c == Some('(');
        open(rest.next()) || open(rest.next())
    })
}

fn cut(mut text: String, max: usize, truncated: &mut bool) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        *truncated = true;
    }
    text
}

/// `None`: it is no time.
pub(super) fn moment(text: &str) -> Option<Moment> {
    let time: jiff::Timestamp = text.parse().ok()?;
    Some(Moment(i64::try_from(time.as_nanosecond()).ok()?))
}

/// Whole ones: the API server has no others, so that what the detector itself says is the same.
pub(super) fn seconds(moment: Moment) -> i64 {
    moment.0.div_euclid(1_000_000_000)
}

#[cfg(test)]
#[path = "object_tests.rs"]
pub(super) mod tests;
