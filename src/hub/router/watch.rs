//! Events for the log and for connections that watch.

use super::limits::overloaded;
use super::{ConnId, Output, PeerNo, Reply, Router};
use crate::wire::{Answer, Event, Fault, Parcel, ToClient, What};

/// The limit of connections that watch.
const MAX_WATCHERS: usize = 32;

impl Router {
    /// Limited, since each watcher gets a copy of every text.
    pub(super) fn watch(&mut self, conn: ConnId) -> Reply {
        if self.watchers.len() >= MAX_WATCHERS && !self.watchers.contains(&conn) {
            return overloaded(format!("{MAX_WATCHERS} connections watch the hub"), "when one has closed");
        }
        self.watchers.insert(conn);
        Ok(Some(Answer::Done))
    }

    /// Logs a refusal, at most once per second and connection, so that a peer that floods does not flood the log.
    pub(super) fn log_refusal(&mut self, conn: ConnId, fault: &Fault) {
        if self.refused.get(&conn).is_none_or(|at| self.now >= at + 1000) {
            self.refused.insert(conn, self.now);
            let from = self.peer_on(conn).map(|no| self.name(no)).unwrap_or_default();
            let (code, why) = (Some(fault.code), Some(fault.message.clone()));
            self.report(Event { event: What::Refused, from, code, why, ..Event::default() });
        }
    }

    /// An event about a text from peer to peer.
    pub(super) fn event_of(&self, event: What, parcel: &Parcel, to: PeerNo) -> Event {
        let (from, to) = (parcel.from.clone(), Some(self.name(to)));
        let (ask_id, thread) = (Some(parcel.ask_id.clone()), parcel.thread.clone());
        let text = matches!(event, What::Ask | What::Reply).then(|| parcel.text.clone());
        let Parcel { code, by, .. } = *parcel;
        Event { event, from, to, ask_id, thread, code, by, text, ..Event::default() }
    }

    /// Reports an event to the log and the watchers.
    pub(super) fn report(&mut self, event: Event) {
        if matches!(event.event, What::Joined | What::Left | What::Renamed) {
            for conn in std::mem::take(&mut self.roster_watchers) {
                self.send(conn, ToClient::RosterChanged);
            }
        }
        let mut event = Event { ts_ms: self.info.epoch_started_ms.saturating_add(self.now), ..event };
        for conn in &self.watchers {
            self.out.push(Output::Send(*conn, ToClient::Event(event.clone())));
        }
        event.text = None; // message text never goes to a log
        self.out.push(Output::Log(event));
    }
}
