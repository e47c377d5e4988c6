//! `relay status` and `relay stop`: the hub process.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use super::args::Args;
use super::terminal::out;
use super::{Outcome, open, request, show};
use crate::connection::{no_hub, silent, unreachable};
use crate::datadir::DataDir;
use crate::span::span;
use crate::wire::{Answer, Code, Fault, Status, ToHub};

/// How long a hub may take to exit.
const EXIT_LIMIT: Duration = Duration::from_secs(10);

/// Runs `relay status`.
pub fn status(dir: &DataDir, args: &Args) -> Outcome {
    let Some(Answer::Status(status)) = request(dir, |id| ToHub::Status { id })? else {
        return Err(no_hub(dir).into());
    };
    show(args, &status, |status| describe(status, dir))
}

fn describe(status: &Status, dir: &DataDir) -> String {
    let Status { pid, version, protocol, uptime_s, peers, open_asks, undelivered, connections, .. } = status;
    let journal = match &status.journal.off {
        None => format!("{} KiB", status.journal.bytes.div_ceil(1024)),
        Some(why) => format!("NONE ({why}); open asks fail if the hub dies"),
    };
    format!(
        "Hub {version} (protocol {protocol}), process {pid}, up for {}\n\
         Peers: {peers}. Open asks: {open_asks}. Undelivered messages: {undelivered}. Connections: {connections}\n\
         Journal: {journal}\n\
         Data directory: {}\n",
        span(*uptime_s),
        dir.path().display(),
    )
}

/// Runs `relay stop`: returns when the hub has exited.
pub fn stop(dir: &DataDir) -> Outcome {
    out(match stop_hub(dir)? {
        true => "The hub has stopped. Connected sessions start a new one and continue.\n",
        false => "No hub is running.\n",
    })
}

/// Stops the hub and waits until it has exited; `false` if no hub runs.
///
/// # Errors
/// The hub cannot be used, or does not exit.
pub fn stop_hub(dir: &DataDir) -> Result<bool, Fault> {
    let until = Instant::now() + EXIT_LIMIT;
    match open(dir) {
        Ok(Some(mut hub)) => {
            hub.call(|id| ToHub::Stop { id })?;
            while matches!(hub.receive(Some(until)), Ok(Some(_))) {} // it removes its socket, then closes the connections
        }
        Ok(None) => return Ok(false),
        Err(fault) if fault.code == Code::ProtocolMismatch => {
            // A hub of any version exits when its socket is gone.
            fs::remove_file(dir.socket_path())
                .map_err(|e| unreachable(format!("cannot stop the hub: {e}")))?;
        }
        Err(fault) => return Err(fault),
    }
    // It has exited when its lock is free, or the next hub has made a socket.
    while fs::symlink_metadata(dir.socket_path()).is_err() && dir.is_claimed() {
        if Instant::now() >= until {
            return Err(silent(dir.hub_process()));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(true)
}
