//! `relay asks` and `relay statusline`: who waits for whom.

use std::os::unix::process::parent_id;

use super::args::Args;
use super::peers::{is_local, roster};
use super::terminal::{out, table};
use super::{Outcome, request, short_id, show};
use crate::datadir::DataDir;
use crate::fence::label;
use crate::process;
use crate::span::span;
use crate::wire::{Answer, AskList, Fault, State, ToHub};

/// Runs `relay asks`.
pub fn asks(dir: &DataDir, args: &Args) -> Outcome {
    show(args, &list(dir)?, describe)
}

/// The asks, none if no hub runs.
fn list(dir: &DataDir) -> Result<AskList, Fault> {
    match request(dir, |id| ToHub::Asks { id })? {
        Some(Answer::Asks(list)) => Ok(list),
        _ => Ok(AskList::default()),
    }
}

/// The table of the open asks and of those that ended last.
fn describe(AskList { open, ended }: &AskList) -> String {
    let rows = open.iter().chain(ended).map(|ask| {
        let left =
            if ask.state < State::Replied { format!("in {}", span(ask.left_s)) } else { "-".to_owned() };
        let [id, thread] = [&ask.ask_id, &ask.thread].map(|id| short_id(&label(id)));
        let when = format!("{} ago", span(ask.age_s));
        [ask.from.clone(), ask.to.clone(), when, left, id, thread, ask.detail.clone()]
    });
    table(["FROM", "TO", "WHEN", "TIMEOUT", "ID", "THREAD", "STATE"], rows)
}

/// Runs `relay statusline`: one line about the session that runs this process, for Claude Code's `statusLine` command.
/// A hub that cannot be used is no error: the user's status line has no place for one.
pub fn statusline(dir: &DataDir) -> Outcome {
    // Claude Code runs the command of a status line in a shell.
    let ancestors = std::iter::successors(Some(parent_id()), |pid| process::parent_of(*pid)).take(4);
    let ancestors: Vec<u32> = ancestors.collect();
    let mut peers = roster(dir).unwrap_or_default().peers.into_iter();
    let session = peers.find(|peer| is_local(peer) && ancestors.contains(&peer.pid));
    let line = session.map(|session| format_statusline(&session.name, &list(dir).unwrap_or_default()));
    out(&format!("relay: {}\n", line.as_deref().unwrap_or("not connected")))
}

/// The name of the session, its open asks, the asks that it owes an answer to, and those that wait to be handed to it.
fn format_statusline(name: &str, list: &AskList) -> String {
    let open = list.open.iter().filter(|ask| ask.from == name).count();
    let (owed, waiting): (Vec<_>, Vec<_>) =
        list.open.iter().filter(|ask| ask.to == name).partition(|ask| ask.state > State::Queued);
    let parts = [(open, "open"), (owed.len(), "owed"), (waiting.len(), "waiting")];
    let counts = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(" · {n} {what}"));
    format!("{name}{}", counts.collect::<String>())
}
