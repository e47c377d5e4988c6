//! The hub's core: the registered peers, the open asks, the state of each delivery. A pure, deterministic state machine
//! without I/O and clock: [`Router::step`] takes an input and the time, and returns outputs.
//!
//! Its whole state can be serialized, and the same snapshot, inputs, times and drawn identifiers lead to the same
//! state, byte for byte: the [journal](super::journal) depends on it. So no code here iterates over a map with random
//! order. State that must not survive the hub (open connections without a role, watchers) is not serialized.
//!
//! Timers, such as the timeout of an ask, expire in [`Router::step`].
//!
//! One file per noun: [`peer`] (registered peers), [`naming`] (their names), [`ask`] (questions and how they end),
//! [`ended`] (what is kept of asks that ended), [`broadcast`] (a question to many), [`delivery`] (a text on its way
//! into a session), [`form`] (questions to the person in front of a session), [`receipt`] (what the hub learns about a push after it was sent, and which paths are dead),
//! [`standing`] (why an ask may not be answered), [`session`] (what hooks report about a Claude Code process),
//! [`roster`] (descriptions of all this for clients), [`limits`] (the limits).

mod ask;
mod broadcast;
mod delivery;
mod ended;
mod form;
mod limits;
mod naming;
mod peer;
#[cfg(test)]
mod props;
mod receipt;
mod replay;
mod roster;
mod session;
#[cfg(test)]
mod simulation;
mod standing;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::wire::{Answer, Code, Event, Fault, JournalStatus, ToClient, ToHub, VERSION, fault};
use ask::Ask;
pub use ask::digest;
use broadcast::Broadcast;
use delivery::Delivery;
use ended::EndedAsks;
pub use limits::Limits;
use naming::Names;
use peer::Peer;
use session::Session;

/// Milliseconds since the start of the epoch.
pub type Ms = u64;
/// A connection, numbered by the hub in the order of arrival, over all hub processes of the epoch.
pub type ConnId = u64;
/// An `ask_id` or `broadcast_id`.
type Id = Arc<str>;
type PeerNo = u64;
/// A request: its connection and its `id`.
type Starter = (ConnId, u64);
type DeliveryNo = u64;

/// An input of the state machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "nearly every input is of the large kind")]
pub enum Input {
    /// A client said hello.
    Opened(ConnId),
    Said(ConnId, ToHub),
    /// The connection is closed, by either side.
    Closed(ConnId),
    /// A deadline passed.
    Tick,
}

/// An output of the state machine.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    Send(ConnId, ToClient),
    /// Close after what was sent.
    Close(ConnId),
    /// For the log; its text is `None`.
    Log(Event),
    /// Flush and exit.
    Exit,
}

/// The outcome of one step.
#[derive(Debug, Default)]
pub struct Step {
    pub outputs: Vec<Output>,
    /// Whether the input may have changed the state: the journal must record it.
    pub is_change: bool,
    /// Whether timers expired: the journal must record the time.
    pub expired: bool,
    /// The random identifiers that the step drew, in order. A replay needs them.
    pub drawn: Vec<String>,
}

/// A timer; ignored if it no longer applies when it expires.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Timer {
    /// The ask ends in `timeout`.
    Timeout(Id),
    /// The peer that lost its connection is gone.
    Grace(PeerNo),
    /// The time to confirm the push is over.
    Confirm(DeliveryNo),
    /// The request that started the delivery gets its answer now.
    Handover(DeliveryNo),
    /// The time in which an idle session should begin a turn for an ask is over.
    NoTurn(Id),
    /// A form may be opened at the peer, or its session's inbox takes one more text.
    Dispatch(PeerNo),
    /// The session is reminded of an ask that its failed turn left unanswered.
    Nudge(Id),
    /// The collected answers to a broadcast are delivered.
    Collect(Id),
    /// The hub has had no peers for so long that it exits.
    Idle,
}

/// The role of a connection that has registered as a peer or as a waiter.
#[derive(Debug, Clone, Serialize, Deserialize)]
enum Role {
    Peer(PeerNo),
    /// The waiter of the Claude Code process `claude`.
    Waiter {
        claude: String,
        process: String,
    },
}

/// The state of the hub.
#[derive(Default, Serialize, Deserialize)]
pub struct Router {
    /// The limits of the hub that wrote the snapshot: a replay needs them.
    limits: Limits,
    #[serde(skip)]
    pub info: Info,
    /// Draws identifiers: random in the hub, sequential in tests, from the journal in a replay.
    #[serde(skip)]
    source: Option<Box<dyn FnMut() -> String + Send>>,
    /// The identifiers that were drawn in this step.
    #[serde(skip)]
    drawn: Vec<String>,
    pub(super) now: Ms,
    next_no: u64,
    /// The highest connection number so far.
    pub(super) last_conn: ConnId,
    /// Open connections after `hello`. Those with a role are in `roles` too.
    #[serde(skip)]
    open: BTreeSet<ConnId>,
    roles: BTreeMap<ConnId, Role>,
    #[serde(skip)]
    watchers: BTreeSet<ConnId>,
    /// Connections that are told once when the roster changes.
    #[serde(skip)]
    roster_watchers: BTreeSet<ConnId>,
    /// When a refusal to this connection was last logged.
    #[serde(skip)]
    refused: BTreeMap<ConnId, Ms>,
    peers: BTreeMap<PeerNo, Peer>,
    by_identity: BTreeMap<String, PeerNo>,
    names: Names,
    sessions: BTreeMap<String, Session>,
    /// Of a peer without hooks and waiter.
    #[serde(skip)]
    unknown_session: Session,
    asks: BTreeMap<Id, Ask>,
    broadcasts: BTreeMap<Id, Broadcast>,
    deliveries: BTreeMap<DeliveryNo, Delivery>,
    /// The bytes of text that the state holds.
    text: usize,
    /// By the identifier of a push.
    pushes: BTreeMap<String, DeliveryNo>,
    ended: EndedAsks,
    timers: BTreeSet<(Ms, Timer)>,
    #[serde(skip)]
    out: Vec<Output>,
}

/// Facts about the hub process. Not part of the state, since they differ in each process.
#[derive(Debug, Clone, Default)]
pub struct Info {
    pub pid: u32,
    /// The epoch of the state.
    pub epoch: String,
    /// The wall clock at the router's time 0, in milliseconds since 1970.
    pub epoch_started_ms: u64,
    /// The router's time when this hub process started.
    pub started: Ms,
    pub journal: JournalStatus,
}

/// The result of a request: an answer, or `None` if it is answered later.
type Reply = Result<Option<Answer>, Fault>;

impl Router {
    /// A router with an empty state.
    #[cfg(test)]
    pub fn new(limits: Limits, info: Info, ids: Box<dyn FnMut() -> String + Send>) -> Self {
        let mut router = Router::default();
        router.restart(limits, info, ids);
        router
    }

    /// The time of the next [`Input::Tick`], unless another input comes first.
    pub fn next_deadline(&self) -> Option<Ms> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Handles one input at time `now`, which never decreases, and returns the outputs in order.
    pub fn step(&mut self, now: Ms, input: Input) -> Step {
        self.now = self.now.max(now);
        let expired = self.expire_timers();
        let drawn_by_timers = self.drawn.len();
        let changes = match input {
            Input::Opened(conn) => {
                self.open.insert(conn);
                self.last_conn = self.last_conn.max(conn);
                let Info { pid, epoch, .. } = self.info.clone();
                self.send(conn, ToClient::Welcome { v: VERSION, pid, epoch });
                false
            }
            Input::Said(conn, message) if self.open.contains(&conn) => {
                let reads_only = matches!(
                    message,
                    ToHub::Peers { .. }
                        | ToHub::WatchRoster
                        | ToHub::Asks { .. }
                        | ToHub::Watch { .. }
                        | ToHub::Status { .. }
                );
                self.handle(conn, message);
                !reads_only
            }
            Input::Closed(conn) => self.closed(conn),
            Input::Said(..) | Input::Tick => false, // an earlier step closed that connection
        };
        let drawn = std::mem::take(&mut self.drawn);
        let is_change = changes || drawn.len() > drawn_by_timers; // texts were taken along
        Step { outputs: std::mem::take(&mut self.out), is_change, expired, drawn }
    }

    /// Returns whether there were any.
    fn expire_timers(&mut self) -> bool {
        let mut expired = false;
        while self.next_deadline().is_some_and(|at| at <= self.now)
            && let Some((_, timer)) = self.timers.pop_first()
        {
            expired = true;
            match timer {
                Timer::Timeout(id) => self.fail(&id, Code::Timeout),
                Timer::Grace(peer) => self.end_grace(peer),
                Timer::Confirm(no) => self.unconfirmed(no),
                Timer::Handover(no) => self.answer_starter(no, None),
                Timer::NoTurn(id) => self.no_turn(&id),
                Timer::Nudge(id) => self.nudge(&id),
                Timer::Collect(id) => self.hand_over_collected(&id),
                Timer::Dispatch(peer) => self.dispatch_all(peer),
                Timer::Idle => self.out.push(Output::Exit),
            }
        }
        expired
    }

    fn handle(&mut self, conn: ConnId, message: ToHub) {
        let (id, reply) = match message {
            ToHub::Register { id, who, lost } => (id, self.register(conn, id, *who, lost)),
            ToHub::Peers { id } => (id, Ok(Some(Answer::Peers(self.roster(conn))))),
            ToHub::Asks { id } => (id, Ok(Some(Answer::Asks(self.ask_list())))),
            ToHub::Ask(question) => (question.id, self.ask(conn, question)),
            ToHub::FormClosed { id, push, ask_id, end } => {
                (id, self.form_closed((conn, id), &push, &ask_id, end))
            }
            ToHub::Broadcast(call) => (call.id, self.broadcast(conn, call)),
            ToHub::Reply { id, ask_id, text } => (id, self.reply((conn, id), &ask_id, text, false)),
            ToHub::Withdraw { id, ask_id } => (id, self.withdraw(conn, &ask_id)),
            ToHub::Rename { id, name, exact } => (id, self.rename(conn, &name, exact)),
            ToHub::Hook(hook) => (hook.id, self.hook(&hook)),
            ToHub::Wait { id, claude, process } => (id, self.wait(conn, id, claude, process)),
            ToHub::Watch { id } => (id, self.watch(conn)),
            ToHub::Status { id } => (id, Ok(Some(Answer::Status(self.status())))),
            ToHub::Stop { id } => {
                self.answer(conn, id, Ok(Answer::Done));
                return self.out.push(Output::Exit);
            }
            ToHub::Hello { .. } => return self.refuse(conn, "`hello` was sent already"),
            ToHub::WatchRoster => {
                self.roster_watchers.insert(conn);
                return;
            }
            ToHub::Pushed { push, error } => return self.pushed(conn, &push, error),
            ToHub::Seen { receipts } => return self.take_receipts(&self.peers_behind(conn), &receipts),
            ToHub::Activity(changes) => return self.change(conn, changes),
            ToHub::Bye => return self.bye(conn),
        };
        if let Err(fault) = &reply
            && matches!(fault.code, Code::Overloaded | Code::BadArgs)
        {
            self.log_refusal(conn, fault);
        }
        reply.transpose().into_iter().for_each(|reply| self.answer(conn, id, reply));
    }

    /// Returns whether the connection had a role.
    fn closed(&mut self, conn: ConnId) -> bool {
        self.open.remove(&conn);
        self.watchers.remove(&conn);
        self.roster_watchers.remove(&conn);
        self.refused.remove(&conn);
        match self.roles.remove(&conn) {
            Some(Role::Waiter { claude, .. }) => self.waiter_left(conn, &claude),
            Some(Role::Peer(peer)) => self.vanished(peer),
            None => return false,
        }
        true
    }

    /// Sends one error and closes a connection that violated the protocol.
    fn refuse(&mut self, conn: ConnId, why: &str) {
        self.send(conn, ToClient::error(None, fault(Code::BadMsg, why)));
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
        self.dispatch_by_tool(conn);
        let refusal = |fault| ToClient::error(Some(id), fault);
        self.send(conn, reply.map_or_else(refusal, |answer| ToClient::Ok { id, answer }));
    }

    /// The peer that this connection registered.
    fn peer_on(&self, conn: ConnId) -> Option<PeerNo> {
        match self.roles.get(&conn) {
            Some(Role::Peer(no)) => Some(*no),
            _ => None,
        }
    }

    /// The same, as a `not_registered` error if there is none.
    fn me(&self, conn: ConnId) -> Result<PeerNo, Fault> {
        self.peer_on(conn).ok_or_else(|| {
            fault(Code::NotRegistered, "this connection has not registered; send `register` first")
        })
    }

    /// A random identifier, for a push or a thread.
    fn draw(&mut self) -> String {
        let id = self.source.as_mut().map(|source| source()).unwrap_or_default();
        self.drawn.push(id.clone());
        id
    }

    fn no(&mut self) -> u64 {
        self.next_no += 1;
        self.next_no
    }

    fn arm(&mut self, at: Ms, timer: Timer) {
        self.timers.insert((at, timer));
    }

    /// The hub exits after a time without peers, which begins anew.
    fn arm_exit(&mut self) {
        self.timers.retain(|(_, timer)| *timer != Timer::Idle);
        if self.peers.is_empty() {
            self.arm(self.now + self.limits.idle_exit, Timer::Idle);
        }
    }

    fn disarm(&mut self, at: Ms, timer: Timer) {
        self.timers.remove(&(at, timer));
    }
}
