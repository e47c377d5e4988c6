//! `relay peers`: who can be asked.

use super::args::Args;
use super::claude::{self, SessionFile};
use super::terminal::{err, out, table};
use super::{Outcome, open, print};
use crate::connection::{Connection, no_hub, unreachable};
use crate::datadir::DataDir;
use crate::process::HOST;
use crate::span::span;
use crate::wire::{Answer, Fault, ListedPeer, PeerKind, Roster, ToHub, place};

/// Runs `relay peers`.
pub fn peers(dir: &DataDir, args: &Args) -> Outcome {
    let roster = roster(dir)?;
    let is_running = roster.is_some();
    let roster = roster.unwrap_or_default();
    let unregistered = unregistered(&roster, claude::running_sessions());
    match is_running {
        _ if args.has("json") => print(&roster)?,
        true => out(&peer_table(&roster))?,
        false => err(&format!("There are no peers: {}\n", no_hub(dir).message)),
    }
    if !unregistered.is_empty() {
        let n = unregistered.len(); // on standard error: no row of the table
        err(&format!("Running sessions that cannot be asked: {n}. Run `relay doctor` to see why.\n"));
    }
    Ok(())
}

/// The list of peers; `None` if no hub runs.
///
/// # Errors
/// The hub cannot be used, or the connection is lost.
pub fn roster(dir: &DataDir) -> Result<Option<Roster>, Fault> {
    open(dir)?.map(|mut hub| request_roster(&mut hub)).transpose()
}

/// Requests the list of peers.
///
/// # Errors
/// The connection is lost.
pub fn request_roster(hub: &mut Connection) -> Result<Roster, Fault> {
    match hub.call(|id| ToHub::Peers { id })? {
        Answer::Peers(roster) => Ok(roster),
        _ => Err(unreachable("the hub sent an unexpected answer to a request for the peers")),
    }
}

/// Those of the running sessions that are not among the peers.
pub fn unregistered(roster: &Roster, mut running: Vec<SessionFile>) -> Vec<SessionFile> {
    running.retain(|session| !roster.peers.iter().any(|peer| is_local(peer) && peer.pid == session.pid));
    running
}

/// Whether the process number of a peer may be one of this machine or container.
pub fn is_local(peer: &ListedPeer) -> bool {
    peer.host.as_deref().is_none_or(|name| name == *HOST)
}

/// The table of all peers but the one that asks for it.
pub fn peer_table(roster: &Roster) -> String {
    if roster.peers.is_empty() {
        return "There are no other peers. Each session that starts is one; if one is missing, run `relay doctor`.\n".to_owned();
    }
    let rows = roster.peers.iter().map(|peer| {
        let is_unconfirmed = peer.kind == PeerKind::Session && !peer.confirmed;
        let branch = peer.branch.as_ref().map(|branch| format!(" ({branch})")).unwrap_or_default();
        [
            peer.name.clone(),
            peer.kind.name().to_owned(),
            peer.activity.name().replace("unknown", "-"),
            peer.push.map_or("none", |path| path.name()).to_owned() + if is_unconfirmed { "!" } else { "" },
            span(peer.connected_s),
            claude::abbreviate_home(place(peer.host.as_deref(), &peer.cwd)) + &branch,
        ]
    });
    table(["NAME", "KIND", "STATE", "PUSH", "SINCE", "DIRECTORY"], rows)
}
