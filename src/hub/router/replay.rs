//! The next life of a router: its recorded steps again, and then the end of all connections.

use super::{ConnId, Info, Input, Limits, Ms, Role, Router, Step};

impl Router {
    /// Equips a new router, or one that was read from a snapshot, after the replay. `ids` creates identifiers.
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

    /// To be called once after a replay: the process that stepped the router died, and another goes on at `now`. Every
    /// connection is closed, before any timer expires. The time that a hub stays without peers begins anew.
    pub fn restart(&mut self, now: Ms) {
        self.now = self.now.max(now);
        self.open.clear();
        for session in self.sessions.values_mut() {
            session.last_hook = None; // it may have had receipts to report
            session.observed = false;
        }
        // Waiters first: what a peer that is gone leaves behind must not be sent to one of them.
        let is_peer = |conn: &ConnId| matches!(self.roles.get(conn), Some(Role::Peer(_)));
        let (peers, waiters): (Vec<ConnId>, Vec<ConnId>) = self.roles.keys().partition(|conn| is_peer(conn));
        for conn in waiters.into_iter().chain(peers) {
            self.closed(conn);
        }
        self.arm_exit();
        self.ids.drawn.clear();
        self.out.clear(); // nobody is there to hear it
    }
}
