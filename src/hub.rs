//! The hub: one process per data directory that carries messages between its peers. Here are its sockets, threads and
//! signals; the [`router`] decides what goes where, and the [`journal`] makes its state outlive the process.
//!
//! Data flows one way: a reader thread per connection parses lines and sends them into the channel of the one router
//! thread. The router thread takes the messages that are there, steps the router, appends the inputs to the journal, and only
//! then writes what the sockets take at once. The rest goes into a backlog per slow peer, which is bounded in bytes and has a
//! writer thread of its own. The router never waits for a peer: one whose backlog overflows is disconnected.
//!
//! One connection can have only a few messages in the channel, and uses at most half of the router's time: its
//! reader pauses for as long as its messages took.

mod journal;
mod reader;
mod replay;
mod router;
mod writer;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use log::Level;
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::connection::no_hub;
use crate::datadir::{Claim, DataDir, inode};
use crate::token::Tokens;
use crate::wire::{Code, Event, Kind, State, ToClient, ToHub, What, fault, write_line};
use crate::{logging, texts, threads};
use journal::Journal;
use router::{ConnId, Info, Input, Limits, Ms, Output, Router};
use writer::Writer;

pub use replay::{redact, replay};

/// The limit of connections: a channel and a waiter for each of 1,024 peers, and as many short-lived ones of hooks.
const MAX_CONNECTIONS: usize = 3072;
/// The same for `peers.sock`. Both together stay below 4,096 files, a common hard limit of a process.
const MAX_REMOTE: usize = 960;
/// How often the hub checks its socket and maintains the journal.
const CHECK: Duration = Duration::from_secs(1);
/// How long a hub that exits waits for its backlogs to be read.
const FLUSH: Duration = Duration::from_secs(1);
/// How long a hub whose socket was replaced waits for its answers and notices to be handed over.
const DRAIN: Duration = Duration::from_secs(3);
/// How many messages are taken before their outputs are written: under load this saves most of the system calls.
const BATCH: usize = 16;

/// A message to the router thread.
#[allow(clippy::large_enum_variant, reason = "nearly every message is of the large kind")]
enum Incoming {
    Opened(ConnId, Writer),
    /// A message, or the answer by which the reader refused it, and the channel on which its credit is returned, with the
    /// time that the message took.
    Said(ConnId, Result<ToHub, ToClient>, Sender<Duration>),
    /// The connection is read no further; with the reason if it broke the protocol.
    Closed(ConnId, Option<String>),
    Stop,
}

/// `relay hub`: runs the hub of `dir` until it is stopped or idle, and prints a line once it is listening. If another hub has locked
/// the directory, prints that at once. With `announce` it prints no log.
///
/// # Errors
/// The hub cannot start; the text has the remedy.
pub fn main(dir: &DataDir, announce: bool) -> Result<(), String> {
    logging::init(&dir.logs(), "hub", !announce);
    let at = dir.path().display();
    let say = |what: &str| {
        let _ = writeln!(io::stdout(), "{what} in {at}"); // the process that started us may be gone
    };
    if dir.elsewhere().is_some() {
        return Err(no_hub(dir).message);
    }
    dir.prepare()?;
    let Some(claim) = dir.claim().map_err(|e| format!("cannot lock {at}/hub.lock: {e}"))? else {
        say("another hub is running");
        return Ok(());
    };
    let listener = claim.bind().map_err(|e| format!("cannot listen on {at}/hub.sock: {e}"))?;
    let socket = dir.socket_path();
    let no_start = |e| format!("cannot start the hub: {e}");
    let mut tokens = Tokens::new().map_err(no_start)?;
    let epoch = tokens.secret().map_err(no_start)?;
    // If the random source fails later, all pushes get the same identifier, which is harmless: it only prevents
    // receipts.
    let ids = move || format!("push_{}", tokens.secret().unwrap_or_default());
    let wanted = std::env::var("RELAY_JOURNAL").map_or(true, |v| v != "off");
    let info = Info { pid: std::process::id(), ..Info::default() };
    let (journal, router) = Journal::start(dir.journal_path(), wanted, limits(), info, epoch, Box::new(ids));
    let (incoming, received) = unbounded();
    watch_signals(incoming.clone()).map_err(no_start)?;
    listen(&claim, listener, &incoming, router.last_conn + 1).map_err(no_start)?;
    log::info!(version = env!("CARGO_PKG_VERSION"), epoch = router.info.epoch.as_str(); "hub_started");
    say("listening");
    let mut hub = Hub {
        now_at_start: router.now,
        inode: inode(&socket),
        socket,
        dir,
        replaced: None,
        router,
        journal,
        writers: BTreeMap::new(),
        unwritten: BTreeMap::new(),
        start: Instant::now(),
        exit: None,
    };
    let why = hub.serve(&received);
    hub.leave(&claim);
    log::info!(why = why; "hub_left");
    Ok(())
}

/// The default limits, with the changes of the environment variables.
fn limits() -> Limits {
    let number = |name: &str| std::env::var(name).ok()?.parse::<f64>().ok();
    let mut limits = Limits::default();
    let times = [
        ("RELAY_GRACE_S", &mut limits.grace, 0),
        ("RELAY_REMOTE_GRACE_S", &mut limits.remote_grace, 0),
        ("RELAY_IDLE_EXIT_S", &mut limits.idle_exit, 100), // the client that starts a hub has to reach it
        ("RELAY_CONFIRM_S", &mut limits.confirm, 0),
        ("RELAY_BEGIN_TURN_S", &mut limits.begin_turn, 0),
        ("RELAY_NUDGE_S", &mut limits.nudge, 0),
        ("RELAY_FORM_QUIET_S", &mut limits.form_quiet, 10),
        ("RELAY_FORM_AGAIN_S", &mut limits.form_again, 0),
    ];
    for (name, limit, least) in times {
        if let Some(seconds) = number(name).filter(|s| (0.0..=1e9).contains(s)) {
            *limit = ((seconds * 1000.0) as u64).max(least);
        }
    }
    if let Some(rate) = std::env::var("RELAY_ASKS_PER_MIN").ok().and_then(|v| v.parse().ok()) {
        limits.asks_per_minute = rate;
    }
    limits
}

/// Starts the threads that accept connections. A hub without `peers.sock` serves its machine all the same.
fn listen(claim: &Claim, own: UnixListener, incoming: &Sender<Incoming>, first: ConnId) -> io::Result<()> {
    let peers = claim.bind_peers().inspect_err(|e| log::warn!(error:% = e; "no_peers_socket")).ok();
    let next = Arc::new(AtomicU64::new(first));
    for (listener, is_remote) in [(own, false)].into_iter().chain(peers.map(|peers| (peers, true))) {
        let (incoming, next) = (incoming.clone(), next.clone());
        let accept = move || accept(&listener, is_remote, &incoming, &next);
        threads::spawn("accept", threads::SMALL, accept)?;
    }
    Ok(())
}

/// The router, its journal, and the writers of its connections.
struct Hub<'a> {
    dir: &'a DataDir,
    /// Since when another process listens on the socket.
    replaced: Option<Instant>,
    router: Router,
    journal: Journal,
    writers: BTreeMap<ConnId, Writer>,
    /// The lines of the current batch, for each connection that has some or is to be closed.
    unwritten: BTreeMap<ConnId, Vec<u8>>,
    socket: PathBuf,
    inode: Option<(u64, u64)>,
    start: Instant,
    /// The router's time at `start`.
    now_at_start: Ms,
    /// Why the hub exits.
    exit: Option<&'static str>,
}

impl Hub<'_> {
    /// Runs until the router exits or the socket was replaced, and returns the reason.
    fn serve(&mut self, received: &Receiver<Incoming>) -> &'static str {
        let mut check = Instant::now() + CHECK;
        loop {
            self.router.info.journal = self.journal.status.clone();
            let due = self
                .router
                .next_deadline()
                .map(|ms| self.start + Duration::from_millis(ms.saturating_sub(self.now_at_start)));
            match received.recv_deadline(due.map_or(check, |due| due.min(check))) {
                Ok(first) => {
                    self.take(first);
                    received.try_iter().take(BATCH).for_each(|incoming| self.take(incoming));
                }
                Err(_) => self.step(Input::Tick),
            }
            self.write_batch();
            if let Some(why) = self.exit {
                return why;
            }
            let now = Instant::now();
            if now >= check {
                check = now + CHECK;
                if self.is_superseded(now) {
                    return "its socket was removed or replaced";
                }
                self.journal.maintain(&self.router, now);
                texts::sweep(self.dir);
            }
        }
    }

    /// Removes the socket, and leaves a journal for the next hub once the backlogs are written.
    fn leave(&mut self, claim: &Claim) {
        // The socket is removed first: a client that connects now starts a new hub, and so does a client that was accepted
        // and gets no `welcome`.
        let is_replaced = self.is_replaced();
        if inode(&self.socket) == self.inode {
            let _ = fs::remove_file(&self.socket); // already removed
        }
        self.flush();
        match claim.is_current() {
            true if is_replaced => self.journal.remove(), // its asks end at the linked hub: see the epoch rule
            true => self.journal.close(&self.router),
            false => {}
        }
    }

    /// Whether a linked hub has replaced the socket.
    fn is_replaced(&self) -> bool {
        inode(&self.socket).is_some_and(|found| Some(found) != self.inode)
    }

    /// Whether the hub has to exit: its socket was removed, or replaced by that of a linked hub and no answer or notice waits
    /// for a client.
    fn is_superseded(&mut self, now: Instant) -> bool {
        match self.is_replaced() {
            true => now >= *self.replaced.get_or_insert(now) + DRAIN || self.router.is_drained(),
            false => inode(&self.socket).is_none(),
        }
    }

    fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Opened(conn, writer) => {
                self.writers.insert(conn, writer);
                self.step(Input::Opened(conn));
            }
            Incoming::Said(conn, message, credit) => {
                let began = Instant::now();
                match message {
                    Ok(message) => self.step(Input::Said(conn, message)),
                    Err(refusal) => self.send(conn, &refusal),
                }
                let _ = credit.try_send(began.elapsed()); // the reader may have ended
            }
            Incoming::Closed(conn, why) => {
                if let Some(why) = why {
                    log::warn!(conn; "bad_msg");
                    self.send(conn, &ToClient::error(None, fault(Code::BadMsg, why)));
                }
                self.close(conn);
                self.step(Input::Closed(conn));
            }
            Incoming::Stop => self.exit = Some("a signal"),
        }
    }

    fn step(&mut self, input: Input) {
        let now = self.now_at_start + self.start.elapsed().as_millis() as u64;
        for output in journal::step(&mut self.router, now, input, &mut self.journal.batch).outputs {
            match output {
                Output::Send(conn, message) => self.send(conn, &message),
                Output::Close(conn) => self.close(conn),
                Output::Log(event) => log_event(&event),
                Output::Exit => self.exit = self.exit.or(Some("idle or stopped")),
            }
        }
    }

    fn send(&mut self, conn: ConnId, message: &ToClient) {
        if self.writers.contains_key(&conn) {
            write_line(self.unwritten.entry(conn).or_default(), message);
        }
    }

    /// Closes a connection once its lines are written.
    fn close(&mut self, conn: ConnId) {
        if let Some(writer) = self.writers.get_mut(&conn) {
            writer.closing = true;
            self.unwritten.entry(conn).or_default();
        }
    }

    /// Writes the journal, then the outputs of the batch. A peer that does not read loses its connection.
    fn write_batch(&mut self) {
        self.journal.append();
        for (conn, lines) in std::mem::take(&mut self.unwritten) {
            self.write(conn, lines);
        }
    }

    /// Writes the lines of a connection, or closes it if its backlog is full.
    fn write(&mut self, conn: ConnId, lines: Vec<u8>) {
        let Some(writer) = self.writers.get_mut(&conn) else { return };
        let written = writer.write(lines);
        if written.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::OutOfMemory) {
            log::warn!(conn, queued = writer.queued.load(Ordering::Acquire); "peer_stalled");
        }
        // A dropped writer closes its connection once its backlog is written. After a failed write the reader still
        // reads what the peer sent before: a peer may send `bye` and close without reading the answer.
        if written.is_err() || (writer.closing && writer.backlog.is_none()) {
            let _ = writer.stream.shutdown(Shutdown::Both);
        }
        if written.is_err() || writer.closing {
            self.writers.remove(&conn);
        }
    }

    /// Waits until the backlogs are empty, at most [`FLUSH`].
    fn flush(&mut self) {
        self.write_batch();
        let until = Instant::now() + FLUSH;
        while self.writers.values().any(|w| w.queued.load(Ordering::Acquire) > 0) && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Accepts connections and starts a reader thread for each.
fn accept(listener: &UnixListener, is_remote: bool, incoming: &Sender<Incoming>, next: &AtomicU64) {
    let open = Arc::new(());
    let most = if is_remote { MAX_REMOTE } else { MAX_CONNECTIONS };
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => Arc::new(stream),
            Err(e) => {
                // Most likely out of file descriptors, until other connections close.
                log::error!(error:% = e; "accept_failed");
                thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        let counted = open.clone(); // until its reader ends
        if Arc::strong_count(&open) > most + 1 {
            log::warn!("too_many_connections");
            let full = format!("the hub has {most} connections, which is its limit; retry later");
            write_and_close(&stream, &ToClient::error(None, fault(Code::Overloaded, full)));
            continue;
        }
        let (conn, incoming) = (next.fetch_add(1, Ordering::Relaxed), incoming.clone());
        let reader = move || {
            reader::read(conn, is_remote, &stream, &incoming);
            drop(counted);
        };
        if let Err(e) = threads::spawn("reader", threads::PARSER, reader) {
            log::error!(error:% = e; "no_thread");
        }
    }
}

/// Writes one message and closes a connection that has no writer.
fn write_and_close(stream: &UnixStream, message: &impl Serialize) {
    let mut line = Vec::new();
    write_line(&mut line, message);
    let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
    let _ = { stream }.write_all(&line); // it may be gone already
    let _ = stream.shutdown(Shutdown::Both);
}

/// Makes SIGTERM and SIGINT stop the hub, and ignores SIGHUP, which a closing terminal sends.
fn watch_signals(incoming: Sender<Incoming>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let watch = move || {
        signals.forever().filter(|s| *s != SIGHUP).for_each(|_| drop(incoming.send(Incoming::Stop)));
    };
    threads::spawn("signals", threads::SMALL, watch)
}

/// Logs an event of the router. An event that the original claude-relay logged too has the name that it had there.
fn log_event(event: &Event) {
    let own_name = event.event.name();
    let is_delivery = event.kind == Some(Kind::Ask) && event.state == Some(State::Pushed);
    let (level, name) = match (event.event, event.code) {
        (What::Joined, _) => (Level::Info, "peer_register"),
        (What::Left, _) => (Level::Info, "peer_disconnect"),
        (What::Renamed, _) => (Level::Info, "peer_rename"),
        (What::Failed, Some(Code::Timeout)) => (Level::Info, "pending_ask_timeout"),
        (What::Failed, Some(Code::PeerGone)) => (Level::Info, "pending_ask_peer_gone"),
        (What::Ask, _) => (Level::Debug, "ask_received"),
        (What::Reply, _) => (Level::Debug, "reply_received"),
        (What::State, _) if is_delivery => (Level::Debug, "ask_delivered"),
        (What::State | What::Note, _) => (Level::Debug, own_name),
        (What::DeadPath | What::Refused, _) => (Level::Warn, own_name),
        _ => (Level::Info, own_name),
    };
    log::log!(
        level,
        from = event.from,
        to = event.to.as_deref().unwrap_or_default(),
        ask_id = event.ask_id.as_deref().unwrap_or_default(),
        thread = event.thread.as_deref().unwrap_or_default(),
        kind = event.kind.map_or("", |k| k.name()),
        state = event.state.map_or("", |s| s.name()),
        path = event.path.map_or("", |p| p.name()),
        code = event.code.map_or("", |c| c.name()),
        why = event.why.as_deref().unwrap_or_default();
        "{name}"
    );
}
