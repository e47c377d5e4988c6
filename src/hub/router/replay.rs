//! The next life of a router: its recorded steps again, and then the end of all connections.

use super::{ConnId, Info, Input, Limits, Ms, Router, Step};

impl Router {
    /// Repeats a recorded step, with the identifiers that it drew.
    pub fn replay(&mut self, now: Ms, input: Input, drawn: Vec<String>) -> Step {
        if let Input::Said(conn, _) = &input {
            self.open.insert(*conn); // `Opened` changes no state, so it was not recorded
            self.last_conn = self.last_conn.max(*conn);
        }
        let mut drawn = drawn.into_iter();
        self.source = Some(Box::new(move || drawn.next().unwrap_or_default()));
        self.step(now, input)
    }

    /// Begins the life of this process, with a new router, or with one that was read from a snapshot and replayed: the process
    /// that stepped it died. Every connection is closed, before any timer expires. The time that a hub stays without peers
    /// begins anew. `ids` creates identifiers.
    pub fn restart(&mut self, limits: Limits, info: Info, ids: Box<dyn FnMut() -> String + Send>) {
        self.now = self.now.max(info.started);
        (self.limits, self.info, self.source) = (limits, info, Some(ids));
        self.open.clear();
        for session in self.sessions.values_mut() {
            session.last_hook = None; // it may have had receipts to report
            session.observed = false;
            session.waiter = None; // what a peer that is gone leaves behind must not be sent to it
        }
        let conns: Vec<ConnId> = self.roles.keys().copied().collect();
        for conn in conns {
            self.closed(conn);
        }
        self.arm_exit();
        self.drawn.clear();
        self.out.clear(); // nobody is there to hear it
    }
}
