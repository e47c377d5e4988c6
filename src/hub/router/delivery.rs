//! Deliveries: the choice of a path, attempts, and fallback. Which paths are dead is decided in [`receipt`](super::receipt).

use serde::{Deserialize, Serialize};

use super::peer::Peer;
use super::session::WAITER_OVERHEAD;
use super::{ConnId, DeliveryNo, Id, Ms, PeerNo, Role, Router, Starter, Timer};
use crate::wire::{Answer, Code, Event, Fault, Kind, Parcel, Path, PeerKind, State, ToClient, What, fault};

/// An answer by the path `tool` takes no further text once it has this many bytes of texts. A channel hands over what fits
/// its client's limit for a tool result, and returns the rest.
const MAX_BY_TOOL: usize = 480_000;

/// How long the answer to `ask` and `reply` waits for the text to be handed over, in milliseconds.
const HANDOVER: Ms = 500;
/// How many texts the inbox of a session takes at once, and how many milliseconds it takes to make room for one more. Claude
/// Code 2.1.330 silently drops what exceeds 30 at once, and then more than one in about 2.3 s (measured).
const INBOX_BURST: u64 = 25;
const INBOX_EVERY: Ms = 2_500;

/// One text on its way to one peer.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Delivery {
    pub to: PeerNo,
    pub parcel: Parcel,
    pub state: State,
    pub attempts: Vec<Attempt>,
    /// For a form that the user has put off: when it may be opened again.
    pub put_off_until: Option<Ms>,
    /// The request that started the delivery. It is answered within [`HANDOVER`].
    starter: Option<Starter>,
}

/// An attempt to hand over the text by one path.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub push: String,
    pub path: Path,
    /// The connection that makes the push.
    pub conn: ConnId,
    /// The process of the waiter, for the path `hook`.
    pub waiter: Option<String>,
    pub stage: Stage,
    /// The turn that the push began, once it is a prompt. The end of that turn proves that the model has the text.
    pub turn: Option<String>,
}

/// The stage of a push.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Sent to the pushing process.
    #[default]
    Sent,
    /// Made by the pushing process.
    Handed(Ms),
    /// The outcome is unknown because the pushing process is gone. The push counts as handed over; without a receipt it is
    /// repeated, and its path is not marked as dead.
    InDoubt(Ms),
    /// In the client's queue; it will be delivered.
    Queued,
    /// The client has made it a prompt; another hook may still refuse it.
    Prompted(Ms),
    /// The push failed, or the client dropped the text.
    Failed,
}

impl Peer {
    /// When the inbox of its session has room for another text.
    fn inbox_room_at(&self) -> Ms {
        (self.inbox_empty_at + INBOX_EVERY).saturating_sub(INBOX_BURST * INBOX_EVERY)
    }
}

impl Delivery {
    /// Whether it is for the person in front of the session.
    pub fn is_form(&self) -> bool {
        self.parcel.path == Path::Form
    }

    /// Whether a push of it may still arrive, or, for a form, be open.
    pub fn is_under_way(&self) -> bool {
        self.attempts.last().is_some_and(|a| a.stage != Stage::Failed)
    }
}

impl Router {
    /// Whether no answer and no notice waits for a connected peer.
    pub fn is_drained(&self) -> bool {
        let waits = |d: &Delivery| d.attempts.is_empty() && d.parcel.kind != Kind::Ask;
        !self.deliveries.values().any(|d| waits(d) && self.peer(d.to).conn.is_some())
    }

    /// Creates a delivery to `to` and dispatches it.
    pub(super) fn post(&mut self, to: PeerNo, parcel: Parcel, starter: Option<Starter>) {
        let no = self.deliver(to, parcel, starter);
        self.dispatch(no);
    }

    /// Creates a delivery to `to`; [`dispatch`](Self::dispatch) sends it.
    pub(super) fn deliver(&mut self, to: PeerNo, parcel: Parcel, starter: Option<Starter>) -> DeliveryNo {
        let no = self.no();
        if starter.is_some() {
            self.arm(self.now + HANDOVER, Timer::Handover(no));
        }
        self.text += parcel.text.len();
        self.deliveries.insert(no, Delivery { to, parcel, starter, ..Delivery::default() });
        self.peer_mut(to).inbox.insert(no);
        no
    }

    /// Starts the next attempt of a delivery that has none under way. If no path is left, it stays queued.
    pub(super) fn dispatch(&mut self, no: DeliveryNo) {
        let Some(delivery) = self.deliveries.get(&no).filter(|d| !d.is_under_way()) else { return };
        match self.route(delivery) {
            Some((path, conn)) => self.start_attempt(no, path, conn),
            None => {
                if delivery.state != State::Queued {
                    self.progress(no, State::Queued, None);
                }
                self.arm_dispatch(no);
            }
        }
    }

    /// Waits for the time, if it is known, from which on a form may be opened or an inbox has room.
    pub(super) fn arm_dispatch(&mut self, no: DeliveryNo) {
        let Some(delivery) = self.deliveries.get(&no) else { return };
        let room_at = self.peer(delivery.to).inbox_room_at();
        let at = if delivery.is_form() { self.form_time(delivery) } else { Some(room_at) };
        let (to, now) = (delivery.to, self.now);
        at.filter(|at| *at > now).into_iter().for_each(|at| self.arm(at, Timer::Dispatch(to)));
    }

    pub(super) fn dispatch_all(&mut self, peer: PeerNo) {
        let Some(peer) = self.peers.get(&peer) else { return };
        for no in peer.inbox.clone() {
            self.dispatch(no);
        }
    }

    /// The first path of the target that is open, not dead, and was not tried for this text. For a reminder, the path of its
    /// question comes last.
    fn route(&self, delivery: &Delivery) -> Option<(Path, ConnId)> {
        let peer = self.peer(delivery.to);
        if self.is_held_back(delivery) {
            let is_due = delivery.is_form() && self.form_time(delivery).is_some_and(|at| at <= self.now);
            return peer.conn.filter(|_| is_due).map(|conn| (Path::Form, conn));
        }
        let size = delivery.parcel.text.len();
        let untried = |p: &Path| !peer.dead.contains(p) && !delivery.attempts.iter().any(|a| a.path == *p);
        let mut paths: Vec<Path> = peer.who.paths.iter().copied().filter(untried).collect();
        if let Some(ask) = self.asks.get(delivery.parcel.ask_id.as_str())
            && (delivery.parcel.kind, delivery.to) == (Kind::Notice, ask.target)
        {
            paths.sort_by_key(|path| Some(*path) == ask.path); // stable
        }
        paths.into_iter().find_map(|path| {
            let conn = match path {
                Path::Hook => self.session_of(delivery.to).waiter_for(size),
                Path::Inbox if peer.inbox_room_at() > self.now => None,
                _ => peer.conn,
            };
            conn.map(|c| (path, c))
        })
    }

    /// The path that the next push to this peer takes. A session whose hooks were never heard has no path `hook`.
    pub(super) fn best_path(&self, peer: PeerNo) -> Option<Path> {
        let is_open = |path: &Path| *path != Path::Hook || self.sends_receipts(peer);
        let peer = self.peer(peer);
        peer.who.paths.iter().copied().find(|p| !peer.dead.contains(p) && is_open(p))
    }

    /// Records a new attempt and sends the parcel.
    fn start_attempt(&mut self, no: DeliveryNo, path: Path, conn: ConnId) {
        let push = self.draw();
        let mut attempt = Attempt { push: push.clone(), path, conn, ..Attempt::default() };
        let delivery = self.deliveries.get_mut(&no).expect("invariant: callers have just looked it up");
        if let Some(Role::Waiter { claude, process }) = self.roles.get(&conn)
            && let Some(session) = self.sessions.get_mut(claude)
        {
            attempt.waiter = Some(process.clone());
            session.waiter_load += delivery.parcel.text.len() + WAITER_OVERHEAD;
        }
        delivery.attempts.push(attempt);
        (delivery.parcel.push, delivery.parcel.path) = (push.clone(), path);
        let (parcel, to) = (delivery.parcel.clone(), delivery.to);
        self.pushes.insert(push, no);
        self.send(conn, ToClient::Push(parcel));
        if path == Path::Inbox {
            let now = self.now;
            let peer = self.peer_mut(to);
            peer.inbox_empty_at = peer.inbox_empty_at.max(now) + INBOX_EVERY;
        }
    }

    /// Sends the texts that no other path can take now: the result of the tool call that is about to be answered carries them.
    pub(super) fn dispatch_by_tool(&mut self, conn: ConnId) {
        let me = self.peer_on(conn).map(|no| self.peer(no)).filter(|me| me.who.kind == PeerKind::Session);
        let mut size = 0;
        for no in me.map(|me| me.inbox.clone()).unwrap_or_default() {
            let Some(delivery) = self.deliveries.get(&no) else { continue };
            let is_elsewhere = self.is_held_back(delivery) || self.route(delivery).is_some();
            if !delivery.is_under_way() && !is_elsewhere && size < MAX_BY_TOOL {
                size += delivery.parcel.text.len();
                self.start_attempt(no, Path::Tool, conn);
            }
        }
    }

    /// Settles the pushes that this peer's last connection did not report. If `conn` belongs to the same process, they are
    /// sent again, and the process reports from memory. If it belongs to a new one (`fresh`), they are in doubt, and the
    /// forms of the last one are closed.
    pub(super) fn settle_sent(&mut self, me: PeerNo, conn: ConnId, fresh: bool) {
        for no in self.peer(me).inbox.clone() {
            let Some(delivery) = self.deliveries.get_mut(&no) else { continue };
            let is_open_form = delivery.is_form() && delivery.is_under_way();
            let Some(attempt) = delivery.attempts.last_mut() else { continue };
            let is_sent = attempt.stage == Stage::Sent && attempt.waiter.is_none();
            if fresh && (is_sent || is_open_form) {
                self.put_in_doubt(no);
            } else if is_sent {
                attempt.conn = conn;
                let parcel = delivery.parcel.clone();
                self.send(conn, ToClient::Push(parcel));
            }
        }
    }

    /// Marks the last push as in doubt: its process is gone. It counts as handed over and unconfirmed. A form, and a text to
    /// a session that sends no receipts, is repeated at once.
    pub(super) fn put_in_doubt(&mut self, no: DeliveryNo) {
        let now = self.now;
        let Some(delivery) = self.deliveries.get(&no) else { return };
        if !delivery.is_form() && self.sends_receipts(delivery.to) {
            self.last_attempt_mut(no).into_iter().for_each(|attempt| attempt.stage = Stage::InDoubt(now));
            self.arm(now + self.limits.confirm, Timer::Confirm(no));
        } else {
            self.forget_attempt(no);
            self.push_again(no);
        }
    }

    /// Dispatches a text whose last push may have arrived. The next push says so.
    pub(super) fn push_again(&mut self, no: DeliveryNo) {
        self.deliveries.get_mut(&no).into_iter().for_each(|delivery| delivery.parcel.again = true);
        self.dispatch(no);
    }

    /// Removes the last attempt, so that its path can be tried again.
    pub(super) fn forget_attempt(&mut self, no: DeliveryNo) {
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        if let Some(attempt) = delivery.attempts.pop() {
            self.pushes.remove(&attempt.push);
        }
    }

    /// Changes the state of a delivery. Notifies the asker of the state of its question, or that the end of its ask was
    /// handed over.
    pub(super) fn progress(&mut self, no: DeliveryNo, state: State, path: Option<Path>) {
        let now = self.now;
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        delivery.state = state;
        let (to, kind, code) = (delivery.to, delivery.parcel.kind, delivery.parcel.code);
        let id = Id::from(delivery.parcel.ask_id.as_str());
        let is_answer = state != State::Queued && delivery.starter.is_some();
        if is_answer {
            self.answer_starter(no, None);
        }
        match (kind, self.asks.get_mut(&id)) {
            (Kind::Ask, Some(ask)) => {
                (ask.state, ask.path, ask.since) = (state, path, now);
                if !is_answer {
                    self.notify(&id);
                }
            }
            (Kind::Reply | Kind::Failed | Kind::Summary, _) if path.is_some() => {
                self.notify_end(to, &id, path, code);
            }
            _ => {}
        }
        let Some(delivery) = self.deliveries.get(&no) else { return };
        let event = self.event_of(What::State, &delivery.parcel, to);
        self.report(Event { kind: Some(kind), state: Some(state), path, ..event });
    }

    /// Answers the request that started the delivery with its present state, or with an error.
    pub(super) fn answer_starter(&mut self, no: DeliveryNo, fault: Option<Fault>) {
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        let Some((conn, id)) = delivery.starter.take() else { return };
        let (state, to, kind) = (delivery.state, delivery.to, delivery.parcel.kind);
        let (ask_id, thread) = (delivery.parcel.ask_id.clone(), delivery.parcel.thread.clone());
        let to = self.name(to);
        let answer = match kind {
            Kind::Ask => Answer::Asked { ask_id, to, state, thread: thread.unwrap_or_default() },
            _ => Answer::Replied { ask_id, to, state },
        };
        if self.roles.contains_key(&conn) {
            self.answer(conn, id, fault.map_or(Ok(answer), Err));
        }
    }

    /// Removes a delivery whose target has left.
    pub(super) fn undeliverable(&mut self, no: DeliveryNo) {
        let Some(Delivery { parcel, attempts, .. }) = self.deliveries.get(&no) else { return };
        let handed = |a: &Attempt| !matches!(a.stage, Stage::Sent | Stage::InDoubt(_) | Stage::Failed);
        if matches!(parcel.kind, Kind::Reply | Kind::Failed | Kind::Summary)
            && !attempts.iter().any(handed)
            && let Some(tombstone) = self.ended.by_id.get_mut(parcel.ask_id.as_str())
        {
            (tombstone.code, tombstone.answer) = (Some(Code::PeerGone), None);
            tombstone.untold |= !parcel.late;
        }
        self.answer_starter(no, Some(fault(Code::PeerGone, "the asker left before it received the answer")));
        self.remove_delivery(no);
    }

    /// The texts on their way to `peer`.
    pub(super) fn deliveries_to(&self, peer: PeerNo) -> impl Iterator<Item = &Delivery> {
        self.peer(peer).inbox.iter().filter_map(|no| self.deliveries.get(no))
    }

    /// Removes a delivery. The state of a question is kept with its ask.
    pub(super) fn remove_delivery(&mut self, no: DeliveryNo) {
        self.answer_starter(no, None);
        let Some(delivery) = self.deliveries.remove(&no) else { return };
        self.text -= delivery.parcel.text.len();
        for attempt in &delivery.attempts {
            self.pushes.remove(&attempt.push);
        }
        self.peer_mut(delivery.to).inbox.remove(&no);
        if delivery.is_form() && delivery.is_under_way() {
            self.free_form(delivery.to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::router::{Info, Input, Limits, Output};
    use crate::wire::{AskRequest, Code, ToHub, Who};

    fn who(name: &str, path: Path) -> Box<Who> {
        Box::new(Who { paths: vec![path], ..Who::sample(name) })
    }

    fn pushed(out: &[Output]) -> usize {
        out.iter().filter(|o| matches!(o, Output::Send(2, ToClient::Push(_)))).count()
    }

    #[test]
    fn inbox_pushes_never_exceed_its_capacity() {
        let limits = Limits { asks_per_minute: 0, ..Limits::default() };
        let (burst, every) = (INBOX_BURST as usize, INBOX_EVERY);
        let mut last = 0;
        let ids = move || {
            last += 1;
            format!("push_{last:024x}")
        };
        let mut router = Router::new(limits, Info::default(), Box::new(ids));
        for (conn, name, path) in [(1, "a", Path::Socket), (2, "b", Path::Inbox)] {
            router.step(0, Input::Opened(conn));
            let register = ToHub::Register { id: 0, who: who(name, path), lost: Vec::new() };
            router.step(0, Input::Said(conn, register));
        }
        let ask = |router: &mut Router, now: Ms, n: usize| {
            let (ask_id, to, text) = (format!("ask_{n:016x}"), "b".to_owned(), "?".to_owned());
            let (timeout_ms, thread, person) = (60_000, None, false);
            let ask = ToHub::Ask(AskRequest { id: n as u64, ask_id, to, text, timeout_ms, thread, person });
            pushed(&router.step(now, Input::Said(1, ask)).outputs)
        };
        let first: usize = (0..burst + 3).map(|n| ask(&mut router, 1_000, n)).sum();
        assert_eq!(first, burst);
        for n in 1..=3 {
            let early = router.step(1_000 + n * every - 1, Input::Tick);
            assert_eq!(pushed(&early.outputs), 0, "no room yet");
            let due = router.step(1_000 + n * every, Input::Tick);
            assert_eq!(pushed(&due.outputs), 1, "room for one");
        }
        let later = 1_000 + (burst as u64 + 3) * every;
        assert_eq!(pushed(&router.step(later, Input::Tick).outputs), 0);
        let again: usize = (0..burst + 1).map(|n| ask(&mut router, later, 100 + n)).sum();
        assert_eq!(again, burst);
    }

    #[test]
    fn text_of_all_peers_is_limited_in_total() {
        let limits = Limits { text: 1 << 20, ..Limits::default() };
        let mut router = Router::new(limits, Info::default(), Box::new(String::new));
        for (conn, name) in [(1, "a"), (2, "b")] {
            router.step(0, Input::Opened(conn));
            let register = ToHub::Register { id: 0, who: who(name, Path::Hook), lost: Vec::new() };
            router.step(0, Input::Said(conn, register));
        }
        let mut ask = |n: usize| {
            let (ask_id, to, text) = (format!("ask_{n:016x}"), "b".to_owned(), "?".repeat(512 << 10));
            let (timeout_ms, thread, person) = (60_000, None, false);
            let ask = ToHub::Ask(AskRequest { id: n as u64, ask_id, to, text, timeout_ms, thread, person });
            let out = router.step(1_000, Input::Said(1, ask)).outputs;
            let refusal = |o: &Output| match o {
                Output::Send(1, ToClient::Error { code: Code::Overloaded, message, .. }) => {
                    Some(message.clone())
                }
                _ => None,
            };
            out.iter().find_map(refusal)
        };
        assert_eq!((ask(1), ask(2)), (None, None), "half a MiB leaves room for another text");
        assert!(ask(3).is_some_and(|why| why.contains("1 MiB of text") && why.contains("limit")));
    }
}
