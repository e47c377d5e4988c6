//! The commands for people and scripts, and what they share: results, error reports, and access to the running hub.

pub mod args;
pub mod ask;
pub mod asks;
pub mod claude;
pub mod completions;
pub mod console;
pub mod demo;
pub mod doctor;
pub mod editor;
mod guest;
pub mod hosts;
pub mod join;
pub mod package;
pub mod peers;
pub mod settings;
pub mod setup;
pub mod status;
pub mod tail;
pub mod terminal;

use std::io;
use std::process::ExitCode;

use serde::Serialize;

use crate::datadir::{DataDir, is_not_running};
use crate::fence::clean;
use crate::link::{CONNECT, Link, Start, unreachable};
use crate::width;
use crate::wire::{Code, Fault, fault};
use args::Args;
use terminal::{err, out};

/// The result of a command; `main` reports a failure with [`report`].
pub type Outcome = Result<ExitCode, Failure>;

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// A usage error, an error of the hub, or an error of the connection to it.
    Fault(Fault),
    /// Standard output could not be written.
    Output(io::Error),
    /// Any other failure, as a message for the user.
    Other(String),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        Failure::Fault(fault)
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Failure {
        Failure::Other(e.to_string())
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure::Other(message)
    }
}

/// An error, as the `--json` output of every command contains it.
#[derive(Serialize)]
pub struct ErrorJson {
    /// The error code, as in the table of exit codes.
    pub code: &'static str,
    pub message: String,
}

/// The `--json` output of a command that failed before it had a result.
#[derive(Serialize)]
pub struct FailureJson {
    pub error: ErrorJson,
}

/// Reports a failure and returns its exit code. With `--json` an error that has a code is printed as the value that
/// `wrap` makes of it; every other failure is a line on standard error. A reader that closed the pipe is not reported.
pub fn report<T: Serialize>(args: &Args, failure: Failure, wrap: impl FnOnce(ErrorJson) -> T) -> ExitCode {
    let fault = match failure {
        Failure::Fault(fault) => fault,
        Failure::Output(e) => return report_output(args, &e),
        Failure::Other(message) => return report_message(args, &message),
    };
    let message = message(fault.code, &fault.message, "`relay peers`");
    if !args.has("json") {
        err(&format!("relay: {}: {}\n", fault.code.name(), clean(&message)));
    } else if let Err(Failure::Output(e)) = print(&wrap(ErrorJson { code: fault.code.name(), message })) {
        return report_output(args, &e);
    }
    args::exit_code(fault.code)
}

fn report_output(args: &Args, e: &io::Error) -> ExitCode {
    match e.kind() {
        io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => report_message(args, &format!("cannot write to standard output: {e}")),
    }
}

fn report_message(args: &Args, message: &str) -> ExitCode {
    err(&format!("{}: {message}\n", format!("relay {}", args.command).trim_end()));
    ExitCode::FAILURE
}

/// The hub's error message for a reader at a shell: without the code that some messages begin with, and with `peers` for
/// the tool that lists the peers.
pub fn message(code: Code, text: &str, peers: &str) -> String {
    let message = text.strip_prefix(code.name()).and_then(|m| m.strip_prefix(": ")).unwrap_or(text);
    message.replace("relay_peers", peers).replace("this session", "this peer")
}

/// A usage error.
pub fn usage_error<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Fault(fault(Code::BadArgs, why)))
}

/// Prints one JSON value as a line on standard output.
///
/// # Errors
/// [`Failure::Output`].
pub fn print(value: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(|e| Failure::Output(e.into()))?;
    out(&format!("{line}\n"))
}

/// Connects to the running hub; never starts one.
///
/// # Errors
/// No hub runs, or the data directory could not hold one.
pub fn open(dir: &DataDir) -> Result<Link, Fault> {
    Link::open(dir, Start::No).map_err(|fault| match dir.look() {
        Err(why) if fault.code == Code::HubUnreachable => unreachable(why),
        _ => fault,
    })
}

/// Whether `fault` means that no hub runs, and that one could be started.
pub fn is_no_hub(dir: &DataDir, fault: &Fault) -> bool {
    let is_not_running = || dir.connect(CONNECT).is_err_and(|e| is_not_running(&e)) && dir.look().is_ok();
    fault.code == Code::HubUnreachable && is_not_running()
}

/// The beginning of an ask's id, `ask_` and eight digits. The asks of a broadcast share it.
pub fn short_id(id: &str) -> String {
    id.chars().take(12).collect()
}

/// A number with its noun: `1 peer`, `2 peers`.
pub fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}
