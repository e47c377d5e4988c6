//! Chaos on real processes: twenty channels that speak MCP ask, broadcast and answer while hubs and channels are killed and
//! started again, each alone or a hub and a channel at the same moment. Then every ask that was taken must have ended exactly
//! once at its asker, every ask whose model answers at once must have been answered, every answer that was taken must have
//! arrived exactly once, no call may have taken longer than the 10 s that it is promised, and nothing may be left.
//!
//! Every other session runs hooks as the plugin does, so that the hub gets receipts; the others are bare.
//!
//! `RELAY_CHAOS_S` is the length of each test in seconds (default 10), `RELAY_CHAOS_SEED` what the choices are made of (default
//! 1). With `RELAY_CHAOS_LOG` everything is logged, and the log is copied to that file.

#[path = "chaos/verdict.rs"]
mod verdict;
#[path = "chaos/world.rs"]
mod world;

mod driver;

use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use verdict::{Verdict, report};
use world::{Pace, World, lock};

/// What a call may take, at most: twice what is promised, since this machine may be busy with other things.
const LONGEST_CALL: Duration = Duration::from_secs(20);

fn run(pace: Pace) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let length = std::env::var("RELAY_CHAOS_S").ok().and_then(|s| s.parse().ok()).unwrap_or(10);
    let world = World::new(pace);
    let start = Instant::now();
    world.run(Duration::from_secs(length));
    let verdict = Verdict::of(&world);
    let report = report(&world, &verdict, start.elapsed());
    let _ = std::io::stderr().write_all(report.as_bytes()); // to be seen also where the test succeeds
    if let Some(path) = std::env::var_os("RELAY_CHAOS_LOG") {
        let lines = world.dir.log().into_iter().map(|line| format!("{line}\n"));
        let wrong = verdict.refused.iter().chain(&verdict.wrong).map(|what| format!("{what}\n"));
        std::fs::write(path, lines.chain(wrong).collect::<String>()).expect("a log");
    }
    assert!(verdict.wrong.is_empty(), "{:#?}", &verdict.wrong[..verdict.wrong.len().min(20)]);
    let taken = lock(&world.taken);
    assert!(taken.longest < LONGEST_CALL, "a call took {:?}", taken.longest);
    assert!(!taken.asks.is_empty() && world.hub_kills.load(Ordering::Relaxed) > 0);
}

#[test]
fn every_ask_ends_once_whatever_dies() {
    run(Pace { hub_ms: (150, 700), repeats: 12 });
}

/// Most hubs die before all sessions are back.
#[test]
fn every_ask_ends_once_though_hubs_live_for_milliseconds() {
    run(Pace { hub_ms: (20, 100), repeats: 32 });
}
