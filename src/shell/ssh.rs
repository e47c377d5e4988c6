//! The process that keeps a link: an OpenSSH connection that forwards the `hub.sock` of another machine to this machine's
//! `peers.sock`. OpenSSH does all authentication and encryption. The same connection runs `relay linked` there, which
//! puts the forwarded socket in its place and takes it away when the connection ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::linked::{BYE, PREFIX, REPLACED, Remote, TAKEN};
use super::links::Entry;
use super::terminal::{err, out};
use crate::datadir::DataDir;
use crate::fence::clean;
use crate::link::{self, Link};
use crate::threads::{SMALL, spawn};
use crate::token::Tokens;

/// The beginning of the line that a link prints when it is first up.
pub const LINKED: &str = "Linked";
/// How long the other machine may take to answer one command.
const ANSWER: Duration = Duration::from_secs(30);
/// How often a link sends a line, so that the other end knows that it is there, and looks after the local hub.
const BEAT: Duration = Duration::from_secs(10);
/// How often a link checks whether it is wanted.
const CHECK: Duration = Duration::from_secs(1);
/// How long the connection may take to end by itself.
const END: Duration = Duration::from_secs(3);
/// The pauses before the next attempt.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest line that is read, in bytes.
const MAX_LINE: u64 = 8192;

/// What the other machine runs: the program that `relay setup` or cargo installed, whatever the login shell.
const PROGRAM: &str = r#"sh -c 'at="${XDG_DATA_HOME:-$HOME/.local/share}/claude-relay/plugin/bin/relay-launcher"; [ -x "$at" ] && exec "$at" "$@"; PATH="$PATH:$HOME/.cargo/bin:$HOME/.local/bin:/usr/local/bin:/opt/homebrew/bin" exec relay "$@"' relay linked"#;
/// `-T`: no terminal. The rest is the user's configuration.
const OPTIONS: [&str; 9] = [
    "-T",
    "-oBatchMode=yes",
    "-oConnectTimeout=15",
    "-oServerAliveInterval=10",
    "-oServerAliveCountMax=3",
    "-oExitOnForwardFailure=yes",
    "-oStreamLocalBindUnlink=yes",
    // Another connection of the user's would keep the forwarding when this one ends.
    "-oControlMaster=no",
    "-oControlPath=none",
];

/// From the threads of a link: what the connection of that number printed, or a signal.
enum Event {
    Line(u32, String),
    Error(u32, String),
    Ended(u32),
    Signal,
}

/// What a connection waits for.
enum Next {
    Line(String),
    Ended,
    /// Nothing came in time.
    Quiet,
    /// The link has to end.
    Leave,
}

/// How a connection ended.
enum Over {
    /// It is not wanted.
    Left,
    /// Why it was lost or never came up.
    Lost(String),
}

struct Keeper<'a> {
    dir: &'a DataDir,
    host: &'a str,
    entry: &'a Entry,
    tokens: Tokens,
    events: Receiver<Event>,
    sender: Sender<Event>,
    /// The number of the last connection, and what ssh printed last on its standard error.
    number: u32,
    error: String,
    /// Whether the link was ever up, and whether the last connection was.
    was_up: bool,
    is_up: bool,
}

/// A running ssh; it ends with this.
struct Ssh {
    child: Child,
    stdin: Option<ChildStdin>,
}

/// Keeps the link until it is not wanted or a signal comes. If it never comes up, that is an error.
pub fn keep(dir: &DataDir, host: &str, entry: &Entry) -> Result<ExitCode, String> {
    let tokens = Tokens::new().map_err(|e| format!("cannot read /dev/urandom: {e}"))?;
    let (sender, events) = unbounded();
    let mut signals =
        Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|e| format!("cannot watch signals: {e}"))?;
    let signal = sender.clone();
    // A closing terminal sends SIGHUP to what it started: a link in the background stays.
    let watch =
        move || signals.forever().filter(|s| *s != SIGHUP).for_each(|_| drop(signal.send(Event::Signal)));
    spawn("signals", SMALL, watch).map_err(|e| format!("cannot start a thread: {e}"))?;
    let (number, error) = Default::default();
    let (was_up, is_up) = (false, false);
    let mut keeper = Keeper { dir, host, entry, tokens, events, sender, number, error, was_up, is_up };
    let mut pause = PAUSE;
    loop {
        let why = match keeper.connect() {
            Over::Left => return Ok(ExitCode::SUCCESS),
            Over::Lost(why) if !keeper.was_up => return Err(why),
            Over::Lost(why) => why,
        };
        if std::mem::take(&mut keeper.is_up) {
            pause = PAUSE;
        }
        entry.write(host, "down", Some(&why));
        err(&format!("relay link: {host}: {why}; trying again in {} s\n", pause.as_secs()));
        if let Next::Leave = keeper.next(Instant::now() + pause) {
            return Ok(ExitCode::SUCCESS);
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

impl Keeper<'_> {
    /// One connection, from its start to its end.
    fn connect(&mut self) -> Over {
        self.try_connect().unwrap_or_else(Over::Lost)
    }

    fn try_connect(&mut self) -> Result<Over, String> {
        let epoch = self.local_hub()?;
        let Some(remote) = self.look()? else { return Ok(Over::Left) };
        if remote.linked && remote.epoch.is_some_and(|other| other != epoch) {
            return Err(format!("{} is linked to another hub; run `relay unlink` where that is", self.host));
        }
        let name = self.tokens.id(PREFIX).map_err(|e| format!("cannot read /dev/urandom: {e}"))?;
        let local = self.dir.peers_socket();
        let forward = format!("{}/{name}:{}", remote.data_dir, local.display());
        if forward.matches(':').count() > 1 || forward.contains(['\\', '%', '$']) {
            return Err(format!("ssh cannot forward {forward}: choose directories without : \\ % $"));
        }
        let mut ssh = self.start(&["-R", &forward], &name)?;
        let mut until = Instant::now() + ANSWER;
        loop {
            match self.next(until) {
                Next::Line(line) if line == TAKEN => {
                    self.is_up = true;
                    self.entry.write(self.host, "up", None);
                    let again = if self.was_up { " again" } else { "" };
                    let host = self.host;
                    let _ =
                        out(&format!("{LINKED} {host}{again}: its sessions are peers of the hub here.\n"));
                    self.was_up = true;
                    until = Instant::now() + BEAT;
                }
                Next::Line(line) if line == REPLACED => {
                    err(&format!("relay link: {}: another link has replaced this one\n", self.host));
                    return Ok(Over::Left);
                }
                Next::Line(_) => {} // of a shell's start-up file
                Next::Quiet if self.is_up => {
                    self.local_hub()?;
                    ssh.say("\n");
                    until = Instant::now() + BEAT;
                }
                Next::Quiet => return Err(format!("no answer within {} s", ANSWER.as_secs())),
                Next::Ended => return Err(self.reason("the connection was lost")),
                Next::Leave => {
                    ssh.say(BYE);
                    ssh.finish();
                    return Ok(Over::Left);
                }
            }
        }
    }

    /// The epoch of this machine's hub, which is started if none runs.
    fn local_hub(&self) -> Result<String, String> {
        let hub = Link::open(self.dir, link::Start::Yes).map_err(|fault| fault.message)?;
        match self.dir.is_own_hub() {
            true => Ok(hub.epoch),
            false => Err("the hub runs elsewhere: link from the machine where it runs".to_owned()),
        }
    }

    /// What the other machine tells about itself; `None` if the link has to end.
    fn look(&mut self) -> Result<Option<Remote>, String> {
        let _ssh = self.start(&[], "")?;
        let until = Instant::now() + ANSWER;
        loop {
            match self.next(until) {
                Next::Line(line) => {
                    if let Ok(remote) = serde_json::from_str(&line) {
                        return Ok(Some(remote));
                    }
                }
                Next::Ended => return Err(self.reason("it did not run `relay linked`")),
                Next::Quiet => return Err(format!("no answer within {} s", ANSWER.as_secs())),
                Next::Leave => return Ok(None),
            }
        }
    }

    fn reason(&self, what: &str) -> String {
        if self.error.is_empty() { what.to_owned() } else { clean(&self.error) }
    }

    fn start(&mut self, forward: &[&str], socket: &str) -> Result<Ssh, String> {
        let mut command = Command::new("ssh");
        command.args(OPTIONS).args(forward).args(["--", self.host]).arg(format!("{PROGRAM} {socket}"));
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("cannot start ssh: {e}"))?;
        self.number += 1;
        self.error.clear();
        let (number, stdin) = (self.number, child.stdin.take());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let ssh = Ssh { child, stdin };
        let (lines, errors) = (self.sender.clone(), self.sender.clone());
        spawn("ssh", SMALL, move || {
            read_lines(stdout, |line| lines.send(Event::Line(number, line)).is_ok());
            let _ = lines.send(Event::Ended(number)); // fails only when the link ends
        })
        .and_then(|()| {
            spawn("ssh errors", SMALL, move || {
                read_lines(stderr, |line| errors.send(Event::Error(number, line)).is_ok());
            })
        })
        .map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(ssh)
    }

    /// Waits for the present connection.
    fn next(&mut self, until: Instant) -> Next {
        loop {
            match self.events.recv_deadline(until.min(Instant::now() + CHECK)) {
                Ok(Event::Line(number, line)) if number == self.number => return Next::Line(line),
                Ok(Event::Ended(number)) if number == self.number => return Next::Ended,
                Ok(Event::Error(number, line)) if number == self.number => self.error = line,
                Ok(Event::Signal) => return Next::Leave,
                Ok(_) => {} // an earlier connection
                Err(_) if !self.entry.is_wanted() => return Next::Leave,
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => return Next::Quiet,
                Err(_) => {}
            }
        }
    }
}

impl Ssh {
    fn say(&mut self, line: &str) {
        let _ = self.stdin.as_mut().map(|stdin| stdin.write_all(line.as_bytes())); // its end is reported by `Ended`
    }

    /// Closes its input and waits for its end.
    fn finish(&mut self) {
        self.stdin = None;
        let until = Instant::now() + END;
        while Instant::now() < until && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait()); // it may have ended
    }
}

fn read_lines(from: Option<impl Read>, mut take: impl FnMut(String) -> bool) {
    let Some(from) = from else { return };
    let mut from = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        match from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
            Ok(1..) if take(String::from_utf8_lossy(&line).trim().to_owned()) => {}
            _ => return,
        }
    }
}
