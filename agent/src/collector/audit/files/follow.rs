//! One step at a time through a file and those that come after it.
//!
//! A step changes nothing until it is accepted: who cannot keep what it found asks again. The next file is, of those that
//! are called as rotation calls them, the one that was written next: so several rotations between two looks are no hole.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::{
    super::event::Batch,
    position::{Position, modified},
};
use crate::{
    telemetry::{Emit as _, audit::FileOpened},
    trail::Moment,
};

/// How much is read at once, where lines are not longer.
const CHUNK: usize = 1 << 20;
/// Files kept open that were written in the same moment as the one that is read.
const MAX_DONE: usize = 64;
/// Files that rotation left.
const MAX_ROTATED: usize = 10_000;

/// What the next part of a file holds.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) batch: Batch,
    pub(super) holes: Vec<Hole>,
    /// after it
    pub(super) position: Position,
    /// in another file
    pub(super) moved: bool,
}

/// Something of it is not there, or is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) count: u64,
    pub(super) exact: bool,
    pub(super) since: Option<Moment>,
    pub(super) why: String,
}

#[derive(Debug)]
struct Open {
    file: File,
    position: Position,
    /// another file has its name now: what it has then is all
    replaced: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    max_line: usize,
    /// where it was before this start
    resume: Option<Position>,
    open: Option<Open>,
    /// what the last step went on to
    next: Option<Open>,
    /// Read, and not to be taken for the next; open, so that no other gets their number.
    done: VecDeque<File>,
}

impl Follower {
    pub(super) fn new(path: PathBuf, resume: Option<Position>, max_line: usize) -> Self {
        Self { path, max_line, resume, open: None, next: None, done: VecDeque::new() }
    }

    /// What comes next; `None`: nothing yet.
    pub(super) fn step(&mut self) -> io::Result<Option<Chunk>> {
        self.next = None;
        if self.open.is_none() {
            return self.begin();
        }
        let Some(open) = &mut self.open else { return Ok(None) };
        if !open.position.is_whole(&open.file)? {
            let since = open.position.written();
            let start = Position::start(&open.file.metadata()?);
            return Ok(Some(hole(start, since, "it was cut: what was not read before is gone")));
        }
        let read = lines(open, self.max_line)?;
        if read.is_some() {
            return Ok(read);
        }
        // Where nothing has its name, the next is being made.
        let named = match fs::metadata(&self.path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        if open.position.names(&named) {
            return Ok(None);
        }
        if !std::mem::replace(&mut open.replaced, true) {
            // The last of it may have been written after it was looked at.
            return Ok(None);
        }
        self.advance()
    }

    /// What the last step found is kept.
    pub(super) fn accept(&mut self, position: Position) {
        if let Some(next) = self.next.take()
            && let Some(before) = self.open.replace(next)
        {
            self.done.push_back(before.file);
            while self.done.len() > MAX_DONE {
                self.done.pop_front();
            }
        }
        self.resume = None;
        if let Some(open) = &mut self.open {
            open.position = position;
        }
    }

    /// The first step after a start.
    fn begin(&mut self) -> io::Result<Option<Chunk>> {
        let Some(resume) = self.resume.clone() else {
            let Some(file) = there(File::open(&self.path))? else { return Ok(None) };
            return self.moved(file, Vec::new()).map(Some);
        };
        for path in self.rotated()?.into_iter().chain([self.path.clone()]) {
            let Some(file) = there(File::open(&path))? else { continue };
            if resume.is_of(&file)? {
                FileOpened { path: &path.display().to_string(), offset: resume.offset }.emit();
                self.open = Some(Open { file, position: resume, replaced: false });
                return self.step();
            }
        }
        // Nobody knows how much of it was not read.
        let why = match self.unread(resume.modified, false)? {
            0 => "the file that was read before is gone, or was cut".to_owned(),
            n => format!("the file that was read before is gone, and {}", compressed(n)),
        };
        let gone = Hole { count: 0, exact: false, since: Some(resume.written()), why };
        let Some(file) = self.after(resume.modified)? else { return Ok(None) };
        self.moved(file, vec![gone]).map(Some)
    }

    /// To the file after this one, which is read to its end.
    fn advance(&mut self) -> io::Result<Option<Chunk>> {
        let Some(open) = &self.open else { return Ok(None) };
        let meta = open.file.metadata()?;
        let now = modified(&meta);
        self.done.retain(|file| file.metadata().is_ok_and(|meta| modified(&meta) == now));
        let left = rest(open, self.max_line)?;
        let Some(file) = self.after(now)? else { return Ok(None) };
        let unread = self.unread(now, meta.nlink() == 0)?;
        let hole = Hole { count: 0, exact: false, since: Some(Moment(now)), why: compressed(unread) };
        let mut chunk = self.moved(file, if unread > 0 { vec![hole] } else { Vec::new() })?;
        match left {
            Left::Nothing => {}
            Left::Line(batch) => chunk.batch = batch,
            Left::Part => chunk.holes.push(Hole {
                count: 1,
                exact: true,
                since: Some(Moment(now)),
                why: "its last line is not whole".to_owned(),
            }),
        }
        Ok(Some(chunk))
    }

    fn moved(&mut self, file: File, holes: Vec<Hole>) -> io::Result<Chunk> {
        let position = Position::start(&file.metadata()?);
        FileOpened { path: &self.path.display().to_string(), offset: 0 }.emit();
        let next = Open { file, position: position.clone(), replaced: false };
        self.next = Some(next);
        Ok(Chunk { batch: Batch::default(), holes, position, moved: true })
    }

    /// The first file that was written after then, or what has the name now.
    fn after(&self, then: i64) -> io::Result<Option<File>> {
        let own = |meta: &fs::Metadata| {
            let is =
                |file: &File| file.metadata().is_ok_and(|m| (m.dev(), m.ino()) == (meta.dev(), meta.ino()));
            self.done.iter().chain(self.open.iter().map(|open| &open.file)).any(is)
        };
        let mut files = Vec::new();
        for path in self.rotated()? {
            let Some(file) = there(File::open(&path))? else { continue };
            let meta = file.metadata()?;
            if modified(&meta) >= then && !own(&meta) {
                files.push((modified(&meta), path, file));
            }
        }
        // Of those of one moment: of logrotate's the highest number, of the API server's the first time.
        files.sort_by_cached_key(|(time, path, _)| (*time, Reverse(number(path)), path.clone()));
        if let Some((_, _, file)) = files.into_iter().next() {
            return Ok(Some(file));
        }
        let Some(file) = there(File::open(&self.path))? else { return Ok(None) };
        Ok((!own(&file.metadata()?)).then_some(file))
    }

    /// Files beside it, called as rotation calls what it leaves. Not those that are compressed.
    fn rotated(&self) -> io::Result<Vec<PathBuf>> {
        let all = self.beside()?.into_iter();
        Ok(all.filter_map(|(path, compressed)| (!compressed).then_some(path)).collect())
    }

    /// How many were written after then and are compressed: nobody reads them. `own`: what was read last is, too, which is
    /// no loss.
    fn unread(&self, then: i64, own: bool) -> io::Result<usize> {
        let all = self.beside()?.into_iter().filter(|(_, compressed)| *compressed);
        let times: Vec<i64> = all.filter_map(|(path, _)| Some(modified(&fs::metadata(path).ok()?))).collect();
        // gzip keeps a file's time; what the API server compresses is of the moment when it did that.
        let counted = own && !times.contains(&then);
        Ok(times.iter().filter(|time| **time > then).count().saturating_sub(usize::from(counted)))
    }

    /// `audit-2026-11-22T19-23-51.075.log` by the API server itself, `audit.log.1` or `audit.log-20261122` by logrotate;
    /// and whether it is compressed, `….gz`.
    fn beside(&self) -> io::Result<Vec<(PathBuf, bool)>> {
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(Vec::new());
        };
        let (name, stem) =
            (name.as_encoded_bytes(), self.path.file_stem().unwrap_or_default().as_encoded_bytes());
        let extension = name.get(stem.len()..).unwrap_or_default();
        let Some(entries) = there(fs::read_dir(folder))? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry?;
            let other = entry.file_name();
            let whole = other.as_encoded_bytes();
            let plain = whole.strip_suffix(b".gz");
            let other = plain.unwrap_or(whole);
            let digit = |rest: &[u8]| rest.first().is_some_and(u8::is_ascii_digit);
            let own = other
                .strip_prefix(stem)
                .and_then(|rest| rest.strip_prefix(b"-"))
                .is_some_and(|rest| digit(rest) && rest.ends_with(extension));
            let others = other
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix(b".").or_else(|| rest.strip_prefix(b"-")))
                .is_some_and(|rest| digit(rest) && rest.iter().all(|c| c.is_ascii_digit() || *c == b'-'));
            if (own || others) && entry.file_type()?.is_file() && found.len() < MAX_ROTATED {
                found.push((entry.path(), plain.is_some()));
            }
        }
        Ok(found)
    }
}

/// What is said of files that were compressed before they were read.
fn compressed(n: usize) -> String {
    let files = if n == 1 { "1 rotated file was".to_owned() } else { format!("{n} rotated files were") };
    format!(
        "{files} compressed before it was read: leave out --audit-log-compress, or have logrotate delay it"
    )
}

/// Logrotate's, which grows with age; 0 for names of other kinds.
fn number(path: &Path) -> u64 {
    let last = path.extension().and_then(|last| last.to_str());
    last.and_then(|last| last.parse().ok()).unwrap_or(0)
}

/// `None`: it is not there.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn hole(position: Position, since: Moment, why: &str) -> Chunk {
    let hole = Hole { count: 0, exact: false, since: Some(since), why: why.to_owned() };
    Chunk { batch: Batch::default(), holes: vec![hole], position, moved: true }
}

/// Reads from there: all there is, up to `max`.
fn read(file: &File, offset: u64, max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; max];
    let mut have = 0;
    while let Some(room) = bytes.get_mut(have..).filter(|room| !room.is_empty()) {
        match file.read_at(room, offset + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}

/// The next whole lines; `None`: there are none.
fn lines(open: &Open, max_line: usize) -> io::Result<Option<Chunk>> {
    let Open { file, position, replaced: _ } = open;
    let mut want = CHUNK.min(max_line + 1);
    loop {
        let bytes = read(file, position.offset, want)?;
        if let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') {
            let mut lines = bytes.get(..end).unwrap_or_default().split(|byte| *byte == b'\n');
            if position.skip {
                _ = lines.next();
            }
            let next = position.at(file, position.offset + end as u64 + 1, false)?;
            return Ok(Some(parse(lines, next)));
        }
        let all = bytes.len() < want;
        if position.skip && !bytes.is_empty() {
            let next = position.at(file, position.offset + bytes.len() as u64, true)?;
            return Ok(Some(Chunk {
                batch: Batch::default(),
                holes: Vec::new(),
                position: next,
                moved: false,
            }));
        }
        if all {
            return Ok(None);
        }
        if want > max_line {
            let next = position.at(file, position.offset + bytes.len() as u64, true)?;
            let hole = Hole {
                count: 1,
                exact: true,
                since: Some(next.written()),
                why: format!("a line has more than {max_line} bytes: raise --audit-max-body"),
            };
            return Ok(Some(Chunk {
                batch: Batch::default(),
                holes: vec![hole],
                position: next,
                moved: false,
            }));
        }
        want = want.saturating_mul(2).min(max_line + 1);
    }
}

fn parse<'a>(lines: impl Iterator<Item = &'a [u8]>, position: Position) -> Chunk {
    let mut batch = Batch::default();
    let (mut bad, mut first) = (0, None);
    for line in lines.filter(|line| !line.trim_ascii().is_empty()) {
        match Batch::parse(line) {
            Ok(one) => batch.and(one),
            Err(e) => {
                bad += 1;
                first.get_or_insert(e);
            }
        }
    }
    let hole = first.map(|e| Hole {
        count: bad,
        exact: true,
        since: Some(position.written()),
        why: format!("a line is no audit event: {e}"),
    });
    Chunk { batch, holes: hole.into_iter().collect(), position, moved: false }
}

/// What stands after the last whole line.
enum Left {
    Nothing,
    Line(Batch),
    Part,
}

fn rest(open: &Open, max_line: usize) -> io::Result<Left> {
    let bytes = read(&open.file, open.position.offset, max_line)?;
    if open.position.skip || bytes.trim_ascii().is_empty() {
        return Ok(Left::Nothing);
    }
    Ok(Batch::parse(&bytes).map_or(Left::Part, Left::Line))
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
