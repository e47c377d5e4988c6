//! `relay asks` and `relay statusline`: who waits for whom.

use std::process::ExitCode;

use super::args::Args;
use super::peers::{is_local, request_roster};
use super::terminal::{columns, err, out, table};
use super::{Outcome, claude, is_no_hub, open, print, short_id, width};
use crate::datadir::DataDir;
use crate::fence::label;
use crate::link::unreachable;
use crate::span::span;
use crate::wire::{Answer, AskList, Code, Fault, ListedPeer, State, ToHub};

/// Runs `relay asks`.
pub fn asks(dir: &DataDir, args: &Args) -> Outcome {
    let list = match request_asks(dir) {
        Ok(list) => list,
        Err(fault) if !is_no_hub(dir, &fault) => return Err(fault.into()),
        Err(_) if args.has("json") => AskList::default(),
        Err(_) => {
            err("No hub is running, so there are no asks.\n");
            return Ok(ExitCode::SUCCESS);
        }
    };
    match args.has("json") {
        true => print(&list)?,
        false => out(&describe(&list, columns()))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn request_asks(dir: &DataDir) -> Result<AskList, Fault> {
    match open(dir)?.call(|id| ToHub::Asks { id })? {
        Answer::Asks(list) => Ok(list),
        _ => Err(unreachable("the hub sent an unexpected answer to a request for the asks")),
    }
}

/// The tables of open and ended asks.
fn describe(list: &AskList, columns: Option<usize>) -> String {
    let mut open = vec![["FROM", "TO", "ASKED", "TIMEOUT", "ID", "THREAD", "STATE"].map(str::to_owned)];
    open.extend(list.open.iter().map(|ask| {
        let (asked, left) = (format!("{} ago", span(ask.age_s)), format!("in {}", span(ask.left_s)));
        let [id, thread] = [&ask.ask_id, &ask.thread].map(|id| short_id(&label(id)));
        [ask.from.clone(), ask.to.clone(), asked, left, id, thread, ask.detail.clone()]
    }));
    let mut ended = vec![["FROM", "TO", "ENDED", "ID", "RESULT"].map(str::to_owned)];
    ended.extend(list.ended.iter().map(|ask| {
        let (at, result) =
            (format!("{} ago", span(ask.ended_s)), ask.code.map_or("answered", |code| code.name()));
        [ask.from.clone(), ask.to.clone(), at, short_id(&ask.ask_id), result.to_owned()]
    }));
    let open = match list.open.is_empty() {
        true => "There are no open asks.\n".to_owned(),
        false => table(&open, columns, width::keep_start),
    };
    match list.ended.is_empty() {
        true => open,
        false => format!("{open}\nLast ended asks:\n{}", table(&ended, columns, width::keep_start)),
    }
}

/// Runs `relay statusline`: one line about the session whose status line it is, for Claude Code's `statusLine` command.
/// It always succeeds: the user's status line has no place for an error.
pub fn statusline(dir: &DataDir) -> Outcome {
    let line = match session_state(dir) {
        Ok(Some((session, list))) => format_statusline(&session.name, &list),
        Ok(None) => "relay: not connected".to_owned(),
        Err(fault) if is_no_hub(dir, &fault) => "relay: no hub".to_owned(),
        Err(fault) => format!("relay: {}", fault.code.name()),
    };
    out(&format!("{line}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// The session that runs this process, if it is registered, and all asks.
fn session_state(dir: &DataDir) -> Result<Option<(ListedPeer, AskList)>, Fault> {
    let roster = request_roster(&mut open(dir)?)?;
    let ancestors = claude::ancestors();
    let session = roster.peers.into_iter().find(|peer| is_local(peer) && ancestors.contains(&peer.pid));
    let list = || match request_asks(dir) {
        Err(fault) if fault.code == Code::NotAllowed => Ok(AskList::default()),
        list => list,
    };
    session.map(|session| Ok((session, list()?))).transpose()
}

/// The name of the session, its open asks, the asks that it owes an answer to, and those that wait to be handed to it.
fn format_statusline(name: &str, list: &AskList) -> String {
    let open = list.open.iter().filter(|ask| ask.from == name).count();
    let (owed, waiting): (Vec<_>, Vec<_>) =
        list.open.iter().filter(|ask| ask.to == name).partition(|ask| ask.state > State::Queued);
    let parts = [(open, "open"), (owed.len(), "owed"), (waiting.len(), "waiting")];
    let counts = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(" · {n} {what}"));
    format!("relay: {name}{}", counts.collect::<String>())
}
