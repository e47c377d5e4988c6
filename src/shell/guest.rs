//! A person or a script as a peer: a [`Client`] together with stdin and the signals of a shell command.

use std::io::{self, BufRead, IsTerminal, Read, stderr, stdin};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Failure;
use crate::client::{Client, Event};
use crate::connection::{FromHub, keep};
use crate::datadir::DataDir;
use crate::repository;
use crate::threads::{PARSER, SMALL, spawn};
use crate::token::Tokens;
use crate::wire::{AskRequest, Fault, MAX_TEXT, Path, PeerKind, ToHub, Who};

/// A person or a script that is registered with the hub.
pub struct Guest {
    pub client: Client,
    received: Receiver<Received>,
}

/// News for the owner of a [`Guest`].
pub enum News {
    /// Events of its connection. A push is to be confirmed by [`Client::seen`] once it is shown.
    Hub(Vec<Event>),
    /// What a terminal sent, or else a line from stdin; empty at its end.
    Typed(Vec<u8>),
}

/// A message from one of its threads.
enum Received {
    Hub(FromHub),
    Typed(Vec<u8>),
    Signal(i32),
}

impl Guest {
    /// Registers with the hub of `dir`, and starts one if none runs. A `name` is used as it is or not at all. A guest that `joins`
    /// can be asked, and receives the bytes from stdin.
    ///
    /// # Errors
    /// The random source or the signals cannot be used, or a thread cannot be started.
    pub fn arrive(dir: &DataDir, name: Option<&str>, joins: bool) -> io::Result<Guest> {
        let mut tokens = Tokens::new()?;
        let who = who(&mut tokens, name, joins)?;
        let (send, received) = bounded(64);
        let (dir, hub) = (dir.clone(), send.clone());
        spawn("hub", PARSER, move || keep(dir, |message| hub.send(Received::Hub(message)).is_ok()))?;
        if joins {
            let typed = send.clone();
            let read = move || loop {
                let bytes = read_stdin();
                let is_end = bytes.is_empty();
                if typed.send(Received::Typed(bytes)).is_err() || is_end {
                    return;
                }
            };
            spawn("stdin", SMALL, read)?;
        }
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let watch = move || {
            signals.forever().map(|s| send.send(Received::Signal(s))).take_while(Result::is_ok).for_each(drop)
        };
        spawn("signals", SMALL, watch)?;
        let client = Client::new(tokens, who);
        Ok(Guest { client, received })
    }

    /// Asks a peer as soon as the client is registered. The request gets new ids.
    ///
    /// # Errors
    /// No random numbers can be had.
    pub fn ask(&mut self, request: AskRequest) -> Result<(), Fault> {
        let ask_id = self.client.new_id("ask_")?;
        self.client.request(|id| ToHub::Ask(AskRequest { id, ask_id, ..request }));
        Ok(())
    }

    /// The next events of the connection, none after `patience`, or what was typed.
    ///
    /// # Errors
    /// No hub can be reached, it refused the registration, or a signal says to leave.
    pub fn next(&mut self, patience: Duration) -> Result<News, Failure> {
        let until = Instant::now() + patience;
        let wake = self.client.deadline().map_or(until, |at| at.min(until));
        let mut events = match self.received.recv_deadline(wake) {
            Ok(Received::Typed(bytes)) => return Ok(News::Typed(bytes)),
            Ok(Received::Signal(signal)) => {
                let code = u8::try_from(128 + signal).unwrap_or(u8::MAX);
                return Err(Failure::Exit(ExitCode::from(code)));
            }
            Ok(Received::Hub(FromHub::Down(why))) if !self.client.is_connected() => return Err(why.into()),
            Ok(Received::Hub(message)) => self.client.handle(message),
            Err(_) => self.client.expire(Instant::now()),
        };
        match events.pop_if(|event| matches!(event, Event::Refused(_))) {
            Some(Event::Refused(fault)) => Err(fault.into()),
            _ => Ok(News::Hub(events)),
        }
    }
}

impl Drop for Guest {
    /// Leaves for good, which withdraws the open asks. Returns when the hub has closed the connection, after 1 s at most.
    fn drop(&mut self) {
        let until = Instant::now() + Duration::from_secs(1);
        let is_left = |received| matches!(received, Ok(Received::Hub(FromHub::Down(_))) | Err(_));
        if self.client.leave() {
            while !is_left(self.received.recv_deadline(until)) {}
        }
    }
}

/// The longest line that is read from stdin, in bytes: more than a message and what stands before it, such as `@NAME`.
const MAX_LINE: u64 = MAX_TEXT as u64 + 1024;

/// What a terminal has sent, or else the next line; empty at the end of stdin.
fn read_stdin() -> Vec<u8> {
    let (mut input, mut bytes) = (stdin().lock(), Vec::new());
    if input.is_terminal() {
        bytes.extend_from_slice(input.fill_buf().unwrap_or_default());
        input.consume(bytes.len());
    } else if let Ok(1..) = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes)
        && !bytes.ends_with(b"\n")
    {
        let _ = input.skip_until(b'\n'); // the rest of a line that the hub refuses
    }
    bytes
}

fn who(tokens: &mut Tokens, name: Option<&str>, joins: bool) -> io::Result<Who> {
    // Before the first connection, which may change the working directory.
    let cwd = repository::current_dir();
    let git = repository::git(&cwd);
    let is_person = stdin().is_terminal() && stderr().is_terminal();
    Ok(Who {
        name: name.map(str::to_owned).or(repository::var("USER")).unwrap_or_else(|| "shell".to_owned()),
        exact: name.is_some(),
        kind: if is_person { PeerKind::Person } else { PeerKind::Script },
        peer: tokens.id("p")?,
        secret: tokens.secret()?,
        cwd: repository::shown(&cwd),
        repo: git.repo,
        branch: git.branch,
        pid: std::process::id(),
        paths: vec![Path::Socket],
        listens: joins,
        fresh: true,
        ..Who::default()
    })
}
