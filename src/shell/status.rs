//! `relay status` and `stop`: the hub itself.

use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::args::Args;
use super::terminal::out;
use super::{Outcome, count, no_hub, open, print};
use crate::datadir::DataDir;
use crate::link::{Link, silent, unreachable};
use crate::span::span;
use crate::wire::{Answer, Code, Fault, JournalStatus, Status, ToHub};

/// How long a hub may take to leave.
const LEAVING: Duration = Duration::from_secs(10);

/// `relay status`.
pub fn status(dir: &DataDir, args: &Args) -> Outcome {
    let status = ask_status(&mut open(dir)?)?;
    if args.has("json") {
        let mut value = json!(status);
        value["data_dir"] = json!(dir.path().to_string_lossy());
        print(&value);
        return Ok(ExitCode::SUCCESS);
    }
    let Status {
        pid, version, protocol, uptime_s, peers, open_asks, undelivered, connections, journal, ..
    } = status;
    let (up, at) = (span(uptime_s), dir.path().display());
    out(&format!(
        "hub {version} (protocol {protocol}), process {pid}, up for {up}\n\
         {}, {}, {} on the way, {}\n\
         {}\n\
         in {at}\n",
        count(peers, "peer"),
        count(open_asks, "open ask"),
        count(undelivered, "text"),
        count(connections, "connection"),
        journal_line(&journal),
    ));
    Ok(ExitCode::SUCCESS)
}

/// Whether the hub's state would survive its death.
pub fn journal_line(journal: &JournalStatus) -> String {
    match &journal.off {
        None => format!("journal of {} KiB", journal.bytes.div_ceil(1024)),
        Some(why) => format!("NO JOURNAL ({why}): open asks fail if the hub dies"),
    }
}

/// The hub about itself.
///
/// # Errors
/// The hub is gone.
pub fn ask_status(link: &mut Link) -> Result<Status, Fault> {
    match link.call(|id| ToHub::Status { id })? {
        Answer::Status(status) => Ok(status),
        _ => Err(unreachable("the hub answered something else")),
    }
}

/// `relay stop`: returns when the hub is gone.
pub fn stop(dir: &DataDir) -> Outcome {
    out(&match stop_hub(dir) {
        Ok(Status { pid, peers: 0, .. }) => format!("The hub (process {pid}) has left.\n"),
        Ok(Status { pid, peers, .. }) => format!(
            "The hub (process {pid}) has left. Its peers ({peers}) start a new one at once; what was under way goes on.\n"
        ),
        Err(fault) if no_hub(dir, &fault) => "No hub runs.\n".to_owned(),
        Err(fault) if fault.code == Code::ProtocolMismatch => {
            // One of any version leaves when its socket is gone.
            fs::remove_file(dir.socket_path()).map_err(|e| unreachable(format!("cannot stop it: {e}")))?;
            wait_until_gone(dir)?;
            "The hub, which spoke another version, has left.\n".to_owned()
        }
        Err(fault) => return Err(fault),
    });
    Ok(ExitCode::SUCCESS)
}

/// Stops the hub and waits until it is gone; what it said of itself.
///
/// # Errors
/// There is none, it can't be spoken with, or it does not leave.
pub fn stop_hub(dir: &DataDir) -> Result<Status, Fault> {
    let mut link = open(dir)?;
    let status = ask_status(&mut link)?;
    link.call(|id| ToHub::Stop { id })?;
    let until = Instant::now() + LEAVING;
    while link.receive(Some(until)).is_some() {} // it removes its socket, and then hangs up
    wait_until_gone(dir)?;
    Ok(status)
}

/// Waits until a hub that has no socket any more is gone: nobody has the lock, or the next has a socket.
fn wait_until_gone(dir: &DataDir) -> Result<(), Fault> {
    let until = Instant::now() + LEAVING;
    while fs::symlink_metadata(dir.socket_path()).is_err() && dir.is_claimed() {
        if Instant::now() >= until {
            return Err(silent(dir.hub_process()));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
