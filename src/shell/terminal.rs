//! The terminal, as far as there is one: output that may lose its reader, colours, and typing that is not torn apart by
//! what arrives meanwhile.

use std::io::{self, IsTerminal, Write};
use std::process::{Command, Stdio};

use crate::fence;
use crate::wire::MAX_TEXT;

/// Erases the line that the cursor is in.
pub const ERASE: &str = "\r\x1b[K";
/// How much of what is being typed is shown.
const SHOWN: usize = 60;

/// Writes to stdout; `false` when nobody reads it any more.
pub fn out(text: &str) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Writes to stderr, whether or not anybody reads it.
pub fn err(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes()); // there is nowhere else to complain
}

/// Whether this is a terminal that knows escape sequences.
pub fn erases(to: &impl IsTerminal) -> bool {
    to.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// `text` between the escapes for a colour, where stdout is a terminal that has some and nobody said `NO_COLOR`.
pub fn paint(colour: &str, text: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    if plain || !erases(&io::stdout()) {
        return text.to_owned();
    }
    format!("\x1b[{colour}m{text}\x1b[0m")
}

/// What a peer wrote, as it may stand on a terminal; into a file or a pipe it goes as it is.
pub fn theirs(text: &str) -> String {
    if io::stdout().is_terminal() { fence::clean(text) } else { text.to_owned() }
}

/// `text` with `who` before it and its further lines indented, with one newline at the end.
pub fn said(who: &str, text: &str) -> String {
    format!("{} {}\n", paint("1", who), theirs(text).trim_end().replace('\n', "\n  "))
}

/// What a person types, or the lines that a script writes.
pub struct Typing {
    /// How the terminal was set before; `None` where lines come whole.
    saved: Option<String>,
    line: String,
    /// The bytes of a key or a character that has begun.
    key: Vec<u8>,
    pasting: bool,
}

impl Typing {
    /// Takes the editing of lines over from the terminal, if stdin and stdout are one and `stty` is there. The terminal
    /// would mix what arrives into what is being typed, and send a pasted text line by line.
    pub fn new() -> Self {
        let stty = |arg: &[&str]| {
            let run = Command::new("stty").args(arg).stdin(Stdio::inherit()).stderr(Stdio::null()).output();
            run.ok().filter(|o| o.status.success()).map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
        };
        let person = io::stdin().is_terminal() && erases(&io::stdout());
        let saved = if person { stty(&["-g"]) } else { None };
        let saved = saved.filter(|_| stty(&["-icanon", "-echo", "min", "1"]).is_some());
        if saved.is_some() {
            out("\x1b[?2004h"); // pasted text comes between marks
        }
        let typing = Typing { saved, line: String::new(), key: Vec::new(), pasting: false };
        typing.prompt();
        typing
    }

    /// Whether somebody types; else lines come whole.
    pub fn is_editing(&self) -> bool {
        self.saved.is_some()
    }

    /// Writes `text`, whole lines, above what is being typed.
    pub fn print(&self, text: &str) -> bool {
        let erase = if self.saved.is_some() { ERASE } else { "" };
        let alive = out(&format!("{erase}{text}"));
        self.prompt();
        alive
    }

    /// A note of ours: on a terminal among the rest, else on stderr.
    pub fn note(&self, text: &str) {
        match self.saved {
            Some(_) => drop(self.print(&paint("2", &format!("{text}\n")))),
            None => err(&format!("{text}\n")),
        }
    }

    fn prompt(&self) {
        if self.saved.is_some() {
            let line = self.line.replace(['\n', '\t'], " ");
            let hidden = line.chars().count().saturating_sub(SHOWN);
            let shown: String = line.chars().skip(hidden).collect();
            out(&format!("{ERASE}\x1b[?7l> {}{shown}\x1b[?7h", if hidden > 0 { "…" } else { "" }));
        }
    }

    /// Takes what came from stdin, and gives the lines that are whole by it; the last is `None` where the typist left.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Option<String>> {
        let mut lines = Vec::new();
        for byte in bytes {
            self.key.push(*byte);
            if self.press(&mut lines) {
                self.key.clear();
            }
        }
        for line in lines.iter().flatten().filter(|_| self.saved.is_some()) {
            out(&format!("{ERASE}{}\n", paint("2", &format!("> {line}"))));
        }
        self.prompt();
        lines
    }

    /// Does what the key says; `false` where it is not whole.
    fn press(&mut self, lines: &mut Vec<Option<String>>) -> bool {
        let (editing, line) = (self.saved.is_some(), &mut self.line);
        match self.key.as_slice() {
            b"\n" | b"\r" if self.pasting => line.push('\n'),
            b"\n" => lines.push(Some(std::mem::take(line))),
            b"\r" if editing => lines.push(Some(std::mem::take(line))),
            b"\x1b" | b"\x1b[" | b"\x1bO" if editing => return false,
            [0x1b, b'[', .., last] if editing && !(0x40..=0x7e).contains(last) => return false,
            b"\x1b[200~" => self.pasting = editing,
            b"\x1b[201~" => self.pasting = false,
            b"\x7f" | b"\x08" if editing => drop(line.pop()),
            b"\x15" if editing => line.clear(),
            b"\x17" if editing => line.truncate(line.trim_end().rfind(' ').map_or(0, |at| at + 1)),
            b"\x04" if editing && line.is_empty() => lines.push(None),
            [0..0x20, ..] if editing => {} // a key that means nothing here
            bytes => match std::str::from_utf8(bytes) {
                Err(e) if e.error_len().is_none() => return false,
                // A line that is too long is refused by the hub, and not kept here whole.
                Ok(text) if line.len() <= MAX_TEXT => line.push_str(text),
                _ => {}
            },
        }
        true
    }
}

impl Drop for Typing {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            out(&format!("{ERASE}\x1b[?2004l"));
            let _ = Command::new("stty").arg(saved.trim()).status(); // the shell mends it too
        }
    }
}
