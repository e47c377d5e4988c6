//! More clients than there is room for, and what they say that they lost.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::driver::{DataDir, Raw, until};
use crate::{all_is_well, is_logged, memory_of, talk, text_of};

/// How many connections this process may open, and leave some for the rest.
fn affordable(wanted: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("the limits of this process");
    let line = limits.lines().find(|l| l.starts_with("Max open files")).expect("its open files");
    let soft: usize = line.split_whitespace().nth(3).and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let fits = wanted.min(soft.saturating_sub(200));
    if fits < wanted {
        println!("only {fits} of {wanted} connections: `ulimit -n` is {soft}");
    }
    fits
}

/// Five thousand come, and most never say a word. Who is there already notices nothing; who comes is told to retry, and
/// is served when the silent ones have been closed.
#[test]
fn five_thousand_connections_do_not_disturb_connected_peers() {
    let dir = DataDir::new();
    dir.start_hub();
    let hub = dir.hub();
    let (mut ann, mut ben) = (dir.peer("ann"), dir.peer("ben"));
    let before = memory_of(hub);
    let crowd = affordable(5000);
    let mut silent = Vec::new();
    let mut worst = Duration::ZERO;
    for n in 0..crowd {
        silent.push(Raw::connect(&dir));
        if n % 500 == 0 {
            let started = Instant::now();
            talk(&mut ann, &mut ben, "ben", &format!("ask_{n:08}"));
            worst = worst.max(started.elapsed());
        }
    }
    assert!(worst < Duration::from_secs(2), "an ask took {worst:?}");
    let most = memory_of(hub);
    assert!(most < before + 256, "{before} MiB grew to {most} MiB");
    let ends: Vec<Option<String>> = silent.iter_mut().map(Raw::hear_end).collect();
    let refused = ends.iter().filter(|code| code.as_deref() == Some("overloaded")).count();
    let late = ends.iter().filter(|code| code.as_deref() == Some("bad_msg")).count();
    assert_eq!(refused + late, crowd, "each is told");
    if crowd == 5000 {
        assert!(refused >= 1000, "{refused} were over the limit");
        assert!(!dir.logged("too_many_connections").is_empty());
    }
    talk(&mut ann, &mut ben, "ben", "ask_after001");
    all_is_well(&dir);
    let after = memory_of(hub);
    assert!(after < before + 128, "{before} MiB, then {most} MiB, stayed at {after} MiB");
}

/// What a client says that it lost with an earlier hub ends at that client alone, and there is not much of it.
#[test]
fn lost_asks_are_its_own_and_bounded() {
    let dir = DataDir::new();
    dir.start_hub();
    let (mut ann, mut ben) = (dir.peer("ann"), dir.peer("ben"));
    let asked = ann.begin(Raw::ask_as("ask_secret01", "ben", "?"));
    ben.take_push();
    ann.end(asked).expect("asked");
    let lost = |name: &str, from: usize| {
        let invented = (from..from + 5000).map(|n| format!("ask_l{n:07}"));
        let all: Vec<String> = std::iter::once("ask_secret01".to_owned()).chain(invented).collect();
        json!({"type": "register", "who": Raw::who(name), "lost": all})
    };
    let before = memory_of(dir.hub());
    let mut eve = dir.raw();
    for n in 0..20 {
        eve = dir.raw();
        eve.call(lost("eve", n * 5000)).expect("registered");
    }
    let status = eve.call(json!({"type": "status"})).expect("a status");
    assert!(status["undelivered"].as_u64().is_some_and(|n| n <= 1024 + 256), "{status}");
    let after = memory_of(dir.hub());
    assert!(after < before + 64, "{before} MiB grew to {after} MiB");
    // Ann's ask is none of hers.
    let roster = ann.call(json!({"type": "peers"})).expect("a roster");
    assert_eq!(roster["asks"][0]["ask_id"], "ask_secret01");
    talk(&mut ann, &mut ben, "ben", "ask_after001");
    eve.hang_up();
    all_is_well(&dir);
}

/// The same for a client that invents others each time that it comes back, and takes nothing.
#[test]
fn lost_asks_of_a_client_that_comes_back_are_bounded() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut who = Raw::who("eve");
    who["fresh"] = json!(false);
    for round in 0..4 {
        let lost: Vec<String> = (0..1000).map(|n| format!("ask_{round}_{n:05}")).collect();
        dir.raw().call(json!({"type": "register", "who": who, "lost": lost})).expect("registered");
    }
    let status = dir.raw().call(json!({"type": "status"})).expect("a status");
    assert!(status["undelivered"].as_u64().is_some_and(|n| n <= 1024), "{status}");
    all_is_well(&dir);
}

/// As many as may watch; one that does not read what it watches is cut off, and nobody waits for it.
#[test]
fn watchers_are_limited_and_never_block_the_hub() {
    let dir = DataDir::with(&[("RELAY_ASKS_PER_MIN", "0")]);
    dir.start_hub();
    let (mut ann, mut ben) = (dir.peer("ann"), dir.peer("ben"));
    let mut watchers = Vec::new();
    let refused = loop {
        let mut raw = dir.raw();
        match raw.call(json!({"type": "watch"})) {
            Ok(_) => watchers.push(raw),
            Err(refused) => break refused,
        }
        assert!(watchers.len() <= 64, "{} may watch", watchers.len());
    };
    assert_eq!(refused.0, "overloaded");
    assert!(is_logged(&dir, "refused", "overloaded"));
    watchers.truncate(3);
    let text = text_of(512 << 10);
    let mut n = 0;
    until("the end of those who do not read", || {
        n += 1;
        let id = ann.begin(Raw::ask_as(&format!("ask_{n:08}"), "ben", &text));
        ben.take_push();
        ann.end(id).expect("asked");
        let id = ben.begin(json!({"type": "reply", "ask_id": format!("ask_{n:08}"), "text": "x"}));
        ann.take_push();
        ben.end(id).expect("replied");
        (dir.logged("peer_stalled").len() >= watchers.len()).then_some(())
    });
    all_is_well(&dir);
}

/// Hooks that speak of ever new processes push no living session's out.
#[test]
fn hooks_of_unknown_sessions_do_not_displace_real_ones() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut ben = dir.raw();
    let mut who = Raw::who("ben");
    (who["kind"], who["claude"], who["paths"]) = (json!("session"), json!("7-7-7"), json!(["inbox"]));
    ben.call(json!({"type": "register", "who": who})).expect("registered");
    let mut hook = dir.raw();
    hook.call(json!({"type": "hook", "claude": "7-7-7", "event": "stop"})).expect("heard");
    for n in 0..5000 {
        let _ = hook.call(json!({"type": "hook", "claude": format!("1-{n}-1"), "event": "start"}));
    }
    let mut waiters: Vec<Raw> = (0..50).map(|_| dir.raw()).collect();
    for (n, waiter) in waiters.iter_mut().enumerate() {
        let _ =
            waiter.call(json!({"type": "wait", "claude": format!("2-{n}-1"), "process": format!("3-{n}-1")}));
    }
    drop(waiters);
    let mut ann = dir.peer("ann");
    let roster = ann.call(json!({"type": "peers"})).expect("a roster");
    assert_eq!(roster["peers"][0]["activity"], "idle", "what its hook said is still known");
    hook.call(json!({"type": "hook", "claude": "8-8-8", "event": "start"})).expect("there is room");
}
