//! A client's connection to the hub: finds the hub, starts one if none runs, and reconnects.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::datadir::{DataDir, Listener, is_not_running};
use crate::lines::Lines;
use crate::wire::{Answer, Code, Fault, ToClient, ToHub, VERSION, fault, write_line};

/// How long a request may wait for a hub.
pub const CONNECT: Duration = Duration::from_secs(5);
/// How long a client tries to reach a hub, `welcome` included, before it reports an error. Less than [`CONNECT`], so
/// that a waiting request can report it. A hub whose socket was deleted exits within a second.
const LOOK: Duration = Duration::from_secs(4);
/// How long the hub may take to answer.
pub const ANSWER: Duration = Duration::from_secs(10);
/// How long a write to the hub may block. With [`CONNECT`] it is less than [`ANSWER`].
const WRITE: Duration = Duration::from_secs(4);

/// The pause before the next attempt to reach a hub.
const RETRY: Duration = Duration::from_millis(2);
/// How often a client checks whether its connection leads to a listener that was replaced.
const STALE: Duration = Duration::from_secs(5);

/// A shell script whose background process becomes the hub; the shell itself ends, so that the hub leaves no zombie and is not
/// part of a session's process tree. A shell can do two things that need unsafe code in Rust: raise the limit of open files,
/// since the usual 1,024 are too few for 1,024 peers, and close inherited files, such as the lock of a script that called
/// `relay ask`. Some shells cannot close descriptors over 9; then bash does, if installed. The loop of that bash has no
/// redirection of its own: it would close the copy that restores stderr.
const START: &str = r#"(ulimit -n 8192 2>/dev/null || ulimit -n "$(ulimit -Hn)" 2>/dev/null
exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
for fd in /dev/fd/[1-9][0-9]*; do
    [ -z "${BASH_VERSION-}" ] && [ -e "$fd" ] && bash=$(command -v bash) && exec "$bash" -c '
        for fd in /dev/fd/[1-9][0-9]*; do eval "exec ${fd##*/}>&-"; done
        exec "$0" hub --announce --data-dir "$1"' "$0" "$1"
    break
done
exec "$0" hub --announce --data-dir "$1") &"#;

/// The sending half of a connection.
#[derive(Clone)]
pub struct Sender(Arc<UnixStream>);

impl Sender {
    /// Sends one message. If that fails, the connection is closed.
    ///
    /// # Errors
    /// The connection is lost, or the hub does not read.
    pub fn send(&self, message: &ToHub) -> io::Result<()> {
        let mut line = Vec::new();
        write_line(&mut line, message);
        let sent = loop {
            match (&*self.0).write(&line) {
                // A blocking write is short only if its time is up. Going on would double the time.
                Ok(n) if n < line.len() => break Err(io::ErrorKind::TimedOut.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                written => break written.map(drop),
            }
        };
        sent.inspect_err(|_| self.close())
    }

    /// Closes the connection; its reader gets the end of the stream.
    pub fn close(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both); // it may be gone already
    }
}

/// A connection that the hub has welcomed.
pub struct Connection {
    pub sender: Sender,
    lines: Lines,
    next_id: u64,
    /// The listener at the time of the connection.
    listener: Listener,
    /// The hub's process, if it is one of this machine: the number would be another program's here.
    pub pid: Option<u32>,
    pub epoch: String,
}

impl Connection {
    /// Connects to the hub, and starts one if none runs. Takes up to [`LOOK`] and the time to start a hub.
    ///
    /// # Errors
    /// `hub_unreachable` and `protocol_mismatch`.
    pub fn open(dir: &DataDir) -> Result<Connection, Fault> {
        let until = Instant::now() + LOOK;
        loop {
            match Connection::find_until(dir, until)? {
                Some(hub) => return Ok(hub),
                None if dir.elsewhere().is_some() => return Err(no_hub(dir)),
                None if Instant::now() >= until => return Err(silent(dir.hub_process())),
                None if dir.is_claimed() => thread::sleep(RETRY), // another process is the hub, and only needs time
                None => drop(start_hub(dir)?),
            }
        }
    }

    /// Connects to the hub; `None` if none runs. Takes up to [`LOOK`].
    ///
    /// # Errors
    /// As for `open`.
    pub fn find(dir: &DataDir) -> Result<Option<Connection>, Fault> {
        Connection::find_until(dir, Instant::now() + LOOK)
    }

    fn find_until(dir: &DataDir, until: Instant) -> Result<Option<Connection>, Fault> {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let listener = dir.listener();
        match dir.connect(left).and_then(Connection::over) {
            Ok(hub) => Connection { listener, ..hub }.greet(dir, until),
            Err(e) if is_not_running(&e) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => Err(silent(dir.hub_process())),
            // An unusable directory or a sandbox: starting another hub would not help.
            Err(e) => {
                let at = dir.client_socket();
                let why = format!("cannot connect to {}: {e}; see `relay doctor`", at.display());
                Err(unreachable(dir.look(0).err().unwrap_or(why)))
            }
        }
    }

    /// A new connection, without `hello`.
    ///
    /// # Errors
    /// Errors of the socket.
    pub fn over(stream: UnixStream) -> io::Result<Connection> {
        stream.set_write_timeout(Some(WRITE))?;
        let stream = Arc::new(stream);
        let lines = Lines::new(stream.clone());
        Ok(Connection {
            sender: Sender(stream),
            lines,
            next_id: 0,
            listener: None,
            pid: None,
            epoch: String::new(),
        })
    }

    /// Sends `hello` and reads `welcome`. `None` if the hub was exiting.
    fn greet(mut self, dir: &DataDir, until: Instant) -> Result<Option<Connection>, Fault> {
        let sent = self.sender.send(&ToHub::Hello { v: VERSION });
        match sent.and_then(|()| self.receive(Some(until))) {
            Ok(Some(ToClient::Welcome { v: VERSION, pid, epoch, .. })) => {
                let pid = dir.hub_process().filter(|ours| *ours == pid);
                Ok(Some(Connection { pid, epoch, ..self }))
            }
            Ok(Some(ToClient::Error { code, message, .. })) => Err(Fault { code, message }),
            Ok(None) => Err(silent(dir.hub_process())),
            Err(e) if e.kind() != io::ErrorKind::InvalidData => Ok(None),
            Ok(Some(_)) | Err(_) => Err(fault(
                Code::ProtocolMismatch,
                format!(
                    "the hub does not use protocol {VERSION}, which this program requires; run `relay stop`, then retry"
                ),
            )),
        }
    }

    /// The next message; `None` if `until` has passed.
    ///
    /// # Errors
    /// The connection is lost, or the hub sent a malformed message.
    pub fn receive(&mut self, until: Option<Instant>) -> io::Result<Option<ToClient>> {
        match self.lines.next(until) {
            Ok(Some(line)) => Ok(serde_json::from_slice(&line)?),
            Ok(None) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(e) if e.kind() == io::ErrorKind::TimedOut => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether the hub's socket was replaced, and this connection leads to the earlier listener. A hub that is replaced closes
    /// its connections; one behind a lost SSH connection cannot.
    pub fn is_stale(&self, dir: &DataDir) -> bool {
        dir.listener() != self.listener
    }

    /// Sends a request and waits for its answer, for up to [`ANSWER`].
    ///
    /// # Errors
    /// The error of the hub's answer, or `hub_unreachable`.
    pub fn call(&mut self, request: impl FnOnce(u64) -> ToHub) -> Result<Answer, Fault> {
        self.call_until(Instant::now() + ANSWER, request)
    }

    /// The same with another time limit.
    ///
    /// # Errors
    /// As for `call`.
    pub fn call_until(
        &mut self,
        until: Instant,
        request: impl FnOnce(u64) -> ToHub,
    ) -> Result<Answer, Fault> {
        self.next_id += 1;
        let id = self.next_id;
        let lost = || unreachable("the hub closed the connection before it answered; try again");
        self.sender.send(&request(id)).map_err(|_| lost())?;
        loop {
            let message = self.receive(Some(until)).map_err(|_| lost())?;
            match message.ok_or_else(|| silent(self.pid))? {
                ToClient::Ok { id: to, answer, .. } if to == id => return Ok(answer),
                ToClient::Error { id: to, code, message, .. } if to.is_none_or(|to| to == id) => {
                    return Err(Fault { code, message });
                }
                _ => {} // the hub answers a request before anything that follows from it
            }
        }
    }
}

/// Received from [`keep`] by a client that reconnects.
pub enum FromHub {
    /// A new connection. Nothing is registered on it yet.
    Up {
        sender: Sender,
        epoch: String,
        /// See [`Connection::pid`].
        pid: Option<u32>,
    },
    Message(Box<ToClient>),
    /// The connection is lost, or connecting failed; [`keep`] tries again.
    Down(Fault),
}

/// Keeps a connection to the hub, and reconnects, until `receive` returns `false`. The pause before an attempt is longer after
/// each failure, up to 2 s.
pub fn keep(dir: DataDir, receive: impl Fn(FromHub) -> bool) {
    let mut failures = 0;
    loop {
        let why = match Connection::open(&dir) {
            Ok(mut hub) => {
                failures = 0;
                let (sender, epoch, pid) = (hub.sender.clone(), hub.epoch.clone(), hub.pid);
                if !receive(FromHub::Up { sender, epoch, pid }) {
                    return;
                }
                while let Ok(received) = hub.receive(Some(Instant::now() + STALE)) {
                    let wanted = match received {
                        Some(message) => receive(FromHub::Message(Box::new(message))),
                        None if hub.is_stale(&dir) => break,
                        None => true,
                    };
                    if !wanted {
                        return;
                    }
                }
                hub.sender.close();
                unreachable("the connection to the hub was lost")
            }
            Err(fault) => {
                failures += 1;
                fault
            }
        };
        if !receive(FromHub::Down(why)) {
            return;
        }
        thread::sleep(Duration::from_millis((10 << failures.min(8)).min(2000)));
    }
}

/// Starts a hub, and returns the line that it prints once it is listening, or once it found that another hub runs: of several
/// that are started at once, the one that gets the lock stays. The hub has no terminal, a process group of its own, and only
/// those environment variables that a hub reads: it does not get a session's keys and tokens.
///
/// # Errors
/// No hub could be started.
pub fn start_hub(dir: &DataDir) -> Result<String, Fault> {
    let failed = |why: &str| unreachable(format!("no hub runs, and none could be started: {why}"));
    let is_ours = |name: &OsStr| {
        name.to_str().is_some_and(|n| n.starts_with("RELAY_") || matches!(n, "PATH" | "HOME" | "TMPDIR"))
    };
    let mut command = Command::new("/bin/sh");
    command.args(["-c", START]).arg(own_executable()).arg(dir.path()).current_dir("/");
    command.env_clear().envs(std::env::vars_os().filter(|(name, _)| is_ours(name)));
    // Both pipes lose their reader here. The hub writes to them before that or not at all.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|e| failed(&e.to_string()))?;
    // Bytes, since a limit may cut a character of the directory.
    let (mut said, mut why) = (Vec::new(), Vec::new());
    if let Some(out) = child.stdout.take() {
        let _ = BufReader::new(out.take(8 << 10)).read_until(b'\n', &mut said); // on an error the line stays empty
    }
    if let Some(err) = child.stderr.take().filter(|_| said.is_empty()) {
        let _ = err.take(2000).read_to_end(&mut why); // as above
    }
    let _ = child.wait(); // the shell has ended
    let (said, why) = (String::from_utf8_lossy(&said), String::from_utf8_lossy(&why));
    if said.is_empty() {
        Err(failed(why.trim().trim_start_matches("relay hub: ")))
    } else {
        Ok(said.into_owned())
    }
}

/// A path that starts the running program, also after its file was replaced or removed: Linux then gives the old path
/// with " (deleted)" at its end, and `/proc/PID/exe` still opens the file (proc(5)).
pub fn own_executable() -> PathBuf {
    let gone = |path: &Path| path.as_os_str().as_encoded_bytes().ends_with(b" (deleted)");
    match std::env::current_exe() {
        Ok(path) if !gone(&path) => path,
        _ => PathBuf::from(format!("/proc/{}/exe", std::process::id())),
    }
}

/// The error for a command that needs a hub and starts none.
pub fn no_hub(dir: &DataDir) -> Fault {
    let remedy = match dir.elsewhere() {
        None => "the first session or `relay ask` starts one",
        Some(_) => "the hub runs elsewhere: run `relay hub --detach` there",
    };
    unreachable(format!("no hub listens on {}; {remedy}", dir.client_socket().display()))
}

pub fn unreachable(why: impl Into<String>) -> Fault {
    fault(Code::HubUnreachable, why)
}

/// The error for a hub that does not answer.
pub fn silent(pid: Option<u32>) -> Fault {
    unreachable(match pid {
        Some(pid) => format!("the hub (process {pid}) does not answer; if that lasts: kill {pid}"),
        None => "the hub does not answer; see `relay doctor`".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_to_kill_names_no_process_of_another_machine() {
        let dir = crate::repository::tests::dir("foreign-hub");
        let dir = DataDir::locate(Some(dir.as_os_str())).expect("a directory");
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        let welcome = ToClient::Welcome { v: VERSION, pid: 1, epoch: "e".to_owned() };
        let mut line = Vec::new();
        write_line(&mut line, &welcome);
        (&theirs).write_all(&line).expect("sent");
        let until = Instant::now() + LOOK;
        let hub = Connection::over(ours).expect("a connection").greet(&dir, until);
        let mut hub = hub.expect("a hub").expect("one that stays");
        let fault = hub.call_until(Instant::now(), |id| ToHub::Peers { id }).expect_err("no answer");
        assert!(fault.message.contains("relay doctor") && !fault.message.contains("kill"), "{fault:?}");
        std::fs::remove_dir_all(dir.path()).expect("removed");
    }

    #[test]
    fn write_to_a_hub_that_does_not_read_ends_after_one_timeout() {
        let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
        let socket = ours.try_clone().expect("a second handle");
        let hub = Connection::over(ours).expect("a connection");
        socket.set_write_timeout(Some(Duration::from_millis(10))).expect("a timeout");
        let message = ToHub::Reply { id: 1, ask_id: "ask_00000001".to_owned(), text: "x".repeat(4 << 20) };
        // The kernel takes a part, so a second write would block for as long again and then fail with `WouldBlock`.
        assert_eq!(hub.sender.send(&message).expect_err("unread").kind(), io::ErrorKind::TimedOut);
    }
}
