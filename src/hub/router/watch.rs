//! Events for the log and for connections that watch.

use super::limits::overloaded;
use super::{ConnId, Output, Reply, Router};
use crate::wire::{Answer, Event, Fault, ToClient, What};

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
        let (now, from) = (self.now, self.name_of(conn));
        if self.refused.get(&conn).is_none_or(|at| now >= at + 1000) {
            self.refused.insert(conn, now);
            self.report(What::Refused, |e| {
                e.from = from;
                e.code = Some(fault.code);
                e.why = Some(fault.message.clone());
            });
        }
    }

    /// Reports an event to the log and the watchers.
    pub(super) fn report(&mut self, what: What, fill: impl FnOnce(&mut Event)) {
        if matches!(what, What::Joined | What::Left | What::Renamed) {
            for conn in std::mem::take(&mut self.roster_watchers) {
                self.send(conn, ToClient::RosterChanged);
            }
        }
        let common = matches!(what, What::Ask | What::Reply | What::Summary | What::State | What::Note);
        if common && self.watchers.is_empty() && !self.info.log_all {
            return;
        }
        let mut event =
            Event { ts_ms: self.info.epoch_started_ms + self.now, event: what, ..Event::default() };
        fill(&mut event);
        for conn in &self.watchers {
            self.out.push(Output::Send(*conn, ToClient::Event(event.clone())));
        }
        event.text = None; // message text never goes to a log
        self.out.push(Output::Log(event));
    }
}
