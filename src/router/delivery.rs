//! A text on its way into a session: which path it takes, whether it arrived, and what is tried next.

use super::peer::Peer;
use super::{ConnId, DeliveryNo, Limits, Ms, PeerNo, Router, Timer, fault};
use crate::wire::{Answer, Code, Kind, Parcel, Path, PeerKind, State, ToClient, What};

/// The most bytes of text that one answer carries for the path `tool`.
const MAX_WAITING: usize = 128 << 10;

/// No connection.
pub(super) const NOBODY: ConnId = 0;

/// How far a text got, by which path, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub state: State,
    pub path: Option<Path>,
    pub since: Ms,
}

impl Progress {
    pub fn queued(since: Ms) -> Self {
        Progress { state: State::Queued, path: None, since }
    }
}

/// See the module.
pub(super) struct Delivery {
    pub to: PeerNo,
    pub parcel: Parcel,
    /// Who is told how it goes: the asker of a question, whoever gave an answer.
    pub origin: Option<PeerNo>,
    pub progress: Progress,
    pub tries: Vec<Try>,
    /// It was seen by this path, and only the channel has yet to be told.
    pub seen: Option<Path>,
    /// The request that began this and is answered when the text is handed over, or at the time given.
    starter: Option<(ConnId, u64, Ms)>,
}

/// One push by one path.
pub(super) struct Try {
    pub push: String,
    pub path: Path,
    /// Who was told to do it, or else to remember it.
    pub conn: ConnId,
    pub sent: Ms,
    pub stage: Stage,
    pub doubt: Doubt,
}

/// What makes it uncertain whether a push was done, so that its path is not to blame if it was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    None,
    /// The process that was told has died.
    Died,
    /// It was told by an earlier hub, and a receipt may have been lost with that: one more hook has to come and find none.
    OldHub,
}

/// How a push went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The pushing process has been told.
    Sent,
    /// A waiter has done it, and the session's channel is being told.
    Woken,
    /// It has done it.
    Handed(Ms),
    /// The client has it in its queue: it is only a matter of time.
    Accepted,
    /// It could not, or the client swallowed it.
    Failed,
}

impl Delivery {
    /// The push that may still arrive.
    fn current(&self) -> Option<&Try> {
        self.tries.last().filter(|t| t.stage != Stage::Failed)
    }
}

impl Router {
    pub(super) fn deliver(
        &mut self,
        to: PeerNo,
        parcel: Parcel,
        origin: Option<PeerNo>,
        starter: Option<(ConnId, u64)>,
    ) -> DeliveryNo {
        let no = self.no();
        let until = self.now + self.limits.handover;
        let starter = starter.map(|(conn, id)| (conn, id, until));
        if starter.is_some() {
            self.arm(until, Timer::Handover(no));
        }
        let progress = Progress::queued(self.now);
        let delivery = Delivery { to, parcel, origin, progress, tries: Vec::new(), seen: None, starter };
        self.text += delivery.parcel.text.len();
        self.deliveries.insert(no, delivery);
        self.peer_mut(to).inbox.insert(no);
        no
    }

    /// Sends a text that is not on any path by the best one that is left; where none is left, it stays queued.
    pub(super) fn dispatch(&mut self, no: DeliveryNo) {
        let Some(delivery) = self.deliveries.get(&no) else { return };
        if delivery.current().is_some() {
            return;
        }
        match self.route(delivery) {
            Some((path, conn)) => {
                let parcel = self.start_try(no, path, conn);
                self.send(conn, ToClient::Push(parcel));
            }
            None if delivery.progress.state != State::Queued => {
                self.progress(no, State::Queued, None);
            }
            None => {}
        }
    }

    pub(super) fn dispatch_all(&mut self, peer: PeerNo) {
        for no in self.peer(peer).inbox.clone() {
            self.dispatch(no);
        }
    }

    /// The first path of the target that is open, has not failed, and was not tried for this text.
    fn route(&self, delivery: &Delivery) -> Option<(Path, ConnId)> {
        let peer = self.peer(delivery.to);
        let blocked =
            |t: &Try, p: &Path| t.path == *p && !(t.doubt != Doubt::None && t.stage == Stage::Failed);
        let fresh = |p: &Path| !peer.dead.contains(p) && !delivery.tries.iter().any(|t| blocked(t, p));
        peer.who.paths.iter().copied().filter(fresh).find_map(|path| {
            let conn = match path {
                // Not while the channel is away, which has to remember what the session was given.
                Path::Hook => peer.conn.and(self.waiter_of(delivery.to)),
                Path::Inbox if self.room_at(peer) > self.now => None,
                _ => peer.conn,
            };
            conn.map(|c| (path, c))
        })
    }

    /// The path that the next push to this peer takes.
    pub(super) fn best_path(&self, peer: PeerNo) -> Option<Path> {
        let peer = self.peer(peer);
        peer.who.paths.iter().copied().find(|p| !peer.dead.contains(p))
    }

    /// Notes a new push; the parcel tells what is to be done.
    fn start_try(&mut self, no: DeliveryNo, path: Path, conn: ConnId) -> Parcel {
        let push = (self.token)();
        let receipt = self.deliveries.get(&no).is_some_and(|d| self.is_hooked(d.to));
        let delivery = self.deliveries.get_mut(&no).expect("invariant: callers have just looked it up");
        delivery.tries.push(Try {
            push: push.clone(),
            path,
            conn,
            sent: self.now,
            stage: Stage::Sent,
            doubt: Doubt::None,
        });
        delivery.parcel.push = push.clone();
        delivery.parcel.path = path;
        delivery.parcel.receipt = receipt;
        let (parcel, to) = (delivery.parcel.clone(), delivery.to);
        self.pushes.insert(push, no);
        if path == Path::Inbox {
            let (now, every) = (self.now, self.limits.inbox_every);
            let peer = self.peer_mut(to);
            peer.inbox_empty = peer.inbox_empty.max(now) + every;
            let at = self.room_at(self.peer(to));
            if at > now {
                self.arm(at, Timer::Room(to));
            }
        }
        parcel
    }

    /// When the inbox of Claude Code takes one more text. What is too much for it, it drops without a word.
    fn room_at(&self, peer: &Peer) -> Ms {
        let Limits { inbox_burst, inbox_every, .. } = self.limits;
        (peer.inbox_empty + inbox_every).saturating_sub(inbox_burst * inbox_every)
    }

    /// It does now.
    pub(super) fn room(&mut self, peer: PeerNo) {
        if self.peers.contains_key(&peer) {
            self.dispatch_all(peer);
        }
    }

    /// What has no path left goes out with the answer to this request.
    pub(super) fn take_waiting(&mut self, conn: ConnId) -> Vec<Parcel> {
        let Ok(me) = self.me(conn) else { return Vec::new() };
        if self.peer(me).inbox.is_empty() || self.peer(me).who.kind != PeerKind::Session {
            return Vec::new();
        }
        let mut waiting = Vec::new();
        let mut size = 0;
        for no in self.peer(me).inbox.clone() {
            let Some(delivery) = self.deliveries.get(&no) else { continue };
            if delivery.current().is_some() || self.route(delivery).is_some() {
                continue;
            }
            size += delivery.parcel.text.len();
            if size > MAX_WAITING {
                break;
            }
            waiting.push(self.start_try(no, Path::Tool, conn));
        }
        waiting
    }

    /// A waiter is gone: what it did not hand over goes by another way.
    pub(super) fn recall_from_waiter(&mut self, peer: PeerNo, conn: ConnId) {
        for no in self.peer(peer).inbox.clone() {
            self.untry(no, |t| t.conn == conn && t.path == Path::Hook);
            self.dispatch(no);
        }
    }

    /// Forgets the pushes that were sent and not done for which `which` holds, so that their paths may be tried again.
    pub(super) fn untry(&mut self, no: DeliveryNo, which: impl Fn(&Try) -> bool) {
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        let pushes = &mut self.pushes;
        delivery.tries.retain(|t| {
            let forget = t.stage == Stage::Sent && which(t);
            if forget {
                pushes.remove(&t.push);
            }
            !forget
        });
    }

    /// Moves a text to another state and tells whom it concerns.
    pub(super) fn progress(&mut self, no: DeliveryNo, state: State, path: Option<Path>) {
        let progress = Progress { state, path, since: self.now };
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        delivery.progress = progress;
        let (to, mut origin, kind) = (delivery.to, delivery.origin, delivery.parcel.kind);
        let id = super::Id::from(delivery.parcel.ask_id.as_str());
        let from = delivery.parcel.from.clone();
        // A request whose connection is gone has been sent again on another, and was answered with how far it was.
        let starting = delivery.starter.is_some_and(|(conn, ..)| self.conns.contains_key(&conn));
        if kind == Kind::Ask
            && let Some(ask) = self.asks.get_mut(&id)
        {
            ask.progress = progress;
            origin = origin.filter(|_| ask.claimed); // it hears when it claims it
        }
        if starting && state != State::Queued {
            self.answer_starter(no);
        } else if let Some(origin) = origin {
            self.tell(origin, kind, &id, state, path, None);
        }
        if kind == Kind::Reply
            && state >= State::Pushed
            && let Some(delivery) = self.deliveries.get_mut(&no)
        {
            delivery.origin = None; // the answer is in good hands, and its author need not remember it
        }
        let to = self.peer(to).who.name.clone();
        self.happened(What::State, |e| {
            e.from = from;
            e.to = Some(to);
            e.ask_id = Some(id.to_string());
            e.kind = Some(kind);
            e.state = Some(state);
            e.path = path;
        });
    }

    /// Answers the request that began this delivery with the state it has by now.
    pub(super) fn answer_starter(&mut self, no: DeliveryNo) {
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        let Some((conn, id, until)) = delivery.starter.take() else { return };
        let (state, to, kind) = (delivery.progress.state, delivery.to, delivery.parcel.kind);
        let ask_id = delivery.parcel.ask_id.clone();
        self.disarm(until, Timer::Handover(no));
        let who = &self.peer(to).who;
        let (name, peer) = (who.name.clone(), who.peer.clone());
        let answer = match kind {
            Kind::Ask => Answer::Asked { ask_id, to: name, peer, state },
            _ => Answer::Replied { ask_id, to: name, state },
        };
        if self.conns.contains_key(&conn) {
            self.answer(conn, id, Ok(answer));
        }
    }

    /// The target of a text that is no question is gone.
    pub(super) fn undeliverable(&mut self, no: DeliveryNo) {
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        let (origin, kind, late) = (delivery.origin, delivery.parcel.kind, delivery.parcel.late);
        let id = delivery.parcel.ask_id.clone();
        // What a waiter was told it prints, whatever becomes of the peer.
        let printed = delivery.tries.iter().any(|t| t.path == Path::Hook && t.stage != Stage::Failed);
        let sure = |t: &Try| t.doubt != Doubt::Died && matches!(t.stage, Stage::Handed(_) | Stage::Accepted);
        let handed = delivery.tries.iter().any(sure);
        for yard in [&mut self.answered, &mut self.unanswered].into_iter().filter(|_| kind != Kind::Ask) {
            if let Some(stone) = yard.get_mut(&id) {
                stone.printed |= printed;
                if kind == Kind::Reply {
                    stone.wasted = !printed && !handed;
                }
                if !late {
                    stone.told = printed || handed; // of a late answer's ask the end was told before
                }
            }
        }
        if let Some((conn, request, until)) = delivery.starter.take() {
            self.disarm(until, Timer::Handover(no));
            let gone = fault(Code::PeerGone, "the asker left before it had the answer; nobody waits for it");
            if self.conns.contains_key(&conn) {
                self.answer(conn, request, Err(gone));
            }
        }
        if let Some(origin) = origin {
            self.tell(origin, kind, &id, State::Ended, None, Some(Code::PeerGone));
        }
        self.remove_delivery(no);
    }

    /// The question needs no more care; how far it got stays with the ask.
    pub(super) fn forget_question(&mut self, no: DeliveryNo) {
        if let Some(delivery) = self.deliveries.get(&no).filter(|d| d.parcel.kind == Kind::Ask)
            && let Some(ask) = self.asks.get_mut(delivery.parcel.ask_id.as_str())
        {
            ask.delivery = None;
        }
    }

    /// The text on its way to `peer` that is about this ask.
    pub(super) fn under_way(&self, peer: PeerNo, kind: Kind, id: &str) -> Option<DeliveryNo> {
        let of = |no: &&DeliveryNo| {
            self.deliveries.get(*no).is_some_and(|d| d.parcel.kind == kind && d.parcel.ask_id == id)
        };
        self.peer(peer).inbox.iter().find(of).copied()
    }

    /// Whether there is such a text that is not handed over.
    pub(super) fn waits_in_inbox(&self, peer: PeerNo, kind: Kind, id: &str) -> bool {
        let found = self.under_way(peer, kind, id).and_then(|no| self.deliveries.get(&no));
        found.is_some_and(|d| d.progress.state == State::Queued)
    }

    /// `me` gave this answer before, and it is on its way to `to` or there: how far it is, as far as `me` must know.
    /// While it is not handed over `me` will be told when it is.
    pub(super) fn answer_under_way(&mut self, me: PeerNo, to: Option<PeerNo>, id: &str) -> State {
        if self.answered.get(id).is_some_and(|s| s.wasted) {
            return State::Ended;
        }
        let found = to.and_then(|to| self.under_way(to, Kind::Reply, id));
        match found.and_then(|no| self.deliveries.get_mut(&no)) {
            Some(delivery) if delivery.progress.state == State::Queued => {
                delivery.origin = Some(me);
                State::Queued
            }
            _ => State::Pushed,
        }
    }

    pub(super) fn remove_delivery(&mut self, no: DeliveryNo) {
        self.answer_starter(no);
        let Some(delivery) = self.deliveries.remove(&no) else { return };
        self.text -= delivery.parcel.text.len();
        for tried in &delivery.tries {
            self.pushes.remove(&tried.push);
        }
        if let Some(peer) = self.peers.get_mut(&delivery.to) {
            peer.inbox.remove(&no);
        }
    }

    /// Tells a peer how far a text got, if it is there to hear it.
    pub(super) fn tell(
        &mut self,
        peer: PeerNo,
        kind: Kind,
        id: &str,
        state: State,
        path: Option<Path>,
        code: Option<Code>,
    ) {
        if let Some(conn) = self.peers.get(&peer).and_then(|p| p.conn) {
            let ask_id = id.to_owned();
            self.send(conn, ToClient::State { kind, ask_id, state, path, code });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::{Info, Input, Output};
    use crate::wire::{ToHub, Who};

    fn who(name: &str, path: Path) -> Box<Who> {
        let (kind, cwd, paths) = (PeerKind::Session, "/".to_owned(), vec![path]);
        let (repo, branch, claude, hooked, exact) = Default::default();
        let (peer, secret, name) = (name.to_owned(), name.to_owned(), name.to_owned());
        let (pid, listens, fresh) = (1, true, true);
        Box::new(Who {
            name,
            exact,
            kind,
            peer,
            secret,
            cwd,
            repo,
            branch,
            pid,
            claude,
            paths,
            listens,
            fresh,
            hooked,
        })
    }

    fn pushed(out: &[Output]) -> usize {
        out.iter().filter(|o| matches!(o, Output::Send(2, ToClient::Push(_)))).count()
    }

    #[test]
    fn an_inbox_is_given_no_more_than_it_takes() {
        let limits = Limits { asks_per_minute: 0, ..Limits::default() };
        let (burst, every) = (limits.inbox_burst as usize, limits.inbox_every);
        let info = Info { pid: 1, version: String::new(), started_at_ms: 0, log_all: false };
        let mut last = 0;
        let token = move || {
            last += 1;
            format!("push_{last:024x}")
        };
        let mut router = Router::new(limits, info, Box::new(token));
        for (conn, name, path) in [(1, "a", Path::Socket), (2, "b", Path::Inbox)] {
            router.step(0, Input::Opened(conn));
            router.step(0, Input::Said(conn, ToHub::Register { id: 0, who: who(name, path) }));
        }
        let ask = |router: &mut Router, now: Ms, n: usize| {
            let (ask_id, to, text) = (format!("ask_{n:016x}"), "b".to_owned(), "?".to_owned());
            let ask = ToHub::Ask { id: n as u64, ask_id, to, text, timeout_ms: 60_000 };
            pushed(&router.step(now, Input::Said(1, ask)))
        };
        let first: usize = (0..burst + 3).map(|n| ask(&mut router, 1_000, n)).sum();
        assert_eq!(first, burst);
        for n in 1..=3 {
            assert_eq!(pushed(&router.step(1_000 + n * every - 1, Input::Tick)), 0, "no room yet");
            assert_eq!(pushed(&router.step(1_000 + n * every, Input::Tick)), 1, "room for one");
        }
        let later = 1_000 + (burst as u64 + 3) * every;
        assert_eq!(pushed(&router.step(later, Input::Tick)), 0);
        let again: usize = (0..burst + 1).map(|n| ask(&mut router, later, 100 + n)).sum();
        assert_eq!(again, burst);
    }
}
