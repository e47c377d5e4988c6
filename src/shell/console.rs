//! The console of `relay join`: a line editor on a terminal, else plain lines from standard input.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGCONT, SIGWINCH};
use signal_hook::flag;

use super::Failure;
use super::editor::{Editor, Input};
use super::terminal::{ERASE, columns, err, is_ansi, out, paint, stty};
use crate::wire::MAX_TEXT;

/// The width that is assumed if the terminal does not report one.
const DEFAULT_COLUMNS: usize = 80;
/// Rings the bell.
pub const BELL: &str = "\x07";
const BRACKETED_PASTE_ON: &str = "\x1b[?2004h";
const BRACKETED_PASTE_OFF: &str = "\x1b[?2004l";

/// Where the lines of `relay join` come from.
pub struct Console {
    /// `None` if standard input is no terminal.
    terminal: Option<Terminal>,
    /// Bytes that were not handled yet.
    unread: VecDeque<u8>,
    /// Whether standard input has ended.
    is_closed: bool,
}

/// A terminal that sends every key. Its own line editing is off, because it would mix arriving messages into the line that is
/// being typed.
struct Terminal {
    /// The settings to restore, as `stty -g` prints them.
    saved: String,
    editor: Editor,
    columns: usize,
    /// Set by signals: the size or the settings of the terminal may have changed.
    is_stale: Arc<AtomicBool>,
}

impl Console {
    /// Takes over the terminal if standard input and output are one and `stty` works.
    pub fn open() -> Result<Console, Failure> {
        let mut console = Console { terminal: None, unread: VecDeque::new(), is_closed: false };
        let has_person = io::stdin().is_terminal() && is_ansi(&io::stdout());
        let Some(saved) = has_person.then(|| stty(&["-g"])).flatten().filter(|_| send_every_key()) else {
            return Ok(console);
        };
        let is_stale = Arc::new(AtomicBool::new(true));
        for signal in [SIGWINCH, SIGCONT] {
            let _ = flag::register(signal, is_stale.clone()); // without it the width stays the same
        }
        let terminal = Terminal { saved, editor: Editor::default(), columns: DEFAULT_COLUMNS, is_stale };
        console.terminal.insert(terminal).draw()?;
        out(BRACKETED_PASTE_ON)?;
        Ok(console)
    }

    /// Whether a person uses a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// Prints whole lines, above the line that is being typed.
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        let Some(terminal) = &mut self.terminal else { return out(text) };
        out(&format!("{ERASE}{text}"))?;
        terminal.draw()
    }

    /// Prints a note of our own: dimmed on a terminal, else on standard error.
    pub fn note(&mut self, text: &str) -> Result<(), Failure> {
        let text = format!("{text}\n");
        if self.is_terminal() {
            return self.print(&paint("2", &text));
        }
        err(&text);
        Ok(())
    }

    /// Takes bytes from standard input; none means its end.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.is_closed |= bytes.is_empty();
        self.unread.extend(bytes);
    }

    /// The next input among the bytes that were taken. After [`Input::End`] there is no other.
    pub fn next(&mut self) -> Result<Option<Input>, Failure> {
        let Some(terminal) = &mut self.terminal else { return Ok(self.next_line()) };
        if self.is_closed {
            return Ok(Some(Input::End));
        }
        let input = terminal.editor.next(&mut self.unread);
        if let Some(Input::Line(line)) = &input {
            out(&format!("{ERASE}{}\n", paint("2", &format!("> {line}"))))?;
        }
        terminal.draw()?;
        Ok(input)
    }

    /// The next line of an input that is no terminal. The last one needs no newline.
    fn next_line(&mut self) -> Option<Input> {
        let line: Vec<u8> = match self.unread.iter().position(|byte| *byte == b'\n') {
            Some(at) => self.unread.drain(..=at).collect(),
            None if !self.is_closed => {
                self.unread.truncate(MAX_TEXT + 1); // the hub refuses a text of that length
                return None;
            }
            None if self.unread.is_empty() => return Some(Input::End),
            None => self.unread.drain(..).collect(),
        };
        Some(Input::Line(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned()))
    }

    /// The word that Tab completes.
    pub fn word(&self) -> Option<&str> {
        self.terminal.as_ref()?.editor.word()
    }

    /// Completes the word, lists the candidates, or rings the bell.
    pub fn complete(&mut self, candidates: impl IntoIterator<Item = String>) -> Result<(), Failure> {
        let Some(terminal) = &mut self.terminal else { return Ok(()) };
        match terminal.editor.complete(candidates) {
            None => terminal.draw(),
            Some(matches) if matches.is_empty() => out(BELL),
            Some(matches) => self.note(&matches.join("  ")),
        }
    }
}

impl Terminal {
    /// Draws the line that is being typed, in one line of the terminal.
    fn draw(&mut self) -> Result<(), Failure> {
        if self.is_stale.swap(false, Ordering::Relaxed) {
            send_every_key(); // the shell may have changed that while we were stopped
            self.columns = columns().unwrap_or(DEFAULT_COLUMNS);
        }
        let (line, column) = self.editor.render(self.columns);
        // Without wrapping (mode 7), so that erasing one line erases all of it.
        out(&format!("{ERASE}\x1b[?7l{line}\x1b[?7h\r\x1b[{column}C"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = out(&format!("{ERASE}{BRACKETED_PASTE_OFF}")); // there may be no terminal any more
        stty(&[&self.saved]);
    }
}

/// Has the terminal send every key at once and print none. Signals such as Ctrl-C still work.
fn send_every_key() -> bool {
    stty(&["-icanon", "-echo", "min", "1", "time", "0"]).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_and_the_last_needs_no_newline() {
        let mut console = Console { terminal: None, unread: VecDeque::new(), is_closed: false };
        let mut lines = |bytes: &[u8]| {
            console.feed(bytes);
            let lines = std::iter::from_fn(|| console.next_line().filter(|input| *input != Input::End));
            (lines.collect::<Vec<_>>(), console.unread.len())
        };
        let line = |text: &str| Input::Line(text.to_owned());
        assert_eq!(lines(b"on"), (vec![], 2));
        assert_eq!(lines(b"e\n\ntw"), (vec![line("one"), line("")], 2));
        assert_eq!(lines(&vec![b'x'; 2 * MAX_TEXT]), (vec![], MAX_TEXT + 1));
        assert_eq!(lines(b"\nthree").0.len(), 1);
        assert_eq!(lines(b""), (vec![line("three")], 0));
        assert_eq!(console.next_line(), Some(Input::End));
    }
}
