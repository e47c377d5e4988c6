//! `relay linked`: the end of a link on the other machine. Without a word it tells where the data directory is; with the
//! name of a forwarded socket it puts that in the place of `hub.sock` and keeps it there while the connection lasts.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::RecvTimeoutError;
use serde::{Deserialize, Serialize};

use super::read_lines;
use crate::datadir::DataDir;
use crate::link::{Link, Start};
use crate::shell::args::Args;
use crate::shell::terminal::out;
use crate::shell::{Outcome, print, usage_error};
use crate::texts;
use crate::wire::{Code, ToHub};

/// How the name of a forwarded socket begins.
pub const PREFIX: &str = "link-";
/// Printed once the forwarded socket is in its place.
pub const TAKEN: &str = "linked";
/// Printed when another link has replaced it.
pub const REPLACED: &str = "replaced";
/// Received from a link that was ended on purpose.
pub const BYE: &str = "bye";
/// How long the other end may be silent.
const SILENCE: Duration = Duration::from_secs(45);
/// How often it tries to get the lock, which the hub that it replaces still holds.
const CLAIM: Duration = Duration::from_millis(50);
/// How often the end of a link looks after its files.
const CHECK: Duration = Duration::from_secs(1);
/// How long sessions wait for a link that was lost, before one of them starts a hub of its own.
const LINGER: Duration = Duration::from_secs(10);

/// What this machine tells a link.
#[derive(Serialize, Deserialize)]
pub struct Remote {
    pub data_dir: String,
    /// The epoch of the hub that its sessions use.
    pub epoch: Option<String>,
    /// Whether that hub runs elsewhere.
    pub linked: bool,
}

/// Runs `relay linked`.
pub fn linked(dir: &DataDir, args: &Args) -> Outcome {
    if let Some(socket) = dir.elsewhere() {
        return Err(format!("the sessions here use the hub behind {}", socket.display()).into());
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
            print(&Remote { data_dir: dir.path().to_string_lossy().into_owned(), epoch, linked })
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
    let lines = read_lines(io::stdin())?;
    out(&format!("{TAKEN}\n"))?;
    let (mut claim, mut heard) = (dir.claim()?, Instant::now());
    let is_lost = loop {
        match lines.recv_timeout(if claim.is_some() { CHECK } else { CLAIM }) {
            Ok(line) if line == BYE => break false,
            Ok(_) => heard = Instant::now(),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break true,
        }
        if heard.elapsed() >= SILENCE || dir.listeners() != ours {
            break true;
        }
        if claim.is_none() {
            claim = dir.claim()?;
        }
        texts::sweep(dir);
    };
    if dir.listeners() == ours {
        fs::remove_file(&socket)?;
    } else if socket.exists() {
        out(&format!("{REPLACED}\n"))?;
    }
    let until = Instant::now() + LINGER;
    while is_lost && claim.is_some() && Instant::now() < until && !socket.exists() {
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
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
