//! `relay link` and `relay unlink`: which other machines are linked. A link is a file in `links/`, locked by the process
//! that keeps its SSH connection, which ends when the file is removed.

pub mod far_end;
mod near_end;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, bounded};
use serde::{Deserialize, Serialize};

use super::args::Args;
use super::terminal::{columns, err, out, table};
use super::{Failure, Outcome, print, usage_error, width};
use crate::datadir::{DataDir, is_at};
use crate::fence::clean;
use crate::link::own_executable;
use crate::repository::read_limited;
use crate::span::span;
use crate::threads::{SMALL, spawn};
use near_end::{LINKED, keep};

/// How long a link may take to end: it answers between two steps of a connection.
const END: Duration = Duration::from_secs(40);
/// The largest state that is read, in bytes.
const MAX_STATE: u64 = 4096;
/// The longest line that is read from the other end of a link, in bytes.
const MAX_LINE: u64 = 8192;

/// The content of a link's file, and an element of the `--json` output.
#[derive(Serialize, Deserialize)]
struct State {
    host: String,
    state: String,
    /// Milliseconds since 1970 (UTC).
    since_ms: u64,
    pid: u32,
    detail: Option<String>,
}

/// The `--json` output of `relay link`.
#[derive(Serialize)]
struct LinksJson {
    links: Vec<State>,
}

/// The file of a link, locked while its process lives.
pub struct Entry {
    path: PathBuf,
    file: File,
}

impl Entry {
    /// Opens the file of `host`, and creates it; `None` if another process keeps that link.
    fn claim(dir: &DataDir, host: &str) -> io::Result<Option<Entry>> {
        dir.prepare().map_err(io::Error::other)?;
        DirBuilder::new().recursive(true).mode(0o700).create(links(dir))?;
        let path = links(dir).join(host);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Entry { path, file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    /// Records that the link is `connecting` for the first time, `up`, or `down` and why. Without room on the disk the list
    /// shows the earlier state.
    pub fn write(&self, host: &str, state: &str, detail: Option<&str>) {
        let (host, state, detail) = (host.to_owned(), state.to_owned(), detail.map(clean));
        let state = State { host, state, since_ms: now_ms(), pid: std::process::id(), detail };
        let text = serde_json::to_vec(&state).unwrap_or_default();
        let _ = self.file.write_all_at(&text, 0).and_then(|()| self.file.set_len(text.len() as u64)); // see above
    }

    /// Whether the file is still there: `relay unlink` removes it.
    pub fn is_wanted(&self) -> bool {
        is_at(&self.file, &self.path)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.is_wanted() {
            let _ = fs::remove_file(&self.path); // the next link of that name makes another
        }
    }
}

fn links(dir: &DataDir) -> PathBuf {
    dir.path().join("links")
}

/// Runs `relay link`.
pub fn link(dir: &DataDir, args: &Args) -> Outcome {
    let Some(host) = args.words.first() else { return list(dir, args) };
    check_host(host)?;
    if !args.has("foreground") {
        return in_background(dir, host);
    }
    let cannot = |e: io::Error| format!("cannot use {}: {e}", links(dir).display());
    match Entry::claim(dir, host).map_err(cannot)? {
        Some(entry) => {
            entry.write(host, "connecting", None);
            Ok(keep(dir, host, &entry)?)
        }
        None => Err(format!("{host} is linked already; see `relay link`").into()),
    }
}

/// What ssh takes for a host, and what is a file name.
fn check_host(host: &str) -> Result<(), Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@._:%-".contains(c);
    if (1..=200).contains(&host.len()) && host.chars().all(plain) && !host.starts_with(['-', '.']) {
        return Ok(());
    }
    usage_error(format!(
        "invalid host \"{}\": give HOST or USER@HOST as for ssh, or an alias from ~/.ssh/config",
        clean(host)
    ))
}

/// Starts the process that keeps the link, and returns once that is up.
fn in_background(dir: &DataDir, host: &str) -> Outcome {
    let (input, output) = io::pipe()?;
    let mut command = Command::new(own_executable());
    command.args(["link", "--foreground", host, "--data-dir"]).arg(dir.path());
    command.process_group(0).current_dir("/").stdin(Stdio::null());
    command.stdout(output.try_clone()?).stderr(output);
    command.spawn().map_err(|e| format!("cannot start the link: {e}"))?;
    drop(command); // and our end of the pipe for its output
    let mut said = String::new();
    let _ = BufReader::new(input.take(MAX_STATE)).read_line(&mut said); // on an error the line stays empty
    match said.trim().trim_start_matches("relay link: ") {
        "" => Err(format!("the link to {host} was ended before it was up").into()),
        line if line.starts_with(LINKED) => out(&said),
        why => Err(why.to_owned().into()),
    }
}

/// The links, by host.
fn list(dir: &DataDir, args: &Args) -> Outcome {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(links(dir)).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    let links: Vec<State> = paths.iter().filter_map(|path| read(path)).collect();
    if args.has("json") {
        return print(&LinksJson { links });
    }
    if links.is_empty() {
        err("There are no links. `relay link HOST` makes one.\n");
        return Ok(());
    }
    let rows = links.into_iter().map(|State { host, state, since_ms, pid, detail }| {
        let since = span(now_ms().saturating_sub(since_ms) / 1000);
        [host, state, since, pid.to_string(), detail.unwrap_or_default()]
    });
    out(&table(["HOST", "STATE", "SINCE", "PROCESS", "DETAIL"], rows, columns(), width::keep_start))
}

/// The state of the link with this file; `None` if it has none yet. It is `stopped` if its process is gone.
fn read(path: &Path) -> Option<State> {
    let mut state: State = serde_json::from_slice(&read_limited(path, MAX_STATE).ok()?).ok()?;
    if File::open(path).ok()?.try_lock_shared().is_ok() {
        state.state = "stopped".to_owned();
    }
    Some(state)
}

/// The lines that the other end of a link sends, without the space around them; disconnected at the end.
fn read_lines(input: impl Read + Send + 'static) -> io::Result<Receiver<String>> {
    let (send, lines) = bounded(64);
    let read = move || {
        let mut input = BufReader::new(input);
        let mut line = Vec::new();
        while let Ok(1..) = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            if send.send(String::from_utf8_lossy(&line).trim().to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    };
    spawn("lines", SMALL, read).map(|()| lines)
}

/// Milliseconds since 1970.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Runs `relay unlink`: returns when the link has ended.
pub fn unlink(dir: &DataDir, args: &Args) -> Outcome {
    let Some(host) = args.words.first() else {
        return usage_error("missing HOST; `relay link` lists the links");
    };
    check_host(host)?;
    let path = links(dir).join(host);
    let Ok(file) = File::open(&path) else {
        return usage_error(format!("{host} is not linked; `relay link` lists the links"));
    };
    fs::remove_file(&path).map_err(|e| format!("cannot remove {}: {e}", path.display()))?;
    let until = Instant::now() + END;
    while file.try_lock_shared().is_err() {
        if Instant::now() >= until {
            return Err(format!("the link to {host} does not end; end its process").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
    out(&format!("{host} is no longer linked.\n"))
}
