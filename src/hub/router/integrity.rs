//! The check of a router that was read from a file. The other files rely on what it checks, and an edited file may not
//! hold it.

use super::{Input, Ms, PeerNo, Role, Router};

/// Above every time, connection number and limit that can occur: 285,000 years in milliseconds. Sums of a few numbers
/// below it do not overflow.
pub const OUT_OF_RANGE: u64 = 1 << 53;

impl Router {
    /// Checks that times and counters are in range and that every peer number names a peer.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), &'static str> {
        if !self.is_in_range() {
            return Err("a number in it is out of range");
        }
        match self.peer_numbers().all(|no| self.peers.contains_key(no)) {
            true => Ok(()),
            false => Err("it refers to a peer that it does not hold"),
        }
    }

    fn is_in_range(&self) -> bool {
        let times = self.timers.iter().map(|(at, _)| *at).chain(self.empty_since);
        let counters = [self.now, self.next_no, self.last_conn, self.text as u64, self.text_removed];
        let of_limits = self.limits.times().into_iter();
        times.chain(counters).chain(of_limits).all(|number: Ms| number < OUT_OF_RANGE)
    }

    fn peer_numbers(&self) -> impl Iterator<Item = &PeerNo> {
        let roles = self.roles.values().filter_map(|role| match role {
            Role::Peer(no) => Some(no),
            Role::Waiter { .. } => None,
        });
        let asks = self.asks.values().flat_map(|ask| [&ask.asker, &ask.target]);
        let met = self.peers.values().flat_map(|peer| &peer.met);
        roles
            .chain(asks)
            .chain(self.broadcasts.values().map(|broadcast| &broadcast.asker))
            .chain(self.deliveries.values().map(|delivery| &delivery.to))
            .chain(self.by_identity.values())
            .chain(self.names.holders())
            .chain(self.sessions.values().flat_map(|session| session.peers()))
            .chain(met)
    }
}

/// Whether a recorded step has numbers that can occur.
pub fn is_plausible(at: Ms, input: &Input) -> bool {
    let conn = match input {
        Input::Opened(conn) | Input::Said(conn, _) | Input::Closed(conn) => *conn,
        Input::Tick | Input::Stop | Input::HandOver(_) => 0,
    };
    at < OUT_OF_RANGE && conn < OUT_OF_RANGE
}
