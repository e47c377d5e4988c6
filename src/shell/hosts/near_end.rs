//! The process that keeps a link: an OpenSSH connection that forwards the `hub.sock` of another machine to this machine's
//! `peers.sock`. OpenSSH does all authentication and encryption. The same connection runs `relay linked` there, which
//! puts the forwarded socket in its place and takes it away when the connection ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::Entry;
use super::far_end::{BYE, PREFIX, REPLACED, Remote, TAKEN};
use crate::datadir::DataDir;
use crate::fence::{clean, label};
use crate::link::{self, Link};
use crate::shell::terminal::{err, out};
use crate::threads::{SMALL, spawn};
use crate::token::Tokens;

/// The beginning of the line that a link prints when it is first up.
pub const LINKED: &str = "Linked";
/// How long the other machine may take to answer one command.
const ANSWER: Duration = Duration::from_secs(30);
/// How often a link sends a line, so that the other end knows that it is there, and looks after the local hub.
const BEAT: Duration = Duration::from_secs(10);
/// How often a link checks whether it is wanted.
const CHECK: Duration = Duration::from_millis(500);
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

/// What ssh printed: on its standard output, or on its standard error.
enum Said {
    Line(String),
    Error(String),
}

/// What a link waits for.
enum Next {
    Line(String),
    Ended,
    /// Nothing came in time.
    Quiet,
    /// A signal came, or the link was removed from the list.
    Leave,
}

/// A link.
struct Keeper<'a> {
    dir: &'a DataDir,
    host: &'a str,
    entry: &'a Entry,
    /// Set by a signal.
    stop: Arc<AtomicBool>,
    tokens: Tokens,
    /// Whether the link was ever up, and whether the last connection was.
    was_up: bool,
    is_up: bool,
}

/// A running ssh, which ends with this.
struct Ssh {
    child: Child,
    stdin: Option<ChildStdin>,
    said: Receiver<Said>,
    /// The last line on its standard error.
    error: String,
}

/// Keeps the link until it is not wanted or a signal comes. If it never comes up, that is an error.
pub fn keep(dir: &DataDir, host: &str, entry: &Entry) -> Result<ExitCode, String> {
    let tokens = Tokens::new().map_err(|e| format!("cannot read /dev/urandom: {e}"))?;
    let stop = Arc::new(AtomicBool::new(false));
    // A closing terminal sends SIGHUP to what it started: a link in the background stays.
    for (signal, flag) in [(SIGTERM, stop.clone()), (SIGINT, stop.clone()), (SIGHUP, Arc::default())] {
        signal_hook::flag::register(signal, flag).map_err(|e| format!("cannot watch signals: {e}"))?;
    }
    let mut keeper = Keeper { dir, host, entry, stop, tokens, was_up: false, is_up: false };
    let mut pause = PAUSE;
    loop {
        let why = match keeper.connect() {
            Ok(()) => return Ok(ExitCode::SUCCESS),
            Err(why) if !keeper.was_up => return Err(why),
            Err(why) => why,
        };
        if std::mem::take(&mut keeper.is_up) {
            pause = PAUSE;
        }
        entry.write(host, "down", Some(&why));
        err(&format!("relay link: {host}: {why}; trying again in {} s\n", pause.as_secs()));
        if let Next::Leave = keeper.next(None, Instant::now() + pause) {
            return Ok(ExitCode::SUCCESS);
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

impl Keeper<'_> {
    /// One connection, until it is not wanted.
    ///
    /// # Errors
    /// Why it was lost or never came up.
    fn connect(&mut self) -> Result<(), String> {
        let epoch = self.local_hub()?;
        let mut probe = Ssh::start(self.host, &[], "")?;
        let remote = self.first(&mut probe, Remote::parse)?;
        let Some(remote) = remote else { return Ok(()) };
        drop(probe);
        match (remote.linked, remote.epoch) {
            (false, Some(other)) if other == epoch => {
                return Err(format!("{} has the same data directory: its sessions use this hub", self.host));
            }
            (true, Some(other)) if other != epoch => {
                return Err(format!(
                    "{} is linked to another hub; run `relay unlink` where that is",
                    self.host
                ));
            }
            _ => {} // a dead connection of this link may still be there
        }
        let name = self.tokens.id(PREFIX).map_err(|e| format!("cannot read /dev/urandom: {e}"))?;
        let forward = format!("{}/{name}:{}", remote.data_dir, self.dir.peers_socket().display());
        if forward.matches(':').count() > 1 || forward.contains(['\\', '%', '$']) {
            let shown = label(&forward); // the other machine has chosen a part of it
            return Err(format!("ssh cannot forward {shown}: choose directories without : \\ % $"));
        }
        let mut ssh = Ssh::start(self.host, &["-R", &forward], &name)?;
        if self.first(&mut ssh, |line| (line == TAKEN).then_some(()))?.is_none() {
            return Ok(());
        }
        self.entry.write(self.host, "up", None);
        let again = if self.was_up { " again" } else { "" };
        // The reader of a link in the background leaves after the first line.
        let _ = out(&format!("{LINKED} {}{again}: its sessions are peers of the hub here.\n", self.host));
        (self.is_up, self.was_up) = (true, true);
        self.hold(&mut ssh)
    }

    /// Looks after a link that is up.
    fn hold(&mut self, ssh: &mut Ssh) -> Result<(), String> {
        let mut beat = Instant::now() + BEAT;
        loop {
            match self.next(Some(ssh), beat) {
                Next::Line(line) if line == REPLACED => {
                    err(&format!("relay link: {}: another link has replaced this one\n", self.host));
                    return Ok(());
                }
                Next::Line(_) => {}
                Next::Ended => return Err(ssh.reason("the connection was lost")),
                Next::Quiet => {
                    self.local_hub()?;
                    ssh.say("\n");
                    beat = Instant::now() + BEAT;
                }
                Next::Leave => {
                    ssh.say(BYE);
                    ssh.finish();
                    return Ok(());
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

    /// The first line that `find` accepts, after those of a shell's start-up files; `None` if the link has to end.
    fn first<T>(&self, ssh: &mut Ssh, find: impl Fn(&str) -> Option<T>) -> Result<Option<T>, String> {
        let until = Instant::now() + ANSWER;
        loop {
            match self.next(Some(ssh), until) {
                Next::Line(line) => {
                    if let Some(found) = find(&line) {
                        return Ok(Some(found));
                    }
                }
                Next::Ended => {
                    let why = ssh.reason("it did not run `relay linked`");
                    let is_missing = why.contains("relay:") && why.ends_with("not found"); // says the shell there
                    let remedy = "; install Claude Relay there, by `relay setup` or on PATH";
                    return Err(why + if is_missing { remedy } else { "" });
                }
                Next::Quiet => return Err(format!("no answer within {} s", ANSWER.as_secs())),
                Next::Leave => return Ok(None),
            }
        }
    }

    fn next(&self, mut ssh: Option<&mut Ssh>, until: Instant) -> Next {
        loop {
            if self.stop.load(Ordering::Relaxed) || !self.entry.is_wanted() {
                return Next::Leave;
            }
            let pause = until.saturating_duration_since(Instant::now()).min(CHECK);
            // Also if the other machine never stops talking.
            if pause.is_zero() {
                return Next::Quiet;
            }
            match ssh.as_mut().map(|ssh| ssh.said.recv_timeout(pause)) {
                Some(Ok(Said::Line(line))) => return Next::Line(line),
                Some(Ok(Said::Error(line))) => ssh.iter_mut().for_each(|ssh| ssh.error.clone_from(&line)),
                Some(Err(RecvTimeoutError::Disconnected)) => return Next::Ended,
                Some(Err(RecvTimeoutError::Timeout)) => {}
                None => thread::sleep(pause),
            }
            // A process that ssh has started may hold its output open.
            if ssh
                .as_mut()
                .is_some_and(|ssh| ssh.said.is_empty() && !matches!(ssh.child.try_wait(), Ok(None)))
            {
                return Next::Ended;
            }
        }
    }
}

impl Ssh {
    /// Starts `relay linked` with `socket` on `host`.
    fn start(host: &str, forward: &[&str], socket: &str) -> Result<Ssh, String> {
        let mut command = Command::new("ssh");
        command.args(OPTIONS).args(forward).args(["--", host]).arg(format!("{PROGRAM} {socket}"));
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("cannot start ssh: {e}"))?;
        let (send, said) = bounded(64);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let ssh = Ssh { stdin: child.stdin.take(), child, said, error: String::new() };
        let errors = send.clone();
        spawn("ssh", SMALL, move || read_lines(stdout, &send, Said::Line))
            .and_then(|()| spawn("ssh errors", SMALL, move || read_lines(stderr, &errors, Said::Error)))
            .map_err(|e| format!("cannot start a thread: {e}"))?;
        Ok(ssh)
    }

    /// What ssh said about its end, or `what`.
    fn reason(&self, what: &str) -> String {
        if self.error.is_empty() { what.to_owned() } else { clean(&self.error) }
    }

    fn say(&mut self, line: &str) {
        let _ = self.stdin.as_mut().map(|stdin| stdin.write_all(line.as_bytes())); // its end is noticed by `next`
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

fn read_lines(from: Option<impl Read>, to: &Sender<Said>, said: fn(String) -> Said) {
    let Some(from) = from else { return };
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while let Ok(1..) = from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line) {
        if to.send(said(String::from_utf8_lossy(&line).trim().to_owned())).is_err() {
            return;
        }
        line.clear();
    }
}
