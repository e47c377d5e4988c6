//! The hub's journal: the inputs of the router on disk, so that the next hub can replay them.
//!
//! `hub.journal` (0600) is a file of JSON lines. The first is a [`Header`] with a snapshot of the router, every further
//! one a [`Record`]: an input, its time, and the random identifiers that its step drew. The hub appends the records of
//! a batch with one write before it sends any output of that batch. If the hub is killed between the two, its clients
//! have received nothing and repeat their requests. A kill during the write leaves a torn last line, which is ignored.
//! There is no fsync: the journal guards against the death of the process, not of the machine, which takes all sessions
//! with it.
//!
//! Compaction writes a new file that begins with a fresh snapshot, and renames it over the old one.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::router::{Info, Input, Limits, Ms, Router, Step, digest};
use crate::wire::JournalStatus;

/// The format that this version writes and reads.
pub const FORMAT: u32 = 2;
/// A file up to this size, in bytes, is not compacted because of its size.
const SMALL: u64 = 1 << 20;
/// How long records stay in the file, and with them text that nobody needs any more: half of the documented minute.
const COMPACTION: Duration = Duration::from_secs(30);
/// The pause before a failed journal is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// Above every time and connection number that can occur: 285,000 years in milliseconds.
const OUT_OF_RANGE: u64 = 1 << 53;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
pub struct Header {
    pub format: u32,
    /// A random identifier of the router's state, the same in all hub processes that carry the state on.
    pub epoch: String,
    /// The version of the program that wrote the file.
    pub version: String,
    /// The wall clock at the router's time 0, in milliseconds since 1970.
    pub epoch_started_ms: u64,
    /// The [`digest`] of the snapshot. The router relies on its own state, so one that was damaged or edited is not used.
    pub digest: u64,
    /// The router.
    pub snapshot: Box<RawValue>,
}

/// Every other line.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// The router's time of the step.
    pub at: Ms,
    /// The random identifiers that the step drew.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    pub input: Input,
}

/// Opens a journal: its header, the router of the snapshot, and its records, which end at a torn last line.
///
/// # Errors
/// The file cannot be read, or is not a journal of [`FORMAT`].
pub fn open(path: &Path) -> io::Result<(Header, Router, impl Iterator<Item = io::Result<Record>>)> {
    if !fs::symlink_metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    read(BufReader::new(File::open(path)?))
}

/// The same for a journal that is read from `lines`.
///
/// # Errors
/// As for `open`.
pub fn read<R: BufRead>(
    mut lines: R,
) -> io::Result<(Header, Router, impl Iterator<Item = io::Result<Record>>)> {
    let first = whole_line(&mut lines)?.ok_or_else(|| io::Error::other("it has no whole line"))?;
    let header: Header = serde_json::from_slice(&first)?;
    if header.format != FORMAT {
        let format = header.format;
        return Err(io::Error::other(format!("it has format {format}, and this version reads {FORMAT}")));
    }
    if header.digest != digest(header.snapshot.get()) {
        return Err(io::Error::other("its snapshot was changed"));
    }
    let router = serde_json::from_slice(header.snapshot.get().as_bytes())?;
    let records = std::iter::from_fn(move || whole_line(&mut lines).ok().flatten().map(|line| record(&line)));
    Ok((header, router, records))
}

fn record(line: &[u8]) -> io::Result<Record> {
    let record: Record = serde_json::from_slice(line)?;
    let conn = match record.input {
        Input::Opened(conn) | Input::Said(conn, _) | Input::Closed(conn) => conn,
        Input::Tick => 0,
    };
    match record.at.max(conn) < OUT_OF_RANGE {
        true => Ok(record),
        false => Err(io::Error::other("a number in it is out of range")),
    }
}

/// Repeats the steps of a journal.
///
/// # Errors
/// A line is not a record.
pub fn replay(router: &mut Router, records: impl Iterator<Item = io::Result<Record>>) -> io::Result<()> {
    for record in records {
        let Record { at, ids, input } = record?;
        router.replay(at, input, ids);
    }
    Ok(())
}

/// Writes the first line of a journal, with the state of `router` as its snapshot.
///
/// # Errors
/// Those of `out`.
pub fn write_header(out: &mut impl Write, router: &Router) -> io::Result<()> {
    let (info, snapshot) = (&router.info, to_raw_value(router)?);
    let header = Header {
        format: FORMAT,
        epoch: info.epoch.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch_started_ms: info.epoch_started_ms,
        digest: digest(snapshot.get()),
        snapshot,
    };
    serde_json::to_writer(&mut *out, &header)?;
    out.write_all(b"\n")
}

/// Steps `router`, and appends to `batch` the line by which a replay repeats the step, if it changed the state.
pub fn step(router: &mut Router, now: Ms, input: Input, batch: &mut Vec<u8>) -> Step {
    let text = json(&input);
    let step = router.step(now, input);
    let text = match step.is_change {
        true => text,
        false if step.expired => json(&Input::Tick),
        false => return step,
    };
    let (at, ids) = (router.now, json(&step.drawn));
    batch.extend_from_slice(format!("{{\"at\":{at},\"ids\":{ids},\"input\":{text}}}\n").as_bytes());
    step
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("invariant: what a journal holds has string keys")
}

/// The next line with its newline; `None` at the end of the file and for a torn last line.
fn whole_line(lines: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    lines.read_until(b'\n', &mut line)?;
    Ok(line.ends_with(b"\n").then_some(line))
}

/// The journal file of a running hub, and the records that are not written yet.
#[derive(Default)]
pub struct Journal {
    path: PathBuf,
    /// `None` while nothing is written.
    file: Option<File>,
    /// Records that are not written yet: see [`step`].
    pub batch: Vec<u8>,
    /// The size of the file's first line, in bytes.
    snapshot_size: u64,
    pub status: JournalStatus,
    /// When the next file is due, after records or after a failure.
    renew_at: Option<Instant>,
}

impl Journal {
    /// Restores the router from the journal at `path` and closes the connections that died with the last hub; without a
    /// usable journal the router is new and begins a new epoch, named `new_epoch`. Then writes a fresh journal if
    /// `wanted`.
    pub fn start(
        path: PathBuf,
        wanted: bool,
        limits: Limits,
        info: Info,
        new_epoch: String,
        ids: Box<dyn FnMut() -> String + Send>,
    ) -> (Journal, Router) {
        let restored = if wanted { restore(&path) } else { None };
        let (epoch, epoch_started_ms, mut router, started) = match restored {
            Some((header, router, now)) => (header.epoch, header.epoch_started_ms, router, now),
            None => (new_epoch, unix_ms(), Router::default(), 0),
        };
        router.restart(limits, Info { epoch, epoch_started_ms, started, ..info }, ids);
        let mut journal = Journal { path, ..Journal::default() };
        match wanted {
            true => journal.compact(&router),
            false => {
                journal.status.off = Some("RELAY_JOURNAL=off".to_owned());
                journal.remove();
            }
        }
        (journal, router)
    }

    /// Writes the records of this batch; to be called before any of its outputs is sent.
    pub fn append(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let Some(file) = self.file.as_mut().filter(|_| !batch.is_empty()) else { return };
        match file.write_all(&batch) {
            Ok(()) => self.status.bytes += batch.len() as u64,
            Err(e) => return self.give_up(&e),
        }
        self.renew_at.get_or_insert_with(|| Instant::now() + COMPACTION);
    }

    /// Compacts the file if it is too large or has old records, and retries a failed journal. To be called about once per
    /// second, and with an empty batch.
    pub fn maintain(&mut self, router: &Router, now: Instant) {
        let is_too_large = self.status.bytes > SMALL.max(2 * self.snapshot_size);
        if is_too_large || self.renew_at.is_some_and(|at| at <= now) {
            self.compact(router);
        }
    }

    /// Leaves a journal with a snapshot only, on a clean stop. To be called with an empty batch.
    pub fn close(&mut self, router: &Router) {
        if self.file.is_some() {
            self.compact(router);
        }
    }

    fn compact(&mut self, router: &Router) {
        self.renew_at = None;
        match write_new(&self.path, router) {
            Ok((file, size)) => {
                self.status.off = None;
                (self.file, self.status.bytes, self.snapshot_size) = (Some(file), size, size);
            }
            Err(e) => self.give_up(&e),
        }
    }

    /// Continues in memory only. Removes the file, since a journal without all steps must never be replayed.
    fn give_up(&mut self, e: &io::Error) {
        self.status.off = Some(format!("cannot write {}: {e}", self.path.display()));
        if let Some(file) = self.file.take() {
            let _ = file.set_len(0); // if the file cannot be removed, an empty one is ignored as well
        }
        self.status.bytes = 0;
        self.batch.clear();
        self.renew_at = Some(Instant::now() + RETRY);
        self.remove();
        log::error!(error:% = e; "journal_off"); // last: on a full disk there is room for it now
    }

    /// Removes the file. The next hub begins a new epoch.
    pub fn remove(&self) {
        let _ = fs::remove_file(&self.path); // there may be none, or what is there is no file
    }
}

/// Replaces the journal by one with a snapshot only, and returns the file with its size.
fn write_new(path: &Path, router: &Router) -> io::Result<(File, u64)> {
    let new = path.with_extension("journal.new");
    let _ = fs::remove_file(&new); // left by a hub that was killed here
    let mut line = Vec::new();
    write_header(&mut line, router)?;
    let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&new)?;
    file.set_permissions(Permissions::from_mode(0o600)) // whatever the umask
        .and_then(|()| file.write_all(&line))
        .and_then(|()| fs::rename(&new, path))
        .inspect_err(|_| drop(fs::remove_file(&new)))?; // else the next hub removes it
    Ok((file, line.len() as u64))
}

/// The router of the last hub, and its time now, which includes the time without a hub.
fn restore(path: &Path) -> Option<(Header, Router, Ms)> {
    let restored = open(path).and_then(|(header, mut router, records)| {
        replay(&mut router, records)?;
        Ok((header, router))
    });
    let restored = restored.inspect_err(|e| {
        if e.kind() != io::ErrorKind::NotFound {
            log::error!(error:% = e; "journal_unreadable");
        }
    });
    let (header, router) = restored.ok()?;
    let written = fs::metadata(path).and_then(|m| m.modified()).unwrap_or_else(|_| SystemTime::now());
    let away = SystemTime::now().duration_since(written).unwrap_or_default(); // the clock may have been set back
    let now = router.now + away.as_millis() as u64;
    Some((header, router, now))
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

#[cfg(test)]
mod tests;
