//! Records of asks and broadcasts. Those of ended ones are kept for a while, as tombstones.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Id, Ms};
use crate::wire::{Code, Member, State, Who};

/// How many milliseconds a tombstone is kept, and an ask that timed out may still be answered.
const KEEP: Ms = 3_600_000;
/// The limit of tombstones; the oldest are dropped.
const MAX: usize = 4_096;

/// The record of an ask or a broadcast, from its beginning until some time after its end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// The identities of asker and target. A broadcast has no target.
    pub asker: String,
    pub target: String,
    /// Their names when it was asked.
    pub from: String,
    pub to: String,
    pub thread: String,
    pub broadcast: Option<Id>,
    /// Whether it is for the person in front of the target, and not for its model.
    pub by_form: bool,
    /// The error, if it failed. An ended ask without an error and an answer was withdrawn, or its asker has left.
    pub code: Option<Code>,
    /// A digest of the answer, to distinguish a repeated answer from a different one.
    pub answer: Option<u64>,
    /// Whether the asker left before it learned of the end: if it comes back, it is told.
    pub untold: bool,
    /// The asks of a broadcast, so that a repeated request gets the same answer.
    pub members: Vec<Member>,
}

impl Record {
    pub fn of(asker: &Who) -> Record {
        Record { asker: asker.peer.clone(), from: asker.name.clone(), ..Record::default() }
    }

    /// The state after the end.
    pub fn state(&self) -> State {
        if self.code.is_none() && self.answer.is_some() { State::Replied } else { State::Ended }
    }
}

/// The asks that ended within the last hour, [`MAX`] at most.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct EndedAsks {
    pub by_id: BTreeMap<Id, Record>,
    /// Their ids and when they ended, oldest first.
    order: VecDeque<(Ms, Id)>,
}

impl EndedAsks {
    /// Inserts the tombstone of an ask that has none, and removes those that are too many or too old.
    pub fn insert(&mut self, now: Ms, id: Id, tombstone: Record) {
        self.by_id.insert(id.clone(), tombstone);
        self.order.push_back((now, id));
        while let Some((at, oldest)) = self.order.front()
            && (self.order.len() > MAX || now.saturating_sub(*at) > KEEP)
        {
            self.by_id.remove(oldest);
            self.order.pop_front();
        }
    }

    /// The ids of the asks of `identity` whose end it has not received.
    pub fn untold(&self, identity: &str) -> Vec<String> {
        let is_it = |t: &Record| t.untold && t.asker == identity;
        self.by_id.iter().filter(|(_, t)| is_it(t)).map(|(id, _)| id.to_string()).collect()
    }

    /// The tombstones with the time of their end, newest first.
    pub fn latest(&self) -> impl Iterator<Item = (&Id, Ms, &Record)> {
        self.order.iter().rev().filter_map(|(at, id)| Some((id, *at, self.by_id.get(id)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tombstone(to: &str) -> Record {
        let (asker, target, from, to) = ("a".to_owned(), "b".to_owned(), "a".to_owned(), to.to_owned());
        Record { asker, target, from, to, ..Record::default() }
    }

    #[test]
    fn oldest_tombstones_are_dropped_when_full_or_too_old() {
        let mut ended = EndedAsks::default();
        for n in 0..=MAX as u64 {
            ended.insert(n, Id::from(format!("ask{n}")), tombstone("x"));
        }
        assert!(!ended.by_id.contains_key("ask0") && ended.by_id.contains_key("ask1"));
        ended.insert(2 * KEEP, Id::from("late"), tombstone("late"));
        assert!(!ended.by_id.contains_key("ask4096") && ended.by_id.contains_key("late"));
    }
}
