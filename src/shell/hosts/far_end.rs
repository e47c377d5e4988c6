//! `relay linked`: the end of a link on the other machine. Without a word it tells where the data directory is; with the
//! name of a forwarded socket it puts that in the place of `hub.sock` and keeps it there while the connection lasts.

use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use serde_json::{Value, json};

use crate::datadir::DataDir;
use crate::link::{Link, Start};
use crate::shell::args::Args;
use crate::shell::terminal::out;
use crate::shell::{Failure, Outcome, print, usage_error};
use crate::texts;
use crate::threads::{SMALL, spawn};
use crate::wire::{Code, ToHub};

/// How the name of a forwarded socket begins.
pub const PREFIX: &str = "link-";
/// Printed once the forwarded socket is in its place.
pub const TAKEN: &str = "linked";
/// Printed when another link has replaced it.
pub const REPLACED: &str = "replaced";
/// Received from a link that was ended on purpose.
pub const BYE: &str = "bye\n";
/// How long the other end may be silent.
const SILENCE: Duration = Duration::from_secs(45);
/// How often it tries to get the lock, which the hub that it replaces still holds.
const CLAIM: Duration = Duration::from_millis(50);
/// How often the end of a link looks after its files.
const CHECK: Duration = Duration::from_secs(1);
/// How long sessions wait for a link that was lost, before one of them starts a hub of its own.
const LINGER: Duration = Duration::from_secs(10);

/// What this machine tells a link.
pub struct Remote {
    pub data_dir: String,
    /// The epoch of the hub that its sessions use.
    pub epoch: Option<String>,
    /// Whether that hub runs elsewhere.
    pub linked: bool,
}

impl Remote {
    /// Reads the line that `relay linked` prints; `None` if it is another one.
    pub fn parse(line: &str) -> Option<Remote> {
        let said: Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| said[key].as_str().map(str::to_owned);
        Some(Remote { data_dir: text("data_dir")?, epoch: text("epoch"), linked: said["linked"] == true })
    }
}

/// Runs `relay linked`.
pub fn linked(dir: &DataDir, args: &Args) -> Outcome {
    if let Some(socket) = dir.elsewhere() {
        return Err(Failure::Other(format!("the sessions here use the hub behind {}", socket.display())));
    }
    dir.prepare()?;
    match args.words.first() {
        Some(name) => hold(dir, name),
        None => {
            remove_unused(dir)?;
            let mut hub = Link::open(dir, Start::No).ok();
            let refused = hub.as_mut().and_then(|hub| hub.call(|id| ToHub::Status { id }).err());
            let linked = refused.is_some_and(|fault| fault.code == Code::NotAllowed);
            let epoch = hub.map(|hub| hub.epoch);
            print(&json!({"data_dir": dir.path().to_string_lossy(), "epoch": epoch, "linked": linked}))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Puts the forwarded socket in place, holds the lock of the hub, so that no client starts one, and undoes both at the
/// end. The hub that listened there sees it, tells its clients and exits.
fn hold(dir: &DataDir, name: &str) -> Outcome {
    if !name.starts_with(PREFIX) || name.contains('/') {
        return usage_error("invalid SOCKET: `relay link` makes its name");
    }
    let (from, socket) = (dir.path().join(name), dir.socket_path());
    fs::set_permissions(&from, Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&from, &socket))
        .map_err(|e| format!("cannot use the forwarded socket {}: {e}", from.display()))?;
    let ours = dir.listeners();
    let lines = read_stdin()?;
    out(&format!("{TAKEN}\n"))?;
    let (mut claim, mut heard) = (dir.claim()?, Instant::now());
    let is_lost = loop {
        match lines.recv_timeout(if claim.is_some() { CHECK } else { CLAIM }) {
            Ok(line) if line == BYE => break false,
            Ok(_) => heard = Instant::now(),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break true,
        }
        if heard.elapsed() >= SILENCE {
            break true;
        }
        if dir.listeners() != ours {
            break true;
        }
        if claim.is_none() {
            claim = dir.claim()?;
        }
        texts::sweep(dir);
    };
    if dir.listeners() == ours {
        fs::remove_file(&socket)?;
    } else if is_there(&socket) {
        out(&format!("{REPLACED}\n"))?;
    }
    let until = Instant::now() + LINGER;
    while is_lost && claim.is_some() && Instant::now() < until && !is_there(&socket) {
        thread::sleep(Duration::from_millis(50));
    }
    Ok(ExitCode::SUCCESS)
}

/// Removes forwarded sockets that were never used: their connection was lost in that moment.
fn remove_unused(dir: &DataDir) -> io::Result<()> {
    for entry in fs::read_dir(dir.path())?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let _ = fs::remove_file(entry.path()); // it may have been used meanwhile
        }
    }
    Ok(())
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// The lines from the other end; disconnected when the connection ends.
fn read_stdin() -> io::Result<Receiver<String>> {
    let (send, lines) = bounded(8);
    spawn("stdin", SMALL, move || {
        let mut input = BufReader::new(io::stdin());
        loop {
            let mut line = String::new();
            match input.by_ref().take(64).read_line(&mut line) {
                Ok(1..) if send.send(line).is_ok() => {}
                _ => return,
            }
        }
    })?;
    Ok(lines)
}
