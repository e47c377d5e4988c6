//! What may come in by the hub's socket.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::driver::{DataDir, Raw, to_wire, until};
use crate::{all_is_well, hello, memory_of, pour, talk};

/// What is no message, and never was.
fn garbage() -> Vec<Vec<u8>> {
    let deep = |open: &str, n: usize| open.repeat(n).into_bytes();
    let mut all: Vec<Vec<u8>> = [
        "",
        " ",
        "\0",
        "\0\0\0\0",
        "null",
        "true",
        "0",
        "\"hello\"",
        "[]",
        "{}",
        "{",
        "}",
        "GET / HTTP/1.1",
        "{\"ask\":{}}",
        "{\"nonsense\":{\"id\":1}}",
        "{\"hello\":[{\"v\":2}]}",
        "{\"peers\":{\"id\":-1}}",
        "{\"peers\":{\"id\":1.5}}",
        "{\"peers\":{\"id\":1e999}}",
        "{\"peers\":{\"id\":18446744073709551616}}",
        "{\"peers\":{\"id\":\"1\"}}",
        "{\"peers\":{\"id\":null}}",
        "{\"peers\":{\"id\":1},\"stop\":{\"id\":1}}",
        "{\"peers\":{\"id\":1,\"id\":2}}",
        "{\"peers\":{\"id\":1}}{\"peers\":{\"id\":2}}",
        "{\"peers\":{\"id\":1}} x",
        "{\"rename\":{\"id\":1,\"name\":\"\\ud800\",\"exact\":true}}",
        "{\"rename\":{\"id\":1,\"name\":\"\\udc00\\ud800\",\"exact\":true}}",
        "{\"rename\":{\"id\":1,\"name\":\"a\nb\",\"exact\":true}}",
        "{\"rename\":{\"id\":1,\"name\":\"\\q\",\"exact\":true}}",
        "{\"seen\":{\"seen\":{\"0\":\"x\"}}}",
        "{\"activity\":{\"paths\":[\"carrier pigeon\"]}}",
        "{\"hook\":{\"id\":1,\"claude\":\"1-2-3\",\"event\":\"explode\"}}",
        "{\"ask\":{\"id\":1,\"ask_id\":\"ask_00000001\",\"to\":\"b\",\"text\":\"x\",\"timeout_ms\":-1}}",
        "{\"resume\":{\"held\":{\"what\":\"nothing\"}}}",
    ]
    .map(|line| line.as_bytes().to_vec())
    .into();
    all.push(b"\xff\xfe\xfd".to_vec());
    all.push(b"{\"rename\":{\"id\":1,\"name\":\"\xff\",\"exact\":true}}".to_vec());
    all.push(b"{\"rename\":{\"id\":1,\"name\":\"\xed\xa0\x80\",\"exact\":true}}".to_vec());
    all.push(b"{\"peers\":{\"id\":1,\"x\":\"\0\"}}".to_vec());
    all.push(deep("[", 100_000));
    all.push(deep("{\"peers\":", 50_000));
    all.push([b"{\"peers\":{\"id\":1,\"x\":".to_vec(), deep("[", 200_000), deep("]", 100_000)].concat());
    all.push([b"{\"register\":{\"id\":1,\"who\":".to_vec(), deep("{\"who\":", 50_000)].concat());
    all
}

#[test]
fn garbage_closes_only_its_own_connection() {
    let dir = DataDir::with(&[("RELAY_ASKS_PER_MIN", "0")]);
    dir.start_hub();
    let (mut ann, mut ben) = (dir.peer("ann"), dir.peer("ben"));
    for (n, line) in garbage().into_iter().enumerate() {
        let shown = String::from_utf8_lossy(&line[..line.len().min(60)]).into_owned();
        // As the first line, and after hello.
        for greeted in [false, true] {
            let mut raw = Raw::connect(&dir);
            if greeted {
                raw.hello();
            }
            pour(&raw, &line);
            pour(&raw, b"\n");
            assert_eq!(raw.hear_end().as_deref(), Some("bad_msg"), "{shown} (greeted: {greeted})");
        }
        talk(&mut ann, &mut ben, "ben", &format!("ask_{n:08}"));
    }
    for (event, most) in [("bad_msg", garbage().len()), ("refused", garbage().len())] {
        let logged = dir.logged(event).len();
        assert!((1..=most).contains(&logged), "{logged} {event}");
    }
    assert!(dir.logged("panic").is_empty());
}

#[test]
fn a_message_of_another_version_is_told_the_remedy() {
    let dir = DataDir::new();
    dir.start_hub();
    for v in [json!(0), json!(1), json!(3), json!(4_294_967_295_u32)] {
        let mut raw = Raw::connect(&dir);
        raw.say(&json!({"type": "hello", "v": v}));
        let error = raw.hear().expect("an error");
        assert_eq!(error["code"], "protocol_mismatch");
        assert!(error["message"].as_str().is_some_and(|m| m.contains("relay stop")), "{error}");
        assert_eq!(raw.hear_end(), None);
    }
    all_is_well(&dir);
}

/// A gigabyte from each of eight, and no newline in it.
#[test]
fn a_line_without_end_is_cut_at_four_mebibytes() {
    let dir = DataDir::new();
    dir.start_hub();
    let (hub, before) = (dir.hub(), memory_of(dir.hub()));
    let senders: Vec<_> = (0..8)
        .map(|n| {
            let mut raw = if n % 2 == 0 { Raw::connect(&dir) } else { dir.raw() };
            thread::spawn(move || {
                let chunk = vec![b'{'; 1 << 20];
                let taken = (0..1024).take_while(|_| pour(&raw, &chunk)).count();
                (taken, raw.hear_end())
            })
        })
        .collect();
    let mut most = before;
    while !senders.iter().all(thread::JoinHandle::is_finished) {
        most = most.max(memory_of(hub));
        thread::sleep(Duration::from_millis(5));
    }
    for sender in senders {
        let (taken, code) = sender.join().expect("a sender");
        assert!(taken < 8, "{taken} MiB were taken");
        assert_eq!(code.as_deref(), Some("bad_msg"));
    }
    assert!(most < before + 128, "{before} MiB grew to {most} MiB");
    all_is_well(&dir);
}

#[test]
fn connection_without_hello_is_closed_after_10_s() {
    let dir = DataDir::new();
    dir.start_hub();
    let started = Instant::now();
    let mut silent = Raw::connect(&dir);
    // One byte a second: the whole line must be there in time, not the next byte.
    let mut slow = Raw::connect(&dir);
    let writer = slow.stream().try_clone().expect("a socket");
    let dripping = thread::spawn(move || {
        let line = format!("{}{}\n", " ".repeat(40), hello());
        for byte in line.bytes() {
            if std::io::Write::write_all(&mut &writer, &[byte]).is_err() {
                return;
            }
            thread::sleep(Duration::from_millis(900));
        }
    });
    assert_eq!(silent.hear_end().as_deref(), Some("bad_msg"));
    assert_eq!(slow.hear_end().as_deref(), Some("bad_msg"));
    let took = started.elapsed();
    assert!((9..20).contains(&took.as_secs()), "{took:?}");
    dripping.join().expect("the slow sender");
    assert!(dir.logged("refused").len() >= 2);
    all_is_well(&dir);
}

/// Between whole lines one may take one's time, and nobody else waits for it.
#[test]
fn slow_sender_does_not_delay_others() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut slow = dir.raw();
    let request = to_wire(&json!({"type": "status", "id": 1})).to_string();
    for byte in request.bytes() {
        pour(&slow, &[byte]);
        all_is_well(&dir);
    }
    pour(&slow, b"\n");
    assert_eq!(slow.hear().expect("an answer")["type"], "ok");
}

#[test]
fn client_that_does_not_read_is_disconnected_and_its_asks_fail() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "0.2")]);
    dir.start_hub();
    let (mut ann, mut stuck) = (dir.peer("ann"), dir.peer("stuck"));
    let id = ann.begin(Raw::ask_as("ask_stuck001", "stuck", "hello?"));
    ann.end(id).expect("asked");
    // It asks for much and reads nothing of it.
    let hub = dir.hub();
    let mut most = 0;
    let deadline = Instant::now() + Duration::from_secs(30);
    let asks = format!("{}\n", to_wire(&json!({"type": "peers", "id": 7}))).repeat(1000);
    while Instant::now() < deadline && pour(&stuck, asks.as_bytes()) {
        most = most.max(memory_of(hub));
    }
    assert!(!dir.logged("peer_stalled").is_empty());
    assert!(most < 64, "{most} MiB");
    let failed = ann.take_push();
    assert_eq!((&failed["kind"], &failed["code"]), (&json!("failed"), &json!("peer_gone")));
    assert!(stuck.hear_end().is_none());
    all_is_well(&dir);
}

#[test]
fn repeated_or_premature_messages_are_refused() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut raw = dir.raw();
    raw.say(&hello());
    assert_eq!(raw.hear_end().as_deref(), Some("bad_msg"));

    let mut raw = dir.raw();
    for (request, code) in [
        (Raw::ask_as("ask_00000001", "ann", "?"), "not_registered"),
        (json!({"type": "reply", "ask_id": "ask_00000001", "text": "x"}), "not_registered"),
        (json!({"type": "rename", "name": "x", "exact": true}), "not_registered"),
        (
            json!({"type": "broadcast", "broadcast_id": "all_00000001", "text": "x", "scope": "machine", "timeout_ms": 1}),
            "not_registered",
        ),
    ] {
        assert_eq!(raw.refusal(request), code);
    }
    raw.register("ann");
    assert_eq!(raw.refusal(json!({"type": "register", "who": Raw::who("ann")})), "already_registered");
    raw.say(&hello());
    assert_eq!(raw.hear_end().as_deref(), Some("bad_msg"));
    all_is_well(&dir);
}

/// Each field at and past its bounds: an error with a code, never a dead hub.
#[test]
fn field_lengths_are_limited() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut ann = dir.peer("ann");
    let mut ben = dir.peer("ben");
    let long = "x".repeat(600_000);
    for (request, code) in [
        (json!({"type": "rename", "name": long, "exact": true}), "bad_args"),
        (json!({"type": "rename", "name": "", "exact": true}), "bad_args"),
        (Raw::ask_as("short", "ben", "?"), "bad_msg"),
        (Raw::ask_as(&"a".repeat(49), "ben", "?"), "bad_msg"),
        (Raw::ask_as("ask_\n000001", "ben", "?"), "bad_msg"),
        (Raw::ask_as("ask_00000001", &long, "?"), "peer_not_found"),
        (Raw::ask_as("ask_00000001", "", "?"), "peer_not_found"),
        (Raw::ask_as("ask_00000001", "ben", " \n "), "bad_args"),
        (Raw::ask_as("ask_00000001", "ann", "?"), "bad_args"),
        (json!({"type": "reply", "ask_id": long, "text": "x"}), "unknown_ask"),
        (json!({"type": "wait", "claude": "1-2-3", "process": long}), "bad_msg"),
        (json!({"type": "hook", "claude": long, "event": "stop"}), "bad_msg"),
        (json!({"type": "hook", "claude": "", "event": "stop"}), "bad_msg"),
        (json!({"type": "hook", "claude": "1-2-3", "event": "prompt", "turn": long}), "bad_msg"),
        (json!({"type": "hook", "claude": "1-2-3", "event": "permission", "ask_id": long}), "bad_msg"),
        (
            json!({"type": "ask", "ask_id": "ask_00000001", "to": "ben", "text": "x", "timeout_ms": u64::MAX}),
            "bad_args",
        ),
        (
            json!({"type": "ask", "ask_id": "ask_00000001", "to": "ben", "text": "x", "timeout_ms": 0}),
            "bad_args",
        ),
    ] {
        let shown: String = request.to_string().chars().take(100).collect();
        assert_eq!(ann.refusal(request), code, "{shown}");
    }
    for (field, value) in [
        ("name", json!("")),
        ("name", json!(long)),
        ("peer", json!("")),
        ("peer", json!("p\n1")),
        ("peer", json!("p".repeat(65))),
        ("secret", json!("")),
        ("secret", json!(long)),
        ("cwd", json!("")),
        ("cwd", json!(long)),
        ("repo", json!(long)),
        ("branch", json!(long)),
        ("claude", json!(long)),
        (
            "paths",
            json!(["socket", "socket", "socket", "socket", "socket", "socket", "socket", "socket", "socket"]),
        ),
    ] {
        let mut who = Raw::who("carl");
        who[field] = value;
        let mut raw = dir.raw();
        assert_eq!(raw.refusal(json!({"type": "register", "who": who})), "bad_msg", "{field}");
    }
    // What needs no answer gets none, and does nothing.
    let long = "x".repeat(300_000);
    ann.say(&json!({"type": "pushed", "push": long, "error": long}));
    ann.say(&json!({"type": "seen", "receipts": vec![("", "seen"); 100_000]}));
    ann.say(&json!({"type": "seen", "receipts": [(&long, "queued")]}));
    ann.say(&json!({"type": "activity", "branch": long, "session": long, "paths": vec!["socket"; 1000]}));
    talk(&mut ann, &mut ben, "ben", "ask_00000002");
    until("an empty hub", || {
        let status = ann.call(json!({"type": "status"})).expect("a status");
        (status["open_asks"] == 0).then_some(())
    });
}
