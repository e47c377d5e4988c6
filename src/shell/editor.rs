//! A line editor as a state machine: bytes from a terminal in, lines out. It does no input or output itself.

use super::width::{keep_end, keep_start, width};
use crate::wire::MAX_TEXT;

const PROMPT: &str = "> ";

/// What the user did.
#[derive(Debug, PartialEq, Eq)]
pub enum Input {
    /// A line was finished. It has newlines only if they were pasted. Ctrl-D on an empty line means `/quit`.
    Line(String),
    /// Tab was pressed.
    Complete,
}

/// A line that is being edited, with a history.
pub struct Editor {
    /// The history, in memory only, and the new line, which is the last.
    lines: Vec<String>,
    /// Which of them is being edited.
    at: usize,
    /// A byte offset in that line.
    cursor: usize,
    /// The bytes of a key or character that is incomplete.
    key: Vec<u8>,
    is_pasting: bool,
}

impl Editor {
    pub fn new() -> Editor {
        Editor { lines: vec![String::new()], at: 0, cursor: 0, key: Vec::new(), is_pasting: false }
    }

    /// Handles a byte from the terminal.
    pub fn press(&mut self, byte: u8) -> Option<Input> {
        self.key.push(byte);
        if self.is_key_incomplete() {
            return None;
        }
        let key = std::mem::take(&mut self.key);
        let line = &self.lines[self.at];
        let before = line[..self.cursor].char_indices().next_back().map_or(0, |(at, _)| at);
        let after = self.cursor + line[self.cursor..].chars().next().map_or(0, char::len_utf8);
        match key.as_slice() {
            b"\x1b[200~" => self.is_pasting = true,
            b"\x1b[201~" => self.is_pasting = false,
            b"\n" | b"\r" if self.is_pasting => self.insert("\n"),
            b"\t" if self.is_pasting => self.insert("\t"),
            b"\n" | b"\r" => return Some(Input::Line(self.finish())),
            b"\t" => return Some(Input::Complete),
            b"\x04" if line.is_empty() => return Some(Input::Line("/quit".to_owned())),
            b"\x1b[D" => self.cursor = before,
            b"\x1b[C" => self.cursor = after,
            b"\x01" | b"\x1b[H" | b"\x1b[1~" => self.cursor = 0,
            b"\x05" | b"\x1b[F" | b"\x1b[4~" => self.cursor = line.len(),
            b"\x7f" | b"\x08" => self.delete(before, self.cursor),
            b"\x1b[3~" => self.delete(self.cursor, after),
            b"\x15" => self.delete(0, self.cursor),
            b"\x1b[A" => self.recall(self.at.checked_sub(1)),
            b"\x1b[B" => self.recall(self.at.checked_add(1)),
            [0..0x20, ..] => {} // a key without a meaning here
            bytes => self.insert(std::str::from_utf8(bytes).unwrap_or_default()),
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

    /// Inserts at the cursor. What would make the line longer than a message can be is dropped.
    fn insert(&mut self, text: &str) {
        let line = &mut self.lines[self.at];
        if line.len() + text.len() <= MAX_TEXT {
            line.insert_str(self.cursor, text);
            self.cursor += text.len();
        }
    }

    fn delete(&mut self, from: usize, to: usize) {
        self.cursor = from;
        self.lines[self.at].drain(from..to);
    }

    /// Takes the line, adds it to the history, and begins a new one.
    fn finish(&mut self) -> String {
        let line = self.lines[self.at].clone();
        self.lines.pop();
        if !line.trim().is_empty() && self.lines.last() != Some(&line) {
            self.lines.push(line.clone());
        }
        self.lines.push(String::new());
        self.recall(Some(self.lines.len() - 1));
        line
    }

    /// Goes to another line of the history, if there is one at `at`.
    fn recall(&mut self, at: Option<usize>) {
        if let Some(at) = at.filter(|at| *at < self.lines.len()) {
            (self.at, self.cursor) = (at, self.lines[at].len());
        }
    }

    /// Completes the line up to the cursor, as far as those of the candidates agree that begin with it. Returns these.
    pub fn complete(&mut self, mut candidates: Vec<String>) -> Vec<String> {
        let typed = &self.lines[self.at][..self.cursor];
        candidates.retain(|candidate| candidate.starts_with(typed));
        let mut common = candidates.first().cloned().unwrap_or_default();
        while !candidates.iter().all(|candidate| candidate.starts_with(&common)) {
            common.pop();
        }
        if candidates.len() == 1 {
            common.push(' ');
        }
        let added = common.get(typed.len()..).unwrap_or_default();
        self.insert(added);
        candidates
    }

    /// The prompt and the part of the line around the cursor that fits into `most` columns, and the column of the cursor.
    pub fn render(&self, most: usize) -> (String, usize) {
        let room = most.saturating_sub(PROMPT.len() + 1).max(4); // the last column stays free
        let shown = self.lines[self.at].replace(['\n', '\t'], " ");
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
            bytes.iter().filter_map(|byte| self.press(*byte)).collect()
        }

        fn text(&self) -> &str {
            &self.lines[self.at]
        }
    }

    /// The line that these keys make, with `|` for the cursor.
    fn edit(keys: &str) -> String {
        let mut editor = Editor::new();
        editor.feed(keys.as_bytes());
        let (before, after) = editor.text().split_at(editor.cursor);
        format!("{before}|{after}")
    }

    #[test]
    fn keys_move_and_delete() {
        for (keys, line) in [
            ("abc\x1b[D\x1b[Dx", "ax|bc"),
            ("abc\x01x\x05y", "xabcy|"),
            ("abc\x1b[Hx", "x|abc"),
            ("abc\x1b[1~\x1b[3~", "|bc"),
            ("one two\x1b[D\x15", "|o"),
            ("日本\x1b[Dx", "日x|本"),
            ("日本\x7f", "日|"),
            ("\x1b[200~a\tb\nc\x1b[201~d", "a\tb\ncd|"),
            ("a\x1b[99;99Xb\x1bzc\x07d", "abcd|"),
        ] {
            assert_eq!(edit(keys), line, "{keys:?}");
        }
    }

    #[test]
    fn characters_and_keys_may_arrive_in_pieces() {
        let mut editor = Editor::new();
        assert_eq!(editor.feed("日é\x1b[D!\x1b[H".as_bytes()), []);
        assert_eq!((editor.text(), editor.cursor), ("日!é", 0));
        editor.feed(b"\xff\xfe");
        assert!(editor.text().ends_with("日!é"), "{}", editor.text());
    }

    #[test]
    fn history_recalls_lines_and_keeps_the_new_one() {
        let mut editor = Editor::new();
        let lines = editor.feed(b"one\ntwo\rtwo\n\n");
        assert_eq!(lines, ["one", "two", "two", ""].map(|line| Input::Line(line.to_owned())));
        editor.feed(b"draft\x1b[A\x1b[A");
        assert_eq!(editor.text(), "one");
        editor.feed(b"\x1b[A\x1b[B");
        assert_eq!(editor.text(), "two");
        editor.feed(b"\x1b[B\x1b[B");
        assert_eq!(editor.text(), "draft");
        assert_eq!(editor.feed(b"\x15\x04"), [Input::Line("/quit".to_owned())]);
        assert_eq!(editor.feed(b"\x1b[A\x1b[A\n"), [Input::Line("one".to_owned())]);
        assert_eq!(editor.text(), "");
    }

    #[test]
    fn tab_completes_the_first_word() {
        let names = || ["@Web-app", "@Web-api", "@docs"].map(str::to_owned).to_vec();
        let mut editor = Editor::new();
        assert_eq!(editor.feed(b"@d\t"), [Input::Complete]);
        assert_eq!(editor.complete(names()), ["@docs"]);
        assert_eq!(editor.text(), "@docs ");
        assert_eq!(editor.complete(names()), [""; 0], "the second word is no name");
        editor.feed(b"\x15@W");
        assert_eq!(editor.complete(names()), ["@Web-app", "@Web-api"]);
        assert_eq!(editor.text(), "@Web-ap");
        editor.feed(b"x");
        assert_eq!(editor.complete(names()), [""; 0]);
        assert_eq!(editor.text(), "@Web-apx");
    }

    #[test]
    fn a_long_line_scrolls_and_the_cursor_stays_visible() {
        let mut editor = Editor::new();
        editor.feed("日本語 and more words, ".repeat(5).as_bytes());
        while editor.cursor > 0 {
            for most in [12, 20, 79] {
                let (line, column) = editor.render(most);
                assert!(width(&line) < most && column < most, "{line:?} {column} {most}");
                assert!(column <= width(&line), "{line:?} {column}");
            }
            editor.feed(b"\x1b[D");
        }
        assert!(editor.render(20).0.starts_with("> 日本語"));
    }

    #[test]
    fn a_line_is_no_longer_than_a_message() {
        let mut editor = Editor::new();
        editor.feed(&vec![b'x'; MAX_TEXT + 100]);
        assert_eq!(editor.text().len(), MAX_TEXT);
    }
}
