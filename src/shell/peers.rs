//! `relay peers`: who can be asked.

use super::args::Args;
use super::claude::{self, SessionFile};
use super::terminal::{err, table};
use super::{Outcome, request, show};
use crate::datadir::{DataDir, config_dir};
use crate::process::HOST;
use crate::span::span;
use crate::wire::{Answer, Fault, ListedPeer, PeerKind, Roster, ToHub, place};

/// Runs `relay peers`.
pub fn peers(dir: &DataDir, args: &Args) -> Outcome {
    let roster = roster(dir)?;
    show(args, &roster, peer_table)?;
    let n = unregistered(&roster).count();
    if n > 0 {
        // On standard error: no row of the table.
        err(&format!("Running sessions that cannot be asked: {n}. Run `relay doctor` to see why.\n"));
    }
    Ok(())
}

/// The list of peers, which is empty if no hub runs.
///
/// # Errors
/// The hub cannot be used, or the connection is lost.
pub fn roster(dir: &DataDir) -> Result<Roster, Fault> {
    match request(dir, |id| ToHub::Peers { id })? {
        Some(Answer::Peers(roster)) => Ok(roster),
        _ => Ok(Roster::default()),
    }
}

/// The running sessions that are not among the peers.
pub fn unregistered(roster: &Roster) -> impl Iterator<Item = SessionFile> {
    let is_peer = |pid| roster.peers.iter().any(|peer| is_local(peer) && peer.pid == pid);
    claude::running_sessions(&config_dir().unwrap_or_default()).filter(move |session| !is_peer(session.pid))
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
