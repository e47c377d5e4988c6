//! The second phase of a world, and the promises.

use super::super::{Ms, Router, Timer};
use super::answer_form;
use super::client::Peer;
use super::truth::{End, Truth};
use super::world::World;
use crate::wire::{Code, Kind, ToHub};

/// How much later than its deadline an ask may end.
const LATE: Ms = 1_000;

impl World {
    /// No more faults: every peer comes back, everything arrives, every turn ends, and time runs until nothing is open.
    pub fn come_to_rest(&mut self) {
        self.log(|| "REST".to_owned());
        for round in 0..400 {
            self.come_back();
            for i in 0..self.peers.len() {
                self.close_screen(i, true);
                self.take_late(i, true);
                self.poll(i);
                while self.peers[i].alive && self.peers[i].conversation.busy {
                    self.turn(i);
                }
                if round % 3 == 0 && self.peers[i].alive && self.peers[i].hooks {
                    self.turn(i); // the user says something
                    self.turn(i);
                }
                answer_form(self, i);
                if self.peers[i].alive && self.peers[i].is_session() {
                    self.request(i, |id| ToHub::Peers { id });
                }
            }
            self.come_back();
            let unanswered: usize = self.links.values().map(|l| l.unanswered.len()).sum();
            // Of a session without hooks the hub knows only that the client has a text.
            let has_more = |p: &Peer| !p.conversation.late.is_empty() || !p.conversation.queue.is_empty();
            let is_late = self.peers.iter().any(|p| p.alive && has_more(p));
            let is_idle = self.hub.asks.is_empty() && self.hub.deliveries.is_empty() && !is_late;
            if is_idle && unanswered == 0 && round > 3 {
                return;
            }
            let next = match self.rng.chance(50) {
                true => self.deadline().unwrap_or(self.now + 1_000).max(self.now),
                false => self.now + 5_000,
            };
            self.wait_until(next);
            let time = self.now - self.born;
            let overdue = self.hub.asks.iter().find(|(_, ask)| ask.deadline + LATE < time);
            assert!(overdue.is_none(), "{:?} did not end in time", overdue.map(|(id, _)| id));
        }
        let stuck = self.hub.deliveries.values().map(|d| {
            let attempts = &d.attempts;
            let (kind, id, state) = (d.parcel.kind, &d.parcel.ask_id, d.state);
            format!("{kind:?} {id} to {}: {state:?} {attempts:?}", self.hub.peers[&d.to].who.peer)
        });
        panic!("no rest: {}\n{}", self.hub.leftovers(), stuck.collect::<Vec<_>>().join("\n"));
    }

    /// Every process runs and is connected, and everything has arrived.
    fn come_back(&mut self) {
        loop {
            for i in 0..self.peers.len() {
                self.restart(i);
                self.reconnect(i);
                self.reconnect_waiters(i);
            }
            self.settle();
            let away = |p: &Peer| p.alive && p.client.as_ref().is_none_or(|c| c.conn.is_none());
            if !self.peers.iter().any(away) {
                return;
            }
        }
    }

    /// What a peer may cost the hub.
    pub fn check_limits(&self) {
        for peer in self.hub.peers.values() {
            let members = peer.asked.len() * self.peers.len();
            let most = self.limits.undelivered + 2 * self.limits.open_asks + members + 4;
            assert!(peer.inbox.len() <= most, "{} texts to {}", peer.inbox.len(), peer.who.name);
            let forms = peer.inbox.iter().filter_map(|no| self.hub.deliveries.get(no));
            assert!(forms.filter(|d| d.is_form() && d.is_under_way()).count() <= 1, "two forms at once");
        }
    }

    /// The promises, compared with what the clients have.
    pub fn judge(&self) {
        for (id, truth) in self.truths.iter().filter(|(_, truth)| self.peers[truth.asker].alive) {
            self.judge_ends(id, truth);
        }
        for (i, peer) in self.peers.iter().enumerate().filter(|(_, p)| p.alive) {
            let Some(client) = &peer.client else { continue };
            assert!(client.open.is_empty(), "peer{i} believes that these are open: {:?}", client.open);
            assert!(client.forms.is_empty(), "peer{i} still shows {:?}", client.forms);
            assert!(client.requests.is_empty(), "peer{i} has no answer to {:?}", client.requests);
        }
    }

    fn judge_ends(&self, id: &str, truth: &Truth) {
        let has = |end| truth.ends.contains(&end);
        let late = has(End::LateReply);
        let ends = truth.ends.len() - usize::from(late);
        // The asker of a broadcast may have missed the failure of one ask. The summary reports it.
        let all = truth.broadcast.as_ref().map(|all| &self.truths[all]);
        let summed_up = all.is_some_and(|all| !all.ends.is_empty() || all.excused);
        let given_up = truth.given_up || all.is_some_and(|all| all.given_up);
        // The state was lost, or the asker was gone, while a process that did not report had the other end.
        let unreachable = Code::HubUnreachable;
        let in_doubt = |kind| self.is_doubtful(&(truth.asker, kind, id.to_owned()));
        let twice = has(End::Failed(unreachable))
            && (truth.journal_lost || [Kind::Reply, Kind::Failed, Kind::Summary].into_iter().any(in_doubt));
        let most = 1 + usize::from(given_up || twice);
        let least = usize::from(!truth.excused && !summed_up);
        assert!((least..=most).contains(&ends), "{id} of peer{} has the ends {truth:?}", truth.asker);
        // That it timed out may be told as `hub_unreachable` to one that was away.
        let codes = [Code::Timeout, unreachable].map(|c| has(End::Failed(c)) || has(End::Told(c)));
        let timed_out = codes.contains(&true) || truth.excused || summed_up || given_up;
        assert!(!late || timed_out, "{id} has a late reply, but did not time out: {truth:?}");
        let lost = truth.accepted.is_some() && !late && !has(End::Reply);
        let gone = truth.gone || given_up || truth.excused || all.is_some_and(|all| all.excused);
        assert!(!lost || gone || truth.journal_lost, "the answer to {id} was taken and lost: {truth:?}");
    }
}

impl Router {
    /// Describes state that is left although all peers have left.
    pub fn leftovers(&self) -> String {
        let held = [
            ("roles", self.roles.len()),
            ("peers", self.peers.len()),
            ("identities", self.by_identity.len()),
            ("names", self.names.by_key.len()),
            ("sessions", self.sessions.values().filter(|s| s.waiter.is_some()).count()),
            ("asks", self.asks.len()),
            ("broadcasts", self.broadcasts.len()),
            ("deliveries", self.deliveries.len()),
            ("bytes of text", self.text),
            ("pushes", self.pushes.len()),
            ("timers", self.timers.iter().filter(|(_, t)| *t != Timer::Idle).count()),
        ];
        let left = held.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{n} {what}"));
        left.collect::<Vec<_>>().join(", ")
    }
}
