//! The process that keeps a link: an OpenSSH connection that forwards the `hub.sock` of another machine to this machine's
//! `peers.sock`. OpenSSH does all authentication and encryption. The same connection runs `relay linked` there, which
//! puts the forwarded socket in its place and takes it away when the connection ends.

use std::io::{self, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, never};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::far_end::{BYE, PREFIX, REPLACED, Remote, TAKEN};
use super::{Entry, read_lines};
use crate::datadir::DataDir;
use crate::fence::{clean, label};
use crate::link::{self, Link};
use crate::shell::terminal::{err, out};
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

/// Why a connection has ended.
enum End {
    /// A signal came, the link was removed from the list, or another link has replaced it.
    Unwanted,
    /// It was lost or never came up.
    Lost(String),
}

impl From<String> for End {
    fn from(why: String) -> End {
        End::Lost(why)
    }
}

/// A link.
struct Keeper<'a> {
    dir: &'a DataDir,
    host: &'a str,
    entry: &'a Entry,
    /// Set by a signal.
    stop: Arc<AtomicBool>,
    /// Whether the link was ever up.
    was_up: bool,
    /// How long to wait before the next attempt.
    pause: Duration,
}

/// A running ssh, which ends with this.
struct Ssh {
    child: Child,
    /// What ssh, or the other machine, prints on standard output and standard error.
    lines: Receiver<String>,
    /// The last line that has no meaning for a link: an error message, if the connection ends.
    said: String,
}

/// Keeps the link until it is not wanted or a signal comes. If it never comes up, that is an error.
pub fn keep(dir: &DataDir, host: &str, entry: &Entry) -> Result<(), String> {
    let stop = Arc::new(AtomicBool::new(false));
    // A closing terminal sends SIGHUP to what it started: a link in the background stays.
    for (signal, flag) in [(SIGTERM, stop.clone()), (SIGINT, stop.clone()), (SIGHUP, Arc::default())] {
        signal_hook::flag::register(signal, flag).map_err(|e| format!("cannot watch signals: {e}"))?;
    }
    let mut keeper = Keeper { dir, host, entry, stop, was_up: false, pause: PAUSE };
    loop {
        let why = match keeper.connect() {
            Ok(()) | Err(End::Unwanted) => return Ok(()),
            Err(End::Lost(why)) if !keeper.was_up => return Err(why),
            Err(End::Lost(why)) => why,
        };
        entry.write(host, "down", Some(&why));
        err(&format!("relay link: {host}: {why}; trying again in {} s\n", keeper.pause.as_secs()));
        if keeper.next(None, Instant::now() + keeper.pause).is_err() {
            return Ok(());
        }
        keeper.pause = (keeper.pause * 2).min(LONGEST_PAUSE);
    }
}

impl Keeper<'_> {
    /// One connection, until another link replaces it.
    fn connect(&mut self) -> Result<(), End> {
        let epoch = self.local_hub()?;
        let mut probe = Ssh::start(self.host, &[], "")?;
        let remote: Remote = self.first(&mut probe, |line| serde_json::from_str(line).ok())?;
        drop(probe);
        match (remote.linked, remote.epoch) {
            (false, Some(other)) if other == epoch => {
                Err(format!("{} has the same data directory: its sessions use this hub", self.host))?;
            }
            (true, Some(other)) if other != epoch => {
                Err(format!("{} is linked to another hub; run `relay unlink` where that is", self.host))?;
            }
            _ => {} // a dead connection of this link may still be there
        }
        let name = Tokens::new().and_then(|mut tokens| tokens.id(PREFIX));
        let name = name.map_err(|e| format!("cannot read /dev/urandom: {e}"))?;
        let forward = format!("{}/{name}:{}", remote.data_dir, self.dir.peers_socket().display());
        if forward.matches(':').count() > 1 || forward.contains(['\\', '%', '$']) {
            let shown = label(&forward); // the other machine has chosen a part of it
            Err(format!("ssh cannot forward {shown}: choose directories without : \\ % $"))?;
        }
        let mut ssh = Ssh::start(self.host, &["-R", &forward], &name)?;
        self.first(&mut ssh, |line| (line == TAKEN).then_some(()))?;
        self.entry.write(self.host, "up", None);
        let again = if self.was_up { " again" } else { "" };
        // The reader of a link in the background leaves after the first line.
        let _ = out(&format!("{LINKED} {}{again}: its sessions are peers of the hub here.\n", self.host));
        (self.was_up, self.pause) = (true, PAUSE);
        let end = self.hold(&mut ssh);
        if let Err(End::Unwanted) = end {
            ssh.finish();
        }
        end
    }

    /// Looks after a link that is up.
    fn hold(&mut self, ssh: &mut Ssh) -> Result<(), End> {
        loop {
            let beat = Instant::now() + BEAT;
            while let Some(line) = self.next(Some(ssh), beat)? {
                if line == REPLACED {
                    err(&format!("relay link: {}: another link has replaced this one\n", self.host));
                    return Ok(());
                }
                ssh.said = line;
            }
            self.local_hub()?;
            ssh.say("").map_err(|_| End::Lost(ssh.reason()))?;
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

    /// The first line that `find` accepts, after those of a shell's start-up files.
    fn first<T>(&self, ssh: &mut Ssh, find: impl Fn(&str) -> Option<T>) -> Result<T, End> {
        let until = Instant::now() + ANSWER;
        while let Some(line) = self.next(Some(ssh), until)? {
            ssh.said = line;
            if let Some(found) = find(&ssh.said) {
                ssh.said.clear();
                return Ok(found);
            }
        }
        Err(End::Lost(format!("no answer within {} s", ANSWER.as_secs())))
    }

    /// The next line; `None` if there is none until then.
    fn next(&self, ssh: Option<&Ssh>, until: Instant) -> Result<Option<String>, End> {
        let lines = ssh.map_or_else(never, |ssh| ssh.lines.clone());
        loop {
            if self.stop.load(Ordering::Relaxed) || !self.entry.is_wanted() {
                return Err(End::Unwanted);
            }
            if Instant::now() >= until {
                return Ok(None); // also if the other machine never stops talking
            }
            match lines.recv_deadline(until.min(Instant::now() + CHECK)) {
                Ok(line) => return Ok(Some(line)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(End::Lost(ssh.map(Ssh::reason).unwrap_or_default()));
                }
            }
        }
    }
}

impl Ssh {
    /// Starts `relay linked` with `socket` on `host`.
    fn start(host: &str, forward: &[&str], socket: &str) -> Result<Ssh, String> {
        let cannot = |e: io::Error| format!("cannot start ssh: {e}");
        let (input, output) = io::pipe().map_err(cannot)?;
        let mut command = Command::new("ssh");
        command.args(OPTIONS).args(forward).args(["--", host]).arg(format!("{PROGRAM} {socket}"));
        command.stdin(Stdio::piped()).stdout(output.try_clone().map_err(cannot)?).stderr(output);
        let child = command.spawn().map_err(cannot)?;
        Ok(Ssh { child, lines: read_lines(input).map_err(cannot)?, said: String::new() })
    }

    /// What was said about the end of the connection, and what to do about it.
    fn reason(&self) -> String {
        let said = clean(&self.said);
        let remedy = if said.is_empty() {
            "the connection was lost"
        } else if said.contains("Permission denied (") {
            "; the login must work without a prompt: by a key without a passphrase, or one in an agent"
        } else if said.contains("relay:") && said.ends_with("not found") {
            "; install Claude Relay there, by `relay setup` or on PATH" // the shell there has said so
        } else {
            ""
        };
        said + remedy
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        self.child.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(format!("{line}\n").as_bytes()))
    }

    /// Ends the connection on purpose, so that the other machine does not wait for it.
    fn finish(&mut self) {
        let _ = self.say(BYE); // it may have ended
        self.child.stdin = None;
        let until = Instant::now() + END;
        while self.lines.recv_deadline(until).is_ok() {}
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait()); // it may have ended
    }
}
