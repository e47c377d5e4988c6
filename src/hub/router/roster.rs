//! Descriptions of the state for clients: peers, asks, broadcasts.

use super::ask::Ask;
use super::delivery::Stage;
use super::standing::phrase;
use super::{ConnId, Id, PeerNo, Router};
use crate::fence::label;
use crate::span::span;
use crate::wire::{Activity, AskList, Code, ListedAsk, ListedPeer, Path, Roster, State, Status, VERSION};

/// The number of ended asks in a list.
const MAX_ENDED: usize = 50;

impl Router {
    pub(super) fn roster(&self, conn: ConnId) -> Roster {
        let me = self.peer_on(conn);
        let others =
            self.names.by_key.values().filter(|no| Some(**no) != me && self.stands_for_session(**no, me));
        let peers: Vec<ListedPeer> = others.map(|no| self.peer_line(*no)).collect();
        let Some(no) = me else { return Roster { peers, ..Roster::default() } };
        let owed =
            self.open_asks(|ask| ask.target == no && ask.state >= State::Pushed && !ask.record.by_form);
        let asks = self.open_asks(|ask| ask.asker == no);
        Roster { me: Some(self.peer_line(no)), peers, asks, owed }
    }

    /// The open asks of all peers, oldest first, and the last that ended, newest first.
    pub(super) fn ask_list(&self) -> AskList {
        let ended = self.ended.latest().filter(|(.., tombstone)| !tombstone.to.is_empty());
        let ended = ended.take(MAX_ENDED).map(|(id, at, tombstone)| {
            let detail = match (tombstone.code, tombstone.answer) {
                (Some(code), _) => code.name(),
                (None, Some(_)) => "answered",
                (None, None) => "withdrawn",
            };
            ListedAsk {
                ask_id: id.to_string(),
                from: tombstone.from.clone(),
                to: tombstone.to.clone(),
                state: tombstone.state(),
                age_s: self.now.saturating_sub(at) / 1000,
                thread: tombstone.thread.clone(),
                detail: detail.to_owned(),
                ..ListedAsk::default()
            }
        });
        AskList { open: self.open_asks(|_| true), ended: ended.collect() }
    }

    fn open_asks(&self, is_listed: impl Fn(&Ask) -> bool) -> Vec<ListedAsk> {
        let mut asks: Vec<_> = self.asks.iter().filter(|(_, ask)| is_listed(ask)).collect();
        asks.sort_by_key(|(_, ask)| ask.asked_at);
        asks.into_iter().map(|(id, ask)| self.ask_line(id, ask)).collect()
    }

    pub(super) fn ask_line(&self, id: &Id, ask: &Ask) -> ListedAsk {
        ListedAsk {
            ask_id: id.to_string(),
            from: self.name(ask.asker),
            to: self.name(ask.target),
            state: ask.state,
            note: ask.note,
            age_s: self.now.saturating_sub(ask.asked_at) / 1000,
            left_s: ask.deadline.saturating_sub(self.now) / 1000,
            thread: ask.record.thread.clone(),
            detail: self.describe(ask),
        }
    }

    fn peer_line(&self, no: PeerNo) -> ListedPeer {
        let peer = self.peer(no);
        let same = self.of_same_session(no).into_iter().filter(|other| *other != no);
        ListedPeer {
            name: peer.who.name.clone(),
            kind: peer.who.kind,
            host: peer.who.host.as_deref().map(label),
            cwd: label(&peer.who.cwd),
            branch: peer.who.branch.as_deref().map(label),
            pid: peer.who.pid,
            activity: self.session_of(no).activity,
            push: self.best_path(no),
            confirmed: !peer.proven.is_empty(),
            confirmed_s: peer.proven.values().max().map(|at| self.now.saturating_sub(*at) / 1000),
            connected_s: self.now.saturating_sub(peer.since) / 1000,
            other_channels: same.map(|no| self.peer(no).who.name.clone()).collect(),
        }
    }

    /// The status of the hub.
    pub fn status(&self) -> Status {
        Status {
            pid: self.info.pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: VERSION,
            uptime_s: self.now.saturating_sub(self.info.started) / 1000,
            epoch: self.info.epoch.clone(),
            peers: self.peers.len(),
            open_asks: self.asks.len(),
            undelivered: self.deliveries.len(),
            connections: self.open.len(),
            journal: self.info.journal.clone(),
        }
    }

    /// The state of an ask, for people.
    pub(super) fn describe(&self, ask: &Ask) -> String {
        self.state_words(ask, &format!(" {} ago", span(self.now.saturating_sub(ask.since) / 1000)))
    }

    /// The same, with `ago` for the age of the state; shorter if that is empty, for a status line.
    pub(super) fn state_words(&self, ask: &Ask, ago: &str) -> String {
        let by = ask.path.map(|p| format!(" by {}", p.name())).unwrap_or_default();
        let mut said = match ask.state {
            State::Queued => format!("queued: {}", self.queued_reason(ask)),
            State::Pushed => format!("pushed{by}{ago}{}", self.unseen_reason(ask)),
            _ => format!("seen{ago}, {}", phrase(ask)),
        };
        if self.session_of(ask.target).activity == Activity::Waiting {
            said.push_str("; the session is waiting for its user's permission");
        }
        said
    }

    fn queued_reason(&self, ask: &Ask) -> String {
        let mut deliveries =
            ask.consent.iter().chain([&ask.delivery]).filter_map(|no| self.deliveries.get(no));
        if let Some(form) = deliveries.find(|delivery| delivery.is_form()) {
            return self.form_reason(form);
        }
        let target = self.peer(ask.target);
        let why = match self.last_attempt(ask.delivery) {
            Some(last) if last.stage == Stage::Sent => {
                "that session is being handed it and has not taken it yet; a client that hangs or is stopped takes it when it \
                 goes on"
            }
            _ if target.conn.is_none() => "the peer has lost its connection and may reconnect within seconds",
            None if self.best_path(ask.target).is_some() => {
                "it is handed over as soon as the session can take it"
            }
            _ => "no path to that session works; it is handed over at its next hook event or relay tool call",
        };
        why.to_owned()
    }

    fn unseen_reason(&self, ask: &Ask) -> String {
        let last = self.last_attempt(ask.delivery);
        let is_accepted = last.is_some_and(|a| matches!(a.stage, Stage::Queued | Stage::Prompted(_)));
        let accepted = if is_accepted { ", accepted by the client" } else { "" };
        let is_held = ask.path == Some(Path::Inbox) && self.peer(ask.target).who.held;
        let why = match self.session_of(ask.target).activity {
            _ if ask.path == Some(Path::Form) => return ": the form is open in front of its user".to_owned(),
            _ if !self.sends_receipts(ask.target) => {
                return "; that session sends no receipts, because the relay's hooks do not run there"
                    .to_owned();
            }
            _ if is_held => "its user's setting crossSessionInbound holds it until the user accepts it there",
            Activity::Stopped => "the session's process is stopped and takes messages when it goes on",
            Activity::Screen => "the session shows a screen of its own and takes messages when that closes",
            Activity::Busy | Activity::Waiting => "the session is busy",
            Activity::Idle => "the session has begun no turn since",
            Activity::Unknown => "no hook has reported since",
        };
        format!("{accepted}, not seen yet: {why}")
    }

    /// The failure text for the asker.
    pub(super) fn failure(&self, ask: &Ask, code: Code) -> String {
        let name = &self.peer(ask.target).who.name;
        let (asked, state) = (span(self.now.saturating_sub(ask.asked_at) / 1000), ask.state.name());
        // A script exits at the timeout.
        let then = match self.peer(ask.asker).who.listens && !ask.record.by_form {
            true => "A late answer is still delivered for an hour; ask again only if it still matters",
            false => "Ask again with more time if it still matters",
        };
        let then = self.help(ask).unwrap_or(then);
        match code {
            Code::PeerGone => format!(
                "peer_gone: \"{name}\" left before it answered, {asked} after it was asked (the question was {state}). \
                 relay_peers lists the peers"
            ),
            Code::Declined => format!(
                "declined: \"{name}\": {}. Do not ask there again about this; ask your own user",
                label(ask.reason.as_deref().unwrap_or("no"))
            ),
            _ => {
                format!("timeout: \"{name}\" did not answer within {asked} ({}). {then}", self.describe(ask))
            }
        }
    }
}
