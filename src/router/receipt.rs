//! What is heard of a push: that it was done, that the client has the text, that the model has seen it, or nothing in time.

use super::delivery::{Doubt, NOBODY, Stage, Try};
use super::{ConnId, DeliveryNo, PeerNo, Router, Timer};
use crate::wire::{Activity, Kind, Parcel, Path, PeerKind, State, ToClient, What};

/// The most identifiers of one kind that one message confirms; a hook reports fewer at a time.
const MAX_SEEN: usize = 512;

impl Router {
    /// The process that was told to push says how it went.
    pub(super) fn pushed(&mut self, conn: ConnId, push: &str, error: Option<String>) {
        let Some(&no) = self.pushes.get(push) else { return };
        let now = self.now;
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        let to = delivery.to;
        let Some(tried) = delivery.tries.iter_mut().find(|t| t.push == push && t.conn == conn) else {
            return; // not the process that was told
        };
        if !matches!(tried.stage, Stage::Sent | Stage::Woken) {
            return;
        }
        let path = tried.path;
        if error.is_some() {
            tried.stage = Stage::Failed;
            if path == Path::Tool {
                // It was no tool call after all: the next one may be.
                delivery.tries.retain(|t| t.push != push);
                self.pushes.remove(push);
            }
            self.path_died(to, path);
            return self.dispatch(no);
        }
        if self.conns.get(&conn).is_some_and(|c| c.waiter.is_some()) {
            self.woke(to);
            return self.leave_a_copy(no, push);
        }
        tried.stage = Stage::Handed(now);
        let (seen, receipt) = (delivery.seen, delivery.parcel.receipt);
        self.progress(no, State::Pushed, Some(path));
        if let Some(path) = seen {
            return self.confirm(no, path);
        }
        if !receipt {
            // Even if a hook has been heard since: the pushing process was told not to remember it.
            return self.settle_at_pushed(no);
        }
        self.arm(now + self.limits.confirm, Timer::Confirm(no));
    }

    /// No receipt will come: this is as far as anyone can know.
    pub(super) fn settle_at_pushed(&mut self, no: DeliveryNo) {
        self.forget_question(no);
        self.remove_delivery(no);
    }

    fn is_with_waiter(&self, no: DeliveryNo, push: &str) -> bool {
        let tried = self.deliveries.get(&no).and_then(|d| d.tries.iter().find(|t| t.push == push));
        tried.and_then(|t| self.conns.get(&t.conn)).is_some_and(|c| c.waiter.is_some())
    }

    /// A waiter has handed a text over and is used up. The session's channel is told, as it is the channel that remembers
    /// what the session was given; only when it says so does the text count as pushed. Were the hub to die before that,
    /// the text would be pushed again rather than be lost.
    pub(super) fn leave_a_copy(&mut self, no: DeliveryNo, push: &str) {
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        let conn = self.peers.get(&delivery.to).and_then(|p| p.conn);
        let Some(tried) = delivery.tries.iter_mut().find(|t| t.push == push) else { return };
        (tried.conn, tried.stage) = (conn.unwrap_or(NOBODY), Stage::Woken);
        let copy = Parcel { push: push.to_owned(), path: Path::Hook, ..delivery.parcel.clone() };
        if let Some(conn) = conn {
            self.send(conn, ToClient::Push(copy));
        }
    }

    /// The client confirmed pushes: they are in the conversation, or accepted into its queue.
    pub(super) fn seen(&mut self, conn: ConnId, pushes: &[String], accepted: &[String]) {
        for push in pushes.iter().chain(accepted) {
            // A receipt that overtakes the waiter's own word is as good.
            if let Some((no, Path::Hook)) = self.confirmable(conn, push)
                && self.is_with_waiter(no, push)
            {
                self.leave_a_copy(no, push);
            }
        }
        for push in pushes.iter().take(MAX_SEEN) {
            if let Some((no, path)) = self.confirmable(conn, push) {
                self.confirm(no, path);
            }
        }
        for push in accepted.iter().take(MAX_SEEN) {
            if let Some((no, path)) = self.confirmable(conn, push)
                && let Some(delivery) = self.deliveries.get_mut(&no)
                && let Some(tried) = delivery.tries.iter_mut().find(|t| t.push == *push)
                && tried.stage != Stage::Woken
            {
                tried.stage = Stage::Accepted;
                if delivery.progress.state == State::Queued {
                    self.progress(no, State::Pushed, Some(path));
                }
                if self.me(conn).is_ok() {
                    // The channel itself handed it over before, by another push, and no receipt will name this one.
                    self.settle_at_pushed(no);
                }
            }
        }
    }

    /// The delivery of a push that this connection may speak for: its own, or any of which a hook knows the identifier.
    fn confirmable(&self, conn: ConnId, push: &str) -> Option<(DeliveryNo, Path)> {
        let no = *self.pushes.get(push)?;
        let delivery = self.deliveries.get(&no)?;
        let speaker = self.conns.get(&conn)?.peer;
        let tried = delivery.tries.iter().find(|t| t.push == push)?;
        speaker.is_none_or(|p| p == delivery.to).then_some((no, tried.path))
    }

    /// Whom a push was meant for.
    pub(super) fn recipient_of(&self, push: &str) -> Option<PeerNo> {
        self.pushes.get(push).and_then(|no| self.deliveries.get(no)).map(|d| d.to)
    }

    /// The recipient itself has shown what came by this push.
    pub(super) fn confirm_push(&mut self, push: &str) {
        let Some(no) = self.pushes.get(push).copied() else { return };
        let tried = self.deliveries.get(&no).and_then(|d| d.tries.iter().find(|t| t.push == push));
        if let Some(path) = tried.map(|t| t.path) {
            self.confirm(no, path);
        }
    }

    fn confirm(&mut self, no: DeliveryNo, path: Path) {
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        let (to, kind) = (delivery.to, delivery.parcel.kind);
        if kind != Kind::Ask && delivery.tries.iter().any(|t| t.stage == Stage::Woken) {
            delivery.seen = Some(path); // else a hub that dies now leaves nobody who knows that the ask has ended
            return;
        }
        let (id, now) = (delivery.parcel.ask_id.clone(), self.now);
        let peer = self.peer_mut(to);
        peer.confirmed_at = Some(now);
        peer.dead.retain(|p| *p != path);
        if !peer.proven.contains(&path) {
            peer.proven.push(path);
        }
        self.progress(no, State::Seen, Some(path));
        if self.peer(to).who.kind == PeerKind::Session {
            self.tell(to, kind, &id, State::Seen, Some(path), None);
        }
        self.forget_question(no);
        self.remove_delivery(no);
        self.confirmed(to);
    }

    /// The time to confirm is over. Only an idle session has to: one that is in a turn takes the text up at its end. And
    /// only where a receipt would have come: a hook fires for what an idle session is given, and where the session was in
    /// a turn, or an older hub was told, one more hook has to come that searches the transcript and finds nothing.
    pub(super) fn unconfirmed(&mut self, no: DeliveryNo) {
        let Some(delivery) = self.deliveries.get(&no) else { return };
        let to = delivery.to;
        let Some(Try { path, stage: Stage::Handed(at), sent, doubt, .. }) = delivery.tries.last() else {
            return; // nothing is known to go wrong, or the client has it already
        };
        let (path, at, sent, doubt) = (*path, *at, *sent, *doubt);
        let swallows = matches!(path, Path::Channel | Path::Inbox);
        let died_with_call = path == Path::Tool && doubt == Doubt::Died;
        if !swallows && !died_with_call {
            return;
        }
        let (Activity::Idle, idle_since) = self.activity_of(to) else { return };
        let mut since = at.max(idle_since);
        match self.last_hook(to).filter(|hook| *hook > sent) {
            Some(hook) => since = since.max(hook),
            None if swallows && doubt != Doubt::OldHub && idle_since < sent => {}
            None => return, // the next hook will ask again
        }
        let due = since + self.limits.confirm;
        if self.now < due {
            return self.arm(due, Timer::Confirm(no));
        }
        if let Some(tried) = self.deliveries.get_mut(&no).and_then(|d| d.tries.last_mut()) {
            tried.stage = Stage::Failed;
        }
        if doubt == Doubt::None {
            self.path_died(to, path);
        }
        self.dispatch(no);
    }

    fn path_died(&mut self, to: PeerNo, path: Path) {
        let peer = self.peer_mut(to);
        if matches!(path, Path::Channel | Path::Inbox) && !peer.dead.contains(&path) {
            peer.dead.push(path);
            let name = peer.who.name.clone();
            self.happened(What::DeadPath, |e| {
                e.from = name;
                e.path = Some(path);
            });
        }
    }
}
