//! The console of `relay join`: a line editor on a terminal, else plain lines from standard input.

use std::collections::VecDeque;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGCONT, SIGWINCH};
use signal_hook::flag;

use super::Failure;
use super::editor::{Completion, Editor, Input};
use super::terminal::{ERASE, columns, err, is_ansi, out, paint, stty};
use crate::wire::MAX_TEXT;

/// The width that is assumed if the terminal does not report one.
const DEFAULT_COLUMNS: usize = 80;
const BRACKETED_PASTE_ON: &str = "\x1b[?2004h";
const BRACKETED_PASTE_OFF: &str = "\x1b[?2004l";

/// See the module.
pub enum Console {
    Terminal(Terminal),
    /// Standard input is no terminal.
    Lines {
        /// The bytes of a line that is incomplete.
        partial: Vec<u8>,
        inputs: VecDeque<Input>,
    },
}

/// A terminal that sends every key. It would mix arriving messages into the line that is being typed if it edited that
/// line itself.
pub struct Terminal {
    /// The settings to restore, as `stty -g` prints them.
    saved: String,
    editor: Editor,
    /// Bytes that the editor has not handled yet.
    unread: VecDeque<u8>,
    /// Whether standard input has ended.
    is_closed: bool,
    columns: usize,
    /// Set by signals: the size or the settings of the terminal may have changed.
    is_stale: Arc<AtomicBool>,
}

impl Console {
    /// Takes over the terminal if standard input and output are one and `stty` works.
    pub fn open() -> Result<Console, Failure> {
        let has_person = io::stdin().is_terminal() && is_ansi(&io::stdout());
        let Some(saved) = has_person.then(|| stty(&["-g"])).flatten().filter(|_| send_every_key()) else {
            return Ok(Console::Lines { partial: Vec::new(), inputs: VecDeque::new() });
        };
        let is_stale = Arc::new(AtomicBool::new(true));
        for signal in [SIGWINCH, SIGCONT] {
            let _ = flag::register(signal, is_stale.clone()); // without it the width stays the same
        }
        let mut terminal = Terminal {
            saved,
            editor: Editor::default(),
            unread: VecDeque::new(),
            is_closed: false,
            columns: DEFAULT_COLUMNS,
            is_stale,
        };
        out(BRACKETED_PASTE_ON)?;
        terminal.draw()?;
        Ok(Console::Terminal(terminal))
    }

    /// Whether a person uses a terminal.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Console::Terminal(_))
    }

    /// Prints whole lines, above the line that is being typed.
    pub fn print(&mut self, text: &str) -> Result<(), Failure> {
        let Console::Terminal(terminal) = self else { return out(text) };
        out(&format!("{ERASE}{text}"))?;
        terminal.draw()
    }

    /// Prints whole lines and rings the bell.
    pub fn announce(&mut self, text: &str) -> Result<(), Failure> {
        match self.is_terminal() {
            true => self.print(&format!("\x07{text}")),
            false => self.print(text),
        }
    }

    /// Prints a note of our own: dimmed on a terminal, else on standard error.
    pub fn note(&mut self, text: &str) -> Result<(), Failure> {
        match self.is_terminal() {
            true => self.print(&paint("2", &format!("{text}\n"))),
            false => {
                err(&format!("{text}\n"));
                Ok(())
            }
        }
    }

    /// Takes bytes from standard input; none means its end.
    pub fn feed(&mut self, bytes: &[u8]) {
        match self {
            Console::Lines { partial, inputs } => inputs.extend(split_lines(partial, bytes)),
            Console::Terminal(terminal) => {
                terminal.is_closed |= bytes.is_empty();
                terminal.unread.extend(bytes);
            }
        }
    }

    /// The next input among the bytes that were taken.
    pub fn next(&mut self) -> Result<Option<Input>, Failure> {
        let terminal = match self {
            Console::Lines { inputs, .. } => return Ok(inputs.pop_front()),
            Console::Terminal(terminal) if terminal.is_closed => return Ok(Some(Input::End)),
            Console::Terminal(terminal) => terminal,
        };
        let input = terminal.editor.next(&mut terminal.unread);
        match &input {
            Some(Input::Line(line)) => out(&format!("{ERASE}{}\n", paint("2", &format!("> {line}"))))?,
            Some(Input::ClearScreen) => out("\x1b[H\x1b[2J")?,
            Some(Input::Complete | Input::End) | None => {}
        }
        terminal.draw()?;
        Ok(input)
    }

    /// The word that Tab completes.
    pub fn word(&self) -> Option<&str> {
        match self {
            Console::Terminal(terminal) => terminal.editor.word(),
            Console::Lines { .. } => None,
        }
    }

    /// Completes the word, lists the candidates, or rings the bell.
    pub fn complete(&mut self, candidates: impl IntoIterator<Item = String>) -> Result<(), Failure> {
        let Console::Terminal(terminal) = self else { return Ok(()) };
        match terminal.editor.complete(candidates) {
            Completion::Extended => terminal.draw(),
            Completion::NoMatch => out("\x07"),
            Completion::Ambiguous(candidates) => self.note(&candidates.join("  ")),
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

/// The lines that are complete with `bytes`; at the end of the input also one without a newline.
fn split_lines(partial: &mut Vec<u8>, bytes: &[u8]) -> Vec<Input> {
    let mut lines = Vec::new();
    for byte in bytes {
        match byte {
            b'\n' => lines.push(std::mem::take(partial)),
            // A line that is too long is cut to a length that the hub still refuses.
            byte if partial.len() <= MAX_TEXT => partial.push(*byte),
            _ => {}
        }
    }
    if bytes.is_empty() && !partial.is_empty() {
        lines.push(std::mem::take(partial));
    }
    let mut inputs: Vec<Input> =
        lines.iter().map(|line| Input::Line(String::from_utf8_lossy(line).into_owned())).collect();
    if bytes.is_empty() {
        inputs.push(Input::End);
    }
    inputs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_and_the_last_needs_no_newline() {
        let mut partial = Vec::new();
        let line = |text: &str| Input::Line(text.to_owned());
        assert_eq!(split_lines(&mut partial, b"on"), []);
        assert_eq!(split_lines(&mut partial, b"e\n\ntw"), [line("one"), line("")]);
        assert_eq!(split_lines(&mut partial, b""), [line("tw"), Input::End]);
        split_lines(&mut partial, &vec![b'x'; 2 * MAX_TEXT]);
        assert_eq!(partial.len(), MAX_TEXT + 1);
    }
}
