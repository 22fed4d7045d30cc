//! Makes text from outside safe for one line of a log or a terminal.

use std::borrow::Cow;

/// Characters that act on a terminal or on the order of what is shown, instead of being shown.
#[must_use]
pub fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `text` in one line, with nothing in it that acts: `\n`, `\t`, `\u{1b}` and the like are written out.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => escaped.extend(c.escape_default()),
            c if acts(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

/// `text` as the value of a `key=value` pair: quoted where it could be mistaken for something else.
#[must_use]
pub fn value(text: &str) -> Cow<'_, str> {
    let bare = !text.is_empty() && !text.chars().any(|c| acts(c) || matches!(c, ' ' | '"' | '=' | '\\'));
    if bare {
        return Cow::Borrowed(text);
    }
    let escaped = line(&text.replace('\\', "\\\\").replace('"', "\\\"")).into_owned();
    Cow::Owned(format!("\"{escaped}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_written_out() {
        assert_eq!(line("a\x1b[31mb\nc\u{202e}d é 漢"), "a\\u{1b}[31mb\\nc\\u{202e}d é 漢");
        assert!(matches!(line("plain é"), Cow::Borrowed(_)));
    }

    #[test]
    fn values_cannot_pretend_to_be_other_pairs() {
        assert_eq!(value("127.0.0.1:1"), "127.0.0.1:1");
        assert_eq!(value(""), "\"\"");
        assert_eq!(value("x level=error"), "\"x level=error\"");
        assert_eq!(value("a\" b\\\n"), "\"a\\\" b\\\\\\n\"");
    }
}
