//! Reports of hooks about a Claude Code process: its activity and its waiter. Hooks and channel of a session name the
//! same process; they use connections of their own and arrive in any order.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::delivery::{Attempt, Stage};
use super::peer::Peer;
use super::{ConnId, DeliveryNo, Ms, PeerNo, Reply, Role, Router, Timer};
use crate::wire::{
    Activity, Answer, Code, Fault, HookEvent, HookReport, ListedAsk, MAX_LABEL, Path, PeerKind, ToClient,
    refused,
};

/// The limit of processes. When it is reached, those with neither a peer nor a waiter are forgotten; the limits of peers and
/// connections bound the others.
const MAX_SESSIONS: usize = 2048;
/// The limit of text for one waiter, in bytes. Claude Code keeps about 100,000 characters of a hook's output
/// (measured).
const MAX_WAITER_LOAD: usize = 80_000;
/// The size of the header and framing of a text that a waiter prints, in bytes.
pub(super) const WAITER_OVERHEAD: usize = 1_500;
/// The turn of a prompt that came in the middle of another turn: no end of a turn proves that the model has its texts.
const NO_TURN: &str = "";

/// What hooks have reported about a Claude Code process.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Session {
    pub activity: Activity,
    /// When it became idle.
    pub idle_since: Ms,
    /// The turn that the last prompt was for.
    turn: Option<String>,
    /// Whether a hook has ever reported: only then are receipts possible.
    pub hooked: bool,
    /// When a turn last began or ended, by a hook or waiter. Exact, since Claude Code waits for these hooks.
    pub turned: Ms,
    /// When the last hook reported.
    pub last_hook: Option<Ms>,
    /// Whether a hub that knows this session has run ever since a turn ended, so that it has not missed the next one's
    /// beginning.
    #[serde(default)]
    pub observed: bool,
    /// Whether `SessionEnd` was reported.
    pub ended: bool,
    pub waiter: Option<ConnId>,
    /// When the waiter registered, and the bytes of text that it was sent.
    pub waiting_since: Ms,
    pub waiter_load: usize,
    /// The ask whose answer waits at a permission dialog.
    dialog: Option<String>,
}

impl Session {
    /// The time of the last known event of an idle session; `None` if it is not idle.
    pub fn quiet_since(&self) -> Option<Ms> {
        let since = self.idle_since.max(self.turned).max(self.last_hook.unwrap_or(0));
        (self.activity == Activity::Idle).then_some(since)
    }

    /// The waiter, if it has room for a text of `size` bytes. A text over the limit is sent alone.
    pub fn waiter_for(&self, size: usize) -> Option<ConnId> {
        let load = self.waiter_load;
        self.waiter.filter(|_| load == 0 || load + size + WAITER_OVERHEAD <= MAX_WAITER_LOAD)
    }
}

impl Router {
    pub(super) fn hook(&mut self, hook: &HookReport) -> Reply {
        let (now, event, claude) = (self.now, hook.event, hook.claude.as_str());
        // Both are kept for each of up to `MAX_SESSIONS` processes.
        if [&hook.turn, &hook.ask_id].into_iter().flatten().any(|id| id.len() > MAX_LABEL) {
            return refused(Code::BadMsg, "`turn` or `ask_id` is too long");
        }
        let peers = self.peers_of(claude);
        self.take_receipts(&peers, &hook.receipts);
        let session = self.session(claude)?;
        session.hooked = true;
        session.last_hook = Some(now);
        session.ended = event == HookEvent::End;
        // A prompt in the middle of a turn has the identifier of that turn, and other hooks may refuse it alone. A prompt
        // may also be the first of a turn that a waiter began.
        let is_busy = matches!(session.activity, Activity::Busy | Activity::Waiting);
        let is_new = hook.turn.is_some() && hook.turn != session.turn;
        let begins = event == HookEvent::Prompt && is_new && !is_busy && session.observed;
        if begins {
            session.turn.clone_from(&hook.turn);
        }
        let (activity, is_turn) = match event {
            HookEvent::Start | HookEvent::Stop | HookEvent::StopAgain | HookEvent::Failed => {
                (Activity::Idle, true)
            }
            HookEvent::Prompt => (Activity::Busy, true),
            HookEvent::Tool | HookEvent::Denied => (Activity::Busy, false),
            HookEvent::Permission => (Activity::Waiting, false),
            HookEvent::End => (session.activity, false),
        };
        let is_late = !is_turn && session.turned > now.saturating_sub(hook.age_ms.unwrap_or(0));
        let activity = if is_late { session.activity } else { activity };
        if is_turn {
            session.turned = now;
            session.observed |= event != HookEvent::Prompt;
        }
        match event {
            HookEvent::Permission => session.dialog.clone_from(&hook.ask_id),
            HookEvent::Tool => session.dialog = None, // the answer was given
            _ => {}
        }
        self.set_activity(claude, activity);
        if event == HookEvent::End {
            let is_away = |no: &&PeerNo| self.peer(**no).conn.is_none();
            let away: Vec<PeerNo> = peers.iter().filter(is_away).copied().collect();
            away.into_iter().for_each(|no| self.gone(no));
            self.forget_session(claude);
            return Ok(Some(Answer::Hooked { unconfirmed: 0, remind: Vec::new() }));
        }
        let remind = self.turn_news(hook, &peers, begins);
        peers.iter().for_each(|no| self.dispatch_all(*no));
        let unconfirmed = self.pushes_to(&peers, |attempt| attempt.path != Path::Form);
        for no in &unconfirmed {
            self.arm(now + self.limits.confirm, Timer::Confirm(*no));
        }
        Ok(Some(Answer::Hooked { unconfirmed: unconfirmed.len(), remind }))
    }

    /// Applies a hook event to the asks of its session. Returns the asks of which to remind the model.
    fn turn_news(&mut self, hook: &HookReport, peers: &[PeerNo], begins: bool) -> Vec<ListedAsk> {
        let HookReport { event, turn, ask_id, reason, .. } = hook;
        match event {
            HookEvent::Prompt => {
                let turn = turn.as_ref().map(|turn| if begins { turn } else { NO_TURN });
                let began = |a: &Attempt| matches!(a.stage, Stage::Prompted(_)) && a.turn.is_none();
                for no in self.pushes_to(peers, began) {
                    let attempt = self.last_attempt_mut(no);
                    attempt.into_iter().for_each(|attempt| attempt.turn = turn.map(str::to_owned));
                }
            }
            HookEvent::Stop | HookEvent::StopAgain => {
                let has_begun = |a: &Attempt| turn.is_some() && a.turn == *turn;
                self.pushes_to(peers, has_begun).into_iter().for_each(|no| self.confirm(no, None));
                return self.turn_ended(peers, *event == HookEvent::StopAgain);
            }
            HookEvent::Failed => self.turn_failed(peers, reason.as_deref()),
            HookEvent::Denied => {
                let reason = reason.as_deref().unwrap_or("its permission mode");
                ask_id.iter().for_each(|id| self.declined(peers, id, reason));
            }
            _ => {}
        }
        Vec::new()
    }

    /// Registers a waiter. A session has one waiter; a new one replaces the old one.
    pub(super) fn wait(&mut self, conn: ConnId, id: u64, claude: String, process: String) -> Reply {
        if self.roles.contains_key(&conn) {
            return refused(Code::BadMsg, "this connection is a peer or a waiter already");
        }
        if process.is_empty() || process.len() > MAX_LABEL {
            return refused(Code::BadMsg, "`process` is empty or too long");
        }
        let now = self.now;
        let session = self.session(&claude)?;
        let old = session.waiter.replace(conn);
        (session.hooked, session.waiting_since, session.waiter_load) = (true, now, 0);
        let role = Role::Waiter { claude: claude.clone(), process: process.clone() };
        self.roles.insert(conn, role);
        self.answer(conn, id, Ok(Answer::Done));
        if let Some(old) = old.filter(|old| self.unreported(*old, &claude).is_empty()) {
            self.dismiss(old);
        }
        let peers = self.peers_of(&claude);
        // A waiter that reconnects has not printed the texts of its last connection, else it would have exited: they are not in
        // doubt.
        let is_unprinted = |a: &Attempt| {
            a.waiter.as_ref() == Some(&process) && matches!(a.stage, Stage::Sent | Stage::InDoubt(_))
        };
        self.pushes_to(&peers, is_unprinted).into_iter().for_each(|no| self.forget_attempt(no));
        peers.iter().for_each(|no| self.dispatch_all(*no));
        if let Some(no) = peers.first() {
            self.dismiss_idle_waiter(*no);
        }
        Ok(None)
    }

    fn dismiss(&mut self, waiter: ConnId) {
        self.send(waiter, ToClient::Dismissed);
        self.close(waiter);
    }

    /// The pushes that this waiter was sent and has not reported. A waiter that has one must not be dismissed: it may be printing
    /// the text, and another path would deliver it twice.
    fn unreported(&self, waiter: ConnId, claude: &str) -> Vec<DeliveryNo> {
        self.pushes_to(&self.peers_of(claude), |a| a.conn == waiter && a.stage == Stage::Sent)
    }

    /// Handles the lost connection of a waiter: unreported pushes to it are in doubt.
    pub(super) fn waiter_left(&mut self, conn: ConnId, claude: &str) {
        let Some(session) = self.sessions.get_mut(claude) else { return };
        session.waiter.take_if(|waiter| *waiter == conn);
        self.unreported(conn, claude).into_iter().for_each(|no| self.put_in_doubt(no));
    }

    /// Whether the hook path may be the next to be used (it is the first, or none before it was ever confirmed), there is
    /// something that the waiter may find in the transcript, or a nudge may be due.
    fn needs_waiter(&self, no: PeerNo) -> bool {
        let (peer, best) = (self.peer(no), self.best_path(no));
        let is_next = best.is_none_or(|p| p == Path::Hook || !peer.proven.contains_key(&p));
        peer.who.paths.contains(&Path::Hook) && is_next
            || !peer.inbox.is_empty()
            || peer.owes.iter().any(|id| self.expects_turn(id))
    }

    /// Dismisses the waiter of a session that does not need it.
    pub(super) fn dismiss_idle_waiter(&mut self, no: PeerNo) {
        let Some(waiter) = self.session_of(no).waiter else { return };
        if !self.of_same_session(no).iter().any(|no| self.needs_waiter(*no)) {
            self.dismiss(waiter);
        }
    }

    /// Whether pushes to this peer can be confirmed: hooks run in its session, or it reads its own connection.
    pub(super) fn sends_receipts(&self, no: PeerNo) -> bool {
        self.session_of(no).hooked || self.peer(no).who.kind != PeerKind::Session
    }

    /// The peers of the same session, itself included.
    pub(super) fn of_same_session(&self, no: PeerNo) -> Vec<PeerNo> {
        self.peer(no).who.claude.as_ref().map_or_else(|| vec![no], |claude| self.peers_of(claude))
    }

    /// Applies the status of Claude Code's session file, which is `age` milliseconds old. The file shows interrupted
    /// turns and refused dialogs, which no hook reports, but not every dialog. Newer reports of hooks take precedence.
    pub(super) fn observed(&mut self, no: PeerNo, activity: Activity, age: Ms) {
        let Some(claude) = self.peer(no).who.claude.clone() else { return };
        let at = self.now.saturating_sub(age);
        let Some(session) = self.session(&claude).ok().filter(|s| s.turned <= at) else { return };
        session.turned = at;
        if (session.activity, activity) != (Activity::Waiting, Activity::Busy) {
            self.set_activity(&claude, activity);
        }
    }

    pub(super) fn set_activity(&mut self, claude: &str, activity: Activity) {
        let (now, peers) = (self.now, self.peers_of(claude));
        let Some(session) = self.sessions.get_mut(claude) else { return };
        let dialog = session.dialog.take_if(|_| activity == Activity::Idle);
        let before = std::mem::replace(&mut session.activity, activity);
        if activity == Activity::Idle && before != activity {
            session.idle_since = now;
            for delivery in self.inboxes(&peers) {
                self.arm(now + self.limits.confirm, Timer::Confirm(delivery));
                self.arm_dispatch(delivery);
            }
            self.expect_turn(&peers);
        }
        if before != activity {
            self.activity_changed(&peers);
        }
        // Its turn has ended without the answer.
        if let Some(ask_id) = dialog {
            self.declined(&peers, &ask_id, "its user refused it at the permission dialog");
        }
    }

    /// Removes a process whose last peer has left.
    pub(super) fn forget_session(&mut self, claude: &str) {
        if self.peers_of(claude).is_empty()
            && let Some(waiter) = self.sessions.remove(claude).and_then(|s| s.waiter)
        {
            self.dismiss(waiter);
        }
    }

    /// Whether `me` is shown this peer for its session. A session whose server is configured twice has a second channel: other
    /// sessions are shown the first one, and the session itself is shown the one that asks.
    pub(super) fn stands_for_session(&self, no: PeerNo, me: Option<PeerNo>) -> bool {
        let same = self.of_same_session(no);
        me.filter(|me| same.contains(me)).or(same.first().copied()) == Some(no)
    }

    /// What is known of a peer's session.
    pub(super) fn session_of(&self, no: PeerNo) -> &Session {
        let claude = self.peer(no).who.claude.as_ref();
        claude.and_then(|claude| self.sessions.get(claude)).unwrap_or(&self.unknown_session)
    }

    pub(super) fn peers_of(&self, claude: &str) -> Vec<PeerNo> {
        let is_of = |peer: &Peer| peer.who.claude.as_deref() == Some(claude);
        self.peers.iter().filter(|(_, peer)| is_of(peer)).map(|(no, _)| *no).collect()
    }

    /// The entry of a process, created if missing.
    fn session(&mut self, claude: &str) -> Result<&mut Session, Fault> {
        if claude.is_empty() || claude.len() > MAX_LABEL {
            return refused(Code::BadMsg, "`claude` is empty or too long");
        }
        if !self.sessions.contains_key(claude) && self.sessions.len() >= MAX_SESSIONS {
            let tied: BTreeSet<_> = self.peers.values().filter_map(|p| p.who.claude.as_ref()).collect();
            self.sessions.retain(|claude, session| session.waiter.is_some() || tied.contains(claude));
        }
        Ok(self.sessions.entry(claude.to_owned()).or_default())
    }
}
