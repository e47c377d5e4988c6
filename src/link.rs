//! A client's connection to the hub: finding it, starting it where there is none, and coming back when it is lost.

use std::ffi::OsStr;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::datadir::DataDir;
use crate::json;
use crate::lines::Lines;
use crate::router::fault;
use crate::wire::{Answer, Code, Fault, ToClient, ToHub, VERSION};

/// How long a client looks for a hub before it says that there is none. A hub whose socket was deleted needs a second to
/// notice and leave.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the hub may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long the hub may take to read what it is sent.
const WRITE: Duration = Duration::from_secs(5);

/// Whether a client starts a hub where there is none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Yes,
    No,
}

/// The sending half of a connection.
#[derive(Clone)]
pub struct Mouth(Arc<UnixStream>);

impl Mouth {
    /// # Errors
    /// The hub is gone, or does not read.
    pub fn say(&self, message: &ToHub) -> io::Result<()> {
        self.say_all([message])
    }

    /// Several messages in one write.
    ///
    /// # Errors
    /// As for `say`.
    pub fn say_all<'a>(&self, messages: impl IntoIterator<Item = &'a ToHub>) -> io::Result<()> {
        let mut lines = Vec::new();
        for message in messages {
            json::write_line(&mut lines, message);
        }
        (&*self.0).write_all(&lines)
    }

    /// Ends the connection, so that whoever reads from it sees the end.
    pub fn hang_up(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both); // it may be gone already
    }
}

/// Whether nobody listens, and nothing else is wrong.
pub fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// A connection that the hub has welcomed.
pub struct Link {
    pub mouth: Mouth,
    lines: Lines,
    next_id: u64,
    /// What came while an answer was awaited.
    early: std::collections::VecDeque<ToClient>,
    /// The hub's process and version.
    pub pid: u32,
    pub version: String,
}

impl Link {
    /// Connects, and with [`Start::Yes`] starts a hub where there is none.
    ///
    /// # Errors
    /// `hub_unreachable` and `protocol_mismatch`.
    pub fn open(dir: &DataDir, start: Start) -> Result<Link, Fault> {
        let until = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(1);
        loop {
            let lost = match dir.connect() {
                Ok(stream) => match Link::greet(stream) {
                    Ok(link) => return Ok(link),
                    Err(Some(fault)) => return Err(fault),
                    Err(None) => "the hub left in the middle of the greeting".to_owned(),
                },
                Err(e) if start == Start::No => {
                    let at = dir.path().display();
                    let why = if is_absent(&e) { String::new() } else { format!(" ({e})") };
                    return Err(unreachable(format!(
                        "no hub runs for {at}{why}; the first session or `relay ask` starts one"
                    )));
                }
                Err(e) => {
                    start_hub(dir)?;
                    e.to_string()
                }
            };
            if Instant::now() >= until {
                let at = dir.path().display();
                return Err(unreachable(format!(
                    "no hub could be reached in {at}: {lost}; see `relay doctor`"
                )));
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    /// A connection on which nothing has been said.
    ///
    /// # Errors
    /// What the socket says.
    pub fn over(stream: UnixStream) -> io::Result<Link> {
        stream.set_write_timeout(Some(WRITE))?;
        let stream = Arc::new(stream);
        let lines = Lines::new(stream.clone());
        let (early, version) = Default::default();
        Ok(Link { mouth: Mouth(stream), lines, next_id: 0, early, pid: 0, version })
    }

    /// The first line of every connection.
    pub fn hello() -> ToHub {
        ToHub::Hello { v: VERSION }
    }

    /// Says hello and hears welcome. `None`: the hub was on its way out.
    fn greet(stream: UnixStream) -> Result<Link, Option<Fault>> {
        let mut link = Link::over(stream).map_err(|_| None)?;
        link.mouth.say(&Link::hello()).map_err(|_| None)?;
        let line = link.lines.next(Some(Instant::now() + ANSWER)).ok().flatten().ok_or(None)?;
        match json::read(line) {
            Ok(ToClient::Welcome { v: VERSION, pid, version }) => {
                (link.pid, link.version) = (pid, version);
                Ok(link)
            }
            Ok(ToClient::Error { code, message, .. }) => Err(Some(Fault { code, message })),
            _ => Err(Some(fault(
                Code::ProtocolMismatch,
                format!(
                    "the hub does not speak protocol {VERSION}, which this client does; run `relay stop`, then retry"
                ),
            ))),
        }
    }

    /// The next message, or `None` when the hub is gone or `until` has passed.
    pub fn hear(&mut self, until: Option<Instant>) -> Option<ToClient> {
        if let Some(message) = self.early.pop_front() {
            return Some(message);
        }
        self.read(until)
    }

    /// The next message, or `None` when `until` has passed.
    ///
    /// # Errors
    /// The hub is gone, or says what is no message of our protocol.
    pub fn hear_or_lose(&mut self, until: Instant) -> io::Result<Option<ToClient>> {
        if let Some(message) = self.early.pop_front() {
            return Ok(Some(message));
        }
        match self.lines.next(Some(until)) {
            Ok(Some(line)) => json::read(line).map(Some).map_err(io::Error::other),
            Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn read(&mut self, until: Option<Instant>) -> Option<ToClient> {
        let line = self.lines.next(until).ok()??;
        json::read(line).ok()
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// What the hub says, or `hub_unreachable`.
    pub fn call(&mut self, request: impl FnOnce(u64) -> ToHub) -> Result<Answer, Fault> {
        self.next_id += 1;
        let id = self.next_id;
        let lost = || unreachable("the hub went away before it answered; try again");
        self.mouth.say(&request(id)).map_err(|_| lost())?;
        let until = Some(Instant::now() + ANSWER);
        loop {
            match self.read(until).ok_or_else(lost)? {
                ToClient::Ok { id: to, answer, .. } if to == id => return Ok(answer),
                ToClient::Error { id: to, code, message, .. } if to.is_none_or(|to| to == id) => {
                    return Err(Fault { code, message });
                }
                other => self.early.push_back(other),
            }
        }
    }
}

/// What a client that must not stop hears from [`keep`].
pub enum FromHub {
    /// A new connection. Nothing is registered on it yet.
    Up(Mouth),
    Said(Box<ToClient>),
    /// The connection is lost, or none could be had; another is being looked for.
    Down(Fault),
}

/// Keeps a connection to the hub for as long as `heard` says that it is listened to: looks for the hub, starts one, comes
/// back.
pub fn keep(dir: DataDir, heard: impl Fn(FromHub) -> bool) {
    let mut failures = 0;
    loop {
        let why = match Link::open(&dir, Start::Yes) {
            Ok(mut link) => {
                failures = 0;
                if !heard(FromHub::Up(link.mouth.clone())) {
                    return;
                }
                while let Some(message) = link.hear(None) {
                    if !heard(FromHub::Said(Box::new(message))) {
                        return;
                    }
                }
                link.mouth.hang_up();
                unreachable("the hub went away")
            }
            Err(fault) => {
                failures += 1;
                fault
            }
        };
        if !heard(FromHub::Down(why)) {
            return;
        }
        thread::sleep(backoff(failures));
    }
}

/// Longer with each failure, up to two seconds, and never the same for two of thirty sessions that lost the same hub.
fn backoff(failures: u32) -> Duration {
    let most = (10_u64 << failures.min(8)).min(2000);
    let jitter = RandomState::new().hash_one(failures) % most;
    Duration::from_millis(most / 2 + jitter / 2)
}

/// Starts a hub that outlives us. Of any number started at once one wins; the others see its lock and leave.
fn start_hub(dir: &DataDir) -> Result<(), Fault> {
    let failed = |why: String| unreachable(format!("no hub runs, and none could be started: {why}"));
    let exe = std::env::current_exe().map_err(|e| failed(e.to_string()))?;
    let output = hub_command(
        &exe,
        &["hub".as_ref(), "--detach".as_ref(), "--data-dir".as_ref(), dir.path().as_os_str()],
    )
    .stdout(Stdio::null())
    .stderr(Stdio::piped())
    .output()
    .map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(said.trim().trim_start_matches("relay: ").chars().take(500).collect()))
}

/// A command for a hub process: it gets no terminal, a process group of its own, and of our environment only what a hub
/// reads; a session's keys and tokens stay with the session.
pub fn hub_command(program: impl AsRef<OsStr>, args: &[&OsStr]) -> Command {
    let mut command = Command::new(program);
    let ours = |name: &OsStr| {
        name.to_str().is_some_and(|n| n.starts_with("RELAY_") || matches!(n, "PATH" | "HOME" | "TMPDIR"))
    };
    let kept = std::env::vars_os().filter(|(name, _)| ours(name));
    command.args(args).env_clear().envs(kept).stdin(Stdio::null()).process_group(0);
    command
}

pub fn unreachable(why: impl Into<String>) -> Fault {
    fault(Code::HubUnreachable, why)
}
