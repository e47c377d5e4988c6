//! What the journal costs: the same work on a hub with it and on one without, in turns; and how long a restart replays.

use std::time::{Duration, Instant};

use crate::load::{ANSWER, QUESTION, pairs_per_second};
use crate::peer::Peer;
use crate::process::Hub;
use crate::report::{Times, quick, samples, verdict};

/// How many peers and open asks a restarted hub finds in its journal.
const PEERS: usize = 1000;

pub fn journal() {
    println!("\nThe journal: with it against without it, in turns");
    let (on, off) = (Hub::start(), Hub::start_with(&[("RELAY_JOURNAL", "off")]));
    let mut pairs = [&on, &off].map(|hub| (Peer::new(hub, false), Peer::new(hub, false)));
    let mut trips = [Times::default(), Times::default()];
    for _ in 0..samples(3000) {
        for ((asker, asked), times) in pairs.iter_mut().zip(&mut trips) {
            times.push(round_trip(asker, asked));
        }
    }
    let ratio = trips[0].median().as_secs_f64() / trips[1].median().as_secs_f64();
    println!(
        "ask and answer: {:.0} µs against {:.0} µs, {}",
        trips[0].median().as_secs_f64() * 1e6,
        trips[1].median().as_secs_f64() * 1e6,
        verdict(ratio <= 1.15, &format!("ratio {ratio:.2}, ≤ 1.15"))
    );
    drop(pairs);
    let time = Duration::from_millis(if quick() { 200 } else { 2000 });
    let mut rates = [0.0, 0.0];
    for _ in 0..3 {
        for (hub, rate) in [&on, &off].into_iter().zip(&mut rates) {
            *rate += pairs_per_second(hub, 20, time) / 3.0;
        }
    }
    let ratio = rates[0] / rates[1];
    println!(
        "pairs per second, 20 peers: {:.0} against {:.0}, {}",
        rates[0],
        rates[1],
        verdict(ratio >= 0.85, &format!("ratio {ratio:.2}, ≥ 0.85"))
    );
    restart();
}

fn round_trip(asker: &mut Peer, asked: &mut Peer) -> Duration {
    let (mut ask, mut reply, mut seen) = (Vec::new(), Vec::new(), Vec::new());
    asker.ask(&asked.name, QUESTION, &mut ask);
    let begin = Instant::now();
    asker.write(&ask);
    let push = asked.push();
    asked.take(&push, Some(ANSWER), &mut reply);
    asked.write(&reply);
    let push = asker.push();
    let took = begin.elapsed();
    asker.take(&push, None, &mut seen);
    asker.write(&seen);
    took
}

/// A hub that is killed with many peers and open asks, and how much longer the next one takes to listen than one that
/// begins anew.
fn restart() {
    let hub = Hub::start();
    let mut peers: Vec<Peer> = (0..PEERS).map(|_| Peer::new(&hub, false)).collect();
    for n in 0..PEERS {
        let (mut lines, to) = (Vec::new(), peers[(n + 1) % PEERS].name.clone());
        peers[n].ask(&to, QUESTION, &mut lines);
        peers[n].write(&lines);
        peers[(n + 1) % PEERS].push();
    }
    let dir = hub.kill();
    drop(peers);
    let size = std::fs::metadata(dir.path().join("hub.journal")).map_or(0, |m| m.len());
    let begin = Instant::now();
    let next = Hub::start_in(dir, &[]);
    let took = begin.elapsed();
    let begin = Instant::now();
    drop(Hub::start());
    let anew = begin.elapsed();
    drop(next);
    let replay = took.saturating_sub(anew);
    println!(
        "restart with {PEERS} peers and {PEERS} open asks: {:.1} ms more than a new hub takes ({:.1} ms), journal of {} KiB, {}",
        replay.as_secs_f64() * 1e3,
        anew.as_secs_f64() * 1e3,
        size / 1024,
        verdict(replay <= Duration::from_millis(50), "≤ 50 ms")
    );
}
