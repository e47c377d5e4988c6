//! `relay linked`: the end of a link on the other machine. It tells where the data directory is; with `--take` it puts the
//! socket that ssh has forwarded in the place of `hub.sock` and keeps it there while the connection lasts.

use std::fs;
use std::io::{self, Read};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};
use serde::{Deserialize, Serialize};

use crate::connection::Connection;
use crate::datadir::DataDir;
use crate::shell::args::Args;
use crate::shell::terminal::out;
use crate::shell::{Outcome, print};
use crate::texts;
use crate::threads::{SMALL, spawn};
use crate::wire::{Code, ToHub};

/// The forwarded socket in the data directory, until it is put in place.
pub const FORWARDED: &str = "link.sock";
/// Printed once that is done.
pub const TAKEN: &str = "linked";
/// How long the other end may be silent.
const SILENCE: Duration = Duration::from_secs(45);
/// How often the end of a link looks after its files.
const CHECK: Duration = Duration::from_secs(1);
/// How long sessions wait for a link that has ended, before one of them starts a hub of its own.
const LINGER: Duration = Duration::from_secs(10);

/// What this machine tells a link.
#[derive(Serialize, Deserialize)]
pub struct Remote {
    pub data_dir: String,
    /// The epoch of the hub that its sessions use.
    pub epoch: Option<String>,
}

/// Runs `relay linked`.
pub fn linked(dir: &DataDir, args: &Args) -> Outcome {
    if let Some(socket) = dir.elsewhere() {
        return Err(format!("the sessions here use the hub behind {}", socket.display()).into());
    }
    dir.prepare()?;
    if args.has("take") {
        return take(dir);
    }
    let mut hub = Connection::find(dir).ok().flatten();
    let refused = hub.as_mut().and_then(|hub| hub.call(|id| ToHub::Status { id }).err());
    if refused.is_some_and(|fault| fault.code == Code::NotAllowed) {
        let why = "this machine is linked already; run `relay unlink` where its hub runs";
        return Err(why.to_owned().into());
    }
    let _ = fs::remove_file(dir.path().join(FORWARDED)); // of a connection that was lost in that moment
    print(&Remote { data_dir: dir.path().to_string_lossy().into_owned(), epoch: hub.map(|hub| hub.epoch) })
}

/// Puts the forwarded socket in place, holds the lock of the hub, so that no client starts one, and undoes both at the
/// end. The hub that listened there sees it, hands over the answers that wait, and exits.
fn take(dir: &DataDir) -> Outcome {
    let (from, socket) = (dir.path().join(FORWARDED), dir.socket_path());
    fs::rename(&from, &socket).map_err(|e| format!("cannot use the forwarded socket: {e}"))?;
    let ours = dir.listener();
    let (send, beats) = bounded(1);
    let is_alive = move || matches!(io::stdin().read(&mut [0; 64]), Ok(1..)) && send.send(()).is_ok();
    spawn("beats", SMALL, move || while is_alive() {})?;
    out(&format!("{TAKEN}\n"))?;
    let (mut claim, mut heard) = (None, Instant::now());
    // Another connection, made because this one is dead, replaces the socket.
    while heard.elapsed() < SILENCE && dir.listener() == ours {
        if claim.is_none() {
            claim = dir.claim()?; // the hub that was there may still hold it
        }
        match beats.recv_timeout(CHECK) {
            Ok(_) => heard = Instant::now(),
            Err(RecvTimeoutError::Timeout) => texts::sweep(dir),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    if dir.listener() == ours {
        fs::remove_file(&socket)?;
    }
    let until = Instant::now() + LINGER;
    while claim.is_some() && Instant::now() < until && !socket.exists() {
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
