//! What the hub says of what it knows: who is there, how far an ask got, how a broadcast went.

use super::ask::Ask;
use super::{ConnId, Ms, PeerNo, Router};
use crate::fence::label;
use crate::wire::{
    Activity, AskLine, Code, DebtLine, Me, Outcome, Path, PeerLine, Roster, State, Status, VERSION,
};

impl Router {
    pub(super) fn roster(&self, conn: ConnId) -> Roster {
        let me = self.me(conn).ok();
        let mut peers: Vec<PeerLine> = self
            .peers
            .iter()
            .filter(|(no, p)| Some(**no) != me && !p.ghost)
            .map(|(no, _)| self.peer_line(*no))
            .collect();
        peers.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let Some(no) = me else { return Roster { peers, me: None, asks: Vec::new(), owed: Vec::new() } };
        let own = self.peer(no);
        let mut asks: Vec<AskLine> = own
            .asked
            .iter()
            .filter_map(|id| self.asks.get(id).map(|ask| (id, ask)))
            .filter(|(_, ask)| ask.claimed)
            .map(|(id, ask)| AskLine {
                ask_id: id.to_string(),
                to: self.peer(ask.target).who.name.clone(),
                state: ask.progress.state,
                age_s: (self.now - ask.asked_at) / 1000,
                detail: self.describe(ask),
            })
            .collect();
        asks.sort_unstable_by(|a, b| b.age_s.cmp(&a.age_s).then_with(|| a.ask_id.cmp(&b.ask_id)));
        let mut owed: Vec<DebtLine> = own
            .owes
            .iter()
            .filter_map(|id| self.asks.get(id).map(|ask| (id, ask)))
            .filter(|(_, ask)| ask.progress.state >= State::Pushed && ask.answer.is_none())
            .map(|(id, ask)| DebtLine {
                ask_id: id.to_string(),
                from: self.peer(ask.asker).who.name.clone(),
                age_s: (self.now - ask.asked_at) / 1000,
            })
            .collect();
        owed.sort_unstable_by(|a, b| b.age_s.cmp(&a.age_s).then_with(|| a.ask_id.cmp(&b.ask_id)));
        let me = Me { name: own.who.name.clone(), cwd: label(&own.who.cwd), push: self.best_path(no) };
        Roster { me: Some(me), peers, asks, owed }
    }

    fn peer_line(&self, no: PeerNo) -> PeerLine {
        let peer = self.peer(no);
        PeerLine {
            name: peer.who.name.clone(),
            kind: peer.who.kind,
            cwd: label(&peer.who.cwd),
            branch: peer.who.branch.as_deref().map(label),
            pid: peer.who.pid,
            activity: self.activity_of(no).0,
            push: self.best_path(no),
            confirmed: !peer.proven.is_empty(),
            confirmed_s: peer.confirmed_at.map(|at| (self.now - at) / 1000),
            connected_s: (self.now - peer.since) / 1000,
        }
    }

    pub(super) fn status(&self) -> Status {
        Status {
            pid: self.info.pid,
            version: self.info.version.clone(),
            protocol: VERSION,
            uptime_s: self.now / 1000,
            peers: self.peers.values().filter(|p| !p.ghost).count(),
            open_asks: self.asks.len(),
            undelivered: self.deliveries.len(),
            connections: self.conns.len(),
        }
    }

    /// How far an ask got, and what it waits for.
    pub(super) fn describe(&self, ask: &Ask) -> String {
        let ago = ago(self.now - ask.progress.since);
        let by = ask.progress.path.map(|p| format!(" by {}", path_name(p))).unwrap_or_default();
        let mut said = match ask.progress.state {
            State::Queued => self.why_queued(ask),
            State::Pushed if !self.is_hooked(ask.target) => format!(
                "pushed{by} {ago} ago; that session sends no receipts (the relay's hooks do not run there), so more is not known"
            ),
            State::Pushed => format!("pushed{by} {ago} ago, not seen yet: {}", self.why_unseen(ask.target)),
            _ => format!("seen {ago} ago, no reply yet"),
        };
        if self.activity_of(ask.target).0 == Activity::Waiting {
            said.push_str("; the session is waiting for its user's permission");
        }
        said
    }

    fn why_queued(&self, ask: &Ask) -> String {
        let target = self.peer(ask.target);
        if target.conn.is_none() {
            return "queued: the peer has lost its connection and may be back within seconds".to_owned();
        }
        let held = ask.delivery.and_then(|no| self.deliveries.get(&no)).is_some_and(|d| !d.tries.is_empty());
        match held || self.best_path(ask.target).is_none() {
            true => "queued: no way into that session works; it is handed over at its next hook event or relay tool call",
            false => "queued: it is handed over as soon as the session can take it",
        }
        .to_owned()
    }

    fn why_unseen(&self, target: PeerNo) -> &'static str {
        match self.activity_of(target).0 {
            Activity::Busy | Activity::Waiting => "the session is in the middle of a turn",
            Activity::Idle => "the session has taken no prompt since",
            Activity::Unknown => "the session has not been heard of since",
        }
    }

    /// What the asker is told when its ask fails.
    pub(super) fn failure(&self, ask: &Ask, code: Code) -> String {
        let name = &self.peer(ask.target).who.name;
        let asked = ago(self.now - ask.asked_at);
        let far = match ask.progress.state {
            State::Seen => format!("seen {} ago, no reply", ago(self.now - ask.progress.since)),
            State::Queued => format!("never seen; {}", self.why_queued(ask)),
            _ if self.is_hooked(ask.target) => format!("never seen; {}", self.describe(ask)),
            _ => self.describe(ask),
        };
        let waiting =
            self.activity_of(ask.target).0 == Activity::Waiting && ask.progress.state == State::Seen;
        let dialog = if waiting { "; the session is waiting for its user's permission" } else { "" };
        // Who only asks leaves when the time is up.
        let then = match self.peer(ask.asker).who.listens {
            true => "A late answer is still delivered for an hour; ask again only if it still matters",
            false => "Ask again with more time if it still matters",
        };
        match code {
            Code::Timeout => {
                format!("timeout: \"{name}\" did not answer within {asked} ({far}{dialog}). {then}")
            }
            Code::PeerGone => format!(
                "peer_gone: \"{name}\" left before it answered, {asked} after it was asked ({}). relay_peers shows who is there",
                gone_after(ask.progress.state)
            ),
            _ => lost(name, code),
        }
    }
}

/// What the asker is told of an ask that got lost, or ended while it was away.
pub(super) fn lost(name: &str, code: Code) -> String {
    match code {
        Code::PeerGone => {
            format!("peer_gone: \"{name}\" left before it answered. relay_peers shows who is there")
        }
        _ => format!(
            "hub_unreachable: the relay was lost on the way to \"{name}\", and the question or its answer with it; ask again if it still matters"
        ),
    }
}

fn gone_after(state: State) -> &'static str {
    match state {
        State::Queued => "it never got the question",
        State::Pushed => "the question was pushed, whether it was seen is not known",
        _ => "it had seen the question",
    }
}

/// The closing summary of a broadcast.
pub(super) fn summary(outcomes: &[Outcome]) -> String {
    let names = |which: &dyn Fn(&Outcome) -> Option<String>| {
        outcomes.iter().filter_map(which).collect::<Vec<_>>().join(", ")
    };
    let answered = outcomes.iter().filter(|o| o.code.is_none()).count();
    let mut text = format!("The broadcast is closed: {answered} of {} answered", outcomes.len());
    if answered > 0 {
        text += &format!(" ({})", names(&|o| o.code.is_none().then(|| o.to.clone())));
    }
    if answered < outcomes.len() {
        let failed = names(&|o| o.code.map(|c| format!("{} ({})", o.to, c.name())));
        text += &format!("; no answer from {failed}");
    }
    text + "."
}

fn ago(ms: Ms) -> String {
    span(ms / 1000)
}

/// A time span as a person says it.
pub fn span(seconds: u64) -> String {
    match seconds {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

fn path_name(path: Path) -> &'static str {
    match path {
        Path::Channel => "channel",
        Path::Inbox => "inbox",
        Path::Hook => "hook",
        Path::Tool => "tool result",
        Path::Socket => "its own connection",
    }
}
