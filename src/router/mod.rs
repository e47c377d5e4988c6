//! The hub's core: who is there, who asked whom, how far each text got. A plain state machine that knows no socket and
//! no clock: [`Router::step`] takes what happened and the time, and says what is to be done about it.
//!
//! The nouns live in files of their own: [`peer`] (who is there), [`ask`] (what was asked and how it ended),
//! [`graveyard`] (what is kept of that), [`broadcast`] (a question to many), [`delivery`] (a text on its way into a
//! session), [`receipt`] (what is heard of it there), [`session`] (what hooks tell of a Claude Code process), [`resume`]
//! (what peers bring back to a hub that forgot it), [`rival`] (an ask that two say they were given), [`roster`] (what the
//! hub says of all this).

mod ask;
mod broadcast;
mod delivery;
mod graveyard;
mod peer;
mod receipt;
mod resume;
mod rival;
mod roster;
mod session;
#[cfg(test)]
mod simulation;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::wire::{Answer, Code, Event, Fault, Held, ToClient, ToHub, What};
use ask::Ask;
use broadcast::Broadcast;
use delivery::Delivery;
use graveyard::Graveyard;
use peer::Peer;
use rival::Rival;
pub use roster::span;
use session::Session;

/// Milliseconds since the hub's start.
pub type Ms = u64;
/// A connection, numbered by the hub in the order of arrival.
pub type ConnId = u64;
/// An `ask_id` or `broadcast_id`.
type Id = Arc<str>;
type PeerNo = u64;
type DeliveryNo = u64;

/// What a peer may cost, and how long the hub waits for what. Times are in milliseconds.
#[derive(Debug, Clone)]
pub struct Limits {
    pub peers: usize,
    /// Asks of one asker that have not ended; a broadcast counts as one.
    pub open_asks: usize,
    /// Texts to one target that are not known to have arrived.
    pub undelivered: usize,
    /// Asks a minute from one peer to one peer; 0 for no limit.
    pub asks_per_minute: u32,
    /// How long a peer that vanished may come back.
    pub grace: Ms,
    /// How long the hub lives without peers.
    pub idle_exit: Ms,
    /// How long an idle session has to confirm a push before the next path is tried.
    pub confirm: Ms,
    /// How many texts the inbox of a session takes at once, and how long it takes to make room for one more. Claude Code
    /// 2.1.330 drops without a word what is more than 30 at once, and then more than one in about 2.3 s (measured).
    pub inbox_burst: u64,
    pub inbox_every: Ms,
    /// How long the answer to `ask` and `reply` waits for the text to be handed over.
    pub handover: Ms,
    /// How long after its timeout an ask may still be answered.
    pub late: Ms,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            peers: 1024,
            open_asks: 64,
            undelivered: 256,
            asks_per_minute: 30,
            grace: 5_000,
            idle_exit: 300_000,
            confirm: 4_000,
            inbox_burst: 25,
            inbox_every: 2_500,
            handover: 500,
            late: 3_600_000,
        }
    }
}

/// The longest an ask may stay open, in milliseconds: a day.
pub const MAX_TIMEOUT: Ms = 86_400_000;

/// What happened.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly every input is of the large kind")]
pub enum Input {
    /// A client said hello.
    Opened(ConnId),
    Said(ConnId, ToHub),
    /// The connection is gone, whoever closed it.
    Closed(ConnId),
    /// The deadline passed.
    Tick,
    /// SIGTERM.
    Stop,
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    Send(ConnId, ToClient),
    /// Close after what was sent.
    Close(ConnId),
    /// For the log; its text is `None`.
    Log(Event),
    /// Flush and exit.
    Exit,
}

/// A time at which something is due, if it still is by then.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// The ask ends in `timeout`.
    Timeout(Id),
    /// The peer that vanished is gone.
    Grace(PeerNo),
    /// The push should have been confirmed.
    Confirm(DeliveryNo),
    /// The request that started the delivery is answered now.
    Handover(DeliveryNo),
    /// The session's inbox takes one more text.
    Room(PeerNo),
    /// Nobody came.
    Idle,
}

/// What the router knows of a connection.
#[derive(Debug, Default)]
struct Conn {
    peer: Option<PeerNo>,
    /// Held back until `register` commits it.
    held: Vec<Held>,
    /// The bytes of text in it.
    held_text: usize,
    /// The Claude Code process that this is the waiter of.
    waiter: Option<String>,
    /// When the log last told of a limit that it met.
    refused: Option<Ms>,
}

/// The most `resume` lines before a `register`: what the limits allow a peer to hold, and some.
const MAX_HELD: usize = 16_384;
/// The most bytes of text in them.
const MAX_HELD_TEXT: usize = 64 << 20;

/// The most bytes of text that all connections together hold back.
const MAX_HELD_BY_ALL: usize = 256 << 20;
/// The most connections that watch.
const MAX_WATCHERS: usize = 32;

/// See the module.
pub struct Router {
    limits: Limits,
    /// Makes the identifiers of pushes: unguessable in the hub, counted in tests.
    token: Box<dyn FnMut() -> String + Send>,
    now: Ms,
    next_no: u64,
    conns: HashMap<ConnId, Conn>,
    watchers: BTreeSet<ConnId>,
    peers: HashMap<PeerNo, Peer>,
    by_identity: HashMap<String, PeerNo>,
    by_name: HashMap<String, PeerNo>,
    sessions: HashMap<String, Session>,
    asks: HashMap<Id, Ask>,
    /// Of asks that nobody has claimed yet: who else than the target says that it was given it.
    rivals: HashMap<Id, Vec<Rival>>,
    broadcasts: HashMap<Id, Broadcast>,
    deliveries: HashMap<DeliveryNo, Delivery>,
    /// The bytes of text in them.
    text: usize,
    /// The bytes of text that connections and rivals hold back.
    held_text: usize,
    /// By the identifier of a push.
    pushes: HashMap<String, DeliveryNo>,
    answered: Graveyard,
    unanswered: Graveyard,
    timers: BTreeSet<(Ms, Timer)>,
    /// Since when nobody is registered.
    empty_since: Option<Ms>,
    /// Whose resume is being taken in: none of its broadcasts is summed up before that is complete.
    resuming: Option<PeerNo>,
    out: Vec<Output>,
    info: Info,
}

/// What the hub says of itself.
#[derive(Debug, Clone)]
pub struct Info {
    pub pid: u32,
    pub version: String,
    /// The wall clock at the router's time 0, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// Whether the log wants every ask and every state, not only what is rare.
    pub log_all: bool,
}

/// The result of a request: an answer for now, or `None` when it is answered later.
type Reply = Result<Option<Answer>, Fault>;

impl Router {
    pub fn new(limits: Limits, info: Info, token: Box<dyn FnMut() -> String + Send>) -> Self {
        let mut timers = BTreeSet::new();
        timers.insert((limits.idle_exit, Timer::Idle));
        Router {
            token,
            now: 0,
            next_no: 0,
            conns: HashMap::new(),
            watchers: BTreeSet::new(),
            peers: HashMap::new(),
            by_identity: HashMap::new(),
            by_name: HashMap::new(),
            sessions: HashMap::new(),
            asks: HashMap::new(),
            rivals: HashMap::new(),
            broadcasts: HashMap::new(),
            deliveries: HashMap::new(),
            text: 0,
            held_text: 0,
            pushes: HashMap::new(),
            answered: Graveyard::new(4_096, limits.late),
            unanswered: Graveyard::new(16_384, limits.late),
            timers,
            empty_since: Some(0),
            resuming: None,
            out: Vec::new(),
            limits,
            info,
        }
    }

    /// When [`Input::Tick`] is due, unless something else happens first.
    pub fn next_deadline(&self) -> Option<Ms> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes one thing that happened at `now`, which never goes back, and says what to do, in this order.
    pub fn step(&mut self, now: Ms, input: Input) -> Vec<Output> {
        self.now = self.now.max(now);
        self.expire();
        match input {
            Input::Opened(conn) => {
                self.conns.insert(conn, Conn::default());
                let welcome = ToClient::Welcome {
                    v: crate::wire::VERSION,
                    pid: self.info.pid,
                    version: self.info.version.clone(),
                };
                self.send(conn, welcome);
            }
            Input::Said(conn, message) if self.conns.contains_key(&conn) => {
                self.said(conn, message);
            }
            Input::Said(..) => {} // it was closed by an earlier step
            Input::Closed(conn) => self.closed(conn),
            Input::Tick => {}
            Input::Stop => self.out.push(Output::Exit),
        }
        std::mem::take(&mut self.out)
    }

    fn expire(&mut self) {
        while let Some((at, _)) = self.timers.first()
            && *at <= self.now
        {
            let Some((at, timer)) = self.timers.pop_first() else {
                return;
            };
            match timer {
                Timer::Timeout(id) => self.time_out(&id),
                Timer::Grace(peer) => self.grace_over(peer),
                Timer::Confirm(no) => self.unconfirmed(no),
                Timer::Handover(no) => self.answer_starter(no),
                Timer::Room(peer) => self.room(peer),
                Timer::Idle => {
                    if self.empty_since.is_some_and(|t| t + self.limits.idle_exit <= at) {
                        self.out.push(Output::Exit);
                    }
                }
            }
        }
    }

    fn said(&mut self, conn: ConnId, message: ToHub) {
        let (id, reply) = match message {
            ToHub::Register { id, who } => (id, self.register(conn, id, *who)),
            ToHub::Peers { id } => (id, Ok(Some(Answer::Peers(self.roster(conn))))),
            ToHub::Ask { id, ask_id, to, text, timeout_ms } => {
                (id, self.ask(conn, id, &ask_id, &to, text, timeout_ms))
            }
            ToHub::Broadcast { id, broadcast_id, text, scope, timeout_ms } => {
                (id, self.broadcast(conn, id, &broadcast_id, text, scope, timeout_ms))
            }
            ToHub::Reply { id, ask_id, text } => (id, self.reply(conn, id, &ask_id, text)),
            ToHub::Rename { id, name, exact } => (id, self.rename(conn, &name, exact)),
            ToHub::Hook { id, claude, event, age_ms } => (id, self.hook(claude, event, age_ms.unwrap_or(0))),
            ToHub::Wait { id, claude } => (id, self.wait(conn, id, claude)),
            ToHub::Watch { id } => (id, self.watch(conn)),
            ToHub::Status { id } => (id, Ok(Some(Answer::Status(self.status())))),
            ToHub::Stop { id } => {
                self.answer(conn, id, Ok(Answer::Done));
                return self.out.push(Output::Exit);
            }
            ToHub::Hello { .. } => return self.refuse(conn, "hello was said already"),
            ToHub::Resume { held } => return self.hold(conn, held),
            ToHub::Pushed { push, error } => return self.pushed(conn, &push, error),
            ToHub::Seen { pushes, accepted } => return self.seen(conn, &pushes, &accepted),
            ToHub::Activity { activity, age_ms, branch, paths } => {
                let activity = activity.map(|a| (a, age_ms.unwrap_or(0)));
                return self.activity(conn, activity, branch, paths);
            }
            ToHub::Bye => return self.bye(conn),
        };
        match reply {
            Ok(Some(answer)) => self.answer(conn, id, Ok(answer)),
            Ok(None) => {}
            Err(fault) => {
                if matches!(fault.code, Code::Overloaded | Code::BadArgs) {
                    self.refused(conn, &fault);
                }
                self.answer(conn, id, Err(fault));
            }
        }
    }

    /// Each watcher gets a copy of every text, so they are few.
    fn watch(&mut self, conn: ConnId) -> Reply {
        if self.watchers.len() >= MAX_WATCHERS && !self.watchers.contains(&conn) {
            let full = format!(
                "{MAX_WATCHERS} connections watch the hub, which is the limit; retry when one has left"
            );
            return Err(fault(Code::Overloaded, full));
        }
        self.watchers.insert(conn);
        Ok(Some(Answer::Done))
    }

    /// Tells of a limit that was met, for each connection once a second: who floods must not flood the log.
    fn refused(&mut self, conn: ConnId, fault: &Fault) {
        let (now, from) = (self.now, self.name_of(conn));
        let Some(c) = self.conns.get_mut(&conn) else { return };
        if c.refused.is_none_or(|at| now >= at + 1000) {
            c.refused = Some(now);
            self.happened(What::Refused, |e| {
                e.from = from;
                e.code = Some(fault.code);
                e.why = Some(fault.message.clone());
            });
        }
    }

    fn hold(&mut self, conn: ConnId, held: Held) {
        let Some(c) = self.conns.get_mut(&conn) else { return };
        let Some(size) = size(&held) else {
            return self.refuse(conn, "what is resumed has a label that is too long");
        };
        c.held_text += size;
        self.held_text += size;
        if c.peer.is_some() {
            self.refuse(conn, "resume comes before register");
        } else if c.held.len() >= MAX_HELD || c.held_text > MAX_HELD_TEXT {
            self.refuse(conn, "more is resumed than a peer can hold");
        } else if self.held_text > MAX_HELD_BY_ALL {
            self.refuse(conn, "all that resume hold more than the hub has room for; come back later");
        } else {
            c.held.push(held);
        }
    }

    fn take_held(&mut self, conn: ConnId) -> Vec<Held> {
        let Some(c) = self.conns.get_mut(&conn) else { return Vec::new() };
        self.held_text -= std::mem::take(&mut c.held_text);
        std::mem::take(&mut c.held)
    }

    fn closed(&mut self, conn: ConnId) {
        self.watchers.remove(&conn);
        let Some(c) = self.conns.remove(&conn) else { return };
        self.held_text -= c.held_text;
        if let Some(claude) = c.waiter {
            self.waiter_left(conn, &claude);
        }
        if let Some(peer) = c.peer {
            self.vanished(peer, conn);
        }
    }

    /// One error line, then the end of the connection: what it said can't be understood.
    fn refuse(&mut self, conn: ConnId, why: &str) {
        let (code, message, waiting) = (Code::BadMsg, why.to_owned(), Vec::new());
        self.send(conn, ToClient::Error { id: None, code, message, waiting });
        self.close(conn);
    }

    fn close(&mut self, conn: ConnId) {
        self.closed(conn);
        self.out.push(Output::Close(conn));
    }

    fn send(&mut self, conn: ConnId, message: ToClient) {
        self.out.push(Output::Send(conn, message));
    }

    fn answer(&mut self, conn: ConnId, id: u64, reply: Result<Answer, Fault>) {
        let waiting = self.take_waiting(conn);
        let message = match reply {
            Ok(answer) => ToClient::Ok { id, answer, waiting },
            Err(Fault { code, message }) => ToClient::Error { id: Some(id), code, message, waiting },
        };
        self.send(conn, message);
    }

    /// The peer that this connection registered.
    fn me(&self, conn: ConnId) -> Result<PeerNo, Fault> {
        self.conns.get(&conn).and_then(|c| c.peer).ok_or_else(|| {
            fault(Code::NotRegistered, "this connection has not registered; send register first")
        })
    }

    fn name_of(&self, conn: ConnId) -> String {
        let peer = self.conns.get(&conn).and_then(|c| c.peer);
        peer.and_then(|p| self.peers.get(&p)).map(|p| p.who.name.clone()).unwrap_or_default()
    }

    fn no(&mut self) -> u64 {
        self.next_no += 1;
        self.next_no
    }

    fn arm(&mut self, at: Ms, timer: Timer) {
        self.timers.insert((at, timer));
    }

    fn disarm(&mut self, at: Ms, timer: Timer) {
        self.timers.remove(&(at, timer));
    }

    /// Tells the log, and who watches.
    fn happened(&mut self, what: What, fill: impl FnOnce(&mut Event)) {
        let common = matches!(what, What::Ask | What::Reply | What::Summary | What::State);
        if common && self.watchers.is_empty() && !self.info.log_all {
            return;
        }
        let mut event = Event {
            ts_ms: self.info.started_at_ms + self.now,
            event: what,
            from: String::new(),
            to: None,
            ask_id: None,
            kind: None,
            state: None,
            path: None,
            code: None,
            text: None,
            why: None,
        };
        fill(&mut event);
        for conn in &self.watchers {
            self.out.push(Output::Send(*conn, ToClient::Event(event.clone())));
        }
        event.text = None; // message text never goes to a log
        self.out.push(Output::Log(event));
    }
}

/// The bytes of what a client resumes; `None` where a label in it is longer than any of ours.
fn size(held: &Held) -> Option<usize> {
    let (text, labels): (usize, Vec<&String>) = match held {
        Held::Asked { ask_id, peer, to, text, broadcast, .. } => {
            (text.as_ref().map_or(0, String::len), [ask_id, peer, to].into_iter().chain(broadcast).collect())
        }
        Held::Asking { id, .. } => (0, vec![id]),
        Held::Given { parcel: p, peer, pushes, .. } => {
            let optional = [&p.peer, &p.cwd, &p.broadcast, peer].into_iter().flatten();
            let labels = [&p.push, &p.ask_id, &p.from].into_iter().chain(optional);
            (p.text.len(), labels.chain(pushes.iter().map(|(push, _)| push)).collect())
        }
        Held::Replied { ask_id, peer, to, text } => (text.len(), vec![ask_id, peer, to]),
        Held::Outcomes { broadcast_id, outcomes } => {
            (0, outcomes.iter().flat_map(|o| [&o.ask_id, &o.to]).chain([broadcast_id]).collect())
        }
    };
    let fits = labels.iter().all(|label| label.len() <= crate::wire::MAX_LABEL);
    fits.then(|| text + labels.iter().map(|label| label.len()).sum::<usize>())
}

pub(crate) fn fault(code: Code, message: impl Into<String>) -> Fault {
    Fault { code, message: message.into() }
}

#[cfg(test)]
impl Router {
    /// What is not gone though every peer is, in words.
    fn leftovers(&self) -> String {
        let held = [
            ("conns", self.conns.len().saturating_sub(self.watchers.len())),
            ("peers", self.peers.len()),
            ("identities", self.by_identity.len()),
            ("names", self.by_name.len()),
            ("sessions", self.sessions.values().filter(|s| s.is_tied()).count()),
            ("asks", self.asks.len()),
            ("rivals", self.rivals.len()),
            ("bytes held back", self.held_text),
            ("broadcasts", self.broadcasts.len()),
            ("deliveries", self.deliveries.len()),
            ("pushes", self.pushes.len()),
            ("timers", self.timers.iter().filter(|(_, t)| *t != Timer::Idle).count()),
        ];
        let left = held.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}"));
        left.collect::<Vec<_>>().join(", ")
    }
}
