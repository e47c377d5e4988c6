//! Receipts: what the hub learns about a push after it was sent: made, in the client's queue, in the conversation, or
//! unconfirmed. A path whose push failed or was not confirmed in time is marked as dead here.

use super::delivery::{Attempt, Stage};
use super::{ConnId, DeliveryNo, PeerNo, Role, Router, Timer};
use crate::wire::{Activity, Event, Path, Proof, Receipt, State, What};

impl Router {
    /// Handles `pushed`: the outcome of a push.
    pub(super) fn pushed(&mut self, conn: ConnId, push: &str, error: Option<String>) {
        let Some(&no) = self.pushes.get(push) else { return };
        let now = self.now;
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        let to = delivery.to;
        // Reported once, and by the pushing process.
        let is_it = |a: &&mut Attempt| a.push == push && a.conn == conn && a.stage == Stage::Sent;
        let Some(attempt) = delivery.attempts.iter_mut().find(is_it) else { return };
        let path = attempt.path;
        if error.is_some() {
            attempt.stage = Stage::Failed;
            // Its user was typing, or no tool call was open: it can be tried again.
            if matches!(path, Path::Form | Path::Tool) {
                self.forget_attempt(no);
            }
            if path == Path::Form {
                self.free_form(to);
            }
            self.mark_path_dead(to, path);
            return self.dispatch(no);
        }
        attempt.stage = Stage::Handed(now);
        // A waiter has woken the session, which no hook reports.
        if let Some(Role::Waiter { claude, .. }) = self.roles.get(&conn).cloned() {
            self.sessions.get_mut(&claude).into_iter().for_each(|session| session.turned = now);
            self.set_activity(&claude, Activity::Busy);
        }
        self.progress(no, State::Pushed, Some(path));
        match self.sends_receipts(to) {
            _ if path == Path::Form => {} // until it is closed
            true => self.arm(now + self.limits.confirm, Timer::Confirm(no)),
            false => self.remove_delivery(no), // no receipt will follow
        }
    }

    /// The peers of which a connection may report receipts: itself, or those of a waiter's session.
    pub(super) fn peers_behind(&self, conn: ConnId) -> Vec<PeerNo> {
        match self.roles.get(&conn) {
            Some(Role::Peer(no)) => vec![*no],
            Some(Role::Waiter { claude, .. }) => self.peers_of(claude),
            None => Vec::new(),
        }
    }

    /// Handles receipts for pushes to these peers, in the order in which they were found.
    pub(super) fn take_receipts(&mut self, peers: &[PeerNo], receipts: &[Receipt]) {
        let now = self.now;
        for (push, proof) in receipts {
            let Some(no) = self.pushes.get(push).copied() else { continue };
            let Some(delivery) = self.deliveries.get_mut(&no) else { continue };
            // No hook sees a form.
            if delivery.is_form() || !peers.contains(&delivery.to) {
                continue;
            }
            let state = delivery.state;
            let Some(attempt) = delivery.attempts.iter_mut().find(|a| a.push == *push) else { continue };
            let path = attempt.path;
            match proof {
                Proof::InToolResult if path != Path::Tool => {}
                Proof::InToolResult | Proof::Seen => self.confirm(no, Some(path)),
                Proof::Refused => {
                    (attempt.stage, attempt.turn) = (Stage::Failed, None);
                    self.dispatch(no);
                }
                Proof::Queued | Proof::Prompted => {
                    if !matches!(attempt.stage, Stage::Prompted(_)) {
                        let is_queued = *proof == Proof::Queued;
                        attempt.stage = if is_queued { Stage::Queued } else { Stage::Prompted(now) };
                    }
                    if state == State::Queued {
                        self.progress(no, State::Pushed, Some(path));
                    }
                }
            }
        }
    }

    /// The last push of a delivery.
    pub(super) fn last_attempt(&self, no: DeliveryNo) -> Option<&Attempt> {
        self.deliveries.get(&no)?.attempts.last()
    }

    pub(super) fn last_attempt_mut(&mut self, no: DeliveryNo) -> Option<&mut Attempt> {
        self.deliveries.get_mut(&no)?.attempts.last_mut()
    }

    /// The deliveries to these peers whose last push `is_it` accepts.
    pub(super) fn pushes_to(&self, peers: &[PeerNo], is_it: impl Fn(&Attempt) -> bool) -> Vec<DeliveryNo> {
        let mut pushes = self.inboxes(peers);
        pushes.retain(|no| self.last_attempt(*no).is_some_and(&is_it));
        pushes
    }

    /// The deliveries to these peers.
    pub(super) fn inboxes(&self, peers: &[PeerNo]) -> Vec<DeliveryNo> {
        peers.iter().flat_map(|no| self.peer(*no).inbox.iter().copied()).collect()
    }

    /// Confirms the delivery of a question.
    pub(super) fn confirm_question(&mut self, id: &str) {
        let delivery = self.asks.get(id).map(|ask| ask.delivery);
        delivery.into_iter().for_each(|no| self.confirm(no, None));
    }

    /// Confirms a delivery: the model has the text, by this path or by that of the last push.
    pub(super) fn confirm(&mut self, no: DeliveryNo, path: Option<Path>) {
        let Some(delivery) = self.deliveries.get(&no).filter(|d| !d.is_form()) else { return };
        let Some(path) = path.or(delivery.attempts.last().map(|a| a.path)) else { return };
        let (to, now) = (delivery.to, self.now);
        let peer = self.peer_mut(to);
        peer.dead.remove(&path);
        peer.proven.insert(path, now);
        self.progress(no, State::Seen, Some(path));
        self.remove_delivery(no);
        self.expect_turn(&[to]);
        self.dismiss_idle_waiter(to);
    }

    /// Handles a push that was not confirmed in time. Only an idle session has to confirm; a session in a turn takes
    /// the text at the end of the turn. A missing receipt counts only if it would have been found: a waiter reads
    /// the transcript, or a later hook has searched it. A client that shows a screen of its own,
    /// or is stopped, sends no receipts either.
    pub(super) fn unconfirmed(&mut self, no: DeliveryNo) {
        let Some(delivery) = self.deliveries.get(&no) else { return };
        let to = delivery.to;
        let Some(&Attempt { path, stage, .. }) = delivery.attempts.last() else { return };
        let (Stage::Handed(at) | Stage::InDoubt(at) | Stage::Prompted(at)) = stage else { return };
        let (in_doubt, prompted) = (matches!(stage, Stage::InDoubt(_)), matches!(stage, Stage::Prompted(_)));
        let is_held = path == Path::Inbox && self.peer(to).who.held;
        let may_swallow = matches!(path, Path::Channel | Path::Inbox) && !is_held;
        let session = self.session_of(to);
        if session.activity != Activity::Idle || !(may_swallow || in_doubt || prompted) {
            return;
        }
        let searched = match session.last_hook.filter(|hook| *hook > at) {
            Some(hook) => hook,
            // Its waiter reads the transcript.
            None if !in_doubt && session.waiter.is_some() && (prompted || session.idle_since < at) => {
                session.waiting_since
            }
            None => return, // checked again at the next hook
        };
        let due = at.max(session.idle_since).max(searched) + self.limits.confirm;
        if self.now < due {
            return self.arm(due, Timer::Confirm(no));
        }
        if in_doubt {
            self.forget_attempt(no);
        } else {
            self.last_attempt_mut(no).into_iter().for_each(|attempt| attempt.stage = Stage::Failed);
            if !prompted {
                self.mark_path_dead(to, path);
            }
        }
        self.push_again(no);
    }

    fn mark_path_dead(&mut self, to: PeerNo, path: Path) {
        let peer = self.peer_mut(to);
        if matches!(path, Path::Channel | Path::Inbox) && peer.dead.insert(path) {
            let from = peer.who.name.clone();
            self.report(Event { event: What::DeadPath, from, path: Some(path), ..Event::default() });
        }
    }
}
