//! Rust source, taken apart just enough to tell code from comments and literals.

/// A line of a source file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Line {
    /// its code, the content of string and character literals left out
    pub(super) code: String,
    /// its comments
    pub(super) comment: String,
}

enum State {
    Code,
    LineComment,
    BlockComment { depth: usize },
    Text { hashes: Option<usize> },
}

/// Splits source into lines of code and comment.
pub(super) fn lines(source: &str) -> Vec<Line> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\n');
    let mut lines = vec![Line::default()];
    let mut state = State::Code;
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        let mut width = 1;
        if c == '\n' {
            if matches!(state, State::LineComment) {
                state = State::Code;
            }
            lines.push(Line::default());
            i += 1;
            continue;
        }
        let line = lines.last_mut().map_or_else(Default::default, std::mem::take);
        let Line { mut code, mut comment } = line;
        match state {
            State::Code => match (c, at(i + 1)) {
                ('/', '/') => state = State::LineComment,
                ('/', '*') => {
                    state = State::BlockComment { depth: 1 };
                    width = 2;
                }
                ('"', _) => {
                    code.push('"');
                    state = State::Text { hashes: raw_hashes(&code) };
                }
                // A character literal, not a lifetime: it closes after one character, or after an escape.
                ('\'', '\\') => {
                    code.push('\'');
                    width = 3 + chars.iter().skip(i + 3).take_while(|c| **c != '\'').count() + 1;
                }
                ('\'', _) if at(i + 2) == '\'' => {
                    code.push('\'');
                    width = 3;
                }
                _ => code.push(c),
            },
            State::LineComment => comment.push(c),
            State::BlockComment { depth } => match (c, at(i + 1)) {
                ('/', '*') => {
                    state = State::BlockComment { depth: depth + 1 };
                    width = 2;
                }
                ('*', '/') => {
                    state = if depth == 1 { State::Code } else { State::BlockComment { depth: depth - 1 } };
                    width = 2;
                }
                _ => comment.push(c),
            },
            State::Text { hashes: None } if c == '\\' && at(i + 1) != '\n' => width = 2,
            State::Text { hashes } => {
                let closing = hashes.unwrap_or(0);
                if c == '"' && (1..=closing).all(|n| at(i + n) == '#') {
                    code.push('"');
                    state = State::Code;
                    width = 1 + closing;
                }
            }
        }
        if let Some(line) = lines.last_mut() {
            *line = Line { code, comment };
        }
        i += width;
    }
    // What follows the last newline is no line.
    if source.ends_with('\n') {
        lines.pop();
    }
    lines
}

/// Whether the quote at the end of `code` opens a raw string, and with how many hashes.
fn raw_hashes(code: &str) -> Option<usize> {
    let before = code.strip_suffix('"')?;
    let bare = before.trim_end_matches('#');
    let prefix = bare.strip_suffix('r')?;
    let prefix = prefix.strip_suffix(['b', 'c']).unwrap_or(prefix);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    (!prefix.ends_with(is_word)).then(|| before.len() - bare.len())
}

/// Whether `word` stands in `code` as a word of its own.
pub(super) fn has_word(code: &str, word: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code.get(..at).and_then(|text| text.chars().next_back());
        let after = code.get(at + word.len()..).and_then(|text| text.chars().next());
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(source: &str) -> Vec<String> {
        lines(source).into_iter().map(|line| line.code).collect()
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        assert_eq!(code("a // unsafe\nb"), ["a ", "b"]);
        assert_eq!(code("a /* unsafe\n /* in */ unsafe */ b"), ["a ", " b"]);
        assert_eq!(code(r#"f("unsafe \" unsafe", b"x") + 1"#), [r#"f("", b"") + 1"#]);
        assert_eq!(code("r#\"un\"safe\"# + r\"x\\\" + 'q'"), ["r#\"\" + r\"\" + '"]);
    }

    #[test]
    fn lifetimes_and_characters_are_told_apart() {
        assert_eq!(code("fn f<'a>(x: &'a str) { '\"' }"), ["fn f<'a>(x: &'a str) { ' }"]);
        assert_eq!(code(r"['\'', '\u{1f}', '\\'] unsafe"), ["[', ', '] unsafe"]);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("use aya::maps", "aya"));
        assert!(!has_word("use aya_log::x", "aya"));
        assert!(!has_word("himalaya", "aya"));
    }
}
