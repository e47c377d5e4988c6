//! Output to the terminal, if there is one: errors of writing, colours, the size, and text from peers.

use std::io::{self, IsTerminal, Write};

use super::{Failure, width};
use crate::{fence, process};

/// The controlling terminal.
pub const TTY: &str = "/dev/tty";
/// Moves to the start of the line and erases it.
pub const ERASE: &str = "\r\x1b[K";

/// Writes `text` to standard output.
///
/// # Errors
/// The reader has closed the pipe (`BrokenPipe`), or the device is full.
pub fn out(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(written.map_err(|e| io::Error::new(e.kind(), format!("cannot write to standard output: {e}")))?)
}

/// Writes `text` to standard error. An error is ignored: there is nowhere to report it.
pub fn err(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes()); // see above
}

/// Whether `stream` is a terminal that understands escape sequences.
pub fn is_ansi(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// `text` in a colour (the parameters of an SGR sequence) if standard output is a terminal and `NO_COLOR` is not set.
pub fn paint(colour: &str, text: &str) -> String {
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    match is_plain || !is_ansi(&io::stdout()) {
        true => text.to_owned(),
        false => format!("\x1b[{colour}m{text}\x1b[0m"),
    }
}

/// A peer's text as it may be printed: without escape sequences on a terminal, unchanged to a file or a pipe.
pub fn peer_text(text: &str) -> String {
    if io::stdout().is_terminal() { fence::clean(text) } else { text.to_owned() }
}

/// A peer's text with `heading` before it, further lines indented, and one newline at the end.
pub fn with_heading(heading: &str, text: &str) -> String {
    format!("{} {}\n", paint("1", heading), peer_text(text).trim_end().replace('\n', "\n  "))
}

/// The first line of `text`, with an ellipsis if that is not all of it, in at most `most` columns.
pub fn first_line(text: &str, most: usize) -> String {
    let text = text.trim();
    let line = text.lines().next().unwrap_or_default();
    let more = if line.len() < text.len() { "…" } else { "" };
    width::keep_start(&format!("{line}{more}"), most)
}

/// The number of columns of the terminal on standard output; `None` where that is no terminal.
pub fn columns() -> Option<usize> {
    io::stdout().is_terminal().then(|| process::columns(TTY)).flatten()
}

/// A table whose columns are aligned, two spaces apart, as lines that fit the terminal on standard output.
pub fn table<const N: usize>(heading: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    format_table(heading, rows, columns().unwrap_or(usize::MAX))
}

fn format_table<const N: usize>(
    heading: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    columns: usize,
) -> String {
    // What is in the cells may come from a hub on another machine.
    let rows = rows.map(|row| row.map(|cell| fence::clean(&cell)));
    let rows: Vec<_> = std::iter::once(heading.map(str::to_owned)).chain(rows).collect();
    let widest = |at: usize| rows.iter().map(|row| width::width(&row[at])).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(widest);
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, columns)| width::pad(cell, columns)).collect();
        width::keep_start(cells.join("  ").trim_end(), columns) + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_aligns_by_display_width_and_fits_the_terminal() {
        let rows = [
            ["日本語プロジェクト", "idle", "~/code/日本語プロジェクト (main)"],
            ["web\u{1b}[2J-app", "busy", "~/code/web-app"],
        ]
        .map(|row| row.map(str::to_owned));
        let table = |columns| format_table(["NAME", "STATE", "DIRECTORY"], rows.iter().cloned(), columns);
        assert_eq!(
            table(usize::MAX),
            "NAME                STATE  DIRECTORY\n\
             日本語プロジェクト  idle   ~/code/日本語プロジェクト (main)\n\
             web-app             busy   ~/code/web-app\n"
        );
        for columns in [60, 50, 45, 33] {
            let text = table(columns);
            assert!(text.lines().all(|line| width::width(line) <= columns), "{columns}:\n{text}");
        }
    }
}
