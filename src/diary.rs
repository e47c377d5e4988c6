//! What a channel leaves on disk for the next process of its session: who it is, the ids of its open asks and of those that
//! it owes, and how those of its open broadcasts went; never a text.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::json::{self, put, tagged, take};
use crate::wire::{self, Code, Outcome, State};

/// The largest file that is read back; at half of that it is written anew.
const MAX_FILE: u64 = 1 << 20;

tagged! {
    /// A line of a diary.
    pub enum Line by "what" {
        Session = "session" { peer: String, secret: String },
        Name = "name" { name: String },
        Asked = "asked" {
            ask_id: String,
            peer: String,
            to: String,
            broadcast: Option<String> = None,
            state: State,
            /// When it times out, in milliseconds since 1970.
            until_ms: u64,
        },
        Ended = "ended" { ask_id: String, code: Option<Code> = None },
        /// It was asked, by `peer`, whose name is `from`.
        Given = "given" {
            ask_id: String,
            peer: String,
            from: String,
            state: State,
            push: String,
            path: wire::Path,
        },
        /// Asked or given, it need not be remembered any more.
        Over = "over" { ask_id: String },
        Outcomes = "outcomes" { broadcast_id: String, outcomes: Vec<Outcome> },
        Summed = "summed" { broadcast_id: String },
    }
}

/// See the module.
pub struct Diary {
    path: PathBuf,
    file: File,
    /// How much has been written to it since it was new.
    length: usize,
}

impl Diary {
    /// The file at `path`, new if need be, and what is in it. `None` where another process has it, which is another channel
    /// of the same session, or it can't be used.
    pub fn open(path: &Path) -> Option<(Diary, Vec<Line>)> {
        if fs::symlink_metadata(path).is_ok_and(|m| !m.is_file()) {
            return None; // it might never open, or never end
        }
        let options = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let mut file = options.ok()?;
        // Whoever wrote it anew meanwhile has another file there.
        let same = |file: &File| Some(file.metadata().ok()?.ino() == fs::metadata(path).ok()?.ino());
        if file.try_lock().is_err() || same(&file) != Some(true) {
            return None;
        }
        let mut text = String::new();
        if Read::take(&mut file, MAX_FILE).read_to_string(&mut text).is_err() {
            text.clear();
        }
        let lines = text.lines().filter_map(|l| json::read(l.as_bytes()).ok()).collect();
        Some((Diary { path: path.to_owned(), file, length: 0 }, lines))
    }

    /// Writes the file anew, beside the old one, which it then replaces, so that there is a whole one whenever the process
    /// is killed.
    pub fn write_anew(&mut self, lines: &[Line]) {
        let text: Vec<u8> = lines.iter().flat_map(text_of).collect();
        let new = self.path.with_extension("new");
        let written = || {
            let _ = fs::remove_file(&new); // what a process left that was killed here
            let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&new)?;
            file.lock()?;
            file.write_all(&text)?;
            fs::rename(&new, &self.path)?;
            Ok::<File, std::io::Error>(file)
        };
        if let Ok(file) = written() {
            (self.file, self.length) = (file, text.len());
        }
    }

    /// Adds a line, and says whether it is time to write all anew. One write a line: a process that is killed leaves whole
    /// lines. What can't be written (a full disk) is only missed by a channel that dies as well.
    pub fn write(&mut self, line: &Line) -> bool {
        let text = text_of(line);
        let _ = self.file.write_all(&text); // see above
        self.length += text.len();
        self.length as u64 > MAX_FILE / 2
    }

    /// The session has said goodbye for good.
    pub fn remove(self) {
        let _ = fs::remove_file(self.path); // else it is swept up later
    }
}

fn text_of(line: &Line) -> Vec<u8> {
    let mut text = Vec::new();
    json::write_line(&mut text, line);
    text
}

/// Removes the files of sessions whose process is gone. `alive` says whether the process of that name lives.
pub fn sweep(dir: &Path, alive: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let gone = |path: &PathBuf| {
        let name = path.file_stem().and_then(|n| n.to_str()).unwrap_or_default();
        let is_file = fs::symlink_metadata(path).is_ok_and(|m| m.is_file()); // what is none might never open
        is_file && !alive(name) && File::open(path).is_ok_and(|f| f.try_lock().is_ok())
    };
    for path in entries.flatten().map(|e| e.path()).filter(gone) {
        let _ = fs::remove_file(path); // another channel sweeps too
    }
}
