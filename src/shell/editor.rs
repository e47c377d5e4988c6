//! A line editor as a state machine: bytes from a terminal in, lines out. It does no input or output itself.

use std::collections::VecDeque;

use super::width::{columns, keep_end, keep_start, width};
use crate::wire::MAX_TEXT;

const PROMPT: &str = "> ";

/// What the user did.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// A line was finished. It has newlines only if they were pasted.
    Line(String),
    /// Tab was pressed.
    Complete,
    /// Ctrl-D was pressed on an empty line.
    End,
}

/// A line that is being edited, with a history. Keys are among those of readline's Emacs mode.
#[derive(Default)]
pub struct Editor {
    text: String,
    /// A byte offset in `text`.
    cursor: usize,
    /// The bytes of a key or character that is incomplete.
    key: Vec<u8>,
    is_pasting: bool,
    /// In memory only.
    history: Vec<String>,
    /// The position in the history; its length stands for the new line.
    recalled: usize,
    /// The new line while an earlier one is shown.
    draft: String,
}

impl Editor {
    /// Handles bytes from the terminal up to the next input; the rest stays, because the keys after Tab depend on it.
    pub fn next(&mut self, bytes: &mut VecDeque<u8>) -> Option<Input> {
        while let Some(byte) = bytes.pop_front() {
            self.key.push(byte);
            if !self.is_key_incomplete() {
                let key = std::mem::take(&mut self.key);
                if let Some(input) = self.press(&key) {
                    return Some(input);
                }
            }
        }
        None
    }

    fn is_key_incomplete(&self) -> bool {
        match self.key.as_slice() {
            b"\x1b" | b"\x1b[" | b"\x1bO" => true,
            [0x1b, b'[', .., last] => !(0x40..=0x7e).contains(last),
            bytes => std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none()),
        }
    }

    /// Handles one key.
    fn press(&mut self, key: &[u8]) -> Option<Input> {
        match key {
            b"\x1b[200~" => self.is_pasting = true,
            b"\x1b[201~" => self.is_pasting = false,
            b"\n" | b"\r" if self.is_pasting => self.insert("\n"),
            b"\t" if self.is_pasting => self.insert("\t"),
            b"\n" | b"\r" => return Some(Input::Line(self.finish())),
            b"\t" => return Some(Input::Complete),
            b"\x04" if self.text.is_empty() => return Some(Input::End),
            b"\x02" | b"\x1b[D" | b"\x1bOD" => self.cursor = self.before(self.cursor),
            b"\x06" | b"\x1b[C" | b"\x1bOC" => self.cursor = self.after(self.cursor),
            b"\x01" | b"\x1b[H" | b"\x1bOH" | b"\x1b[1~" | b"\x1b[7~" => self.cursor = 0,
            b"\x05" | b"\x1b[F" | b"\x1bOF" | b"\x1b[4~" | b"\x1b[8~" => self.cursor = self.text.len(),
            b"\x1bb" | b"\x1b[1;5D" | b"\x1b[1;3D" => self.cursor = self.word_start(),
            b"\x1bf" | b"\x1b[1;5C" | b"\x1b[1;3C" => self.cursor = self.word_end(),
            b"\x7f" | b"\x08" => self.delete(self.before(self.cursor), self.cursor),
            b"\x04" | b"\x1b[3~" => self.delete(self.cursor, self.after(self.cursor)),
            b"\x0b" => self.delete(self.cursor, self.text.len()),
            b"\x15" => self.delete(0, self.cursor),
            b"\x17" | b"\x1b\x7f" => self.delete(self.word_start(), self.cursor),
            b"\x1bd" => self.delete(self.cursor, self.word_end()),
            b"\x10" | b"\x1b[A" | b"\x1bOA" => self.recall(self.recalled.checked_sub(1)),
            b"\x0e" | b"\x1b[B" | b"\x1bOB" => self.recall(self.recalled.checked_add(1)),
            [0..0x20, ..] => {} // a key without a meaning here
            bytes => self.insert(std::str::from_utf8(bytes).unwrap_or_default()),
        }
        None
    }

    /// Inserts at the cursor. What would make the line longer than a message can be is dropped.
    fn insert(&mut self, text: &str) {
        if self.text.len() + text.len() <= MAX_TEXT {
            self.text.insert_str(self.cursor, text);
            self.cursor += text.len();
        }
    }

    fn delete(&mut self, from: usize, to: usize) {
        self.cursor = from;
        self.text.drain(from..to);
    }

    /// Takes the line, adds it to the history, and begins a new one.
    fn finish(&mut self) -> String {
        let line = std::mem::take(&mut self.text);
        self.cursor = 0;
        self.draft.clear();
        if !line.trim().is_empty() && self.history.last() != Some(&line) {
            self.history.push(line.clone());
        }
        self.recalled = self.history.len();
        line
    }

    /// Shows the line of the history at `at`.
    fn recall(&mut self, at: Option<usize>) {
        let Some(at) = at.filter(|at| *at <= self.history.len()) else { return };
        if self.recalled == self.history.len() {
            self.draft.clone_from(&self.text);
        }
        self.recalled = at;
        self.text = self.history.get(at).unwrap_or(&self.draft).clone();
        self.cursor = self.text.len();
    }

    /// The text as it is shown: of the same length, in one line.
    fn shown(&self) -> String {
        self.text.replace(['\n', '\t'], " ")
    }

    /// The offset before the last character with a column of its own that begins before `at`.
    fn before(&self, at: usize) -> usize {
        columns(&self.shown()[..at]).filter(|(_, width)| *width > 0).last().map_or(0, |(start, _)| start)
    }

    /// The offset after the character at `at`, and the marks that follow it.
    fn after(&self, at: usize) -> usize {
        let shown = self.shown();
        let next = columns(&shown[at..]).filter(|(_, width)| *width > 0).nth(1);
        next.map_or(shown.len(), |(start, _)| at + start)
    }

    fn word_start(&self) -> usize {
        let before = self.text[..self.cursor].trim_end();
        before.char_indices().rev().find(|(_, c)| c.is_whitespace()).map_or(0, |(at, c)| at + c.len_utf8())
    }

    fn word_end(&self) -> usize {
        let after = &self.text[self.cursor..];
        let word = after.trim_start();
        let start = self.cursor + after.len() - word.len();
        start + word.find(char::is_whitespace).unwrap_or(word.len())
    }

    /// The first word of the line, up to the cursor, which must be in it: what Tab completes.
    pub fn word(&self) -> Option<&str> {
        Some(&self.text[..self.cursor]).filter(|word| !word.is_empty() && !word.contains(char::is_whitespace))
    }

    /// Completes [`word`](Self::word) from `candidates`, ignoring case. Returns the candidates that match, if they have no longer
    /// common beginning.
    pub fn complete(&mut self, candidates: impl IntoIterator<Item = String>) -> Option<Vec<String>> {
        let word = self.word().map(str::to_lowercase);
        let is_match = |candidate: &String| {
            word.as_ref().is_some_and(|word| candidate.to_lowercase().starts_with(word.as_str()))
        };
        let mut matches: Vec<String> = candidates.into_iter().filter(is_match).collect();
        matches.sort();
        let mut common = matches.first().cloned().unwrap_or_default();
        while !matches.iter().all(|candidate| candidate.starts_with(&common)) {
            common.pop();
        }
        if matches.len() == 1 {
            common.push(' ');
        }
        // Candidates that differ in case may have less in common than was typed.
        if matches.is_empty() || word.is_some_and(|word| word.starts_with(&common.to_lowercase())) {
            return Some(matches);
        }
        self.delete(0, self.cursor);
        self.insert(&common);
        None
    }

    /// The prompt and the part of the line around the cursor that fits into `most` columns, and the column of the cursor.
    pub fn render(&self, most: usize) -> (String, usize) {
        let room = most.saturating_sub(PROMPT.len() + 1).max(4); // the last column stays free
        let shown = self.shown();
        let (before, after) = shown.split_at(self.cursor);
        let before = keep_end(before, room - width(after).min(room / 2));
        let column = PROMPT.len() + width(&before);
        (format!("{PROMPT}{before}{}", keep_start(after, room - width(&before))), column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Editor {
        fn feed(&mut self, bytes: &[u8]) -> Vec<Input> {
            let mut bytes = bytes.iter().copied().collect();
            std::iter::from_fn(|| self.next(&mut bytes)).collect()
        }
    }

    /// The line that these keys make, with `|` for the cursor.
    fn edit(keys: &str) -> String {
        let mut editor = Editor::default();
        editor.feed(keys.as_bytes());
        format!("{}|{}", &editor.text[..editor.cursor], &editor.text[editor.cursor..])
    }

    #[test]
    fn keys_move_and_delete_like_readline() {
        for (keys, line) in [
            ("abc\x1b[D\x1b[Dx", "ax|bc"),
            ("abc\x01x\x05y", "xabcy|"),
            ("abc\x1bOHx", "x|abc"),
            ("abc\x1b[1~\x1b[3~", "|bc"),
            ("abc\x01\x04", "|bc"),
            ("one two\x17", "one |"),
            ("one two\x1bb\x0b", "one |"),
            ("one two\x1b[1;5D\x15", "|two"),
            ("one two\x01\x1bf!", "one!| two"),
            ("one two\x01\x1bd", "| two"),
            ("日本\x1b[Dx", "日x|本"),
            ("e\u{301}x\x7f\x7f", "|"),
            ("\x1b[200~a\tb\nc\x1b[201~d", "a\tb\ncd|"),
            ("a\x1b[99;99Xb\x1bzc\x07d", "abcd|"),
        ] {
            assert_eq!(edit(keys), line, "{keys:?}");
        }
    }

    #[test]
    fn characters_and_keys_may_arrive_in_pieces() {
        let mut editor = Editor::default();
        for byte in "日é\x1b[D!\x1b[1;5D".as_bytes() {
            assert_eq!(editor.feed(&[*byte]), []);
        }
        assert_eq!((editor.text.as_str(), editor.cursor), ("日!é", 0));
        editor.feed(b"\xff\xfe");
        assert!(editor.text.ends_with("日!é"), "{}", editor.text);
    }

    #[test]
    fn history_recalls_lines_and_keeps_the_draft() {
        let mut editor = Editor::default();
        let lines = editor.feed(b"one\ntwo\rtwo\n\n");
        assert_eq!(lines, ["one", "two", "two", ""].map(|line| Input::Line(line.to_owned())));
        editor.feed(b"draft\x1b[A\x1b[A");
        assert_eq!(editor.text, "one");
        editor.feed(b"\x1b[A\x1b[B");
        assert_eq!(editor.text, "two");
        editor.feed(b"\x1b[B\x1b[B");
        assert_eq!(editor.text, "draft");
        assert_eq!(editor.feed(b"\x15\x04"), [Input::End]);
    }

    #[test]
    fn tab_completes_the_first_word() {
        let names = || ["@Web-app", "@Web-api", "@docs"].map(str::to_owned);
        let mut editor = Editor::default();
        assert_eq!(editor.feed(b"@D\t"), [Input::Complete]);
        assert_eq!(editor.complete(names()), None);
        assert_eq!(editor.text, "@docs ");
        assert_eq!(editor.complete(names()), Some(vec![]), "the second word is no name");
        editor.feed(b"\x15@w");
        assert_eq!(editor.complete(names()), None);
        assert_eq!(editor.text, "@Web-ap");
        let both = vec!["@Web-api".to_owned(), "@Web-app".to_owned()];
        assert_eq!(editor.complete(names()), Some(both));
        editor.feed(b"x");
        assert_eq!(editor.complete(names()), Some(vec![]));
        // What differs in case has only its beginning in common; nothing that was typed is lost.
        let both = ["@Web-app", "@web-api"].map(str::to_owned);
        editor.feed(b"\x15@web");
        assert_eq!(editor.complete(both.clone()), Some(both.to_vec()));
        assert_eq!(editor.text, "@web");
    }

    #[test]
    fn a_long_line_scrolls_and_the_cursor_stays_visible() {
        let mut editor = Editor::default();
        editor.feed("日本語 and more words, ".repeat(5).as_bytes());
        while editor.cursor > 0 {
            for most in [12, 20, 79] {
                let (line, column) = editor.render(most);
                assert!(width(&line) < most && column < most, "{line:?} {column} {most}");
                assert!(column <= width(&line), "{line:?} {column}");
            }
            editor.feed(b"\x02");
        }
        assert!(editor.render(20).0.starts_with("> 日本語"));
    }

    #[test]
    fn a_line_is_no_longer_than_a_message() {
        let mut editor = Editor::default();
        editor.feed(&vec![b'x'; MAX_TEXT + 100]);
        assert_eq!(editor.text.len(), MAX_TEXT);
    }
}
