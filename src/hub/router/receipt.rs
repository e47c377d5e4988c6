//! Receipts: what the hub learns about a push after it was sent: made, in the client's queue, in the conversation, or
//! unconfirmed. A path whose push failed or was not confirmed in time is marked as dead here.

use super::delivery::{Attempt, Stage};
use super::{ConnId, DeliveryNo, PeerNo, Role, Router, Timer};
use crate::wire::{Activity, Event, Path, Receipts, State, What};

impl Router {
    /// Handles `pushed`: the outcome of a push.
    pub(super) fn pushed(&mut self, conn: ConnId, push: &str, error: Option<String>) {
        let Some(&no) = self.pushes.get(push) else { return };
        let now = self.now;
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        let to = delivery.to;
        let Some(attempt) = delivery.attempts.iter_mut().find(|a| a.push == push && a.conn == conn) else {
            return; // not the pushing process
        };
        if attempt.stage != Stage::Sent {
            return;
        }
        let path = attempt.path;
        if path == Path::Form && error.is_some() {
            self.forget_attempt(no);
            return self.free_form(to);
        }
        if error.is_some() {
            attempt.stage = Stage::Failed;
            if path == Path::Tool {
                // No tool call was open; the next one can carry the text.
                self.forget_attempt(no);
            }
            self.mark_path_dead(to, path);
            return self.dispatch(no);
        }
        attempt.stage = Stage::Handed(now);
        if let Some(Role::Waiter { claude, .. }) = self.roles.get(&conn).cloned() {
            self.mark_busy(&claude);
        }
        self.progress(no, State::Pushed, Some(path));
        if path == Path::Form {
            return; // until it is closed
        }
        if self.sends_receipts(to) {
            self.arm(now + self.limits.confirm, Timer::Confirm(no));
        } else {
            self.remove_delivery(no); // no receipt will follow
        }
    }

    /// Handles receipts from a hook, a waiter or a peer.
    pub(super) fn take_receipts(&mut self, conn: ConnId, mut receipts: Receipts) {
        receipts.keep_newest();
        let Receipts { claude, seen, in_tool_result, queued, prompted, refused } = &receipts;
        let claude = claude.as_deref();
        let proofs =
            seen.iter().map(|push| (push, false)).chain(in_tool_result.iter().map(|push| (push, true)));
        for (push, only_by_tool) in proofs {
            if let Some((no, path)) = self.confirmable(conn, claude, push)
                && (path == Path::Tool || !only_by_tool)
            {
                self.confirm(no, path);
            }
        }
        let prompted_now = Stage::Prompted(self.now);
        for (pushes, stage) in [(queued, Stage::Queued), (prompted, prompted_now), (refused, Stage::Failed)] {
            pushes.iter().for_each(|push| self.reached(conn, claude, push, stage));
        }
    }

    /// Records that the client has accepted a text, or that another hook has refused it.
    fn reached(&mut self, conn: ConnId, claude: Option<&str>, push: &str, stage: Stage) {
        let Some((no, path)) = self.confirmable(conn, claude, push) else { return };
        let is_refused = stage == Stage::Failed;
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        let is_queued = delivery.state == State::Queued;
        let Some(attempt) = delivery.attempts.iter_mut().find(|a| a.push == push) else { return };
        if is_refused || !matches!(attempt.stage, Stage::Prompted(_)) {
            attempt.stage = stage;
        }
        if is_refused {
            self.dispatch(no);
        } else if is_queued {
            self.progress(no, State::Pushed, Some(path));
        }
    }

    /// The last push of a delivery.
    pub(super) fn last_attempt(&self, no: DeliveryNo) -> Option<&Attempt> {
        self.deliveries.get(&no)?.attempts.last()
    }

    pub(super) fn last_attempt_mut(&mut self, no: DeliveryNo) -> Option<&mut Attempt> {
        self.deliveries.get_mut(&no)?.attempts.last_mut()
    }

    /// Associates the pushes in a prompt with the turn that it began.
    pub(super) fn turn_began(&mut self, peers: &[PeerNo], turn: &str) {
        for no in self.pushes_to(peers, |a| matches!(a.stage, Stage::Prompted(_)) && a.turn.is_none()) {
            self.last_attempt_mut(no).into_iter().for_each(|attempt| attempt.turn = Some(turn.to_owned()));
        }
    }

    /// Confirms the pushes that began `turn`, which has ended.
    pub(super) fn confirm_turn(&mut self, peers: &[PeerNo], turn: &str) {
        for no in self.pushes_to(peers, |a| a.turn.as_deref() == Some(turn)) {
            self.confirm_last(no);
        }
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

    /// The delivery of a push, if this connection may report on it: a peer on its own pushes, a hook on those of its
    /// session.
    fn confirmable(&self, conn: ConnId, claude: Option<&str>, push: &str) -> Option<(DeliveryNo, Path)> {
        let no = *self.pushes.get(push)?;
        let delivery = self.deliveries.get(&no).filter(|d| !d.is_form())?; // no hook sees a form
        let attempt = delivery.attempts.iter().find(|a| a.push == push)?;
        let is_own = match self.peer_on(conn) {
            Some(peer) => peer == delivery.to,
            None => claude.is_some() && self.peer(delivery.to).who.claude.as_deref() == claude,
        };
        is_own.then_some((no, attempt.path))
    }

    /// Confirms the delivery of a question.
    pub(super) fn confirm_question(&mut self, id: &str) {
        let delivery = self.asks.get(id).map(|ask| ask.delivery);
        delivery.into_iter().for_each(|no| self.confirm_last(no));
    }

    /// Confirms the last push of a delivery.
    fn confirm_last(&mut self, no: DeliveryNo) {
        let path = self.last_attempt(no).map(|attempt| attempt.path);
        path.into_iter().for_each(|path| self.confirm(no, path));
    }

    /// Confirms a delivery: the model has the text.
    pub(super) fn confirm(&mut self, no: DeliveryNo, path: Path) {
        let Some(delivery) = self.deliveries.get(&no).filter(|d| !d.is_form()) else { return };
        let (to, now) = (delivery.to, self.now);
        let peer = self.peer_mut(to);
        peer.confirmed_at = Some(now);
        peer.dead.retain(|p| *p != path);
        if !peer.proven.contains(&path) {
            peer.proven.push(path);
        }
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
        let mut since = at.max(session.idle_since);
        match session.last_hook.filter(|hook| *hook > at) {
            Some(hook) => since = since.max(hook),
            // Its waiter reads the transcript.
            None if !in_doubt && session.waiter.is_some() && (prompted || session.idle_since < at) => {
                since = since.max(session.waiting_since);
            }
            None => return, // checked again at the next hook
        }
        let due = since + self.limits.confirm;
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
        if matches!(path, Path::Channel | Path::Inbox) && !peer.dead.contains(&path) {
            peer.dead.push(path);
            let from = peer.who.name.clone();
            self.report(Event { event: What::DeadPath, from, path: Some(path), ..Event::default() });
        }
    }
}
