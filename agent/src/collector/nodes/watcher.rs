//! Lists what there is, and watches what changes: from where the log says that it was, over restarts of either side.
//!
//! A watch begins at a version, and the API server gives all changes after it, in their order, or says that it has no history
//! so old (410). Then everything is listed, and compared; what was there in between, and is gone, nobody knows: a gap. What
//! was taken, and the version up to which, are written as one (see `intake`).
//!
//! Of Events the API server keeps no cache, and sends no bookmarks: in a quiet cluster the version grows old within minutes,
//! though nothing was missed. So a watch that ended as watches do, and is begun again at once, has no gap: whatever came in these
//! seconds is in the list. Nor has one that is forgotten before it said anything, after a list.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Access, Choice, Patience,
    api::{self, Api, ApiError},
    intake::{Intake, Taken},
    object::{self, Event, Line, Node, ObjectError, Page},
};
use crate::{
    backoff::Backoff,
    telemetry::{
        Component, Emit as _,
        nodes::{Listed, WatchBegan, WatchBroken, WatchLines},
    },
    trail::Moment,
};

const NODES: &str = "/api/v1/nodes";
const EVENTS: &str = "/api/v1/events";
/// Objects on a page; fewer, where they are long.
const PAGE: u32 = 250;
/// Between the end of a watch and the list, where no gap is told.
const AT_ONCE: Duration = Duration::from_secs(10);
/// A server that knows less than it has just listed is asked again later, and one whose watches end at once, too.
const LISTED: Duration = Duration::from_secs(5);
const SHORTEST: Duration = Duration::from_secs(1);
/// Names that are remembered of a list.
const MAX_NAMES: usize = 200_000;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Nodes,
    Events {
        /// only those about nodes
        of_nodes: bool,
    },
}

impl What {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Events { .. } => "events",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Nodes => NODES,
            Self::Events { .. } => EVENTS,
        }
    }

    fn fields(self) -> Option<&'static str> {
        match self {
            Self::Events { of_nodes: true } => Some("involvedObject.kind=Node"),
            Self::Nodes | Self::Events { of_nodes: false } => None,
        }
    }
}

/// Up to where everything is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    pub(super) version: String,
    /// when it was so, unix nanoseconds
    pub(super) at: i64,
}

/// What an object has come to.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Node(Node),
    NodeGone(String),
    /// these are there, and no others
    Only(BTreeSet<String>),
    /// `true`: there was one before; `None`: it was listed
    Event(Box<Event>, Option<bool>),
    /// something is missing
    Gap {
        since: Option<Moment>,
        count: u64,
        why: String,
    },
}

/// See the module.
pub(super) struct Watcher {
    pub(super) what: What,
    pub(super) access: Access,
    pub(super) patience: Patience,
    pub(super) choice: Choice,
    pub(super) intake: Intake,
    pub(super) health: Component,
}

/// Where it is.
#[derive(Debug)]
struct Place {
    /// `None`: nothing was taken ever
    position: Option<Position>,
    /// it has to be listed, for this reason
    list: Option<List>,
    /// when everything up to then was taken: a list, or a watch that ended as watches do, and nothing since
    whole: Option<Instant>,
    page: u32,
}

#[derive(Clone, Debug)]
enum List {
    First,
    /// the history is gone; why, where something may be missing
    Again(Option<String>),
}

/// Why it begins again.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the log cannot be written")]
    Unwritten,
    #[error("the list is damaged: {0}")]
    Object(#[from] ObjectError),
}

impl Watcher {
    /// Until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let first = || Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
        let mut backoff = first();
        let mut told = String::new();
        let mut place = Place { position: None, list: None, whole: None, page: PAGE };
        let mut loaded = false;
        loop {
            if !loaded {
                // What is not on the disk was not taken.
                let Ok(position) = self.intake.position(self.what).await else { return };
                place.list = position.is_none().then_some(List::First);
                (place.position, place.whole, loaded) = (position, None, true);
            }
            let before = place.position.clone();
            let broken = tokio::select! {
                broken = self.once(&mut place) => broken,
                () = stop.cancelled() => return,
            };
            self.intake.down(self.what);
            let (reason, text) = match &broken {
                Broken::Api(error) => (error.reason(), error.to_string()),
                Broken::Unwritten => ("unwritten", broken.to_string()),
                Broken::Object(_) => ("json", broken.to_string()),
            };
            match &broken {
                Broken::Api(ApiError::Long(_)) => place.page = (place.page / 2).max(1),
                Broken::Unwritten => loaded = false,
                Broken::Api(_) | Broken::Object(_) => {}
            }
            place.whole = None;
            if place.position != before {
                backoff = first();
            }
            let wait = backoff.next_wait();
            let same = std::mem::replace(&mut told, text.clone()) == text;
            WatchBroken { what: self.what.name(), reason, error: &text, wait, told: same }.emit();
            self.health.ready_but(format!("{} are not watched: {text}", self.what.name()));
            tokio::select! {
                () = time::sleep(wait) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    async fn once(&self, place: &mut Place) -> Broken {
        let api = match Api::open(&self.access, self.patience).await {
            Ok(api) => api,
            Err(error) => return error.into(),
        };
        loop {
            let mut listed = None;
            if let Some(why) = place.list.clone() {
                if let Err(broken) = self.list(&api, place, why).await {
                    return broken;
                }
                listed = Some(Instant::now());
            }
            let Some(position) = place.position.clone() else { return Broken::Unwritten };
            match self.watch(&api, place, &position.version).await {
                Ok(()) => place.whole = Some(Instant::now()),
                Err(Broken::Api(ApiError::Gone(why))) => {
                    let at_once = place.whole.is_some_and(|whole| whole.elapsed() <= AT_ONCE);
                    place.list = Some(List::Again((!at_once).then(|| why.clone())));
                    place.whole = None;
                    if listed.is_some_and(|listed| listed.elapsed() < LISTED) {
                        return ApiError::Gone(why).into();
                    }
                }
                Err(broken) => return broken,
            }
        }
    }

    /// Everything there is, and from where on to watch.
    async fn list(&self, api: &Api, place: &mut Place, why: List) -> Result<(), Broken> {
        let began = Instant::now();
        let mut more = String::new();
        let mut names = BTreeSet::new();
        let mut version: Option<String> = None;
        let mut count = 0;
        loop {
            let text = match api.list(self.what.path(), self.what.fields(), place.page, &more).await {
                // A list that takes too long is begun again.
                Err(ApiError::Gone(_)) if !more.is_empty() => {
                    (more, version) = (String::new(), None);
                    names.clear();
                    continue;
                }
                text => text?,
            };
            let page: Page<'_> = serde_json::from_slice(&text).map_err(ApiError::from)?;
            // All pages are of the same moment.
            let now = version.get_or_insert(object::version(page.metadata.resource_version)?).clone();
            let before = place.position.as_ref().and_then(|position| before(&position.version, &now));
            count += page.items.len();
            let mut changes = self.page(&page.items, before, &mut names);
            more = page.metadata.more;
            if !more.is_empty() {
                self.take(changes, None).await?;
                continue;
            }
            if self.what == What::Nodes && names.len() < MAX_NAMES {
                changes.push(Change::Only(std::mem::take(&mut names)));
            }
            if let List::Again(Some(why)) = &why {
                let since = place.position.as_ref().map(|position| Moment(position.at));
                let why =
                    format!("{} changed that the API server does not know any more: {why}", self.what.name());
                changes.push(Change::Gap { since, count: 0, why });
            }
            place.position = Some(self.take(changes, Some(now)).await?);
            (place.list, place.whole) = (None, Some(Instant::now()));
            let again = match why {
                List::First => "first",
                List::Again(_) => "gone",
            };
            Listed { what: self.what.name(), why: again, count, took: began.elapsed() }.emit();
            return Ok(());
        }
    }

    /// What a page says. `before`: what has a version up to it was taken.
    fn page(
        &self,
        items: &[&serde_json::value::RawValue],
        before: Option<u64>,
        names: &mut BTreeSet<String>,
    ) -> Vec<Change> {
        let mut changes = Vec::with_capacity(items.len());
        let mut unreadable = Unreadable::default();
        for item in items {
            match self.what {
                What::Nodes => match Node::parse(item.get(), &self.choice) {
                    Ok(node) => {
                        if names.len() < MAX_NAMES {
                            names.insert(node.name.clone());
                        }
                        changes.push(Change::Node(node));
                    }
                    Err(error) => {
                        // It is there all the same.
                        names.extend(object::deleted(item.get()).ok().map(|(name, _)| name));
                        unreadable.add(&error);
                    }
                },
                What::Events { .. } => match Event::parse(item.get()) {
                    Ok(event) => {
                        let old = event
                            .version
                            .parse()
                            .ok()
                            .zip(before)
                            .is_some_and(|(own, to): (u64, _)| own <= to);
                        if !old {
                            changes.push(Change::Event(Box::new(event), None));
                        }
                    }
                    Err(error) => unreadable.add(&error),
                },
            }
        }
        changes.extend(unreadable.gap(self.what));
        changes
    }

    /// Until it ends as watches do.
    async fn watch(&self, api: &Api, place: &mut Place, from: &str) -> Result<(), Broken> {
        let mut watch = api.watch(self.what.path(), self.what.fields(), from).await?;
        WatchBegan { what: self.what.name(), version: from }.emit();
        self.intake.up(self.what);
        self.health.ready();
        let began = Instant::now();
        while let Some(lines) = watch.lines().await? {
            let mut changes = Vec::with_capacity(lines.len());
            let (mut version, mut end) = (None, None);
            let mut unreadable = Unreadable::default();
            let mut bookmarks = 0;
            for line in &lines {
                match self.line(line) {
                    Ok(Said::Change(change, at)) => {
                        changes.push(change);
                        version = Some(at);
                    }
                    Ok(Said::Bookmark(at)) => {
                        version = Some(at);
                        bookmarks += 1;
                    }
                    Ok(Said::Nothing(at)) => version = Some(at),
                    Ok(Said::End(error)) => {
                        end = Some(error);
                        break;
                    }
                    Err(error) => unreadable.add(&error),
                }
            }
            changes.extend(unreadable.gap(self.what));
            WatchLines { what: self.what.name(), lines: lines.len(), bookmarks }.emit();
            if !changes.is_empty() || version.is_some() {
                place.whole = None;
                let version = version.or_else(|| place.position.as_ref().map(|at| at.version.clone()));
                place.position = Some(self.take(changes, version).await?);
            }
            if let Some(error) = end {
                return Err(error.into());
            }
        }
        // It lived to its end: nothing is missing up to here, though nothing may have happened.
        if let Some(position) = place.position.take() {
            place.position = Some(self.take(Vec::new(), Some(position.version)).await?);
        }
        time::sleep(SHORTEST.saturating_sub(began.elapsed())).await;
        Ok(())
    }

    fn line(&self, line: &[u8]) -> Result<Said, ObjectError> {
        let Line { kind, object } = serde_json::from_slice(line)?;
        let object = object.get();
        Ok(match (kind.as_str(), self.what) {
            ("BOOKMARK", _) => Said::Bookmark(object::bookmark(object)?),
            ("ERROR", _) => Said::End(api::refused(object.as_bytes(), 500)),
            ("ADDED" | "MODIFIED", What::Nodes) => {
                let node = Node::parse(object, &self.choice)?;
                let version = node.version.clone();
                Said::Change(Change::Node(node), version)
            }
            ("DELETED", What::Nodes) => {
                let (name, version) = object::deleted(object)?;
                Said::Change(Change::NodeGone(name), version)
            }
            ("ADDED" | "MODIFIED", What::Events { .. }) => {
                let event = Event::parse(object)?;
                let version = event.version.clone();
                Said::Change(Change::Event(Box::new(event), Some(kind == "MODIFIED")), version)
            }
            // They go by themselves, an hour later.
            _ => Said::Nothing(object::bookmark(object)?),
        })
    }

    async fn take(&self, changes: Vec<Change>, version: Option<String>) -> Result<Position, Broken> {
        let at = Moment::now().0;
        let position = version.map(|version| Position { version, at });
        let taken = Taken { what: self.what, changes, position: position.clone() };
        self.intake.take(taken).await.map_err(|_| Broken::Unwritten)?;
        Ok(position.unwrap_or(Position { version: String::new(), at }))
    }
}

/// What a line is.
enum Said {
    Change(Change, String),
    Bookmark(String),
    Nothing(String),
    /// the watch is over
    End(ApiError),
}

/// Objects that cannot be read.
#[derive(Debug, Default)]
struct Unreadable {
    count: u64,
    first: Option<String>,
}

impl Unreadable {
    fn add(&mut self, error: &ObjectError) {
        self.count += 1;
        self.first.get_or_insert_with(|| error.to_string());
    }

    fn gap(self, what: What) -> Option<Change> {
        let why = format!("{} that cannot be read: {}", what.name(), self.first?);
        Some(Change::Gap { since: None, count: self.count, why })
    }
}

/// Versions are decimal numbers that grow, by KEP-5504 and by all that ever was; `None`: these are not, or went back, as after
/// a restored backup.
fn before(taken: &str, now: &str) -> Option<u64> {
    let (taken, now): (u64, u64) = (taken.parse().ok()?, now.parse().ok()?);
    (taken <= now).then_some(taken)
}

#[cfg(test)]
#[path = "watcher_tests.rs"]
mod tests;
