//! Receipts: what the hub learns about a push after it was sent. That it was done, that the client has the text in its
//! queue, that the conversation has it, or nothing in time.

use super::delivery::{Attempt, Stage};
use super::{ConnId, DeliveryNo, PeerNo, Router, Timer};
use crate::wire::{Activity, Path, State, What};

/// The most identifiers of one kind that one message confirms; a hook reports fewer at a time.
const MAX_SEEN: usize = 512;

impl Router {
    /// The process that was told to push reports how it went.
    pub(super) fn pushed(&mut self, conn: ConnId, push: &str, error: Option<String>) {
        let Some(&no) = self.pushes.get(push) else { return };
        let (now, by_waiter) = (self.now, self.peer_on(conn).is_none());
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        let to = delivery.to;
        let Some(attempt) = delivery.attempts.iter_mut().find(|a| a.push == push && a.conn == conn) else {
            return; // not the process that was told
        };
        if attempt.stage != Stage::Sent {
            return;
        }
        let path = attempt.path;
        if error.is_some() {
            attempt.stage = Stage::Failed;
            if path == Path::Tool {
                // There was no tool call that could carry it: the next one can.
                self.forget_attempt(no);
            }
            self.path_died(to, path);
            return self.dispatch(no);
        }
        attempt.stage = Stage::Handed(now);
        if by_waiter {
            self.woke(to);
        }
        self.progress(no, State::Pushed, Some(path));
        if self.sends_receipts(to) {
            self.arm(now + self.limits.confirm, Timer::Confirm(no));
        } else {
            self.remove_delivery(no); // this is as far as anyone can know
        }
    }

    /// The client confirmed pushes: they are in the conversation, or accepted into its queue.
    pub(super) fn seen(&mut self, conn: ConnId, pushes: &[String], accepted: &[String]) {
        for push in pushes.iter().take(MAX_SEEN) {
            if let Some((no, path)) = self.confirmable(conn, push) {
                self.confirm(no, path);
            }
        }
        for push in accepted.iter().take(MAX_SEEN) {
            if let Some((no, path)) = self.confirmable(conn, push)
                && let Some(delivery) = self.deliveries.get_mut(&no)
                && let Some(attempt) = delivery.attempts.iter_mut().find(|a| a.push == *push)
            {
                attempt.stage = Stage::Accepted;
                if delivery.progress.state == State::Queued {
                    self.progress(no, State::Pushed, Some(path));
                }
            }
        }
    }

    /// The delivery of a push that this connection may confirm: its own, or any if it has no peer, as the connections of
    /// hooks, which know the identifier from the conversation.
    fn confirmable(&self, conn: ConnId, push: &str) -> Option<(DeliveryNo, Path)> {
        let no = *self.pushes.get(push)?;
        let delivery = self.deliveries.get(&no)?;
        let attempt = delivery.attempts.iter().find(|a| a.push == push)?;
        self.peer_on(conn).is_none_or(|p| p == delivery.to).then_some((no, attempt.path))
    }

    fn confirm(&mut self, no: DeliveryNo, path: Path) {
        let Some(delivery) = self.deliveries.get(&no) else { return };
        let (to, now) = (delivery.to, self.now);
        let peer = self.peer_mut(to);
        peer.confirmed_at = Some(now);
        peer.dead.retain(|p| *p != path);
        if !peer.proven.contains(&path) {
            peer.proven.push(path);
        }
        self.progress(no, State::Seen, Some(path));
        self.remove_delivery(no);
        self.confirmed(to);
    }

    /// The time to confirm is over. Only an idle session has to: one that is in a turn takes the text up at its end. And
    /// only where a receipt would have come: a hook fires for what an idle session is given; where the session was in a
    /// turn, or the outcome of the push is in doubt, one more hook has to come that searches the transcript and finds
    /// nothing.
    pub(super) fn unconfirmed(&mut self, no: DeliveryNo) {
        let Some(delivery) = self.deliveries.get(&no) else { return };
        let to = delivery.to;
        let Some(Attempt { path, stage: Stage::Handed(at), sent, in_doubt, .. }) = delivery.attempts.last()
        else {
            return; // nothing is known to go wrong, or the client has it already
        };
        let (path, at, sent, in_doubt) = (*path, *at, *sent, *in_doubt);
        let may_swallow = matches!(path, Path::Channel | Path::Inbox);
        if !may_swallow && !in_doubt {
            return;
        }
        let (Activity::Idle, idle_since) = self.activity_of(to) else { return };
        let mut since = at.max(idle_since);
        match self.last_hook(to).filter(|hook| *hook > if in_doubt { at } else { sent }) {
            Some(hook) => since = since.max(hook),
            None if !in_doubt && idle_since < sent => {}
            None => return, // the next hook will lead here again
        }
        let due = since + self.limits.confirm;
        if self.now < due {
            return self.arm(due, Timer::Confirm(no));
        }
        if in_doubt {
            self.forget_attempt(no);
        } else {
            if let Some(attempt) = self.deliveries.get_mut(&no).and_then(|d| d.attempts.last_mut()) {
                attempt.stage = Stage::Failed;
            }
            self.path_died(to, path);
        }
        self.dispatch(no);
    }

    fn path_died(&mut self, to: PeerNo, path: Path) {
        let peer = self.peer_mut(to);
        if matches!(path, Path::Channel | Path::Inbox) && !peer.dead.contains(&path) {
            peer.dead.push(path);
            let name = peer.who.name.clone();
            self.report(What::DeadPath, |e| {
                e.from = name;
                e.path = Some(path);
            });
        }
    }
}
