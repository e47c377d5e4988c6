//! The next life of a router: its recorded steps again, and then the end of all connections.

use super::{ConnId, Info, Input, Limits, Ms, Role, Router, Step};
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

    /// Sends every client to the linked hub. Connected peers take their open asks along: the hub that they register with next
    /// does not know them and ends each, see [`ToHub::Register`](crate::wire::ToHub), be it this one again.
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
            asked.iter().chain(&broadcasts).for_each(|id| self.ended.forget(id));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::router::Output;

    /// Two registered peers, and an ask from the first to the second.
    fn router() -> Router {
        let mut router = Router::new(Limits::default(), Info::default(), Box::new(|| "push_1".to_owned()));
        let register = |name: &str| {
            serde_json::json!({"register": {"id": 0, "who": {"name": name, "kind": "person", "peer": name, "secret": "s",
                "cwd": "/", "pid": 1, "paths": ["socket"], "listens": true, "fresh": true}}})
        };
        let ask = serde_json::json!({"ask": {"id": 1, "ask_id": "ask_00000001", "to": "b", "text": "?", "timeout_ms": 60_000}});
        for (conn, message) in [(1, register("a")), (2, register("b")), (1, ask)] {
            router.step(0, Input::Opened(conn));
            router.step(0, Input::Said(conn, serde_json::from_value(message).expect("a message")));
        }
        router
    }

    #[test]
    fn clients_take_their_asks_along_to_a_linked_hub() {
        let mut router = router();
        assert_eq!(router.status().open_asks, 1);
        let step = router.step(1, Input::HandOver("next".to_owned()));
        assert!(step.is_change, "the journal has it");
        for conn in [1, 2] {
            let sent = step.outputs.iter().filter_map(|output| match output {
                Output::Send(to, message) if *to == conn => Some(message),
                _ => None,
            });
            // No state of the ask: a client that was told of an end would not name it to the next hub.
            assert_eq!(sent.collect::<Vec<_>>(), [&ToClient::Farewell { epoch: "next".to_owned() }]);
            assert!(step.outputs.iter().any(|output| matches!(output, Output::Close(to) if *to == conn)));
        }
        assert_eq!(router.status().open_asks, 0);
        // The linked hub was gone again before the client came.
        let lost = serde_json::json!({"register": {"id": 0, "lost": ["ask_00000001"], "who": {
            "name": "a", "kind": "person", "peer": "a", "secret": "s", "cwd": "/", "pid": 1, "paths": ["socket"],
            "listens": true, "fresh": false}}});
        router.step(2, Input::Opened(3));
        let step = router.step(2, Input::Said(3, serde_json::from_value(lost).expect("a message")));
        let is_end = |output: &Output| matches!(output, Output::Send(3, ToClient::Push(parcel)) if parcel.ask_id == "ask_00000001");
        assert!(step.outputs.iter().any(is_end), "{:?}", step.outputs);
    }
}
