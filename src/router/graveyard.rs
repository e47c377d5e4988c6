//! Asks that have ended: what is kept of them, and for how long.

use std::collections::{HashMap, VecDeque};

use super::{Id, Ms};
use crate::wire::Code;

/// What is kept of an ask that has ended.
#[derive(Debug, Clone)]
pub(super) struct Tombstone {
    /// The identities of the two.
    pub asker: String,
    pub target: String,
    pub to: String,
    pub broadcast: Option<Id>,
    /// How it failed.
    pub code: Option<Code>,
    /// What it was answered with, so that the same answer sent again is told from another one.
    pub answer: Option<u64>,
    /// Whether the news of the end reached the asker, or is on its way to it.
    pub told: bool,
    /// Whether the answer never got to the asker.
    pub wasted: bool,
    /// Whether a waiter printed the news of the end for an asker that was away, which no channel knows of then.
    pub printed: bool,
}

/// Ended asks, for a while: the oldest go first when it is full.
pub(super) struct Graveyard {
    by_id: HashMap<Id, (Ms, Tombstone)>,
    /// In the order of burial. An entry whose time is not that of the stone is of an earlier burial.
    order: VecDeque<(Ms, Id)>,
    room: usize,
    keep: Ms,
}

impl Graveyard {
    pub fn new(room: usize, keep: Ms) -> Self {
        Graveyard { by_id: HashMap::new(), order: VecDeque::new(), room, keep }
    }

    pub fn bury(&mut self, now: Ms, id: Id, stone: Tombstone) {
        while let Some((at, _)) = self.order.front()
            && (self.order.len() >= self.room || *at + self.keep < now)
        {
            let Some((at, old)) = self.order.pop_front() else { return };
            if self.by_id.get(&old).is_some_and(|(buried, _)| *buried == at) {
                self.by_id.remove(&old);
            }
        }
        let before = self.by_id.insert(id.clone(), (now, stone));
        if before.is_none_or(|(at, _)| at != now) {
            self.order.push_back((now, id));
        }
    }

    pub fn get(&self, id: &str) -> Option<&Tombstone> {
        self.by_id.get(id).map(|(_, stone)| stone)
    }

    pub fn get_mut(&mut self, id: &str) -> Option<&mut Tombstone> {
        self.by_id.get_mut(id).map(|(_, stone)| stone)
    }

    /// Takes one out; its place in the order falls away with time.
    pub fn exhume(&mut self, id: &str) -> Option<Tombstone> {
        self.by_id.remove(id).map(|(_, stone)| stone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stone(to: &str) -> Tombstone {
        let (asker, target, to) = ("a".to_owned(), "b".to_owned(), to.to_owned());
        Tombstone {
            asker,
            target,
            to,
            broadcast: None,
            code: None,
            answer: None,
            told: true,
            wasted: false,
            printed: false,
        }
    }

    #[test]
    fn the_oldest_go_first() {
        let mut yard = Graveyard::new(2, 1_000);
        for (now, id) in [(0, "one"), (1, "two"), (2, "three")] {
            yard.bury(now, Id::from(id), stone(id));
        }
        assert!(yard.get("one").is_none() && yard.get("two").is_some() && yard.get("three").is_some());
        yard.bury(1_002, Id::from("four"), stone("four"));
        assert!(yard.get("two").is_none() && yard.get("three").is_some());
    }

    #[test]
    fn what_was_exhumed_and_buried_again_is_young() {
        let mut yard = Graveyard::new(3, 1_000);
        yard.bury(0, Id::from("one"), stone("one"));
        yard.bury(1, Id::from("two"), stone("two"));
        assert!(yard.exhume("one").is_some() && yard.exhume("one").is_none());
        yard.bury(2, Id::from("one"), stone("again"));
        yard.bury(3, Id::from("three"), stone("three"));
        assert_eq!(yard.get("one").map(|s| s.to.as_str()), Some("again"));
        assert!(yard.order.len() <= 3);
    }
}
