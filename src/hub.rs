//! The hub: one process a data directory that carries what its peers say to each other. Here are its sockets, threads and
//! signals; what is carried where is decided by the [`router`](crate::router).
//!
//! Data flows one way: a reader thread for each connection parses the lines that are there and puts them into the router's
//! queue, all together; one thread runs the router, a message of each connection in turn, and writes what its sockets take
//! at once. What a peer is too slow for goes into a backlog with a writer thread of its own, bounded in bytes. The router
//! never waits for a peer: one whose backlog overflows is disconnected.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::datadir::DataDir;
use crate::journal::Journal;
use crate::json;
use crate::lines::Lines;
use crate::log::{Level, Log};
use crate::queue::{Queue, Turn};
use crate::router::{ConnId, Info, Input, Limits, Output, Router, fault};
use crate::token::Tokens;
use crate::wire::{Code, Event, Fault, ToClient, ToHub, VERSION, What};
use crate::writer::{Backlog, Writer};

/// The most connections at once: a channel and a waiter for each of 1,024 peers, and hooks that come and go.
const MAX_CONNECTIONS: usize = 3072;
/// How long a connection may take to say hello.
pub const HELLO: Duration = Duration::from_secs(10);
/// How often the hub looks whether its socket is still there.
const LOOK: Duration = Duration::from_secs(1);
/// How long a leaving hub waits for its queues to be read.
const FLUSH: Duration = Duration::from_secs(1);
/// How long what was sent may wait for more to the same peers while a connection has more to say: under load this saves
/// most of the system calls.
const FRESH: Duration = Duration::from_micros(50);
/// Who says more than so much at once is read no further until it is routed, and the others hardly notice a flood.
const MUCH: usize = 4;
/// Of a reader's stack only what is used costs memory: a line may nest 128 levels deep before it is refused.
const STACK: usize = 1 << 20;

/// How a call to [`run`] ended.
pub enum Ran {
    /// The hub has done its work.
    Done,
    /// Another hub has the data directory.
    Another,
}

/// What the router's thread hears.
enum Heard {
    Opened(ConnId, Writer),
    Input(Input),
    /// What a connection said, and its turn, which is over when all of it has been routed.
    Said(ConnId, std::vec::IntoIter<ToHub>, Arc<Turn>),
    /// The connection said what is no message, and is read no further.
    Broken(ConnId, Fault),
}

/// Runs the hub of `dir` until it is stopped or nobody needs it; `ready` is called once it listens.
///
/// # Errors
/// What keeps it from starting, with the remedy.
pub fn run(dir: &DataDir, limits: Limits, ready: impl FnOnce()) -> Result<Ran, String> {
    dir.prepare()?;
    let at = dir.path().display();
    let Some(_lock) = dir.lock().map_err(|e| format!("cannot lock {at}/hub.lock: {e}"))? else {
        return Ok(Ran::Another);
    };
    let log = Arc::new(Log::open(&dir.logs(), "hub"));
    crate::log::log_panics(&log);
    let log = Arc::new(Journal::new(log));
    let listener = dir.bind().map_err(|e| format!("cannot listen on {at}/hub.sock: {e}"))?;
    let socket = Inode::of(dir);
    let queue = Arc::new(Queue::new());
    watch_signals(queue.clone())?;
    let connections = Arc::new(AtomicUsize::new(0));
    {
        let (queue, log, connections) = (queue.clone(), log.clone(), connections.clone());
        thread::Builder::new()
            .name("accept".into())
            .spawn(move || accept(&listener, &queue, &log, &connections))
            .map_err(|e| format!("cannot start a thread: {e}"))?;
    }
    let mut tokens = Tokens::new().map_err(|e| format!("cannot read /dev/urandom: {e}"))?;
    let first = tokens.secret().map_err(|e| format!("cannot read /dev/urandom: {e}"))?;
    // Should the source of randomness ever fail later, an identifier that repeats confirms nothing.
    let token = move || format!("push_{}", tokens.secret().unwrap_or_else(|_| first.clone()));
    let info = Info {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64),
        log_all: log.wants(Level::Debug),
    };
    log.event(Level::Info, "hub_started", &[("version", json!(info.version))]);
    ready();
    let mut hub = Hub {
        router: Router::new(limits, info, Box::new(token)),
        writers: HashMap::new(),
        fresh: Vec::new(),
        lost: Vec::new(),
        log: log.clone(),
        start: Instant::now(),
    };
    let why = hub.serve(&queue, dir, socket);
    // The socket goes first: whoever comes now finds no hub and starts one, and whoever was accepted and not welcomed
    // sees the end of the connection and does the same.
    if Inode::of(dir) == socket {
        let _ = fs::remove_file(dir.socket_path()); // gone is gone
    }
    hub.flush();
    log.event(Level::Info, "hub_left", &[("why", json!(why))]);
    Ok(Ran::Done)
}

/// The router and the ways out of it.
struct Hub {
    router: Router,
    writers: HashMap<ConnId, Writer>,
    /// Whose writers have fresh lines.
    fresh: Vec<ConnId>,
    /// Who did not read, of which the router has yet to hear.
    lost: Vec<ConnId>,
    log: Arc<Journal>,
    start: Instant,
}

impl Hub {
    /// Until the router says exit, or the socket is not ours any more.
    fn serve(&mut self, queue: &Queue<Heard>, dir: &DataDir, socket: Option<Inode>) -> &'static str {
        let (mut look, mut wrote) = (Instant::now() + LOOK, Instant::now());
        let mut turns = VecDeque::new();
        loop {
            let deadline = self.router.next_deadline().map(|ms| self.start + Duration::from_millis(ms));
            let wait = turns.is_empty().then(|| deadline.map_or(look, |d| d.min(look)));
            queue.take(&mut turns, wait);
            let heard = turns.pop_front().unwrap_or(Heard::Input(Input::Tick));
            let others = turns.len();
            let left = self.hear(heard, &mut turns);
            let now = Instant::now();
            // What a connection has said together is answered together, unless that takes long.
            if turns.len() == others || left.is_some() || now >= wrote + FRESH {
                self.write_fresh();
                wrote = now;
                for conn in self.lost.drain(..) {
                    turns.push_front(Heard::Input(Input::Closed(conn)));
                }
            }
            if let Some(why) = left {
                return why;
            }
            if now >= look {
                look = now + LOOK;
                if Inode::of(dir) != socket {
                    return "its socket was removed or replaced";
                }
            }
        }
    }

    /// Why the hub leaves, if it does. Of what one connection said one message is routed; the rest waits for the next of
    /// its `turns`.
    fn hear(&mut self, heard: Heard, turns: &mut VecDeque<Heard>) -> Option<&'static str> {
        let input = match heard {
            Heard::Opened(conn, writer) => {
                self.writers.insert(conn, writer);
                Input::Opened(conn)
            }
            Heard::Input(input) => input,
            Heard::Said(conn, mut said, turn) => {
                let began = Instant::now();
                let left = said.next().is_some_and(|message| self.step(Input::Said(conn, message)));
                turn.used(began.elapsed());
                match said.len() {
                    0 => turn.over(),
                    _ => turns.push_back(Heard::Said(conn, said, turn)),
                }
                return left.then_some("idle or stopped");
            }
            Heard::Broken(conn, fault) => {
                self.send(conn, &error_line(fault));
                Input::Closed(conn)
            }
        };
        let why = if matches!(input, Input::Stop) { "a signal" } else { "idle or stopped" };
        if let Input::Closed(conn) = input {
            self.close(conn);
        }
        self.step(input).then_some(why)
    }

    /// Whether the router says exit.
    fn step(&mut self, input: Input) -> bool {
        let now = self.start.elapsed().as_millis() as u64;
        let mut exit = false;
        for output in self.router.step(now, input) {
            match output {
                Output::Send(conn, message) => self.send(conn, &message),
                Output::Close(conn) => self.close(conn),
                Output::Log(event) => log_event(&self.log, &event),
                Output::Exit => exit = true,
            }
        }
        exit
    }

    fn send(&mut self, conn: ConnId, message: &ToClient) {
        let Some(writer) = self.writers.get_mut(&conn) else { return };
        if writer.fresh.is_empty() {
            self.fresh.push(conn);
        }
        json::write_line(&mut writer.fresh, message);
    }

    /// Writes all that was sent since the last time.
    fn write_fresh(&mut self) {
        for conn in std::mem::take(&mut self.fresh) {
            self.write(conn);
        }
    }

    fn write(&mut self, conn: ConnId) {
        let Some(writer) = self.writers.get_mut(&conn) else { return };
        if let Err(e) = writer.write() {
            if e.kind() == io::ErrorKind::OutOfMemory {
                let queued = writer.queued();
                self.log.event(
                    Level::Warn,
                    "peer_stalled",
                    &[("conn", json!(conn)), ("queued", json!(queued))],
                );
                self.lost.push(conn);
            }
            // Its reader sees the end, after all that was said before it: who says goodbye and closes is not there to hear.
            let _ = writer.stream.shutdown(Shutdown::Both);
            self.writers.remove(&conn);
        }
    }

    /// Closes a connection when what was sent to it is written.
    fn close(&mut self, conn: ConnId) {
        self.write(conn);
        if let Some(Writer { backlog: None, stream, .. }) = self.writers.remove(&conn) {
            let _ = stream.shutdown(Shutdown::Both); // it may be gone already
        }
    }

    /// Lets the backlogs become empty, but does not wait for longer than [`FLUSH`].
    fn flush(&mut self) {
        self.write_fresh();
        let until = Instant::now() + FLUSH;
        let left: Vec<Backlog> = self.writers.drain().filter_map(|(_, w)| w.backlog).collect();
        while left.iter().any(|b| b.queued.load(Ordering::Acquire) > 0) && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Accepts connections and gives each its reader.
fn accept(
    listener: &UnixListener,
    queue: &Arc<Queue<Heard>>,
    log: &Arc<Journal>,
    connections: &Arc<AtomicUsize>,
) {
    let mut next: ConnId = 0;
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => Arc::new(stream),
            Err(e) => {
                // Out of file descriptors, most likely: they come back as others leave.
                log.event(Level::Error, "accept_failed", &[("error", json!(e.to_string()))]);
                thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        next += 1;
        if connections.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            connections.fetch_sub(1, Ordering::Relaxed);
            log.event(Level::Warn, "too_many_connections", &[]);
            let full = format!("the hub has {MAX_CONNECTIONS} connections, which is its limit; retry later");
            last_words(&stream, fault(Code::Overloaded, full));
            continue;
        }
        let (conn, queue, open, at) = (next, queue.clone(), connections.clone(), log.clone());
        let spawned = thread::Builder::new().name("reader".into()).stack_size(STACK).spawn(move || {
            read(conn, &stream, &queue, &at);
            open.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(e) = spawned {
            connections.fetch_sub(1, Ordering::Relaxed);
            log.event(Level::Error, "no_thread", &[("error", json!(e.to_string()))]);
        }
    }
}

/// Reads one connection to its end. Whatever it says wrong costs it the connection and nobody else anything.
fn read(conn: ConnId, stream: &Arc<UnixStream>, queue: &Queue<Heard>, log: &Journal) {
    let mut lines = Lines::new(stream.clone());
    if let Err(fault) = hello(&mut lines) {
        log.event(Level::Warn, "refused", &[("conn", json!(conn)), ("code", json!(fault.code.name()))]);
        return last_words(stream, fault);
    }
    queue.put(Heard::Opened(conn, Writer::new(stream.clone())));
    let (turn, mut since) = (Turn::new(), Instant::now());
    loop {
        let (said, last) = batch(conn, &mut lines);
        turn.take();
        turn.make_up(&mut since);
        let much = said.len() > MUCH;
        match said.is_empty() {
            true => turn.over(),
            false => queue.put(Heard::Said(conn, said.into_iter(), turn.clone())),
        }
        let Some(last) = last else {
            if much {
                turn.take();
                turn.over();
            }
            continue;
        };
        if matches!(last, Heard::Broken(..)) {
            log.event(Level::Warn, "bad_msg", &[("conn", json!(conn))]);
        }
        turn.take(); // it comes after what was said
        return queue.put(last);
    }
}

/// What a connection says next, with all that it has said already, and its end if it has come.
fn batch(conn: ConnId, lines: &mut Lines) -> (Vec<ToHub>, Option<Heard>) {
    let mut said = Vec::new();
    loop {
        let line = match lines.next(None) {
            Ok(Some(line)) => line,
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                return (said, Some(broken(conn, e.to_string())));
            }
            Ok(None) | Err(_) => return (said, Some(Heard::Input(Input::Closed(conn)))),
        };
        match json::read(line) {
            Ok(message) => said.push(message),
            Err(e) => {
                return (said, Some(broken(conn, format!("not a message of protocol {VERSION}: {e}"))));
            }
        }
        if !lines.has_next() {
            return (said, None);
        }
    }
}

fn broken(conn: ConnId, why: String) -> Heard {
    Heard::Broken(conn, fault(Code::BadMsg, why))
}

/// The first line must be `hello` with our version.
fn hello(lines: &mut Lines) -> Result<(), Fault> {
    let bad = |why: String| Err(fault(Code::BadMsg, why));
    let line = match lines.next(Some(Instant::now() + HELLO)) {
        Ok(Some(line)) => line,
        Ok(None) => return bad("the connection ended before hello".into()),
        Err(e) => return bad(format!("no hello: {e}")),
    };
    match json::read::<ToHub>(line) {
        Ok(ToHub::Hello { v: VERSION }) => Ok(()),
        Ok(ToHub::Hello { v }) => Err(fault(
            Code::ProtocolMismatch,
            format!("the client speaks protocol {v}, this hub {VERSION}; run `relay stop`, then retry"),
        )),
        Ok(_) => bad("the first line must be hello".into()),
        Err(e) => bad(format!("the first line must be hello with `v`: {e}")),
    }
}

fn error_line(fault: Fault) -> ToClient {
    ToClient::Error { id: None, code: fault.code, message: fault.message, waiting: Vec::new() }
}

/// One error line, then the end, for a connection that has no writer.
fn last_words(stream: &Arc<UnixStream>, fault: Fault) {
    let mut line = Vec::new();
    json::write_line(&mut line, &error_line(fault));
    let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
    let _ = (&**stream).write_all(&line); // it may be gone already
    let _ = stream.shutdown(Shutdown::Both);
}

/// SIGTERM and SIGINT stop the hub; SIGHUP, which a closing terminal sends, does not.
fn watch_signals(queue: Arc<Queue<Heard>>) -> Result<(), String> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])
        .map_err(|e| format!("cannot watch signals: {e}"))?;
    let watch = move || {
        signals.forever().filter(|s| *s != SIGHUP).for_each(|_| queue.put(Heard::Input(Input::Stop)));
    };
    thread::Builder::new()
        .name("signals".into())
        .stack_size(64 << 10)
        .spawn(watch)
        .map(|_| ())
        .map_err(|e| format!("cannot start a thread: {e}"))
}

fn log_event(log: &Journal, event: &Event) {
    let level = match event.event {
        What::DeadPath | What::Refused => Level::Warn,
        What::Ask | What::Reply | What::Summary | What::State => Level::Debug,
        _ => Level::Info,
    };
    if !log.has_room(level) {
        return;
    }
    let mut fields = json::fields(event);
    fields.remove("ts_ms");
    fields.remove("event");
    let fields: Vec<(&str, serde_json::Value)> =
        fields.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
    log.log.event(level, event.event.name(), &fields);
}

/// Which file the socket's path names.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Inode(u64, u64);

impl Inode {
    fn of(dir: &DataDir) -> Option<Self> {
        fs::symlink_metadata(dir.socket_path()).ok().map(|m| Inode(m.dev(), m.ino()))
    }
}

/// `relay hub`: runs the hub in the foreground. With `announce`, one line on stdout says when it listens.
pub fn main(dir: &DataDir, announce: bool) -> ExitCode {
    let say = |what: &str| {
        if announce {
            let _ = writeln!(std::io::stdout(), "{what}"); // whoever started us may not care any more
        } else {
            eprintln!("relay: {what} in {}", dir.path().display());
        }
    };
    match run(dir, limits(), || say("listening")) {
        Ok(Ran::Done) => ExitCode::SUCCESS,
        Ok(Ran::Another) => {
            say("another hub is running");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("relay: {why}");
            ExitCode::FAILURE
        }
    }
}

/// `relay hub --detach`: starts a hub that belongs to nobody, and returns when it listens. It is our child and we leave
/// at once, so that it is nobody's zombie and no one who ends a session's process tree finds it there.
pub fn detach(dir: &DataDir) -> ExitCode {
    let failed = |why: &str| {
        eprintln!("relay: {why}");
        ExitCode::FAILURE
    };
    let exe = match std::env::current_exe() {
        Ok(exe) => exe,
        Err(e) => return failed(&format!("cannot tell which binary this is: {e}")),
    };
    // The usual limit of 1,024 open files is too low for 1,024 peers, and only a shell can raise it without unsafe code.
    let script = r#"ulimit -n 8192 2>/dev/null || ulimit -n "$(ulimit -Hn)" 2>/dev/null
exec "$0" hub --announce --data-dir "$1""#;
    let args = ["-c".as_ref(), script.as_ref(), exe.as_os_str(), dir.path().as_os_str()];
    let mut command = crate::link::hub_command("/bin/sh", &args);
    // Both pipes lose their reader when we leave. The hub writes to them before that or not at all.
    let child = command.current_dir("/").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(e) => return failed(&format!("cannot start a hub: {e}")),
    };
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        let _ = BufReader::new(out.take(100)).read_line(&mut said); // an error shows in what was not said
    }
    if !said.is_empty() {
        return ExitCode::SUCCESS;
    }
    let mut why = String::new();
    if let Some(err) = child.stderr.take() {
        let _ = err.take(2000).read_to_string(&mut why); // as above
    }
    failed(why.trim().trim_start_matches("relay: "))
}

/// The design's limits, but for what the environment changes.
fn limits() -> Limits {
    let seconds = |name: &str, default: u64| {
        let value = std::env::var(name).ok().and_then(|v| v.parse::<f64>().ok());
        value.filter(|s| (0.0..=1e9).contains(s)).map_or(default, |s| (s * 1000.0) as u64)
    };
    let base = Limits::default();
    let rate = std::env::var("RELAY_ASKS_PER_MIN").ok().and_then(|v| v.parse().ok());
    Limits {
        grace: seconds("RELAY_GRACE_S", base.grace),
        idle_exit: seconds("RELAY_IDLE_EXIT_S", base.idle_exit).max(100), // whoever starts a hub must find it
        confirm: seconds("RELAY_CONFIRM_S", base.confirm),
        asks_per_minute: rate.unwrap_or(base.asks_per_minute),
        ..base
    }
}
