//! Makes bytes from a kernel, a container or a server fit for a terminal or a log, so that a reader can tell exactly
//! what they were.
//!
//! Never lets through a control character, an invalid byte, or a character that is invisible, reorders text or joins
//! the one before it. What is shown differently from what it is begins with a backslash.

use std::{borrow::Cow, fmt::Write as _};

use unicode_width::UnicodeWidthChar as _;

/// Whether a character may stand for itself: it has a shape and a width of its own, and changes no other.
#[must_use]
pub fn is_plain(c: char) -> bool {
    match c {
        ' '..='~' => true,
        // Letters and a symbol that look like nothing at all.
        '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}' => false,
        // The standard library escapes exactly controls, format characters, odd spaces, unassigned and private
        // ones, and marks that join the character before.
        _ => !c.is_ascii() && c.escape_debug().len() == 1 && c.width().is_some_and(|width| width > 0),
    }
}

/// Columns that plain text takes.
#[must_use]
pub fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// One word, quoted as a shell would want it, so that words joined by spaces can be told apart again.
///
/// Bare where nothing in it is special; `''`, `'a b'`, `"it's"`; else `$'…'` with `\n`, `\x1b` (a control or a byte
/// that is not UTF-8), `\u{202e}` (a character not to be shown), `\\` and `\'`.
#[must_use]
pub fn word(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    push_word(&mut out, bytes);
    out
}

/// Appends what [`word`] gives.
pub fn push_word(out: &mut String, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.chars().all(is_plain));
    match text {
        Some("") => out.push_str("''"),
        Some(text) if text.chars().all(is_bare) => out.push_str(text),
        Some(text) if !text.contains('\'') => {
            out.push('\'');
            out.push_str(text);
            out.push('\'');
        }
        Some(text) if !text.contains(['"', '$', '`', '\\', '!']) => {
            out.push('"');
            out.push_str(text);
            out.push('"');
        }
        _ => {
            out.push_str("$'");
            push_escaped(out, bytes, Some('\''));
            out.push('\'');
        }
    }
}

/// A name that stands alone in a column: like [`word`], `-` where it is empty.
#[must_use]
pub fn name(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { word(text.as_bytes()) }
}

/// Running text, such as a message: spaces stay, a backslash is doubled, the rest is as in [`word`].
#[must_use]
pub fn prose(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_escaped(&mut out, text.as_bytes(), None);
    out
}

/// The last guard before a terminal or a log: one line in which what is not plain is escaped, and what the functions
/// above made is left alone.
#[must_use]
pub fn guard(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_plain(c) {
            out.push(c);
        } else {
            push_char(&mut out, c);
        }
    }
    Cow::Owned(out)
}

/// Text as the value of a `key=value` pair, one [`guard`]ed line: quoted where it could be mistaken for something else.
#[must_use]
pub fn value(text: &str) -> Cow<'_, str> {
    let bare = |c| is_plain(c) && !matches!(c, ' ' | '"' | '=' | '\\');
    if !text.is_empty() && text.chars().all(bare) {
        return Cow::Borrowed(text);
    }
    let quoted = text.replace('\\', "\\\\").replace('"', "\\\"");
    Cow::Owned(format!("\"{}\"", guard(&quoted)))
}

/// Appends a character as JSON's own `\uXXXX`: the string's value stays the same.
pub fn push_json(out: &mut String, c: char) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let _ = write!(out, "\\u{unit:04x}"); // into a String: cannot fail
    }
}

/// Characters that no shell takes for something else. `…` is not one: bare, it says that something was left out.
fn is_bare(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric()
            || matches!(c, '_' | '@' | '%' | '+' | '=' | ':' | ',' | '.' | '/' | '-' | '^')
    } else {
        c.is_alphanumeric()
    }
}

fn push_escaped(out: &mut String, bytes: &[u8], quote: Option<char>) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || Some(c) == quote {
                out.push('\\');
                out.push(c);
            } else if is_plain(c) {
                out.push(c);
            } else {
                push_char(out, c);
            }
        }
        for byte in chunk.invalid() {
            push_hex(out, *byte);
        }
    }
}

fn push_char(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        _ => match u8::try_from(c) {
            Ok(byte) if c.is_ascii() => push_hex(out, byte),
            _ => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c)); // into a String: cannot fail
            }
        },
    }
}

fn push_hex(out: &mut String, byte: u8) {
    let _ = write!(out, "\\x{byte:02x}"); // into a String: cannot fail
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    /// Reads words back, as a shell would, and with `\u{…}`.
    fn parse(text: &str) -> Vec<Vec<u8>> {
        let mut words = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(first) = chars.next() {
            let mut word = Vec::new();
            let push = |word: &mut Vec<u8>, c: char| word.extend(c.to_string().bytes());
            match (first, chars.peek()) {
                ('\'' | '"', _) => loop {
                    match chars.next().unwrap() {
                        c if c == first => break,
                        c => push(&mut word, c),
                    }
                },
                ('$', Some('\'')) => {
                    chars.next();
                    loop {
                        match chars.next().unwrap() {
                            '\'' => break,
                            '\\' => match chars.next().unwrap() {
                                'n' => word.push(b'\n'),
                                'r' => word.push(b'\r'),
                                't' => word.push(b'\t'),
                                'x' => {
                                    let hex: String =
                                        [chars.next().unwrap(), chars.next().unwrap()].iter().collect();
                                    word.push(u8::from_str_radix(&hex, 16).unwrap());
                                }
                                'u' => {
                                    assert_eq!(chars.next(), Some('{'));
                                    let hex: String = chars.by_ref().take_while(|c| *c != '}').collect();
                                    push(
                                        &mut word,
                                        char::from_u32(u32::from_str_radix(&hex, 16).unwrap()).unwrap(),
                                    );
                                }
                                c @ ('\\' | '\'') => push(&mut word, c),
                                c => panic!("unknown escape {c:?}"),
                            },
                            c => push(&mut word, c),
                        }
                    }
                }
                (c, _) => {
                    push(&mut word, c);
                    while let Some(c) = chars.next_if(|c| *c != ' ') {
                        push(&mut word, c);
                    }
                }
            }
            words.push(word);
            assert!(matches!(chars.next(), None | Some(' ')), "words are one space apart: {text:?}");
        }
        words
    }

    /// Bytes that like to cause trouble, among any others.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<Vec<u8>>(),
            any::<String>().prop_map(String::into_bytes),
            prop::sample::select(vec![
                "\x1b[2J",
                "\n",
                "\r",
                "\t",
                "\0",
                "'",
                "\"",
                "\\",
                "$'",
                "!",
                "`",
                " ",
                "\u{202e}",
                "\u{2066}",
                "\u{200b}",
                "\u{85}",
                "\u{9b}",
                "\u{7f}",
                "\u{feff}",
                "\u{e0041}",
                "\u{301}",
                "\u{3164}",
                "\u{a0}",
                "…",
                "\\x1b",
                "é",
                "日本",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
        ];
        vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn words_can_be_told_apart_again(argv in vec(hostile(), 0..5)) {
            let line: Vec<String> = argv.iter().map(|arg| word(arg)).collect();
            prop_assert_eq!(parse(&line.join(" ")), argv);
        }

        #[test]
        fn nothing_but_plain_characters_comes_out(bytes in hostile()) {
            let text = String::from_utf8_lossy(&bytes);
            let value = value(&text).into_owned();
            for shown in [word(&bytes), name(&text), prose(&text), guard(&text).into_owned(), value] {
                prop_assert!(shown.chars().all(is_plain), "{:?}", shown);
                prop_assert!(!shown.chars().any(char::is_control), "{:?}", shown);
            }
        }

        #[test]
        fn the_guard_changes_nothing_that_is_escaped_already(bytes in hostile()) {
            let shown = word(&bytes);
            prop_assert_eq!(guard(&shown).into_owned(), shown);
        }

        #[test]
        fn different_prose_is_shown_differently(a in any::<String>(), b in any::<String>()) {
            prop_assert_eq!(prose(&a) == prose(&b), a == b);
        }
    }

    #[test]
    fn words_look_as_a_shell_would_have_them() {
        for (bytes, shown) in [
            (&b"curl"[..], "curl"),
            (b"", "''"),
            (b"a b", "'a b'"),
            (b"it's", "\"it's\""),
            (b"it's $HOME", r"$'it\'s $HOME'"),
            (b"a\\b", r"'a\b'"),
            (b"a\nb", r"$'a\nb'"),
            (b"\x1b[31m", r"$'\x1b[31m'"),
            (b"\xff", r"$'\xff'"),
            ("\u{ff}".as_bytes(), "\u{ff}"),
            ("\u{202e}txt".as_bytes(), r"$'\u{202e}txt'"),
            ("\u{85}".as_bytes(), r"$'\u{85}'"),
            ("…".as_bytes(), "'…'"),
            ("├─".as_bytes(), "'├─'"),
            ("日本".as_bytes(), "日本"),
            (b"x;reboot", "'x;reboot'"),
            (b"~", "'~'"),
        ] {
            assert_eq!(word(bytes), shown);
        }
    }

    #[test]
    fn values_cannot_pretend_to_be_other_pairs() {
        assert_eq!(value("127.0.0.1:1"), "127.0.0.1:1");
        assert_eq!(value(""), "\"\"");
        assert_eq!(value("x level=error"), "\"x level=error\"");
        assert_eq!(value("a\" b\\\n\x1b"), "\"a\\\" b\\\\\\n\\x1b\"");
    }

    /// Every bidi control, every line or paragraph separator, and every character of no width.
    #[test]
    fn what_deceives_is_never_plain() {
        let named = "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\
                     \u{2028}\u{2029}\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{ad}\u{34f}\u{115f}\u{3164}\u{fe0f}\u{e0020}";
        for c in named.chars().chain('\0'..' ').chain('\u{7f}'..='\u{a0}') {
            assert!(!is_plain(c), "{c:?}");
        }
    }
}
