//! The check of a router that was read from a file. The other files rely on what it checks, and an edited file may not
//! hold it.

use serde_json::Value;

use super::{PeerNo, Role, Router};

/// Above every time, connection number and limit that can occur: 285,000 years in milliseconds. Sums of a few numbers
/// below it do not overflow.
pub const OUT_OF_RANGE: u64 = 1 << 53;

/// Whether every number in a snapshot can occur, except those with which nobody calculates: digests of answers, and the
/// requests that started a delivery, whose ids the client chooses.
pub fn is_in_range(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_u64().is_some_and(|number| number < OUT_OF_RANGE),
        Value::Array(values) => values.iter().all(is_in_range),
        Value::Object(fields) => {
            fields.iter().all(|(name, value)| matches!(&**name, "answer" | "starter") || is_in_range(value))
        }
        _ => true,
    }
}

impl Router {
    /// Whether every peer number in it names a peer.
    pub fn is_complete(&self) -> bool {
        self.peer_numbers().all(|no| self.peers.contains_key(no))
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
            .chain(met)
    }
}
