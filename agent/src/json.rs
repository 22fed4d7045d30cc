//! Canonical protobuf JSON, one message a line.
//!
//! Characters that a terminal must not see are written as JSON's own `\uXXXX`: the value stays the same.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use crate::escape;

/// {0}
#[derive(Debug, thiserror::Error)]
#[error("a message cannot be written as JSON ({0}): it may come from a newer podtrail; upgrade this one")]
pub struct JsonError(String);

/// Appends one message and a newline; nothing where it fails.
pub fn push(out: &mut Vec<u8>, message: &impl Serialize) -> Result<(), JsonError> {
    let start = out.len();
    let written = message.serialize(&mut Serializer::with_formatter(&mut *out, Tame(CompactFormatter)));
    if let Err(error) = written {
        out.truncate(start);
        return Err(JsonError(escape::prose(&error.to_string())));
    }
    out.push(b'\n');
    Ok(())
}

/// Compact, and no character that is not plain.
struct Tame(CompactFormatter);

impl Formatter for Tame {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| !escape::is_plain(*c)) {
            let (plain, after) = rest.split_at(at);
            self.0.write_string_fragment(writer, plain)?;
            let mut escaped = String::new();
            escape::push_json(&mut escaped, c);
            writer.write_all(escaped.as_bytes())?;
            rest = after.get(c.len_utf8()..).unwrap_or_default();
        }
        self.0.write_string_fragment(writer, rest)
    }
}

#[cfg(test)]
mod tests {
    use podtrail_proto::v1;
    use proptest::prelude::*;

    use super::*;

    fn line(message: &impl Serialize) -> String {
        let mut out = Vec::new();
        push(&mut out, message).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn scripts_find_their_fields() {
        let executed = v1::Executed {
            argv: vec!["a".to_owned(), "\u{202e}\u{e0041}\x1b\n".to_owned()],
            argv_bytes: Some(0),
            truncated: Some(false),
            ..Default::default()
        };
        let event = v1::Event {
            session_id: "s1".to_owned(),
            body: Some(v1::event::Body::Executed(executed)),
            ..Default::default()
        };
        assert_eq!(
            line(&event),
            "{\"sessionId\":\"s1\",\"executed\":{\"argv\":[\"a\",\"\\u202e\\udb40\\udc41\\u001b\\n\"],\
             \"argvBytes\":\"0\",\"truncated\":false}}\n"
        );
    }

    #[test]
    fn a_message_that_cannot_be_written_leaves_nothing_behind() {
        let started = v1::SessionStarted { method: Some(99), ..Default::default() };
        let mut out = b"before\n".to_vec();
        let error = push(&mut out, &started).unwrap_err();
        assert!(error.to_string().contains("upgrade"), "{error}");
        assert_eq!(out, b"before\n");
    }

    proptest! {
        #[test]
        fn the_value_stays_the_same(text in any::<String>()) {
            let line = line(&text);
            let read: String = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read, text);
            prop_assert!(line.trim_end_matches('\n').chars().all(escape::is_plain));
        }
    }
}
