//! `relay link` and `relay unlink`: which other machines are linked. A link is a file in `links/`, locked by the process
//! that keeps its SSH connection, which ends when the file is removed.

pub mod far_end;
mod near_end;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::args::Args;
use super::terminal::{columns, err, out, table};
use super::{Failure, Outcome, print, usage_error, width};
use crate::datadir::DataDir;
use crate::fence::clean;
use crate::link::own_executable;
use crate::span::span;
use near_end::{LINKED, keep};

/// How long a link may take to end: it answers between two steps of a connection.
const END: Duration = Duration::from_secs(40);
/// The largest state that is read, in bytes.
const MAX_STATE: u64 = 4096;

/// The file of a link, locked while its process lives.
pub struct Entry {
    path: PathBuf,
    file: File,
}

impl Entry {
    /// Opens the file of `host`, and creates it; `None` if another process keeps that link.
    fn claim(dir: &DataDir, host: &str) -> io::Result<Option<Entry>> {
        dir.prepare().map_err(io::Error::other)?;
        match DirBuilder::new().mode(0o700).create(links(dir)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let path = links(dir).join(host);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Entry { path, file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    /// Records that the link is `connecting` for the first time, `up`, or `down` and why. Without room on the disk the list shows the earlier state.
    pub fn write(&self, host: &str, state: &str, detail: Option<&str>) {
        let (pid, detail) = (std::process::id(), detail.map(clean));
        let state = json!({"host": host, "state": state, "since_ms": now_ms(), "pid": pid, "detail": detail});
        let text = state.to_string();
        let _ =
            self.file.write_all_at(text.as_bytes(), 0).and_then(|()| self.file.set_len(text.len() as u64));
    }

    /// Whether the file is still there: `relay unlink` removes it.
    pub fn is_wanted(&self) -> bool {
        let inode = |file: fs::Metadata| (file.dev(), file.ino());
        let there = fs::symlink_metadata(&self.path).map(inode);
        there.is_ok_and(|there| self.file.metadata().is_ok_and(|open| inode(open) == there))
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
        None => Err(Failure::Other(format!("{host} is linked already; see `relay link`"))),
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
    let mut command = Command::new(own_executable());
    command.args(["link", "--foreground", host, "--data-dir"]).arg(dir.path());
    let command = command.process_group(0).current_dir("/").stdin(Stdio::null());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| format!("cannot start the link: {e}"))?;
    let mut said = String::new();
    if let Some(from) = child.stdout.take() {
        let _ = BufReader::new(from.take(1000)).read_line(&mut said); // on an error the line stays empty
    }
    if said.starts_with(LINKED) {
        out(&said)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut why = String::new();
    if let Some(from) = child.stderr.take() {
        let _ = from.take(MAX_STATE).read_to_string(&mut why); // as above
    }
    let why = match why.trim().trim_start_matches("relay link: ") {
        "" => format!("the link to {host} was ended before it was up"),
        why => why.to_owned(),
    };
    Err(Failure::Other(why))
}

/// The links, by host.
fn list(dir: &DataDir, args: &Args) -> Outcome {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(links(dir)).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    let states: Vec<Value> = paths.iter().filter_map(|path| read(path)).collect();
    if args.has("json") {
        print(&json!({"links": states}))?;
    } else if states.is_empty() {
        err("There are no links. `relay link HOST` makes one.\n");
    } else {
        let text = |state: &Value, key: &str| state[key].as_str().unwrap_or_default().to_owned();
        let mut rows = vec![["HOST", "STATE", "SINCE", "PROCESS", "DETAIL"].map(str::to_owned)];
        rows.extend(states.iter().map(|state| {
            let since = span(now_ms().saturating_sub(state["since_ms"].as_u64().unwrap_or_default()) / 1000);
            let pid = state["pid"].to_string();
            [text(state, "host"), text(state, "state"), since, pid, text(state, "detail")]
        }));
        out(&table(&rows, columns(), width::keep_start))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The state of the link with this file; `None` if it has none yet. It is `stopped` if its process is gone.
fn read(path: &Path) -> Option<Value> {
    let file = File::open(path).ok().filter(|file| file.metadata().is_ok_and(|m| m.is_file()))?;
    let mut text = String::new();
    Read::take(&file, MAX_STATE).read_to_string(&mut text).ok()?;
    let mut state: Value = serde_json::from_str(&text).ok().filter(Value::is_object)?;
    if file.try_lock_shared().is_ok() {
        state["state"] = json!("stopped");
    }
    Some(state)
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
    let file = File::open(&path).and_then(|file| fs::remove_file(&path).map(|()| file));
    let file = match file {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return usage_error(format!("{host} is not linked; `relay link` lists the links"));
        }
        file => file.map_err(|e| format!("cannot remove {}: {e}", path.display()))?,
    };
    let until = Instant::now() + END;
    while file.try_lock_shared().is_err() {
        if Instant::now() >= until {
            return Err(Failure::Other(format!("the link to {host} does not end; end its process")));
        }
        thread::sleep(Duration::from_millis(20));
    }
    out(&format!("{host} is no longer linked.\n"))?;
    Ok(ExitCode::SUCCESS)
}
