//! The commands for people and scripts, and what they share: how a command ends, how errors are told, and the way to the hub.

pub mod args;
pub mod ask;
pub mod completions;
pub mod demo;
pub mod doctor;
mod guest;
pub mod join;
pub mod setup;
pub mod status;
pub mod tail;
pub mod terminal;

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::datadir::DataDir;
use crate::datadir::is_absent;
use crate::fence::clean;
use crate::link::{CONNECT, Link, Start, unreachable};
use crate::wire::{Code, Fault, fault};
use args::Args;
use terminal::{err, out};

/// What a command comes to; an error is told by [`report`].
pub type Outcome = Result<ExitCode, Fault>;

/// Tells of an error, in the way the caller wants it, and gives its exit code. As JSON there is `more` with it.
pub fn report(args: &Args, fault: &Fault, mut more: Value) -> ExitCode {
    let message = message(fault.code, &fault.message, "`relay peers`");
    if args.has("json") {
        more["error"] = json!({"code": fault.code.name(), "message": message});
        print(&more);
    } else {
        err(&format!("relay: {}: {}\n", fault.code.name(), clean(&message)));
    }
    args::exit(fault.code)
}

/// The hub's words, which are for a session with tools, for who has `peers` to see who is there. Some begin with the code.
pub fn message(code: Code, words: &str, peers: &str) -> String {
    let message = words.strip_prefix(code.name()).and_then(|m| m.strip_prefix(": ")).unwrap_or(words);
    message.replace("relay_peers", peers).replace("this session", "this peer")
}

/// What a command comes to that has no error codes.
pub fn ended(command: &str, how: Result<(), String>) -> Outcome {
    let Err(why) = how else { return Ok(ExitCode::SUCCESS) };
    err(&format!("relay {command}: {why}\n"));
    Ok(ExitCode::FAILURE)
}

/// One JSON value on stdout; `false` when nobody reads it.
pub fn print(value: &Value) -> bool {
    out(&format!("{value}\n"))
}

/// The beginning of a text, in one line.
pub fn first_line(text: &str, most: usize) -> String {
    let text = text.trim();
    let line: String = text.lines().next().unwrap_or_default().chars().take(most).collect();
    if line.len() < text.len() { line + "…" } else { line }
}

/// A link to the hub that runs.
///
/// # Errors
/// None does, or, what goes before that, none could.
pub fn open(dir: &DataDir) -> Result<Link, Fault> {
    Link::open(dir, Start::No).map_err(|fault| match dir.look() {
        Err(why) if fault.code == Code::HubUnreachable => unreachable(why),
        _ => fault,
    })
}

/// Whether what keeps us from the hub is just that there is none: one could be started.
pub fn no_hub(dir: &DataDir, fault: &Fault) -> bool {
    let absent = || dir.connect(CONNECT).is_err_and(|e| is_absent(&e)) && dir.look().is_ok();
    fault.code == Code::HubUnreachable && absent()
}

/// `1 peer`, `2 peers`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

pub fn bad<T>(why: impl Into<String>) -> Result<T, Fault> {
    Err(fault(Code::BadArgs, why))
}
