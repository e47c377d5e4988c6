//! Texts that are too long for their path: the session gets the first part and the name of a file with the whole text.
//!
//! The file is `texts/SESSION.ASK.KIND` in the data directory, mode 0600, and holds the text as the session would have got
//! it: cleaned, and quoted if it is a peer's. A question's file is removed when its ask ends; every file is removed within
//! seconds after the session's process has ended, and an hour after it was written, by the hub.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::datadir::{DataDir, make_private};
use crate::fence;
use crate::process;
use crate::wire::{Kind, Parcel};

/// The longest time for which a file is kept.
const KEPT: Duration = Duration::from_secs(3600);

/// The length of a text in a JSON string, in UTF-16 units, as Claude Code measures it.
pub fn length(text: &str) -> usize {
    text.chars().map(json_length).sum()
}

fn json_length(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\t' | '\r' | '\u{8}' | '\u{c}' => 2,
        c if c < ' ' => 6,
        c => c.len_utf16(),
    }
}

/// The files of one session's texts.
pub struct Texts {
    dir: PathBuf,
    /// See [`crate::process::process_key`].
    session: String,
}

impl Texts {
    pub fn new(dir: &DataDir, session: String) -> Texts {
        Texts { dir: directory(dir), session }
    }

    /// A parcel in the `form` in which it is handed over, shortened if its length exceeds `most`.
    pub fn fit(&self, parcel: &Parcel, most: usize, form: fn(&Parcel) -> String) -> String {
        let whole = form(parcel);
        if length(&whole) <= most {
            return whole;
        }
        let rest = match self.write(parcel) {
            Ok(file) => {
                format!("is in {}, from that line on; the file is kept for an hour at most", file.display())
            }
            Err(e) => format!("could not be written to a file ({e}): ask for it in parts"),
        };
        let text = fence::clean(&parcel.text);
        let lines = text.lines().count();
        let cut = |first: &str, line: usize| {
            let note = format!(
                "This is only the first part of the text, up to line {line} of {lines}. The rest {rest}."
            );
            form(&Parcel { text: first.to_owned(), cut: Some(note), ..parcel.clone() })
        };
        let first = first_part(&text, most.saturating_sub(length(&cut("", lines))));
        cut(first, first.split('\n').count())
    }

    /// Writes the whole text of a parcel.
    fn write(&self, parcel: &Parcel) -> io::Result<PathBuf> {
        make_private(&self.dir)?;
        let path = self.path(&parcel.ask_id, parcel.kind);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        writeln!(file, "{}", fence::marked_text(parcel)).inspect_err(|_| drop(fs::remove_file(&path)))?;
        Ok(path)
    }

    fn path(&self, ask_id: &str, kind: Kind) -> PathBuf {
        let id: String =
            ask_id.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).collect();
        self.dir.join(format!("{}.{id}.{}", self.session, kind.name()))
    }

    /// The ask has ended: its question is not needed any more.
    pub fn remove_question(&self, ask_id: &str) {
        let _ = fs::remove_file(self.path(ask_id, Kind::Ask)); // hardly any question has one
    }
}

/// The directory of the files of all sessions. It is created with the first file.
fn directory(dir: &DataDir) -> PathBuf {
    dir.path().join("texts")
}

/// The longest beginning of `text` that has a length of `room` at most once it is quoted, up to the end of a line where that is
/// not far.
fn first_part(text: &str, room: usize) -> &str {
    let mut used = 0;
    let fits = |c: &char| {
        used += if *c == '\n' { length("\n> ") } else { json_length(*c) };
        used <= room
    };
    let end: usize = text.chars().take_while(fits).map(char::len_utf8).sum();
    match text[..end].rfind('\n') {
        Some(line) if line >= end / 2 && end < text.len() => &text[..line],
        _ => &text[..end],
    }
}

/// Removes the files of sessions whose process is gone, and those that are too old.
pub fn sweep(dir: &DataDir) {
    process::sweep(&directory(dir), KEPT);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Path as Way;

    fn texts(test: &str) -> Texts {
        let dir = crate::repository::tests::dir(&format!("texts-{test}"));
        Texts { dir, session: "1-2-3".to_owned() }
    }

    fn parcel(n: usize, text: String) -> Parcel {
        let (push, ask_id) = (format!("push_{n:024}"), format!("ask_{n:08}"));
        let (path, kind, from) = (Way::Hook, Kind::Ask, "web".to_owned());
        Parcel { push, path, kind, ask_id, from, text, ..Parcel::default() }
    }

    #[test]
    fn what_fits_is_left_alone() {
        let texts = texts("fits");
        let parcel = parcel(1, "x".repeat(1000));
        let whole = fence::text(&parcel);
        assert_eq!(texts.fit(&parcel, length(&whole), fence::text), whole);
        fs::remove_dir(texts.dir).expect("nothing was written");
    }

    #[test]
    fn what_is_too_long_is_cut_at_a_line_and_the_file_has_all_of_it() {
        let texts = texts("cut");
        let long: String = (1..=2000).map(|n| format!("line {n} \u{1f600}\u{1b}[0m\n")).collect();
        let cut = texts.fit(&parcel(2, long.clone()), 9_000, fence::text);
        assert!((8_500..=9_000).contains(&length(&cut)), "{}", length(&cut));
        let quoted: Vec<&str> = cut.lines().filter(|line| line.starts_with("> ")).collect();
        let last = quoted.last().expect("a line");
        assert!(last.starts_with("> line ") && last.ends_with('\u{1f600}'), "{last}");
        let file = texts.path("ask_00000002", Kind::Ask);
        assert!(cut.contains(&format!("up to line {} of 2000", quoted.len())), "{cut}");
        assert!(cut.contains(file.to_str().expect("text")), "{cut}");
        assert_eq!(fs::read_to_string(&file).expect("the file"), fence::quote(&long) + "\n");
        texts.remove_question("ask_00000002");
        assert!(!file.exists());
        fs::remove_dir_all(texts.dir).expect("removed");
    }

    #[test]
    fn a_text_is_cut_between_characters_and_measured_as_json_escapes_it() {
        let texts = texts("wide");
        for text in ["日\u{1f600}".repeat(20_000), "\"\\\n\t".repeat(10_000)] {
            let cut = texts.fit(&parcel(1, text), 20_000, fence::inbox_text);
            let line = serde_json::to_string(&cut).expect("JSON");
            assert!((19_000..=20_002).contains(&line.encode_utf16().count()), "{}", line.len());
        }
        fs::remove_dir_all(texts.dir).expect("removed");
    }

    #[test]
    fn without_a_file_the_cut_is_told_all_the_same() {
        let texts = texts("full");
        fs::remove_dir(&texts.dir).expect("empty");
        fs::write(&texts.dir, "no directory").expect("a file in its place");
        let cut = texts.fit(&parcel(1, "x".repeat(10_000)), 2_000, fence::text);
        assert!(cut.contains("could not be written"), "{cut}");
        fs::remove_file(texts.dir).expect("removed");
    }

    #[test]
    fn a_sweep_removes_what_nobody_needs() {
        let texts = texts("sweep");
        // A process of our namespace with that number started at another time.
        let session = process::process_key(u32::MAX) + "1";
        let gone = Texts { session, dir: texts.dir.clone() };
        let (a, b, c) = (parcel(1, "a".into()), parcel(2, "b".into()), parcel(3, "c".into()));
        let (keep, old, gone) = (texts.write(&a), texts.write(&b), gone.write(&c));
        let (keep, old, gone) = (keep.expect("a"), old.expect("b"), gone.expect("c"));
        let long_ago = std::time::SystemTime::now() - KEPT;
        OpenOptions::new()
            .write(true)
            .open(&old)
            .and_then(|f| f.set_modified(long_ago))
            .expect("an old file");
        process::sweep(&texts.dir, KEPT);
        assert!(keep.exists() && !old.exists() && !gone.exists());
        fs::remove_dir_all(texts.dir).expect("removed");
    }
}
