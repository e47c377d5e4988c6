//! The next life of a router: its recorded steps again, and then the end of all connections.

use super::session::Session;
use super::{ConnId, Info, Input, Limits, Ms, Role, Router, Step, Timer};
use crate::wire::ToClient;

impl Router {
    /// Equips a router that was read from a snapshot, after the replay.
    pub fn equip(&mut self, limits: Limits, info: Info, ids: Box<dyn FnMut() -> String + Send>) {
        (self.limits, self.info, self.ids.source) = (limits, info, Some(ids));
    }

    /// Repeats a recorded step, with the identifiers that it drew.
    pub fn replay(&mut self, now: Ms, input: Input, drawn: Vec<String>) -> Step {
        if let Input::Said(conn, _) = &input {
            self.open.insert(*conn); // `Opened` changes no state, so it was not recorded
            self.last_conn = self.last_conn.max(*conn);
        }
        self.ids.replayed = drawn.into();
        let step = self.step(now, input);
        self.ids.replayed.clear();
        step
    }

    /// Sends every client to the linked hub. Connected peers take their open asks along: that hub ends each, see
    /// [`ToHub::Register`](crate::wire::ToHub), so they end here without a word.
    pub(super) fn hand_over(&mut self, epoch: &str) {
        let conns: Vec<ConnId> = self.roles.keys().copied().collect();
        let peers: Vec<_> = conns.iter().filter_map(|conn| self.peer_on(*conn)).collect();
        for conn in conns {
            self.send(conn, ToClient::Farewell { epoch: epoch.to_owned() });
            self.close(conn);
        }
        for no in peers {
            let Some(peer) = self.peers.get(&no) else { continue };
            let (asked, broadcasts) = (peer.asked.clone(), peer.broadcasts.clone());
            broadcasts.iter().for_each(|all| self.drop_broadcast(all));
            asked.iter().for_each(|id| self.drop_ask(id));
        }
    }

    /// To be called once after a replay: the process that stepped the router died, and another goes on at `now`. Every
    /// connection is closed, before any timer expires. The time that a hub stays without peers begins anew.
    pub fn restart(&mut self, now: Ms) {
        self.now = self.now.max(now);
        self.open.clear();
        // A hook that came just before may have had receipts to report.
        self.sessions.values_mut().for_each(Session::forget_last_hook);
        // Waiters first: what a peer that is gone leaves behind must not be sent to one of them.
        let is_peer = |conn: &ConnId| matches!(self.roles.get(conn), Some(Role::Peer(_)));
        let (peers, waiters): (Vec<_>, Vec<_>) = self.roles.keys().partition(|conn| is_peer(conn));
        waiters.into_iter().chain(peers).for_each(|conn: ConnId| self.closed(conn));
        if self.peers.is_empty() {
            self.timers.retain(|(_, timer)| *timer != Timer::Idle);
            self.empty_since = Some(self.now);
            self.arm(self.now + self.limits.idle_exit, Timer::Idle);
        }
        self.ids.drawn.clear();
        self.out.clear(); // nobody is there to hear it
    }
}
