//! Lines of JSON in a file that is rotated: every event once, whatever crashes.
//!
//! ```text
//! events.jsonl                               lines, oldest first; the last one is whole after a start
//! events.jsonl.20261123T104500.123456Z       set aside then: never written again
//! events.jsonl.mark                          {"cursor":"1234-9f3c2a71","inode":42,"offset":8192}
//! ```
//! Invariants:
//! - The mark never says more than the disk has: lines are synced first, then the mark is replaced.
//! - What is in the file behind the mark's offset was written just before a crash; or all that is in it, where the mark
//!   is of the file before. It comes again after it, and is compared with what is there instead of being written twice.
//! - Before a file is set aside the mark says that everything in it is there.
//! - A line that is not whole is cut off at the start: whoever follows the file waits for the newline.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use podtrail_proto::v1::{self, event::Body};
use serde::{Deserialize, Serialize};

use super::{super::subscribe::Delivery, OutputError};
use crate::{
    config::outputs::FileOptions,
    json,
    trail::{Moment, cursor::LogId, log::Cursor},
};

/// Lines are written together up to here.
const BUFFER: usize = 256 * 1024;

/// See the module.
#[derive(Debug)]
pub struct FileSink {
    options: FileOptions,
    log: LogId,
    file: File,
    inode: u64,
    /// length of the file
    offset: u64,
    buffer: Vec<u8>,
    /// lines behind the mark, while what comes is the same as they are
    behind: Option<BufReader<File>>,
    /// the last of which a line is in the file, or in the buffer
    last: Option<Cursor>,
    /// everything up to here is in the file, or is not for it
    passed: Option<Cursor>,
    /// the mark says this
    marked: Option<Cursor>,
}

/// What the mark says.
#[derive(Debug, Deserialize, Serialize)]
struct Mark {
    cursor: String,
    inode: u64,
    offset: u64,
}

impl FileSink {
    /// Goes on with the file as it is, or begins one. Touches the disk, as all of this does.
    pub fn open(options: FileOptions, log: LogId) -> Result<Self, OutputError> {
        let mark = read_mark(&options.path)?;
        let (file, inode, offset) = open(&options.path)?;
        let cursor = mark.as_ref().and_then(|mark| log.parse(&mark.cursor).ok());
        let mut sink = Self {
            options,
            log,
            file,
            inode,
            offset,
            buffer: Vec::new(),
            behind: None,
            last: None,
            passed: None,
            marked: cursor,
        };
        if let Some(Mark { cursor: _, inode, offset }) = mark
            && cursor.is_some()
        {
            let offset = if inode == sink.inode { offset } else { 0 };
            let mut behind = File::open(&sink.options.path).map_err(sink.failed("open"))?;
            behind.seek(SeekFrom::Start(offset)).map_err(sink.failed("read"))?;
            sink.behind = Some(BufReader::new(behind));
        }
        Ok(sink)
    }

    /// Everything up to here is in the file, by the mark.
    #[must_use]
    pub fn has(&self) -> Option<Cursor> {
        self.marked
    }

    /// Appends a line for each event that is not there yet.
    pub fn write(&mut self, events: &[Delivery]) -> Result<(), OutputError> {
        for delivery in events {
            let start = self.buffer.len();
            if let Err(error) = json::push(&mut self.buffer, &*delivery.event) {
                let stands = unwritable(&delivery.event, &error);
                // Its parts are plain text and numbers.
                if json::push(&mut self.buffer, &stands).is_err() {
                    self.buffer.extend_from_slice(b"{}\n");
                }
            }
            if self.is_there(start)? {
                self.buffer.truncate(start);
                self.last = Some(delivery.cursor);
                continue;
            }
            let length = self.offset + self.buffer.len() as u64;
            if length > self.options.max_bytes && self.offset + start as u64 > 0 {
                let line = self.buffer.split_off(start);
                self.rotate()?;
                self.buffer = line;
            }
            self.last = Some(delivery.cursor);
            if self.buffer.len() >= BUFFER {
                self.flush()?;
            }
        }
        self.flush()
    }

    /// Whether the line at `start` of the buffer stands behind the mark, where it is expected.
    fn is_there(&mut self, start: usize) -> Result<bool, OutputError> {
        let Some(behind) = &mut self.behind else { return Ok(false) };
        let wanted = self.buffer.get(start..).unwrap_or_default();
        let mut line = Vec::with_capacity(wanted.len());
        // One byte more than would do, so that no line of any length is read whole.
        let limit = wanted.len() as u64 + 1;
        let read = behind.by_ref().take(limit).read_until(b'\n', &mut line);
        read.map_err(|source| OutputError::File { call: "read", path: self.options.path.clone(), source })?;
        if line == wanted {
            return Ok(true);
        }
        self.behind = None;
        Ok(false)
    }

    /// Everything up to `cursor` was written, or is not for this file.
    pub fn passed(&mut self, cursor: Cursor) {
        self.passed = self.passed.max(Some(cursor));
    }

    /// Makes safe what was written; returns up to where everything is.
    pub fn keep(&mut self) -> Result<Option<Cursor>, OutputError> {
        self.flush()?;
        let Some(passed) = self.passed.filter(|passed| Some(*passed) != self.marked) else { return Ok(None) };
        self.file.sync_data().map_err(self.failed("sync"))?;
        self.mark(passed)?;
        // Somebody else may rotate it as well.
        if fs::metadata(&self.options.path).map_or(true, |meta| meta.ino() != self.inode) {
            (self.file, self.inode, self.offset) = open(&self.options.path)?;
            self.behind = None;
        }
        Ok(Some(passed))
    }

    fn flush(&mut self) -> Result<(), OutputError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.file.write_all(&self.buffer).map_err(self.failed("write"))?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn mark(&mut self, cursor: Cursor) -> Result<(), OutputError> {
        let mark = Mark { cursor: self.log.text(cursor), inode: self.inode, offset: self.offset };
        let (path, new) = (beside(&self.options.path, ".mark"), beside(&self.options.path, ".mark.new"));
        let write = || {
            let mut file = create().truncate(true).open(&new)?;
            file.write_all(&serde_json::to_vec(&mark).map_err(io::Error::other)?)?;
            file.sync_data()?;
            fs::rename(&new, &path)
        };
        write().map_err(|source| OutputError::File { call: "write", path, source })?;
        self.marked = Some(cursor);
        Ok(())
    }

    /// Sets the file aside and begins another. Everything that was written so far is safe before.
    fn rotate(&mut self) -> Result<(), OutputError> {
        self.flush()?;
        self.file.sync_data().map_err(self.failed("sync"))?;
        if let Some(last) = self.last {
            self.mark(last)?;
        }
        // Nothing to set aside where somebody has done so already.
        if fs::metadata(&self.options.path).is_ok_and(|meta| meta.ino() == self.inode) {
            let aside = self.free_name();
            fs::rename(&self.options.path, aside).map_err(self.failed("rename"))?;
        }
        (self.file, self.inode, self.offset) = open(&self.options.path)?;
        self.behind = None;
        self.drop_oldest()
    }

    /// A name by the time that no file has yet.
    fn free_name(&self) -> PathBuf {
        let mut now = Moment::now();
        loop {
            let aside = beside(&self.options.path, &format!(".{}", stamp(now)));
            if !aside.exists() {
                return aside;
            }
            now = Moment(now.0.saturating_add(1000));
        }
    }

    fn drop_oldest(&self) -> Result<(), OutputError> {
        let path = &self.options.path;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let dir = path.parent().unwrap_or(Path::new("/"));
        let mut aside: Vec<PathBuf> = fs::read_dir(dir)
            .map_err(self.failed("list the directory of"))?
            .filter_map(Result::ok)
            .filter(|entry| {
                let other = entry.file_name();
                let stamp = other.to_str().and_then(|other| other.strip_prefix(&name)?.strip_prefix('.'));
                stamp.is_some_and(is_stamp)
            })
            .map(|entry| entry.path())
            .collect();
        aside.sort();
        let surplus = aside.len().saturating_sub(self.options.keep);
        for old in aside.iter().take(surplus) {
            fs::remove_file(old).map_err(self.failed("remove an old part of"))?;
        }
        Ok(())
    }

    fn failed(&self, call: &'static str) -> impl Fn(io::Error) -> OutputError + use<> {
        let path = self.options.path.clone();
        move |source| OutputError::File { call, path: path.clone(), source }
    }
}

/// Opens for appending, without a line that is not whole at its end.
fn open(path: &Path) -> Result<(File, u64, u64), OutputError> {
    let failed = |call| move |source| OutputError::File { call, path: path.to_owned(), source };
    let mut file = create().read(true).append(true).open(path).map_err(failed("open"))?;
    let meta = file.metadata().map_err(failed("open"))?;
    if !meta.is_file() {
        return Err(failed("write")(io::Error::other("it is no regular file")));
    }
    let whole = whole_lines(&mut file, meta.len()).map_err(failed("read"))?;
    if whole < meta.len() {
        file.set_len(whole).map_err(failed("cut the end of"))?;
    }
    Ok((file, meta.ino(), whole))
}

/// Commands and their arguments are nobody else's business.
fn create() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).write(true).mode(0o640);
    options
}

/// Length up to the last newline.
fn whole_lines(file: &mut File, length: u64) -> io::Result<u64> {
    let mut chunk = [0; 4096];
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(chunk.len() as u64);
        let part = chunk.get_mut(..usize::try_from(end - start).unwrap_or(0)).unwrap_or_default();
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn read_mark(path: &Path) -> Result<Option<Mark>, OutputError> {
    let path = beside(path, ".mark");
    match fs::read(&path) {
        // One that is damaged says nothing: the subscription's own place is used.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(OutputError::File { call: "read", path, source }),
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// `20261123T104500.123456Z`: sorts as time does.
fn stamp(now: Moment) -> String {
    jiff::Timestamp::from_nanosecond(now.0.into())
        .unwrap_or_default()
        .strftime("%Y%m%dT%H%M%S%.6fZ")
        .to_string()
}

fn is_stamp(text: &str) -> bool {
    text.len() == "20261123T104500.123456Z".len()
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 => b == b'T',
            15 => b == b'.',
            22 => b == b'Z',
            _ => b.is_ascii_digit(),
        })
}

/// Stands where an event of a newer podtrail should be.
pub(super) fn unwritable(event: &v1::Event, error: &json::JsonError) -> v1::Event {
    let gap = v1::Gap {
        source: Some(v1::GapSource::CollectorStore.into()),
        count: Some(1),
        exact: Some(true),
        from: event.time,
        to: event.time,
        session_ids: Vec::new(),
        detail: error.to_string(),
    };
    v1::Event { id: event.id.clone(), time: event.time, body: Some(Body::Gap(gap)), ..v1::Event::default() }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
