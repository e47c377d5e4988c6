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
    let status = request_status(dir)?.ok_or_else(|| no_hub(dir))?;
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

/// The status of the hub; `None` if no hub runs.
///
/// # Errors
/// The hub cannot be used, does not tell its status, or the connection is lost.
pub fn request_status(dir: &DataDir) -> Result<Option<Status>, Fault> {
    match request(dir, |id| ToHub::Status { id })? {
        Some(Answer::Status(status)) => Ok(Some(status)),
        _ => Ok(None),
    }
}

/// Runs `relay stop`: returns when the hub has exited.
pub fn stop(dir: &DataDir) -> Outcome {
    out(&match stop_hub(dir) {
        Ok(None) => "No hub is running.\n".to_owned(),
        Ok(Some(pid)) => {
            format!("The hub (process {pid}) has stopped. Connected sessions start a new one and continue.\n")
        }
        Err(fault) if fault.code == Code::ProtocolMismatch => {
            // A hub of any version exits when its socket is gone.
            fs::remove_file(dir.socket_path())
                .map_err(|e| unreachable(format!("cannot stop the hub: {e}")))?;
            wait_for_exit(dir)?;
            "The hub, which spoke another protocol version, has stopped.\n".to_owned()
        }
        Err(fault) => return Err(fault.into()),
    })
}

/// Stops the hub, waits until it has exited, and returns its process; `None` if no hub runs.
///
/// # Errors
/// The hub speaks another protocol, or does not exit.
pub fn stop_hub(dir: &DataDir) -> Result<Option<u32>, Fault> {
    let Some(mut hub) = open(dir)? else { return Ok(None) };
    hub.call(|id| ToHub::Stop { id })?;
    let until = Instant::now() + EXIT_LIMIT;
    while matches!(hub.receive(Some(until)), Ok(Some(_))) {} // the hub removes its socket, then closes the connections
    wait_for_exit(dir)?;
    Ok(Some(hub.pid))
}

/// Waits until a hub that has removed its socket has exited: its lock is free, or the next hub has made a socket.
fn wait_for_exit(dir: &DataDir) -> Result<(), Fault> {
    let until = Instant::now() + EXIT_LIMIT;
    while fs::symlink_metadata(dir.socket_path()).is_err() && dir.is_claimed() {
        if Instant::now() >= until {
            return Err(silent(dir.hub_process()));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
