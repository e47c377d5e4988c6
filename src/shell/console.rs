//! The console of `relay join`: a line editor on a terminal, else plain lines from standard input.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGCONT, SIGWINCH};
use signal_hook::flag;

use super::editor::{Editor, Input};
use super::terminal::{ERASE, TTY, columns, err, is_ansi, out, paint};
use super::{Failure, Outcome};
use crate::process::stty;

/// The width that is assumed if the terminal does not report one.
const DEFAULT_COLUMNS: usize = 80;
/// Rings the bell.
pub const BELL: &str = "\x07";
const BRACKETED_PASTE_ON: &str = "\x1b[?2004h";
const BRACKETED_PASTE_OFF: &str = "\x1b[?2004l";

/// Where the lines of `relay join` come from. A terminal sends every key: its own line editing would mix arriving messages into
/// the line that is being typed.
pub struct Console {
    /// The settings of the terminal, to be restored, as `stty -g` prints them; `None` if standard input is no terminal.
    saved: Option<String>,
    editor: Editor,
    columns: usize,
    /// Set by signals: the size or the settings of the terminal may have changed.
    is_stale: Arc<AtomicBool>,
}

impl Console {
    /// Takes over the terminal if standard input and output are one and `stty` works.
    pub fn open() -> Result<Console, Failure> {
        let has_person = io::stdin().is_terminal() && is_ansi(&io::stdout());
        let saved = has_person.then(|| stty(TTY, &["-g"])).flatten().filter(|_| send_every_key());
        let is_stale = Arc::new(AtomicBool::new(true));
        let mut console = Console { saved, editor: Editor::new(), columns: DEFAULT_COLUMNS, is_stale };
        if console.is_terminal() {
            for signal in [SIGWINCH, SIGCONT] {
                let _ = flag::register(signal, console.is_stale.clone()); // without it the width stays the same
            }
            console.draw()?;
        }
        Ok(console)
    }

    /// Whether a person uses a terminal.
    pub fn is_terminal(&self) -> bool {
        self.saved.is_some()
    }

    /// Prints whole lines, above the line that is being typed.
    pub fn print(&mut self, text: &str) -> Outcome {
        if !self.is_terminal() {
            return out(text);
        }
        out(&format!("{ERASE}{text}"))?;
        self.draw()
    }

    /// Prints a note of our own: dimmed on a terminal, else on standard error.
    pub fn note(&mut self, text: &str) -> Outcome {
        let text = format!("{text}\n");
        if self.is_terminal() {
            return self.print(&paint("2", &text));
        }
        err(&text);
        Ok(())
    }

    /// The lines that are finished with these bytes of standard input. Tab completes one of the `candidates`, or lists those that
    /// fit.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        candidates: impl Fn() -> Vec<String>,
    ) -> Result<Vec<String>, Failure> {
        if !self.is_terminal() {
            return Ok(vec![String::from_utf8_lossy(bytes).into_owned()]);
        }
        let mut lines = Vec::new();
        for byte in bytes {
            match self.editor.press(*byte) {
                Some(Input::Line(line)) => {
                    self.note(&format!("> {line}"))?;
                    lines.push(line);
                }
                Some(Input::Complete) => {
                    let fitting = self.editor.complete(candidates());
                    if fitting.len() > 1 {
                        self.note(&fitting.join("  "))?;
                    }
                }
                None => {}
            }
        }
        self.draw()?;
        Ok(lines)
    }

    /// Draws the line that is being typed, in one line of the terminal.
    fn draw(&mut self) -> Outcome {
        if self.is_stale.swap(false, Ordering::Relaxed) {
            send_every_key(); // the shell may have changed that while we were stopped, and the next too
            out(BRACKETED_PASTE_ON)?;
            self.columns = columns().unwrap_or(DEFAULT_COLUMNS);
        }
        let (line, column) = self.editor.render(self.columns);
        // Without wrapping (mode 7), so that erasing one line erases all of it.
        out(&format!("{ERASE}\x1b[?7l{line}\x1b[?7h\r\x1b[{column}C"))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            let _ = out(&format!("{ERASE}{BRACKETED_PASTE_OFF}")); // there may be no terminal any more
            stty(TTY, &[saved]);
        }
    }
}

/// Has the terminal send every key at once and print none. Signals such as Ctrl-C still work.
fn send_every_key() -> bool {
    stty(TTY, &["-icanon", "-echo", "min", "1", "time", "0"]).is_some()
}
