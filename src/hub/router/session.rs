//! What hooks tell about a Claude Code process: whether it is in a turn, and its waiter. The process ties its hooks to its
//! channel; the two arrive here on connections of their own and in any order.

use serde::{Deserialize, Serialize};

use super::delivery::{Attempt, Stage};
use super::{ConnId, Ms, PeerNo, Reply, Role, Router, Timer};
use crate::wire::{Activity, Answer, Code, DebtLine, Fault, HookEvent, Path, PeerKind, ToClient, fault};

/// The most processes that hooks named and that have no peer.
const MAX_UNTIED: usize = 1024;
/// The most bytes of text for one waiter. Of what a hook prints Claude Code keeps about 100,000 characters (measured).
const MAX_WAITER_LOAD: usize = 80_000;
/// What the header of a text and what is said around it count there.
const WAITER_OVERHEAD: usize = 1_500;
/// The longest key of a process, in bytes.
const MAX_KEY: usize = 128;

/// See the module.
#[derive(Serialize, Deserialize)]
pub(super) struct Session {
    activity: Activity,
    /// Since when it is idle, if it is.
    idle_since: Ms,
    /// Whether a hook was ever heard: only then can a push be confirmed.
    hooked: bool,
    /// When a hook or a waiter last told that a turn began or ended: Claude Code waits for those hooks, so they are exact.
    turned: Ms,
    /// When the last hook came, which may have searched the transcript.
    last_hook: Option<Ms>,
    /// It has said that it ends.
    ended: bool,
    waiter: Option<ConnId>,
    /// Since when the waiter has been there, and the bytes of text that it was sent.
    waiting_since: Ms,
    waiter_load: usize,
    /// The ask whose answer waits at a permission dialog.
    dialog: Option<String>,
    peers: Vec<PeerNo>,
}

/// A hook of the Claude Code process `claude`; see [`ToHub::Hook`](crate::wire::ToHub).
pub(super) struct Hook {
    pub claude: String,
    pub event: HookEvent,
    pub turn: Option<String>,
    pub ask_id: Option<String>,
    pub reason: Option<String>,
    /// How long ago it fired, in milliseconds.
    pub age: Ms,
}

impl Session {
    fn new() -> Self {
        Session {
            activity: Activity::Unknown,
            idle_since: 0,
            turned: 0,
            hooked: false,
            last_hook: None,
            ended: false,
            waiter: None,
            waiting_since: 0,
            waiter_load: 0,
            dialog: None,
            peers: Vec::new(),
        }
    }
}

impl Session {
    pub fn forget_last_hook(&mut self) {
        self.last_hook = None;
    }

    /// Whether a peer or a waiter belongs to it.
    #[cfg(test)]
    pub fn is_tied(&self) -> bool {
        !self.peers.is_empty() || self.waiter.is_some()
    }
}

impl Router {
    pub(super) fn hook(&mut self, hook: &Hook) -> Reply {
        let (now, event, claude) = (self.now, hook.event, hook.claude.as_str());
        let session = self.session(claude)?;
        session.hooked = true;
        session.last_hook = Some(now);
        session.ended = event == HookEvent::End;
        let was_busy = session.activity == Activity::Busy;
        let is_stop = matches!(event, HookEvent::Stop | HookEvent::StopAgain | HookEvent::Failed);
        let is_turn = is_stop || matches!(event, HookEvent::Start | HookEvent::Prompt);
        if is_turn {
            session.turned = now;
        }
        // The answer that waited at a dialog was given, or the turn ended without it.
        let dialog = match event {
            HookEvent::Permission => {
                session.dialog.clone_from(&hook.ask_id);
                None
            }
            HookEvent::Tool => {
                session.dialog = None;
                None
            }
            _ if is_stop => session.dialog.take(),
            _ => None,
        };
        let is_late = !is_turn && session.turned > now.saturating_sub(hook.age);
        let activity = match (event, session.activity) {
            (_, now) if is_late => now,
            (HookEvent::Start, _) => Activity::Idle,
            (HookEvent::Stop | HookEvent::StopAgain | HookEvent::Failed, _) => Activity::Idle,
            (HookEvent::Prompt | HookEvent::Tool | HookEvent::Denied, _) => Activity::Busy,
            (HookEvent::Permission, _) => Activity::Waiting,
            (HookEvent::End, now) => now,
        };
        self.set_activity(claude, activity);
        let peers = self.peers_of(claude);
        if event == HookEvent::End {
            self.session_over(claude, &peers);
            return Ok(Some(Answer::Hooked { unconfirmed: 0, remind: Vec::new() }));
        }
        if let Some(ask_id) = dialog {
            self.declined(&peers, &ask_id, "its user did not allow it at the permission dialog");
        }
        let remind = self.turn_news(hook, &peers, was_busy);
        Ok(Some(Answer::Hooked { unconfirmed: self.recheck(&peers), remind }))
    }

    /// What a hook means for the asks of its session. Returns the asks to remind of.
    fn turn_news(&mut self, hook: &Hook, peers: &[PeerNo], was_busy: bool) -> Vec<DebtLine> {
        let Hook { event, turn, ask_id, reason, .. } = hook;
        match (event, turn) {
            // A prompt in the middle of a turn has the turn's identifier, and other hooks may refuse it alone.
            (HookEvent::Prompt, Some(turn)) if !was_busy => self.turn_began(peers, turn),
            (HookEvent::Stop | HookEvent::StopAgain, Some(turn)) => self.confirm_turn(peers, turn),
            _ => {}
        }
        match event {
            HookEvent::Stop => return self.turn_ended(peers, false),
            HookEvent::StopAgain => return self.turn_ended(peers, true),
            HookEvent::Failed => self.turn_failed(peers, reason.as_deref()),
            HookEvent::Denied => {
                let reason = reason.as_deref().unwrap_or("its permission mode");
                ask_id.iter().for_each(|id| self.declined(peers, id, reason));
            }
            _ => {}
        }
        Vec::new()
    }

    fn session_over(&mut self, claude: &str, peers: &[PeerNo]) {
        for no in peers {
            if self.peers.get(no).is_some_and(|p| p.conn.is_none()) {
                self.gone(*no);
            }
        }
        self.forget_session(claude);
    }

    /// Sends what waits, and returns how many pushes lack a receipt.
    fn recheck(&mut self, peers: &[PeerNo]) -> usize {
        let mut unconfirmed = 0;
        for no in peers {
            self.dispatch_all(*no);
            for delivery in self.peer(*no).inbox.clone() {
                if self.deliveries.get(&delivery).is_some_and(|d| !d.attempts.is_empty()) {
                    unconfirmed += 1;
                    self.arm(self.now + self.limits.confirm, Timer::Confirm(delivery));
                }
            }
        }
        unconfirmed
    }

    /// A waiter offers itself. A session has one: it replaces the one before.
    pub(super) fn wait(&mut self, conn: ConnId, id: u64, claude: String, process: String) -> Reply {
        if self.roles.contains_key(&conn) {
            return Err(fault(Code::BadMsg, "this connection is a peer or a waiter already"));
        }
        if process.is_empty() || process.len() > MAX_KEY {
            return Err(fault(Code::BadMsg, "`process` is empty or too long"));
        }
        let now = self.now;
        let session = self.session(&claude)?;
        session.hooked = true;
        let old = session.waiter.replace(conn);
        session.waiter_load = 0;
        if old.is_none() {
            session.waiting_since = now;
        }
        let role = Role::Waiter { claude: claude.clone(), process: process.clone() };
        self.roles.insert(conn, role);
        self.answer(conn, id, Ok(Answer::Done));
        if let Some(old) = old.filter(|old| !self.is_handing_over(*old, &claude)) {
            self.dismiss(old);
        }
        let peers = self.peers_of(&claude);
        for no in &peers {
            self.undoubt(*no, &process);
            self.dispatch_all(*no);
        }
        if !peers.is_empty() {
            self.dismiss_idle_waiter(&claude);
        }
        Ok(None)
    }

    /// A waiter that comes back has not handed over what it was sent on an earlier connection: it would have exited.
    fn undoubt(&mut self, peer: PeerNo, process: &str) {
        for no in self.peer(peer).inbox.clone() {
            let last = self.deliveries.get(&no).and_then(|d| d.attempts.last());
            let unreported = |a: &Attempt| a.in_doubt || a.stage == Stage::Sent;
            if last.is_some_and(|a| unreported(a) && a.waiter.as_deref() == Some(process)) {
                self.forget_attempt(no);
            }
        }
    }

    fn dismiss(&mut self, waiter: ConnId) {
        self.send(waiter, ToClient::Dismissed);
        self.close(waiter);
    }

    /// Whether a waiter has been sent a text and has not reported that it handed it over. It must not be cut off: it may be
    /// about to print it, and another path would bring it twice.
    fn is_handing_over(&self, waiter: ConnId, claude: &str) -> bool {
        let inboxes =
            self.sessions.get(claude).into_iter().flat_map(|s| &s.peers).map(|no| &self.peer(*no).inbox);
        let deliveries = inboxes.flatten().filter_map(|no| self.deliveries.get(no));
        deliveries.flat_map(|d| &d.attempts).any(|a| a.conn == waiter && a.stage == Stage::Sent)
    }

    /// A waiter woke the session: it is in a turn, and no hook says so.
    pub(super) fn woke(&mut self, no: PeerNo) {
        if let Some(claude) = self.peer(no).who.claude.clone() {
            if let Some(session) = self.sessions.get_mut(&claude) {
                session.turned = self.now;
            }
            self.set_activity(&claude, Activity::Busy);
        }
    }

    /// The connection of a waiter is gone, and perhaps the waiter. What it was sent and did not report is in doubt.
    pub(super) fn waiter_left(&mut self, conn: ConnId, claude: &str) {
        let Some(session) = self.sessions.get_mut(claude) else { return };
        if session.waiter == Some(conn) {
            session.waiter = None;
        }
        for peer in self.peers_of(claude) {
            for no in self.peer(peer).inbox.clone() {
                let last = self.deliveries.get(&no).and_then(|d| d.attempts.last());
                if last.is_some_and(|a| a.conn == conn && a.stage == Stage::Sent) {
                    self.put_in_doubt(no);
                }
            }
        }
    }

    /// Whether the hook path may be the next to be used (it is the first, or none before it was ever confirmed), or there
    /// is something that the waiter may find in the transcript.
    fn needs_waiter(&self, no: PeerNo) -> bool {
        let (peer, best) = (self.peer(no), self.best_path(no));
        let first = best.is_none_or(|p| p == Path::Hook || !peer.proven.contains(&p));
        peer.who.paths.contains(&Path::Hook) && (first || !peer.inbox.is_empty())
    }

    /// Once the path that is used is known to work, nobody needs to wait.
    fn dismiss_idle_waiter(&mut self, claude: &str) {
        let Some(waiter) = self.sessions.get(claude).and_then(|s| s.waiter) else { return };
        if !self.peers_of(claude).iter().any(|no| self.needs_waiter(*no)) {
            self.dismiss(waiter);
        }
    }

    /// The session has shown that it got a text.
    pub(super) fn confirmed(&mut self, no: PeerNo) {
        if let Some(claude) = self.peer(no).who.claude.clone() {
            self.dismiss_idle_waiter(&claude);
        }
    }

    /// The waiter that a text of `size` bytes may go to. A text that is too large by itself goes alone.
    pub(super) fn waiter_for(&self, no: PeerNo, size: usize) -> Option<ConnId> {
        let session = self.session_of(no)?;
        let has_room =
            session.waiter_load == 0 || session.waiter_load + size + WAITER_OVERHEAD <= MAX_WAITER_LOAD;
        session.waiter.filter(|_| has_room)
    }

    pub(super) fn load_waiter(&mut self, no: PeerNo, size: usize) {
        let Some(claude) = self.peer(no).who.claude.clone() else { return };
        if let Some(session) = self.sessions.get_mut(&claude) {
            session.waiter_load += size + WAITER_OVERHEAD;
        }
    }

    /// Whether a waiter has read the session's transcript since `at` or longer.
    pub(super) fn is_watched(&self, no: PeerNo, at: Ms) -> bool {
        self.session_of(no).is_some_and(|s| s.waiter.is_some() && s.waiting_since <= at)
    }

    /// Whether pushes to this peer can be confirmed: hooks run in its session, or it reads its own connection.
    pub(super) fn sends_receipts(&self, no: PeerNo) -> bool {
        self.session_of(no).is_some_and(|s| s.hooked) || self.peer(no).who.kind != PeerKind::Session
    }

    pub(super) fn activity_of(&self, no: PeerNo) -> (Activity, Ms) {
        self.session_of(no).map_or((Activity::Unknown, 0), |s| (s.activity, s.idle_since))
    }

    pub(super) fn last_hook(&self, no: PeerNo) -> Option<Ms> {
        self.session_of(no).and_then(|s| s.last_hook)
    }

    pub(super) fn session_ended(&self, no: PeerNo) -> bool {
        self.session_of(no).is_some_and(|s| s.ended)
    }

    /// Whether hooks would have told if the session had ended.
    pub(super) fn lives_on(&self, no: PeerNo) -> bool {
        self.session_of(no).is_some_and(|s| s.hooked && !s.ended)
    }

    /// What the session's own file has said for `age` milliseconds. It knows of interrupted turns and refused dialogs, of
    /// which no hook tells, but not of every dialog; and it is read a while after it was written: hooks may have told more
    /// since.
    pub(super) fn observed(&mut self, no: PeerNo, activity: Activity, age: Ms) {
        let Some(claude) = self.peer(no).who.claude.clone() else { return };
        let at = self.now.saturating_sub(age);
        let Some(session) = self.sessions.get_mut(&claude).filter(|s| s.turned <= at) else { return };
        session.turned = at;
        let before = session.activity;
        if before == Activity::Waiting && activity == Activity::Busy {
            return;
        }
        let dialog = session.dialog.take_if(|_| activity == Activity::Idle);
        self.set_activity(&claude, activity);
        let peers = self.peers_of(&claude);
        if let Some(ask_id) = dialog {
            self.declined(&peers, &ask_id, "its user refused it at the permission dialog");
        }
        if activity == Activity::Idle && before != Activity::Idle {
            self.turn_vanished(&peers);
        }
    }

    fn set_activity(&mut self, claude: &str, activity: Activity) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(claude) else { return };
        let turned_idle = activity == Activity::Idle && session.activity != Activity::Idle;
        session.activity = activity;
        if turned_idle {
            session.idle_since = now;
            for no in self.peers_of(claude) {
                for delivery in self.peer(no).inbox.clone() {
                    self.arm(now + self.limits.confirm, Timer::Confirm(delivery));
                }
            }
        }
    }

    /// Ties a peer to its process.
    pub(super) fn tie(&mut self, no: PeerNo) {
        let Some(claude) = self.peer(no).who.claude.clone() else { return };
        if let Ok(session) = self.session(&claude) {
            session.peers.push(no);
        }
    }

    pub(super) fn untie(&mut self, no: PeerNo) {
        let Some(claude) = self.peer(no).who.claude.clone() else { return };
        if let Some(session) = self.sessions.get_mut(&claude) {
            session.peers.retain(|p| *p != no);
        }
    }

    /// The last peer of a process is gone for good, and so is what was known of the process.
    pub(super) fn forget_session(&mut self, claude: &str) {
        let untied = self.sessions.get(claude).is_some_and(|s| s.peers.is_empty());
        if untied && let Some(waiter) = self.sessions.remove(claude).and_then(|s| s.waiter) {
            self.dismiss(waiter);
        }
    }

    /// Whether a peer is the first channel of its session: a second one, of the same server configured twice, is no other
    /// session.
    pub(super) fn is_first_of_session(&self, no: PeerNo) -> bool {
        self.session_of(no).is_none_or(|s| s.peers.iter().min() == Some(&no))
    }

    fn session_of(&self, no: PeerNo) -> Option<&Session> {
        self.peers.get(&no)?.who.claude.as_ref().and_then(|c| self.sessions.get(c))
    }

    fn peers_of(&self, claude: &str) -> Vec<PeerNo> {
        self.sessions.get(claude).map(|s| s.peers.clone()).unwrap_or_default()
    }

    /// The entry for a process, new if need be.
    fn session(&mut self, claude: &str) -> Result<&mut Session, Fault> {
        if claude.is_empty() || claude.len() > MAX_KEY {
            return Err(fault(Code::BadMsg, "`claude` is empty or too long"));
        }
        if !self.sessions.contains_key(claude) {
            let untied = |s: &&Session| s.peers.is_empty();
            if self.sessions.values().filter(untied).count() >= MAX_UNTIED {
                self.sessions.retain(|_, s| !s.peers.is_empty() || s.waiter.is_some());
            }
            if self.sessions.len() >= MAX_UNTIED + self.limits.peers {
                return Err(fault(
                    Code::Overloaded,
                    "the hub knows too many sessions; retry when some have ended",
                ));
            }
        }
        Ok(self.sessions.entry(claude.to_owned()).or_insert_with(Session::new))
    }
}
