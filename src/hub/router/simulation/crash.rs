//! The death of a hub, and the next one, which replays the journal.

use super::super::{Info, Ms, Router};
use super::world::{Plan, World, ids, info};
use crate::hub::journal;

/// The state of a router, as a journal has it.
pub fn snapshot(router: &Router) -> String {
    serde_json::to_string(router).expect("a router can be written as JSON")
}

/// What a journal restores.
pub fn replayed(journal: &[u8]) -> Router {
    let (_, mut router, records) = journal::read(journal).expect("a journal");
    journal::replay(&mut router, records).expect("a line that is whole is a record");
    router
}

/// A state that the hub had, for the comparison with what the journal restores.
struct Had {
    /// How long the journal was.
    length: usize,
    now: Ms,
    last_conn: u64,
    snapshot: String,
}

impl World {
    /// Begins the journal anew, with a snapshot.
    pub fn compact(&mut self) {
        self.journal.clear();
        journal::write_header(&mut self.journal, &self.hub).expect("a router can be written as JSON");
    }

    fn had(&self) -> Had {
        let (now, last_conn, snapshot) = (self.hub.now, self.hub.last_conn, snapshot(&self.hub));
        Had { length: self.journal.len(), now, last_conn, snapshot }
    }

    /// The hub dies in the middle of a batch: before its lines are in the journal, when a part of them is, or when all are
    /// and a part of what it said is written.
    pub fn crash(&mut self) {
        self.counts.crashes += 1;
        let Plan { lose, .. } = self.plan;
        let (mut batch, mut outputs, mut states) = (Vec::new(), Vec::new(), vec![self.had()]);
        for _ in 0..self.rng.below(4) {
            let busy: Vec<_> = self.links.iter().filter(|(_, l)| !l.up.is_empty()).map(|(c, _)| *c).collect();
            if busy.is_empty() {
                break;
            }
            let conn = *self.rng.pick(&busy);
            let Some(input) = self.next_input(conn) else { continue };
            let (effects, time) = (self.effects(&input), self.now - self.born);
            let step = journal::step(&mut self.hub, time, input, &mut self.journal);
            batch.push((self.journal.len(), effects));
            outputs.extend(step.outputs);
            states.push(self.had());
        }
        let (before, end) = (states[0].length, self.journal.len());
        let cut = match self.rng.below(3) {
            0 => before,
            1 => before + self.rng.below(end - before + 1),
            _ => end,
        };
        self.log(|| format!("THE HUB CRASHES with {cut} of {before} to {end} bytes of its journal"));
        self.journal.truncate(cut);
        let dead = states.into_iter().rev().find(|s| s.length <= cut).expect("the first one");
        self.hub = replayed(&self.journal);
        // Inputs that change nothing else are not recorded.
        (self.hub.now, self.hub.last_conn) = (dead.now, dead.last_conn);
        assert_eq!(snapshot(&self.hub), dead.snapshot, "the replayed router differs from the dead one");
        batch.into_iter().filter(|(at, _)| *at <= cut).for_each(|(_, effects)| self.apply(effects));
        if cut == end {
            outputs.truncate(self.rng.below(outputs.len() + 1));
            self.send(outputs);
        }
        self.lose_connections();
        let is_brief = self.rng.chance(90);
        self.now += self.rng.below(if is_brief { 300 } else { 20_000 }) as Ms;
        if lose && self.rng.chance(20) {
            self.lose_journal();
        } else {
            let info = Info { started: self.now - self.born, ..info(self.epoch) };
            self.hub.restart(self.limits.clone(), info, ids(self.counts.crashes));
        }
        self.compact();
        if !is_brief {
            self.settle(); // everybody has met the end by now
        }
        (0..self.peers.len()).for_each(|i| self.expire(i));
        self.excuse_unknown();
    }

    /// What was on its way to the hub is lost; what the hub had written may still be read.
    fn lose_connections(&mut self) {
        for link in self.links.values_mut() {
            link.up.clear();
            let said = link.down.len();
            link.down.truncate(self.rng.below(said + 1).max(said / 2));
            (link.open, link.shut) = (false, true);
            link.unanswered.clear();
        }
        let gone: Vec<_> = self.links.iter().filter(|(_, l)| l.gone).map(|(conn, _)| *conn).collect();
        gone.into_iter().for_each(|conn| self.remove_link(conn));
    }

    /// The next hub finds no journal.
    fn lose_journal(&mut self) {
        self.log(|| "THE JOURNAL IS LOST".to_owned());
        self.epoch += 1;
        self.born = self.now;
        for (id, truth) in &mut self.truths {
            let client = self.peers[truth.asker].client.as_ref();
            truth.journal_lost |= truth.ends.is_empty() || client.is_some_and(|c| c.waits_for(id));
        }
        self.hub = Router::new(self.limits.clone(), info(self.epoch), ids(self.counts.crashes));
        self.seen.clear();
    }
}
