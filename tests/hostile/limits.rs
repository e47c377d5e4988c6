//! The limits of the design, one by one: an error that names it, and a line in the log.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::driver::{DataDir, Raw, to_wire, until};
use crate::{memory_of, pour, talk, text_of};

/// The refusal is `overloaded`, says what the limit is and when to retry, and is in the log.
fn overloaded(dir: &DataDir, refused: (String, String), names: &[&str]) {
    let (code, message) = refused;
    assert_eq!(code, "overloaded", "{message}");
    for name in names.iter().chain(&["limit", "retry"]) {
        assert!(message.contains(name), "{name:?} is not in {message:?}");
    }
    let logged = dir.logged("refused");
    let line = logged
        .iter()
        .find(|l| l["code"] == "overloaded")
        .unwrap_or_else(|| panic!("not in the log: {message}"));
    assert_eq!(line["level"], "warn");
    assert!(line["why"].as_str().is_some_and(|why| names.iter().all(|n| why.contains(n))), "{line}");
}

#[test]
fn a_text_has_512_kib_at_most() {
    let dir = DataDir::new();
    let [ann, ben] = dir.channels(["ann", "ben"]);
    let most = text_of(512 << 10);
    let over = text_of((512 << 10) + 1);
    let ask = ann.ask("ben", &most);
    assert!(ben.take("ask", &ask).content.contains(&most));
    for (tool, arguments) in [
        ("relay_ask", json!({"to": "ben", "question": over})),
        ("relay_broadcast", json!({"question": over})),
        ("relay_reply", json!({"ask_id": ask, "answer": over})),
    ] {
        let refused = ann.call(tool, arguments);
        assert!(refused.text.contains("524289 bytes exceed the limit of 524288"), "{}", refused.text);
        assert_eq!(refused.code(), "bad_args");
    }
    // The limit is in bytes, and the hub has it too.
    let mut raw = dir.peer("raw");
    for text in [over, "é".repeat((256 << 10) + 1)] {
        let (code, message) = raw.call(Raw::ask_as("ask_00000001", "ben", &text)).expect_err("too long");
        assert_eq!(code, "bad_args");
        assert!(message.contains("512 KiB"), "{message}");
    }
    assert!(
        dir.logged("refused")
            .iter()
            .any(|l| l["code"] == "bad_args" && l["why"].as_str().is_some_and(|w| w.contains("512 KiB")))
    );
}

#[test]
fn an_asker_has_64_open_asks_at_most() {
    let dir = DataDir::with(&[("RELAY_ASKS_PER_MIN", "0")]);
    dir.start_hub();
    let (mut ann, mut ben) = (dir.peer("ann"), dir.peer("ben"));
    for n in 0..64 {
        let id = ann.begin(Raw::ask_as(&format!("ask_{n:08}"), "ben", "?"));
        ben.take_push();
        ann.end(id).expect("asked");
    }
    let refused = ann.call(Raw::ask_as("ask_00000064", "ben", "?")).expect_err("full");
    overloaded(&dir, refused, &["64 open asks"]);
    let refused = ann
        .call(json!({"type": "broadcast", "broadcast_id": "all_00000001", "text": "x", "scope": "machine", "timeout_ms": 9}))
        .expect_err("full");
    overloaded(&dir, refused, &["64 open asks"]);
    let id = ben.begin(json!({"type": "reply", "ask_id": "ask_00000000", "text": "!"}));
    ann.take_push();
    ben.end(id).expect("replied");
    ann.call(Raw::ask_as("ask_00000064", "ben", "?")).expect("room again");
}

#[test]
fn a_target_has_256_undelivered_at_most() {
    let dir = DataDir::with(&[("RELAY_ASKS_PER_MIN", "0")]);
    dir.start_hub();
    let mut ben = dir.raw();
    let mut who = Raw::who("ben");
    (who["kind"], who["paths"]) = (json!("session"), json!(["hook"])); // and no waiter
    ben.call(json!({"type": "register", "who": who})).expect("registered");
    let mut askers: Vec<Raw> = (0..5).map(|n| dir.peer(&format!("asker{n}"))).collect();
    let mut begun = Vec::new();
    for n in 0..256 {
        begun.push((n / 64, askers[n / 64].begin(Raw::ask_as(&format!("ask_{n:08}"), "ben", "?"))));
    }
    for (asker, id) in begun {
        assert_eq!(askers[asker].end(id).expect("asked")["state"], "queued");
    }
    let refused = askers[4].call(Raw::ask_as("ask_00000256", "ben", "?")).expect_err("full");
    overloaded(&dir, refused, &["256 messages", "undelivered", "ben"]);
    // A broadcast passes such a target over, and says so.
    let sent = askers[4]
        .call(json!({"type": "broadcast", "broadcast_id": "all_00000001", "text": "x", "scope": "machine", "timeout_ms": 60_000}))
        .expect("sent");
    assert!(sent["asks"].as_array().is_some_and(|asks| asks.iter().any(|a| a["to"] == "ben")));
    let ended = askers[4].hear_type("state");
    assert_eq!((&ended["state"], &ended["code"]), (&json!("ended"), &json!("overloaded")));
    // The others have nothing to do with it.
    let (first, rest) = askers.split_at_mut(1);
    talk(&mut rest[3], &mut first[0], "asker0", "ask_00000999");
}

#[test]
fn one_peer_asks_another_30_times_a_minute_at_most() {
    let dir = DataDir::new();
    dir.start_hub();
    let (mut ann, mut ben, mut carl) = (dir.peer("ann"), dir.peer("ben"), dir.peer("carl"));
    for n in 0..30 {
        talk(&mut ann, &mut ben, "ben", &format!("ask_{n:08}"));
    }
    let refused = ann.call(Raw::ask_as("ask_00000030", "ben", "?")).expect_err("too many");
    overloaded(&dir, refused, &["30 asks", "within 60 s"]);
    // Another direction, and another target, are not counted.
    talk(&mut ben, &mut ann, "ann", "ask_00000031");
    talk(&mut ann, &mut carl, "carl", "ask_00000032");
    // Nor does a reconnect or a new name help.
    ann.call(json!({"type": "rename", "name": "anna", "exact": true})).expect("renamed");
    ben.call(json!({"type": "rename", "name": "benny", "exact": true})).expect("renamed");
    assert_eq!(ann.refusal(Raw::ask_as("ask_00000033", "benny", "?")), "overloaded");
    ann.hang_up();
    let mut ann = dir.raw();
    ann.call(json!({"type": "register", "who": Raw::who("ann")})).expect("registered");
    assert_eq!(ann.refusal(Raw::ask_as("ask_00000034", "benny", "?")), "overloaded");
}

/// Two models that can't stop: each answers a question with a question. The limit stops them; the answers get through.
#[test]
fn rate_limit_stops_two_sessions_from_looping() {
    let dir = DataDir::new();
    let [ann, ben] = dir.channels(["ann", "ben"]);
    let (mut asked, mut refused) = (0, 0);
    let mut turn = (&ann, &ben);
    while refused < 2 {
        let (from, to) = turn;
        let result = from.call("relay_ask", json!({"to": to.session, "question": "and you?"}));
        if result.is_error {
            assert!(result.text.contains("limit"), "{}", result.text);
            assert_eq!(result.code(), "overloaded");
            refused += 1;
        } else {
            asked += 1;
            let ask = result.ok()["ask_id"].as_str().expect("an id").to_owned();
            to.take("ask", &ask);
        }
        turn = (to, from);
        assert!(asked <= 60, "they spin");
    }
    assert_eq!(asked, 60);
    let instructions = ann.initialize()["instructions"].as_str().expect("instructions").to_owned();
    assert!(
        instructions.contains("must not keep each other busy") && instructions.contains("Don't ask back")
    );
}

#[test]
fn the_hub_has_1024_peers_at_most() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut peers: Vec<Raw> = (0..1024).map(|n| dir.peer(&format!("peer{n}"))).collect();
    let refused = dir.raw().call(json!({"type": "register", "who": Raw::who("late")})).expect_err("full");
    overloaded(&dir, refused, &["1024 peers"]);
    let (first, rest) = peers.split_at_mut(1);
    talk(&mut first[0], &mut rest[0], "peer1", "ask_00000001");
    let memory = memory_of(dir.hub());
    assert!(memory < 128, "{memory} MiB for 1,024 peers");
    first[0].say(&json!({"type": "bye"}));
    first[0].hear_end();
    let mut late = dir.raw();
    until("a place", || late.call(json!({"type": "register", "who": Raw::who("late")})).ok());
}

/// One connection says for a while what costs the hub most; what it holds does not grow.
#[test]
fn a_flood_by_one_peer_does_not_grow_the_hub() {
    let dir = DataDir::with(&[("RELAY_LOG", "info")]);
    dir.start_hub();
    let hub = dir.hub();
    let (mut ann, mut ben) = (dir.peer("ann"), dir.peer("ben"));
    for n in 0..20 {
        talk(&mut ann, &mut ben, "ben", &format!("ask_{n:08}"));
    }
    let before = memory_of(hub);
    let flood: [fn(u64) -> Value; 7] = [
        |n| json!({"type": "hook", "id": n, "claude": format!("1-{n}-1"), "event": "prompt"}),
        |n| json!({"type": "rename", "id": n, "name": format!("eve {n}"), "exact": false}),
        |n| json!({"type": "seen", "receipts": [[format!("push_{n:024}"), "seen"]]}),
        |n| json!({"type": "pushed", "push": format!("push_{n:024}"), "error": "x"}),
        |n| json!({"type": "ask", "id": n, "ask_id": format!("ask_{n:016}"), "to": "ben", "text": "x", "timeout_ms": 1}),
        |n| json!({"type": "reply", "id": n, "ask_id": format!("ask_{n:016}"), "text": "x"}),
        |n| json!({"type": "activity", "activity": if n % 2 == 0 { "idle" } else { "busy" }, "paths": ["socket", "hook"]}),
    ];
    let eve = dir.peer("eve");
    let mut reading = std::io::BufReader::new(eve.stream().try_clone().expect("a socket"));
    let reader = std::thread::spawn(move || std::io::copy(&mut reading, &mut std::io::sink()));
    for (kind, message) in flood.iter().enumerate() {
        let until = Instant::now() + Duration::from_millis(1500);
        let mut n = 0;
        while Instant::now() < until {
            let lines: String = (n..n + 200).map(|n| format!("{}\n", to_wire(&message(n)))).collect();
            assert!(pour(&eve, lines.as_bytes()), "kind {kind} cost the connection");
            n += 200;
        }
        talk(&mut ann, &mut ben, "ben", &format!("ask_x{kind:07}"));
        let after = memory_of(hub);
        assert!(after < before + 48, "kind {kind}, {n} messages: {before} MiB grew to {after} MiB");
    }
    eve.say(&json!({"type": "bye"}));
    reader.join().expect("the reader").expect("read to the end");
    let size: u64 = std::fs::read_dir(dir.path().join("logs"))
        .expect("logs")
        .map(|e| e.expect("a log").metadata().expect("its size").len())
        .sum();
    assert!(size <= 50 << 20, "the log has {size} bytes, which is over what it may have in a day");
}
