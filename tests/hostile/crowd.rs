//! More clients than there is room for, and what they say that they had before.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::driver::{DataDir, Raw, until};
use crate::{all_is_well, is_logged, memory_of, pour, talk, text_of};

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
fn five_thousand_connections_hurt_nobody_who_is_there() {
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

/// What a connection says that it holds, for a peer that was never here.
fn asked(n: usize, peer: &str, to: &str, text: &str) -> Value {
    json!({"type": "resume", "held": {"what": "asked", "ask_id": format!("ask_f{n:07}"), "peer": peer, "to": to,
        "text": text, "state": "queued", "age_ms": 0, "left_ms": 600_000}})
}

/// A thousand asks to peers that never were. Others can still come, by their names.
#[test]
fn invented_peers_take_no_place_and_no_name() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "60")]);
    dir.start_hub();
    let mut eve = dir.raw();
    for n in 0..2000 {
        eve.say(&asked(n, &format!("ghost{n}"), &format!("ghost{n}"), "boo"));
    }
    for name in ["ann", "ben"] {
        eve.say(&asked(7_000 + name.len(), &format!("not-{name}"), name, "boo"));
    }
    eve.register("eve");
    let mut all: Vec<Raw> = (0..100).map(|n| dir.peer(&format!("peer{n}"))).collect();
    let (first, rest) = all.split_at_mut(1);
    talk(&mut first[0], &mut rest[0], "peer1", "ask_00000001");
    let roster = first[0].call(json!({"type": "peers"})).expect("a roster");
    assert_eq!(roster["peers"].as_array().map(Vec::len), Some(100), "ghosts are not shown");
    eve.say(&json!({"type": "bye"}));
}

/// Invented asks to a peer that is here do not pass the limits that real ones have.
#[test]
fn a_resume_does_not_pass_the_limits() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut ben = dir.peer("ben");
    let mut eve = dir.raw();
    for n in 0..1000 {
        eve.say(&asked(n, "p-ben", "ben", "boo"));
    }
    eve.register("eve");
    let status = ben.call(json!({"type": "status"})).expect("a status");
    let open = status["open_asks"].as_u64().expect("a number");
    assert!(open <= 64, "{open} asks were opened");
    let roster = eve.call(json!({"type": "peers"})).expect("a roster");
    assert_eq!(roster["asks"].as_array().map(Vec::len), Some(open as usize));
}

/// As much as a resume may hold, from several at once, and more: memory stays bounded and others are served meanwhile.
#[test]
fn a_resume_is_bounded() {
    let dir = DataDir::new();
    dir.start_hub();
    let hub = dir.hub();
    let before = memory_of(hub);
    let (mut ann, mut ben) = (dir.peer("ann"), dir.peer("ben"));
    let held = json!({"what": "given", "parcel": {"push": "push_1", "path": "socket", "kind": "reply",
        "ask_id": "ask_00000001", "from": "x", "text": text_of(1_000_000)}, "state": "pushed", "pushes": [], "age_ms": 0});
    let large = format!("{}\n", json!({"type": "resume", "held": held}));
    let mut most = 0;
    // More than one may hold, and then more than all may hold together.
    for round in 0..2 {
        let mut eve = dir.raw();
        assert!((0..400).any(|_| !pour(&eve, large.as_bytes())), "all of it was taken");
        assert_eq!(eve.hear_end().as_deref(), Some("bad_msg"));
        talk(&mut ann, &mut ben, "ben", &format!("ask_r{round:07}"));
        most = most.max(memory_of(hub));
    }
    assert!(most < before + 128, "{before} MiB grew to {most} MiB");
    let crowd: Vec<Raw> = (0..8).map(|_| dir.raw()).collect();
    for raw in &crowd {
        (0..50).all(|_| pour(raw, large.as_bytes()));
    }
    talk(&mut ann, &mut ben, "ben", "ask_crowd001");
    let most = memory_of(hub);
    assert!(most < before + 384, "{before} MiB grew to {most} MiB");
    crowd.into_iter().for_each(Raw::hang_up);
    // Many small ones.
    let mut eve = dir.raw();
    let small = format!(
        "{}\n",
        json!({"type": "resume", "held": {"what": "asking", "id": "ask_00000001", "left_ms": 1}})
    );
    pour(&eve, small.repeat(20_000).as_bytes());
    assert_eq!(eve.hear_end().as_deref(), Some("bad_msg"));
    // And labels that are none.
    let long = text_of(5000);
    for label in ["ask_id", "peer", "to", "broadcast"] {
        let mut held = json!({"what": "asked", "ask_id": "ask_00000001", "peer": "p-ben", "to": "ben", "text": "x",
            "state": "queued", "age_ms": u64::MAX, "left_ms": u64::MAX, "broadcast": "all_00000001"});
        held[label] = json!(long);
        let mut eve = dir.raw();
        eve.say(&json!({"type": "resume", "held": held}));
        assert_eq!(eve.hear_end().as_deref(), Some("bad_msg"), "{label}");
    }
    all_is_well(&dir);
}

/// As many as may watch; one that does not read what it watches is cut off, and nobody waits for it.
#[test]
fn watchers_are_few_and_are_not_waited_for() {
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
    let text = text_of(64 << 10);
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
fn hooks_of_invented_sessions_push_nobody_out() {
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
        let _ = waiter.call(json!({"type": "wait", "claude": format!("2-{n}-1")}));
    }
    drop(waiters);
    let mut ann = dir.peer("ann");
    let roster = ann.call(json!({"type": "peers"})).expect("a roster");
    assert_eq!(roster["peers"][0]["activity"], "idle", "what its hook said is still known");
    hook.call(json!({"type": "hook", "claude": "8-8-8", "event": "start"})).expect("there is room");
}
