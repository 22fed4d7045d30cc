//! A line of text with styles: knows its width, and is the one way out to a terminal.
//!
//! Whatever is pushed passes the guard of [`escape`](super::escape), so nothing raw can be written, however it came.

use crate::escape;

/// What a piece of text means to the eye.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    #[default]
    Plain,
    Strong,
    Dim,
    Name,
    Good,
    Warn,
    Bad,
    Note,
}

impl Style {
    /// Parameters of SGR; the eight colours that every palette has.
    fn sgr(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Strong => Some("1"),
            Self::Dim => Some("2"),
            Self::Name => Some("36"),
            Self::Good => Some("32"),
            Self::Warn => Some("33"),
            Self::Bad => Some("1;31"),
            Self::Note => Some("35"),
        }
    }
}

/// How to show things, decided once.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub colour: bool,
    /// columns of the terminal; `None`: not a terminal, so nothing is ever wrapped or cut
    pub width: Option<usize>,
    pub now: jiff::Timestamp,
}

/// One line.
#[derive(Clone, Debug, Default)]
pub struct Line {
    spans: Vec<(Style, String)>,
    width: usize,
}

impl Line {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Columns it takes.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    pub fn push(&mut self, style: Style, text: &str) -> &mut Self {
        if !text.is_empty() {
            let text = escape::guard(text);
            self.width += escape::width(&text);
            self.spans.push((style, text.into_owned()));
        }
        self
    }

    pub fn plain(&mut self, text: &str) -> &mut Self {
        self.push(Style::Plain, text)
    }

    /// Spaces up to a column, and never fewer than two after what is there: columns stay apart.
    pub fn tab(&mut self, column: usize) -> &mut Self {
        let spaces = column.saturating_sub(self.width).max(2);
        self.plain(&" ".repeat(spaces))
    }

    /// Writes it, without trailing spaces, with its newline.
    pub fn write(&self, out: &mut String, colour: bool) {
        let start = out.len();
        for (style, text) in &self.spans {
            match style.sgr().filter(|_| colour) {
                Some(sgr) => {
                    out.push_str("\x1b[");
                    out.push_str(sgr);
                    out.push('m');
                    out.push_str(text);
                    out.push_str("\x1b[0m");
                }
                None => out.push_str(text),
            }
        }
        let kept = out.get(start..).map_or(0, |line| line.trim_end_matches(' ').len());
        out.truncate(start + kept);
        out.push('\n');
    }
}

/// Wraps plain text: the first line takes at most `first` columns, others `rest`. Breaks after a space; where a word
/// is too long it breaks in the word, and a backslash says that the line goes on without a space.
#[must_use]
pub fn wrap(text: &str, first: usize, rest: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = text;
    let mut width = first;
    while !left.is_empty() {
        let fits = fitting(left, width);
        let (line, after) = left.split_at(fits);
        if let Some(after) = after.strip_prefix(' ') {
            lines.push(line.to_owned());
            left = after;
        } else if after.is_empty() {
            lines.push(line.to_owned());
            left = after;
        } else if let Some((line, _)) = line.rsplit_once(' ').filter(|(line, _)| line.len() >= fits / 2) {
            lines.push(line.to_owned());
            left = left.get(line.len() + 1..).unwrap_or_default();
        } else {
            let (line, after) = left.split_at(fitting(left, width.saturating_sub(1)));
            lines.push(format!("{line}\\"));
            left = after;
        }
        width = rest;
    }
    lines
}

/// Cuts plain text to `width` columns, the last of them `…` where something is left out.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    if fitting(text, width) == text.len() {
        return text.to_owned();
    }
    let kept = text.get(..fitting(text, width.saturating_sub(1))).unwrap_or_default();
    format!("{kept}…")
}

/// Bytes of the longest beginning that takes at most `width` columns; at least one character.
fn fitting(text: &str, width: usize) -> usize {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += escape::width(c.encode_utf8(&mut [0; 4]));
        if used > width && at > 0 {
            return at;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_guards_what_is_pushed() {
        let mut line = Line::new();
        line.push(Style::Bad, "a\x1b[2Jb").plain("  ");
        let (mut plain, mut coloured) = (String::new(), String::new());
        line.write(&mut plain, false);
        line.write(&mut coloured, true);
        assert_eq!(plain, "a\\x1b[2Jb\n");
        assert_eq!(coloured, "\x1b[1;31ma\\x1b[2Jb\x1b[0m\n");
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
    }

    #[test]
    fn wrapping_breaks_at_spaces_or_says_that_it_did_not() {
        assert_eq!(wrap("aa bb cc", 8, 8), ["aa bb cc"]);
        assert_eq!(wrap("aa bb cc", 5, 4), ["aa bb", "cc"]);
        assert_eq!(wrap("aa bb cc", 6, 4), ["aa bb", "cc"]);
        assert_eq!(wrap("aaaaaa", 4, 4), ["aaa\\", "aaa"]);
        assert_eq!(wrap("日本語x", 5, 5), ["日本\\", "語x"]);
        assert_eq!(wrap("日本", 1, 1), ["日\\", "本"], "always gets on");
        assert_eq!(wrap("", 1, 1), [""; 0]);
    }

    proptest::proptest! {
        #[test]
        fn wrapping_loses_nothing(text in "[ a-c日]{0,40}", first in 2usize..9, rest in 2usize..9) {
            let lines = wrap(&text, first, rest);
            let mut joined = String::new();
            for (at, line) in lines.iter().enumerate() {
                proptest::prop_assert!(escape::width(line) <= if at == 0 { first } else { rest } .max(3), "{:?}", lines);
                match line.strip_suffix('\\') {
                    Some(line) => joined.push_str(line),
                    None if at + 1 < lines.len() => joined.extend([line, " "]),
                    None => joined.push_str(line),
                }
            }
            proptest::prop_assert_eq!(joined.trim_end_matches(' '), text.trim_end_matches(' '), "{:?}", lines);
        }
    }

    #[test]
    fn columns_stay_apart() {
        let mut line = Line::new();
        line.plain("abc").tab(4).plain("d").tab(10).plain("e");
        assert_eq!(line.width(), 11);
        let mut out = String::new();
        line.write(&mut out, false);
        assert_eq!(out, "abc  d    e\n");
    }
}
