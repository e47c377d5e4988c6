//! As many asks as the hub takes: pairs of peers with several asks under way each, driven by one thread that never waits
//! for one pair while another has something to do.

use std::time::{Duration, Instant};

use crate::peer::Peer;
use crate::process::Hub;

/// A usual question and answer.
pub const QUESTION: &str = "Did the shape of the auth token change in the last release, and if so, which claims were added or removed?";
pub const ANSWER: &str = "Yes: since 2.3 it has a `scope` claim (a list of strings) and no `role` any more.";

/// At most so many asks are under way in all.
const UNDER_WAY: usize = 640;

/// Some asks of one pair that go round together.
struct Batch {
    pair: usize,
    size: usize,
}

/// Pairs of asks and replies a second, all ended, with that many peers.
pub fn pairs_per_second(hub: &Hub, peers: usize, time: Duration) -> f64 {
    let mut pairs: Vec<(Peer, Peer)> =
        (0..peers / 2).map(|_| (Peer::new(hub, false), Peer::new(hub, false))).collect();
    // One pair is four batches, so that the hub has something to do while we read.
    let (batches, size) = match pairs.len() {
        1 => (4, 16),
        n => (1, (UNDER_WAY / n).clamp(1, 64)),
    };
    let batches: Vec<Batch> =
        (0..pairs.len() * batches).map(|n| Batch { pair: n % pairs.len(), size }).collect();
    let mut lines: Vec<Vec<u8>> = batches.iter().map(|_| Vec::new()).collect();
    let (mut done, mut start, mut warm) = (0, Instant::now(), false);
    let end = start + time + time / 5;
    loop {
        for (batch, lines) in batches.iter().zip(&mut lines) {
            let (asker, asked) = &mut pairs[batch.pair];
            (0..batch.size).for_each(|_| asker.ask(&asked.name, QUESTION, lines));
            asker.write(lines);
            lines.clear();
        }
        for (batch, lines) in batches.iter().zip(&mut lines) {
            let asked = &mut pairs[batch.pair].1;
            for _ in 0..batch.size {
                let push = asked.push();
                asked.take(&push, Some(ANSWER), lines);
            }
            asked.write(lines);
            lines.clear();
        }
        // That these were seen goes out with the next asks.
        for (batch, lines) in batches.iter().zip(&mut lines) {
            let asker = &mut pairs[batch.pair].0;
            for _ in 0..batch.size {
                let push = asker.push();
                asker.take(&push, None, lines);
            }
            done += batch.size;
        }
        let now = Instant::now();
        if !warm && now >= start + time / 5 {
            (done, start, warm) = (0, now, true);
        }
        if now >= end {
            return done as f64 / start.elapsed().as_secs_f64();
        }
    }
}
