//! Tombstones of asks that have ended.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Id, Ms};
use crate::wire::{Code, Member};

/// How many milliseconds a tombstone is kept, and an ask that timed out may still be answered.
const KEEP: Ms = 3_600_000;
/// The limit of tombstones; the oldest are dropped.
const MAX: usize = 4_096;

/// The record of an ask or a broadcast that has ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Tombstone {
    /// The identities of asker and target. A broadcast has no target.
    pub asker: String,
    pub target: String,
    /// Their names at the end.
    pub from: String,
    pub to: String,
    pub thread: String,
    pub broadcast: Option<Id>,
    /// Whether it was for the person in front of the target, and not for its model.
    pub by_form: bool,
    /// The error, if it failed. An ask without an error and an answer was withdrawn, or its asker has left.
    pub code: Option<Code>,
    /// A digest of the answer, to distinguish a repeated answer from a different one.
    pub answer: Option<u64>,
    /// Whether the asker left before it had the answer.
    pub lost: bool,
    /// Whether it left before it learned of the end: if it comes back, it is told.
    pub untold: bool,
    /// The asks of a broadcast, so that a repeated request gets the same answer.
    pub members: Vec<Member>,
}

/// The asks that ended within the last hour, [`MAX`] at most.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct EndedAsks {
    by_id: BTreeMap<Id, (Ms, Tombstone)>,
    order: BTreeSet<(Ms, Id)>,
}

impl EndedAsks {
    /// Inserts a tombstone, and removes those that are too many or too old.
    pub fn insert(&mut self, now: Ms, id: Id, tombstone: Tombstone) {
        if let Some((before, _)) = self.by_id.insert(id.clone(), (now, tombstone)) {
            self.order.remove(&(before, id.clone()));
        }
        self.order.insert((now, id));
        while let Some((at, _)) = self.order.first()
            && (self.order.len() > MAX || now.saturating_sub(*at) > KEEP)
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.by_id.remove(&oldest);
        }
    }

    pub fn get(&self, id: &str) -> Option<&Tombstone> {
        self.by_id.get(id).map(|(_, tombstone)| tombstone)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Tombstone> {
        self.by_id.get_mut(id).map(|(_, tombstone)| tombstone)
    }

    /// The ids of the asks of `identity` whose end it has not received.
    pub fn untold(&self, identity: &str) -> Vec<String> {
        let is_it = |t: &Tombstone| t.untold && t.asker == identity;
        self.by_id.iter().filter(|(_, (_, t))| is_it(t)).map(|(id, _)| id.to_string()).collect()
    }

    /// The tombstones with the time of their end, newest first.
    pub fn latest(&self) -> impl Iterator<Item = (&Id, Ms, &Tombstone)> {
        self.order.iter().rev().filter_map(|(at, id)| Some((id, *at, self.get(id)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tombstone(to: &str) -> Tombstone {
        let (asker, target, from, to) = ("a".to_owned(), "b".to_owned(), "a".to_owned(), to.to_owned());
        Tombstone { asker, target, from, to, ..Tombstone::default() }
    }

    #[test]
    fn oldest_tombstones_are_dropped_when_full_or_too_old() {
        let mut ended = EndedAsks::default();
        for n in 0..=MAX as u64 {
            ended.insert(n, Id::from(format!("ask{n}")), tombstone("x"));
        }
        assert!(ended.get("ask0").is_none() && ended.get("ask1").is_some());
        ended.insert(2 * KEEP, Id::from("late"), tombstone("late"));
        assert!(ended.get("ask4096").is_none() && ended.get("late").is_some());
    }

    #[test]
    fn replaced_tombstone_is_kept_from_its_replacement_on() {
        let mut ended = EndedAsks::default();
        ended.insert(0, Id::from("one"), tombstone("one"));
        ended.insert(KEEP - 2, Id::from("one"), tombstone("again"));
        ended.insert(KEEP + 5, Id::from("two"), tombstone("two"));
        assert_eq!(ended.get("one").map(|t| t.to.as_str()), Some("again"));
        let latest: Vec<&str> = ended.latest().map(|(id, ..)| &**id).collect();
        assert_eq!(latest, ["two", "one"]);
    }
}
