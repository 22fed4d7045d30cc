//! The subscriber's file: what it got, with the cursor up to which that is, written as one piece.
//!
//! ```text
//! frame   length of the rest u32 · length of the cursor u32 · cursor · SubscribeEvents (protobuf)
//! ```
//! A frame that is not whole was not kept: whoever opens the file to write cuts it away, and asks again from the cursor
//! of the frame before.

use std::{
    fs::File,
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    path::Path,
};

use anyhow::{Context, Result};
use podtrail_proto::v1::SubscribeEvents;
use prost::Message as _;

const WORD: usize = size_of::<u32>();

/// The file, to be written by the one subscriber.
#[derive(Debug)]
pub(crate) struct Keeper {
    file: File,
    /// up to which everything is in the file
    pub(crate) cursor: Option<String>,
}

impl Keeper {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::options().create(true).truncate(false).read(true).write(true).open(path);
        let mut reader = Reader { file: file.context("cannot open the subscriber's file")?, at: 0 };
        let mut cursor = None;
        while let Some((at, _)) = reader.frame(false)? {
            cursor = Some(at);
        }
        let Reader { mut file, at } = reader;
        file.set_len(at)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { file, cursor })
    }

    /// Keeps events, which may be none, up to a cursor.
    pub(crate) fn keep(&mut self, events: &SubscribeEvents, cursor: &str) -> Result<()> {
        let length = |n: usize| u32::try_from(n).map(u32::to_le_bytes).context("a frame too long");
        let mut frame = Vec::new();
        frame.extend_from_slice(&length(WORD + cursor.len() + events.encoded_len())?);
        frame.extend_from_slice(&length(cursor.len())?);
        frame.extend_from_slice(cursor.as_bytes());
        events.encode(&mut frame)?;
        self.file.write_all(&frame).context("cannot write the subscriber's file")?;
        self.cursor = Some(cursor.to_owned());
        Ok(())
    }
}

/// The file, read as it grows.
#[derive(Debug)]
pub(crate) struct Reader {
    file: File,
    at: u64,
}

impl Reader {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        Ok(Self { file: File::open(path).context("cannot open the subscriber's file")?, at: 0 })
    }

    /// What the next frame holds; none: there is no whole frame yet.
    pub(crate) fn next(&mut self) -> Result<Option<SubscribeEvents>> {
        self.frame(true)?.map(|(_, events)| Ok(SubscribeEvents::decode(&*events)?)).transpose()
    }

    /// Cursor and content of the next frame; the content is left out where it is not wanted.
    fn frame(&mut self, content: bool) -> Result<Option<(String, Vec<u8>)>> {
        let size = self.file.metadata()?.len();
        self.file.seek(SeekFrom::Start(self.at))?;
        let (Some(rest), Some(cursor)) = (self.word()?, self.word()?) else { return Ok(None) };
        let next = self.at + WORD as u64 + u64::from(rest);
        if next > size {
            return Ok(None);
        }
        let mut bytes = vec![0; cursor as usize];
        self.file.read_exact(&mut bytes)?;
        let mut events = Vec::new();
        if content {
            events.resize((rest - cursor) as usize - WORD, 0);
            self.file.read_exact(&mut events)?;
        }
        self.at = next;
        Ok(Some((String::from_utf8(bytes)?, events)))
    }

    fn word(&mut self) -> Result<Option<u32>> {
        let mut word = [0; WORD];
        match self.file.read_exact(&mut word) {
            Ok(()) => Ok(Some(u32::from_le_bytes(word))),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use podtrail_proto::v1::Event;

    use super::*;

    fn events(session: &str) -> SubscribeEvents {
        let event = Event { session_id: session.to_owned(), ..Event::default() };
        SubscribeEvents { events: vec![event], cursors: vec![session.to_owned()] }
    }

    #[test]
    fn wherever_it_is_cut_whole_frames_remain_and_it_goes_on_behind_them() {
        let dir = std::env::temp_dir().join(format!("podtrail-kept-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("kept");
        let write = |sessions: &[&str]| {
            let mut keeper = Keeper::open(&path).unwrap();
            for session in sessions {
                keeper.keep(&events(session), session).unwrap();
            }
            std::fs::metadata(&path).unwrap().len()
        };
        let one = write(&["a"]);
        let two = write(&["b"]);
        for cut in one..two {
            File::options().write(true).open(&path).unwrap().set_len(cut).unwrap();
            let mut keeper = Keeper::open(&path).unwrap();
            assert_eq!(keeper.cursor.as_deref(), Some("a"));
            keeper.keep(&events("b"), "b").unwrap();
            let mut reader = Reader::open(&path).unwrap();
            let mut found = Vec::new();
            while let Some(next) = reader.next().unwrap() {
                found.push(next);
            }
            assert_eq!(found, [events("a"), events("b")], "cut at {cut}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}
