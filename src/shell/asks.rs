//! `relay asks` and `relay statusline`: who waits for whom.

use std::iter;
use std::os::unix::process::parent_id;

use super::args::Args;
use super::peers::{is_local, request_roster};
use super::terminal::{err, out, table};
use super::{Outcome, open, print, short_id};
use crate::connection::{Connection, no_hub, unreachable};
use crate::datadir::DataDir;
use crate::fence::label;
use crate::process;
use crate::span::span;
use crate::wire::{Answer, AskList, Code, Fault, State, ToHub};

/// Runs `relay asks`.
pub fn asks(dir: &DataDir, args: &Args) -> Outcome {
    let list = open(dir)?.map(|mut hub| request_asks(&mut hub)).transpose()?;
    match list {
        list if args.has("json") => print(&list.unwrap_or_default())?,
        Some(list) => out(&describe(&list))?,
        None => err(&format!("There are no asks: {}\n", no_hub(dir).message)),
    }
    Ok(())
}

fn request_asks(hub: &mut Connection) -> Result<AskList, Fault> {
    match hub.call(|id| ToHub::Asks { id })? {
        Answer::Asks(list) => Ok(list),
        _ => Err(unreachable("the hub sent an unexpected answer to a request for the asks")),
    }
}

/// The tables of open and ended asks.
fn describe(list: &AskList) -> String {
    let open = list.open.iter().map(|ask| {
        let (asked, left) = (format!("{} ago", span(ask.age_s)), format!("in {}", span(ask.left_s)));
        let [id, thread] = [&ask.ask_id, &ask.thread].map(|id| short_id(&label(id)));
        [ask.from.clone(), ask.to.clone(), asked, left, id, thread, ask.detail.clone()]
    });
    let ended = list.ended.iter().map(|ask| {
        let ago = format!("{} ago", span(ask.age_s));
        [ask.from.clone(), ask.to.clone(), ago, short_id(&ask.ask_id), ask.detail.clone()]
    });
    let mut text = "There are no open asks.\n".to_owned();
    if !list.open.is_empty() {
        let heading = ["FROM", "TO", "ASKED", "TIMEOUT", "ID", "THREAD", "STATE"];
        text = table(heading, open);
    }
    if !list.ended.is_empty() {
        text += "\nLast ended asks:\n";
        text += &table(["FROM", "TO", "ENDED", "ID", "RESULT"], ended);
    }
    text
}

/// Runs `relay statusline`: one line about the session whose status line it is, for Claude Code's `statusLine` command.
/// It always succeeds: the user's status line has no place for an error.
pub fn statusline(dir: &DataDir) -> Outcome {
    let line = describe_session(dir).unwrap_or_else(|fault| fault.code.name().to_owned());
    out(&format!("relay: {line}\n"))
}

/// The state of the session that runs this process.
fn describe_session(dir: &DataDir) -> Result<String, Fault> {
    let Some(mut hub) = open(dir)? else { return Ok("no hub".to_owned()) };
    // Claude Code runs the command of a status line in a shell.
    let ancestors = iter::successors(Some(parent_id()), |pid| process::parent_of(*pid)).take(4);
    let ancestors: Vec<u32> = ancestors.collect();
    let mut peers = request_roster(&mut hub)?.peers.into_iter();
    match peers.find(|peer| is_local(peer) && ancestors.contains(&peer.pid)) {
        None => Ok("not connected".to_owned()),
        Some(session) => match request_asks(&mut hub) {
            Err(fault) if fault.code == Code::NotAllowed => Ok(session.name),
            list => Ok(format_statusline(&session.name, &list?)),
        },
    }
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
