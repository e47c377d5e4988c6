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
pub mod join;
pub mod link;
pub mod package;
pub mod peers;
mod program;
pub mod settings;
pub mod setup;
pub mod status;
pub mod tail;
pub mod terminal;

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;

use serde::Serialize;

use crate::connection::{Connection, no_hub, unreachable};
use crate::datadir::DataDir;
use crate::fence::clean;
use crate::width;
use crate::wire::{Answer, Code, Fault, ToHub, fault};
use args::Args;
use terminal::{err, out};

/// The result of a command; `main` reports a failure with [`report`].
pub type Outcome = Result<(), Failure>;

/// Why a command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// A usage error, an error of the hub, or an error of the connection to it.
    Fault(Fault),
    /// Any other error. `BrokenPipe` means that nobody reads standard output any more.
    Io(io::Error),
    /// Nothing is left to report; the command ends with this exit code.
    Exit(ExitCode),
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        Failure::Fault(fault)
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Failure {
        Failure::Io(e)
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure::Io(io::Error::other(message))
    }
}

/// Reports a failure and returns its exit code. With `--json` an error that has a code is printed as JSON; every other failure
/// is a line on standard error. A reader that closed the pipe is not reported.
pub fn report(args: &Args, failure: Failure) -> ExitCode {
    match failure {
        Failure::Fault(fault) => {
            let code = fault.code;
            if !args.has("json") {
                err(&format!("{}\n", describe(fault)));
            } else if let Err(failure) = print(&BTreeMap::from([("error", for_shell(fault))])) {
                return report(args, failure);
            }
            args::exit_code(code)
        }
        Failure::Io(e) => {
            if e.kind() != io::ErrorKind::BrokenPipe {
                err(&format!("{}: {e}\n", format!("relay {}", args.command).trim_end()));
            }
            ExitCode::FAILURE
        }
        Failure::Exit(code) => code,
    }
}

/// An error in one line.
pub fn describe(fault: Fault) -> String {
    format!("relay: {}: {}", fault.code.name(), clean(&for_shell(fault).message))
}

/// The hub's error for a reader at a shell: without the code that some messages begin with, and with commands for the tool that
/// lists the peers and the asks.
pub fn for_shell(Fault { code, message }: Fault) -> Fault {
    let text = message.strip_prefix(code.name()).and_then(|m| m.strip_prefix(": ")).unwrap_or(&message);
    let text = text.replace("relay_peers lists the asks", "`relay asks` lists the asks");
    fault(code, text.replace("relay_peers", "`relay peers`").replace("this session", "this peer"))
}

/// A usage error.
pub fn usage_error<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Fault(fault(Code::BadArgs, why)))
}

/// Prints one JSON value as a line on standard output.
///
/// # Errors
/// Standard output cannot be written.
pub fn print(value: &impl Serialize) -> Result<(), Failure> {
    let line = serde_json::to_string(value).map_err(io::Error::from)?;
    out(&format!("{line}\n"))
}

/// Prints a value: as JSON with `--json`, else as the text that `describe` makes of it.
///
/// # Errors
/// As for [`print`].
pub fn show<T: Serialize>(args: &Args, value: &T, describe: impl FnOnce(&T) -> String) -> Outcome {
    if args.has("json") { print(value) } else { out(&describe(value)) }
}

/// Connects to the running hub; `None` if no hub runs. Never starts one.
///
/// # Errors
/// The hub cannot be used, does not run where `RELAY_SOCKET` says, or the data directory could not hold one.
pub fn open(dir: &DataDir) -> Result<Option<Connection>, Fault> {
    match Connection::find(dir)? {
        None if dir.elsewhere().is_some() => Err(no_hub(dir)),
        None => dir.look(0).map(|()| None).map_err(unreachable),
        found => Ok(found),
    }
}

/// The answer of the running hub to a request; `None` if no hub runs.
///
/// # Errors
/// As for [`open`], and the error of the answer.
pub fn request(dir: &DataDir, request: impl FnOnce(u64) -> ToHub) -> Result<Option<Answer>, Fault> {
    open(dir)?.map(|mut hub| hub.call(request)).transpose()
}

/// The beginning of an ask's id, `ask_` and eight digits. The asks of a broadcast share it.
pub fn short_id(id: &str) -> String {
    id.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_commands_and_no_tools() {
        for (text, shown) in [
            (
                "peer_gone: \"bob\" left. relay_peers lists the peers",
                "\"bob\" left. `relay peers` lists the peers",
            ),
            (
                "no such ask; relay_peers lists the asks that this session owes",
                "no such ask; `relay asks` lists the asks that this peer owes",
            ),
        ] {
            assert_eq!(for_shell(fault(Code::PeerGone, text)).message, shown);
        }
    }
}
