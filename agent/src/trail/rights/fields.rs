//! Which fields of an event are shown, compiled from their names.
//!
//! What is not shown is left out of the encoded message, by the numbers that the description of `podtrail.v1` gives to
//! the names: there is no list of fields here that could forget one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock},
};

use bytes::Bytes;
use podtrail_proto::v1;
use prost::{
    Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field},
};
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// Shown with every event that is shown at all: they tell its place, and nothing of what was done.
const ALWAYS: [&str; 4] = ["id", "time", "boottime_ns", "session_id"];
/// Of a session, likewise.
const ALWAYS_OF_SESSION: [&str; 7] = ["id", "node", "cluster", "start", "end", "last_event", "lost"];

/// Some of the fields of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    event: Mask,
    session: Mask,
}

/// Why a name of a field means none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    /// no such field
    #[error("{name:?}: {within} has no field {field:?}; it has: {known}")]
    Unknown { name: String, within: String, field: String, known: String },
    /// nothing is below it
    #[error("{name:?}: there is nothing below {field:?}: name that")]
    Leaf { name: String, field: String },
    /// always shown
    #[error(
        "{0:?} is always shown, and need not be named: it tells an event's place, and nothing of what was done"
    )]
    Always(String),
    /// the description of podtrail.v1 is damaged
    #[error("the description of podtrail.v1 is damaged: build again")]
    Damaged,
}

/// What is shown of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mask {
    All,
    Nothing,
    /// by number; of those that are not here, nothing
    Some(BTreeMap<u32, Mask>),
}

impl Default for Fields {
    /// None but those that are always shown.
    fn default() -> Self {
        Self::compile([]).unwrap_or(Self { event: Mask::Nothing, session: Mask::Nothing })
    }
}

impl Fields {
    /// All of them, those of later versions too.
    #[must_use]
    pub fn all() -> Self {
        Self { event: Mask::All, session: Mask::All }
    }

    pub(super) fn are_all(&self) -> bool {
        self.event == Mask::All
    }

    /// Those with these names, less those with a `!` before theirs; in any order.
    pub fn compile<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, FieldsError> {
        let types = types()?;
        let mut tree = Rules::default();
        for name in names {
            let (path, shown) = match name.strip_prefix('!') {
                Some(path) => (path, false),
                None => (name, true),
            };
            if path == "*" {
                tree.set(shown);
            } else {
                tree.add(name, path, shown, types)?;
                for again in again(path).into_iter().filter(|_| !shown) {
                    tree.add(name, &again, shown, types)?;
                }
            }
        }
        let mut event = tree.mask(types, &types.event, false);
        if event == Mask::All {
            return Ok(Self::all());
        }
        event.put_attribution(types, &tree);
        let session = session_mask(types, &event);
        event.always(&types.event, &ALWAYS);
        Ok(Self { event, session })
    }

    /// Whether a field and all below it is shown, by its names in the proto.
    #[must_use]
    pub fn show_all_of(&self, path: &[&str]) -> bool {
        types().is_ok_and(|types| *types.below(&self.event, path) == Mask::All)
    }

    /// `None`: nothing of what happened would be left.
    pub(super) fn show(&self, event: Arc<v1::Event>) -> Option<Arc<v1::Event>> {
        if self.are_all() {
            return Some(event);
        }
        event.body.as_ref()?;
        let shown: v1::Event = self.event.apply(&*event)?;
        shown.body.is_some().then(|| Arc::new(shown))
    }

    pub(super) fn show_session(&self, session: &v1::Session) -> Option<v1::Session> {
        self.session.apply(session)
    }
}

impl Mask {
    fn of(&self, field: u32) -> &Self {
        match self {
            Self::Some(fields) => fields.get(&field).unwrap_or(&Self::Nothing),
            whole @ (Self::All | Self::Nothing) => whole,
        }
    }

    fn always(&mut self, message: &DescriptorProto, names: &[&str]) {
        if *self == Self::Nothing {
            *self = Self::Some(BTreeMap::new());
        }
        let Self::Some(fields) = self else { return };
        let named = message.field.iter().filter(|field| names.contains(&field.name()));
        fields.extend(named.map(|field| (number(field), Self::All)));
    }

    /// Whose session an event is of is shown as `attributed` shows it, and not at all to those who may not see users.
    fn put_attribution(&mut self, types: &Types, tree: &Rules) {
        let field = |name: &str| types.event.field.iter().find(|field| field.name() == name);
        let Some((field, message)) = field("attribution").and_then(|f| Some((f, types.of(f)?))) else {
            return;
        };
        let mut fields = BTreeMap::new();
        if *types.below(self, &["attributed", "user"]) != Self::Nothing {
            for field in &message.field {
                let mask = types.below(self, &["attributed", field.name()]).clone();
                fields.insert(number(field), mask);
            }
        }
        let said = tree.below.get(&number(field)).map_or(Self::All, |rules| rules.mask(types, message, true));
        // Without any of it, not even that there is one.
        let mask = match Self::Some(fields).and(&said) {
            Self::Some(fields) if fields.values().all(|mask| *mask == Self::Nothing) => Self::Nothing,
            mask => mask,
        };
        if let Self::Some(event) = self {
            event.insert(number(field), mask);
        }
    }

    /// What both show.
    fn and(self, other: &Self) -> Self {
        match (self, other) {
            (Self::All, mask) => mask.clone(),
            (mask, Self::All) => mask,
            (Self::Nothing, _) | (_, Self::Nothing) => Self::Nothing,
            (Self::Some(fields), Self::Some(_)) => {
                Self::Some(fields.into_iter().map(|(n, mask)| (n, mask.and(other.of(n)))).collect())
            }
        }
    }

    fn apply<M: Message + Default>(&self, message: &M) -> Option<M> {
        let whole = message.encode_to_vec();
        let mut shown = Vec::with_capacity(whole.len());
        self.copy(&whole, &mut shown)?;
        M::decode(Bytes::from(shown)).ok()
    }

    /// Copies what is shown of an encoded message; `None`: it is none.
    fn copy(&self, mut from: &[u8], to: &mut Vec<u8>) -> Option<()> {
        while !from.is_empty() {
            let begin = from;
            let (field, wire) = decode_key(&mut from).ok()?;
            let mask = self.of(field);
            if let (Self::Some(_), WireType::LengthDelimited) = (mask, wire) {
                let len = usize::try_from(decode_varint(&mut from).ok()?).ok()?;
                let (part, rest) = from.split_at_checked(len)?;
                let mut shown = Vec::with_capacity(len);
                mask.copy(part, &mut shown)?;
                encode_key(field, wire, to);
                encode_varint(u64::try_from(shown.len()).ok()?, to);
                to.extend_from_slice(&shown);
                from = rest;
            } else {
                skip_field(wire, field, &mut from, DecodeContext::default()).ok()?;
                if *mask == Self::All {
                    to.extend_from_slice(begin.get(..begin.len() - from.len())?);
                }
            }
        }
        Some(())
    }
}

/// Where the same is said once more: who may not see it there may not see it here.
fn again(path: &str) -> Vec<String> {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let places: &[&str] = match (first, rest.split('.').next().unwrap_or_default()) {
        ("container", _) => &["attributed.container"],
        ("executed", "") => &["exec_failed"],
        ("executed", "process") => &["exec_failed.process"],
        ("executed", "path") => &["exec_failed.path"],
        ("executed", "path_raw" | "pathRaw") => &["exec_failed.path_raw"],
        ("executed", "argv") => &["exec_failed.argv"],
        ("executed", "argv_raw" | "argvRaw") => &["exec_failed.argv_raw"],
        ("executed", "cwd") => &["exec_failed.cwd"],
        ("executed", "cwd_raw" | "cwdRaw") => &["exec_failed.cwd_raw"],
        ("executed", "credentials") => &["exec_failed.credentials"],
        ("attributed", "user") => &[
            "attributed.impersonated",
            "attributed.candidates.user",
            "attributed.candidates.impersonated",
            "api_request.user",
            "api_request.impersonated",
        ],
        ("attributed", "impersonated") => &["attributed.candidates.impersonated", "api_request.impersonated"],
        _ => return Vec::new(),
    };
    let below = match first {
        "container" => rest,
        _ => rest.split_once('.').map_or("", |(_, below)| below),
    };
    places.iter().map(|place| format!("{place}.{below}").trim_end_matches('.').to_owned()).collect()
}

/// Of a session is shown what is shown of the events that it was counted from.
fn session_mask(types: &Types, event: &Mask) -> Mask {
    let of = |path: &[&str]| types.below(event, path).clone();
    let when = |shown: bool| if shown { Mask::All } else { Mask::Nothing };
    let mut session = Mask::Some(BTreeMap::new());
    session.always(&types.session, &ALWAYS_OF_SESSION);
    let parts = [
        ("container", of(&["container"])),
        ("started", of(&["session_started"])),
        ("ended", of(&["session_ended"])),
        ("attributed", of(&["attributed"])),
        (
            "method",
            when(
                of(&["session_started", "method"]) == Mask::All && of(&["attributed", "method"]) == Mask::All,
            ),
        ),
        ("folded", when(of(&["folded", "sessions"]) == Mask::All)),
        ("commands", when(of(&["executed"]) != Mask::Nothing)),
        ("first_command", when(of(&["executed", "argv"]) == Mask::All)),
    ];
    if let Mask::Some(fields) = &mut session {
        for field in &types.session.field {
            let part = parts.iter().find(|(name, _)| *name == field.name());
            if let Some((_, mask)) = part.filter(|(_, mask)| *mask != Mask::Nothing) {
                fields.insert(number(field), mask.clone());
            }
        }
    }
    session
}

/// What was said of a field, and of those below it.
#[derive(Debug, Default)]
struct Rules {
    /// `Some(false)` goes before `Some(true)`
    shown: Option<bool>,
    below: BTreeMap<u32, Rules>,
}

impl Rules {
    fn set(&mut self, shown: bool) {
        self.shown = Some(shown && self.shown != Some(false));
    }

    fn add(&mut self, name: &str, path: &str, shown: bool, types: &Types) -> Result<(), FieldsError> {
        let mut at = self;
        let mut within = Some(&types.event);
        let mut parts = path.split('.').peekable();
        let mut before = "event".to_owned();
        while let Some(part) = parts.next() {
            let message =
                within.ok_or_else(|| FieldsError::Leaf { name: name.to_owned(), field: before.clone() })?;
            let field = message
                .field
                .iter()
                .find(|field| field.json_name() == part || field.name() == part)
                .ok_or_else(|| FieldsError::Unknown {
                    name: name.to_owned(),
                    within: before,
                    field: part.to_owned(),
                    known: names(message),
                })?;
            if std::ptr::eq(message, &raw const types.event) && ALWAYS.contains(&field.name()) {
                return Err(FieldsError::Always(name.to_owned()));
            }
            if parts.peek().is_none() {
                let raw = format!("{}_raw", field.name());
                for field in message.field.iter().filter(|f| f.number == field.number || f.name() == raw) {
                    at.below.entry(number(field)).or_default().set(shown);
                }
                return Ok(());
            }
            at = at.below.entry(number(field)).or_default();
            within = types.of(field);
            before = part.to_owned();
        }
        Ok(())
    }

    fn mask(&self, types: &Types, message: &DescriptorProto, inherited: bool) -> Mask {
        let shown = match self.shown {
            Some(false) => return Mask::Nothing,
            Some(true) => true,
            None => inherited,
        };
        let whole = |shown| if shown { Mask::All } else { Mask::Nothing };
        let mut fields = BTreeMap::new();
        for field in &message.field {
            let mask = match (self.below.get(&number(field)), types.of(field)) {
                (Some(rules), Some(message)) => rules.mask(types, message, shown),
                (Some(Self { shown: Some(here), .. }), None) => whole(*here),
                _ => whole(shown),
            };
            if mask != Mask::Nothing {
                fields.insert(number(field), mask);
            }
        }
        if fields.is_empty() {
            Mask::Nothing
        } else if fields.len() == message.field.len() && fields.values().all(|mask| *mask == Mask::All) {
            Mask::All
        } else {
            Mask::Some(fields)
        }
    }
}

/// The messages of `podtrail.v1`, as its description has them.
#[derive(Debug)]
struct Types {
    messages: HashMap<String, DescriptorProto>,
    event: DescriptorProto,
    session: DescriptorProto,
}

fn types() -> Result<&'static Types, FieldsError> {
    static TYPES: LazyLock<Option<Types>> = LazyLock::new(Types::read);
    TYPES.as_ref().ok_or(FieldsError::Damaged)
}

impl Types {
    fn read() -> Option<Self> {
        let files = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).ok()?;
        let ours = files.file.into_iter().filter(|file| file.package() == "podtrail.v1");
        let messages: HashMap<_, _> = ours
            .flat_map(|file| file.message_type)
            .map(|message| (format!(".podtrail.v1.{}", message.name()), message))
            .collect();
        let event = messages.get(".podtrail.v1.Event")?.clone();
        let session = messages.get(".podtrail.v1.Session")?.clone();
        Some(Self { messages, event, session })
    }

    /// The message that a field is; `None`: it is none of ours.
    fn of(&self, field: &FieldDescriptorProto) -> Option<&DescriptorProto> {
        self.messages.get(field.type_name())
    }

    /// What is shown of a field of an event.
    fn below<'m>(&self, event: &'m Mask, path: &[&str]) -> &'m Mask {
        let mut mask = event;
        let mut within = Some(&self.event);
        for name in path {
            let field = within.and_then(|message| message.field.iter().find(|f| f.name() == *name));
            let Some(field) = field else { return &Mask::Nothing };
            mask = mask.of(number(field));
            within = self.of(field);
        }
        mask
    }
}

fn names(message: &DescriptorProto) -> String {
    message.field.iter().map(FieldDescriptorProto::json_name).collect::<Vec<_>>().join(", ")
}

fn number(field: &FieldDescriptorProto) -> u32 {
    u32::try_from(field.number()).unwrap_or(0)
}
