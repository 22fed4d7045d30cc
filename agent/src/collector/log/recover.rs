//! Opening: a log as it was left, one that has lost its end, one that is damaged, none at all.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use fjall::PersistMode;
use podtrail_proto::v1;
use tokio::sync::watch;

use super::{
    DiskLog, Ends, Header, NodeEpoch, Reach, Reached, Store, Stored, TRIMMED, Tail, codec, identity, reach,
    scan::{header, header_at},
    store::{MEMTABLE, OpenError, store_error},
};
use crate::{
    collector::directory::Directory,
    telemetry::{
        Emit as _,
        collector::{JournalSetAside, LogBegunAnew, LogCutShort, SequencesCounted},
    },
    trail::{
        Moment,
        log::{Cursor, Log as _, LogError},
        moment::Clock,
    },
};

impl DiskLog {
    /// Opens the log in a data directory, making both where they are missing. One that is damaged beyond reading is
    /// moved aside.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        Self::open_with(path, Moment::clock(), MEMTABLE)
    }

    pub(super) fn open_with(path: &Path, clock: Clock, memtable: u64) -> Result<Self, LogError> {
        let directory = Directory::open(path)?;
        let reach = Reach::open(&directory.reach())
            .map_err(|source| LogError::io("open", &directory.reach(), source))?;
        let mut known = reach.read();
        let mut lost = None;
        let (store, ends) = match recover(&directory.store(), memtable, known) {
            Ok(recovered) => recovered,
            Err(OpenError::Failed(e)) => return Err(e),
            Err(OpenError::Damaged(why)) => {
                let aside = directory.set_aside((clock)())?;
                JournalSetAside { aside: &aside.display().to_string(), why: &why }.emit();
                match recover(&directory.store(), memtable, known) {
                    Ok(recovered) => recovered,
                    Err(OpenError::Failed(e)) => return Err(e),
                    Err(OpenError::Damaged(why)) => {
                        directory.set_store_aside(&aside)?;
                        lost = Some((known.take(), aside, why));
                        recover(&directory.store(), memtable, None).map_err(OpenError::into_error)?
                    }
                }
            }
        };
        let id = identity::identify(&store.database, &store.state, directory.birth()?)?;
        reach.write(reach::Reached { oldest: ends.oldest, newest: ends.newest });
        let newest = watch::Sender::new(ends.newest);
        let this = Self {
            id,
            store: RwLock::new(Some(Arc::new(store))),
            memtable,
            clock,
            ends: Mutex::new(ends),
            reach,
            writing: Mutex::default(),
            newest,
            directory,
        };
        if let Some((known, aside, why)) = lost {
            this.begun_anew(known, &aside, &why)?;
        }
        Ok(this)
    }

    /// Closes the store and opens it again: after a failed write it takes no other. What it was given and did not
    /// acknowledge may be in it then, or not. Readers wait meanwhile.
    pub fn reopen(&self) -> Result<(), LogError> {
        let _writing = self.write_lock();
        let mut slot = self.store.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = slot.take()
            && let Err(store) = Store::close(store)
        {
            *slot = Some(store);
            return Err(LogError::Store("it is read all the time, and cannot be closed".to_owned()));
        }
        let known = self.reach.read();
        let (store, ends) =
            recover(&self.directory.store(), self.memtable, known).map_err(OpenError::into_error)?;
        let newest = ends.newest;
        *self.ends() = ends;
        *slot = Some(Arc::new(store));
        drop(slot);
        self.reach.write(reach::Reached { oldest: self.ends().oldest, newest });
        self.newest.send_replace(newest);
        // A disk may be read well, and not written.
        let store = self.store()?;
        let mut batch = store.database.batch().durability(Some(PersistMode::SyncData));
        batch.insert(&store.state, TRIMMED, (self.ends().oldest - 1).to_be_bytes());
        batch.commit().map_err(store_error)
    }

    /// `seen` is what somebody who has read all events knows of their nodes. Where the store knows less (a batch's number
    /// in its journal is damaged, and an older batch is taken for the newest), numbers are counted anew.
    pub fn confirm(&self, seen: &[v1::Node]) -> Result<(), LogError> {
        let mut known = self.sequences()?;
        let behind = |node: &v1::Node| {
            let v1::Node { cluster, name, epoch, last_seq, .. } = node.clone();
            let node = NodeEpoch { cluster, node: name, epoch };
            last_seq > known.get(&node).map_or(0, |reached| reached.seq)
        };
        if !seen.iter().any(behind) {
            return Ok(());
        }
        let _writing = self.write_lock();
        let (oldest, newest) = {
            let ends = self.ends();
            (ends.oldest, ends.newest)
        };
        let store = self.store()?;
        count(&store, &mut known, oldest, newest);
        SequencesCounted { nodes: known.len() }.emit();
        write_sequences(&store, &known)
    }

    /// Says, as the first event of this log, that there was another.
    fn begun_anew(&self, known: Option<reach::Reached>, aside: &Path, why: &str) -> Result<(), LogError> {
        let count = known.map_or(0, reach::Reached::count);
        let aside = aside.display().to_string();
        LogBegunAnew { count, aside: &aside, why }.emit();
        let now = (self.clock)();
        let gap = v1::Gap {
            source: Some(v1::GapSource::CollectorStore.into()),
            count: Some(count),
            exact: Some(known.is_some()),
            from: None,
            to: Some(now.timestamp()),
            session_ids: Vec::new(),
            detail: format!("the log before this one is damaged: it was moved to {aside}"),
        };
        let event = v1::Event {
            time: Some(now.timestamp()),
            body: Some(v1::event::Body::Gap(gap)),
            ..v1::Event::default()
        };
        self.append(vec![Arc::new(event)])?;
        Ok(())
    }
}

impl OpenError {
    fn into_error(self) -> LogError {
        match self {
            Self::Damaged(why) => LogError::Store(why),
            Self::Failed(e) => e,
        }
    }
}

/// Opens the store and finds its ends.
fn recover(path: &Path, memtable: u64, known: Option<reach::Reached>) -> Result<(Store, Ends), OpenError> {
    let store = Store::open(path, memtable)?;
    let ends = Ends::recover(&store, known)?;
    heal(&store, &ends).map_err(OpenError::Failed)?;
    Ok((store, ends))
}

impl Ends {
    fn recover(store: &Store, known: Option<reach::Reached>) -> Result<Self, OpenError> {
        let trimmed = store.state.get(TRIMMED).ok().flatten().and_then(|value| codec::cursor(&value));
        let trimmed = trimmed.unwrap_or(0).max(known.map_or(0, |k| k.oldest.saturating_sub(1)));
        let mut ends = Self {
            oldest: trimmed + 1,
            oldest_header: None,
            newest: trimmed,
            newest_logged: Moment::MIN,
            total: 0,
            tail: Tail::default(),
        };
        let last = match store.events.last_key_value().map(fjall::Guard::into_inner) {
            None => None,
            Some(Ok((key, value))) => {
                codec::cursor(&key).zip(Some(Header::decode(&value))).map(|(cursor, h)| {
                    (cursor, h.map(|h| (h, (value.len().saturating_sub(Header::BYTES)) as u64)))
                })
            }
            // Its end cannot be read: what is told outside of it says where that is.
            Some(Err(e)) => match known {
                Some(known) => Some((known.newest, None)),
                None => return Err(OpenError::Damaged(e.to_string())),
            },
        };
        if let Some((newest, header)) = last {
            ends.newest = newest.max(trimmed);
            let last = header.or_else(|| last_readable(store, ends.oldest, newest).map(|h| (h, 0)));
            if let Some((header, bytes)) = last {
                ends.total = header.before.saturating_add(bytes);
                ends.newest_logged = header.logged;
            }
        }
        if let Some(known) = known.filter(|known| known.newest > ends.newest) {
            LogCutShort { from: ends.newest + 1, to: known.newest }.emit();
            ends.newest = known.newest;
        }
        ends.oldest_header = header_at(store, ends.oldest);
        if ends.oldest_header.is_none() && ends.newest >= ends.oldest {
            ends.oldest_header = header(store, ends.oldest, ends.newest);
        }
        Ok(ends)
    }
}

/// The last header before `newest` that can be read, or one near it.
fn last_readable(store: &Store, oldest: Cursor, newest: Cursor) -> Option<Header> {
    let mut step = 1;
    loop {
        let at = newest.checked_sub(step).filter(|at| *at >= oldest)?;
        if let Some(header) = header_at(store, at) {
            return Some(header);
        }
        step = step.saturating_mul(2);
    }
}

/// Numbers and events are written together. Where the store has lost one of them, the events that are there decide:
/// what stands in the log is never taken again.
fn heal(store: &Store, ends: &Ends) -> Result<(), LogError> {
    let (mut known, from) = match read_sequences(store) {
        (known, true) => {
            let last = known.values().map(|reached| reached.cursor).max().unwrap_or(0);
            (known, (last + 1).max(ends.oldest))
        }
        (known, false) => {
            store.sequences.clear().map_err(store_error)?;
            (known, ends.oldest)
        }
    };
    let whole = from > ends.oldest;
    let before = known.clone();
    count(store, &mut known, from, ends.newest);
    if whole && before == known {
        return Ok(());
    }
    write_sequences(store, &known)?;
    if before != known {
        SequencesCounted { nodes: known.len() }.emit();
    }
    Ok(())
}

/// Takes the numbers of the events `from..=to`.
fn count(store: &Store, known: &mut BTreeMap<NodeEpoch, Reached>, from: Cursor, to: Cursor) {
    let mut cursor = from;
    while cursor <= to {
        let value = store.events.get(cursor.to_be_bytes()).ok().flatten();
        if let Some(Stored { header, event }) = value.and_then(|value| Stored::decode(&value).ok())
            && let Some((node, seq)) = NodeEpoch::of(&event)
        {
            let time = event.time.as_ref().map_or(header.logged, Moment::from_timestamp);
            let reached = known.entry(node).or_default();
            if seq > reached.seq {
                *reached = Reached { seq, time, cursor };
            }
        }
        cursor += 1;
    }
}

fn write_sequences(store: &Store, known: &BTreeMap<NodeEpoch, Reached>) -> Result<(), LogError> {
    let mut batch = store.database.batch().durability(Some(PersistMode::SyncData));
    for (node, reached) in known {
        batch.insert(&store.sequences, node.encode(), reached.encode());
    }
    batch.commit().map_err(store_error)
}

/// What of them can be read, and whether that is all.
fn read_sequences(store: &Store) -> (BTreeMap<NodeEpoch, Reached>, bool) {
    let mut all = BTreeMap::new();
    let mut whole = true;
    for item in store.sequences.iter() {
        let Ok((key, value)) = item.into_inner() else { return (all, false) };
        match NodeEpoch::decode(&key).zip(Reached::decode(&value)) {
            Some((node, reached)) => _ = all.insert(node, reached),
            None => whole = false,
        }
    }
    (all, whole)
}

/// How far every node has come.
pub(super) fn sequences(store: &Store) -> Result<BTreeMap<NodeEpoch, Reached>, LogError> {
    match read_sequences(store) {
        (all, true) => Ok(all),
        (_, false) => Err(LogError::Store("a node's sequence number is damaged: start again".to_owned())),
    }
}

impl Directory {
    /// Moves the store's journal away, for whoever can still read something of it: the tables beside it may be whole.
    fn set_aside(&self, now: Moment) -> Result<PathBuf, LogError> {
        let store = self.store();
        let name = format!("store.damaged-{}", now.timestamp().seconds);
        let aside = (0..)
            .map(|n| store.with_file_name(if n == 0 { name.clone() } else { format!("{name}-{n}") }))
            .find(|path| !path.exists())
            .unwrap_or_else(|| store.with_file_name(&name));
        fs::create_dir(&aside).map_err(|source| LogError::io("create", &aside, source))?;
        for entry in fs::read_dir(&store).map_err(|source| LogError::io("read", &store, source))? {
            let path = entry.map_err(|source| LogError::io("read", &store, source))?.path();
            if path.extension().is_some_and(|extension| extension == "jnl")
                && let Some(name) = path.file_name()
            {
                fs::rename(&path, aside.join(name)).map_err(|source| LogError::io("move", &path, source))?;
            }
        }
        Ok(aside)
    }

    /// Moves all of it to where its journal is already.
    fn set_store_aside(&self, aside: &Path) -> Result<(), LogError> {
        let store = self.store();
        fs::rename(&store, aside.join("store")).map_err(|source| LogError::io("move", &store, source))
    }
}
