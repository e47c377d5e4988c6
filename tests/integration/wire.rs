//! The hub's socket and those who misuse it: each costs itself its connection, and nobody else anything.

use std::io::Write;
use std::net::Shutdown;

use serde_json::json;

use crate::driver::{DataDir, Raw, to_wire, until};

/// Two peers that go on talking whatever a third does.
struct Others {
    a: Raw,
    b: Raw,
    next: u32,
}

impl Others {
    fn new(dir: &DataDir) -> Self {
        dir.start_hub();
        Others { a: dir.peer("a"), b: dir.peer("b"), next: 0 }
    }

    fn still_talk(&mut self) {
        self.next += 1;
        let ask_id = format!("ask_others{}", self.next);
        let asked = self.a.begin(Raw::ask_as(&ask_id, "b", "still there?"));
        assert_eq!(self.b.take_push()["ask_id"], json!(ask_id));
        self.a.end(asked).expect("asked");
        let replied = self.b.begin(json!({"type": "reply", "ask_id": ask_id, "text": "yes"}));
        assert_eq!(self.a.take_push()["text"], "yes");
        self.b.end(replied).expect("replied");
    }
}

#[test]
fn a_first_line_that_is_no_hello_is_bad_msg() {
    let dir = DataDir::new();
    let mut others = Others::new(&dir);
    for line in ["garbage", "{}", "[]", "\u{0}\u{1}", r#"{"peers":{"id":1}}"#, r#"{"hello":{}}"#, ""] {
        let mut raw = Raw::connect(&dir);
        raw.say_bytes(format!("{line}\n").as_bytes()).expect("a hub");
        assert_eq!(raw.hear_end().as_deref(), Some("bad_msg"), "{line:?}");
        others.still_talk();
    }
    let mut raw = Raw::connect(&dir);
    raw.say_bytes(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("a hub");
    assert_eq!(raw.hear_end().as_deref(), Some("bad_msg"));
}

#[test]
fn another_version_is_a_mismatch_with_the_remedy() {
    let dir = DataDir::new();
    dir.start_hub();
    for v in [0, 1, 3, 4_000_000_000_u32] {
        let mut raw = Raw::connect(&dir);
        raw.say(&json!({"type": "hello", "v": v, "what": "else it says, we do not know"}));
        let error = raw.hear().expect("an error");
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("protocol_mismatch")));
        let message = error["message"].as_str().expect("a message");
        assert!(
            message.contains(&v.to_string())
                && message.contains("this hub 2")
                && message.contains("relay stop"),
            "{message}"
        );
        assert_eq!(raw.hear(), None);
    }
}

#[test]
fn garbage_after_hello_costs_the_connection_and_ends_the_peer() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "0")]);
    let mut others = Others::new(&dir);
    for line in ["garbage", "{\"dance\":{}}", "{\"ask\":{\"id\":1}}", "{\"peers\":{\"id\":-1}}", "\u{0}"] {
        let mut bad = dir.peer("bad");
        let ask = others.a.begin(Raw::ask_as(&format!("ask_bad{}", line.len()), "bad", "?"));
        bad.take_push();
        others.a.end(ask).expect("asked");
        bad.say_bytes(format!("{line}\n").as_bytes()).expect("a hub");
        assert_eq!(bad.hear_end().as_deref(), Some("bad_msg"), "{line}");
        let failed = others.a.take_push();
        assert_eq!((&failed["kind"], &failed["code"]), (&json!("failed"), &json!("peer_gone")), "{line}");
        others.still_talk();
    }
}

#[test]
fn unknown_fields_are_no_garbage() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut raw = dir.raw();
    assert!(raw.call(json!({"type": "status", "from": "the future"})).is_ok());
    let (open, close) = ("[".repeat(200_000), "]".repeat(200_000));
    raw.say_bytes(format!("{{\"status\":{{\"id\":77,\"x\":{open}{close}}}}}\n").as_bytes()).expect("a hub");
    assert_eq!(raw.hear_type("ok")["id"], 77, "however deep");
}

#[test]
fn a_line_over_4_mib_is_bad_msg() {
    let dir = DataDir::new();
    let mut others = Others::new(&dir);
    let mut bad = dir.peer("bad");
    let line = vec![b'x'; (4 << 20) + 1];
    let _ = bad.say_bytes(&line); // the hub may have closed before it had read all
    assert_eq!(bad.hear_end().as_deref(), Some("bad_msg"));
    let mut first = Raw::connect(&dir);
    let _ = first.say_bytes(&line);
    first.hear_end();
    others.still_talk();
}

#[test]
fn a_line_of_almost_4_mib_is_fine() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut raw = dir.raw();
    let padding = "x".repeat((4 << 20) - 100);
    assert!(raw.call(json!({"type": "status", "padding": padding})).is_ok());
}

#[test]
fn hello_twice_is_bad_msg() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut raw = dir.raw();
    raw.say(&json!({"type": "hello", "v": 2}));
    assert_eq!(raw.hear_end().as_deref(), Some("bad_msg"));
}

#[test]
fn who_never_says_hello_is_closed() {
    let dir = DataDir::new();
    let mut others = Others::new(&dir);
    let mut silent = Raw::connect(&dir);
    let mut slow = Raw::connect(&dir);
    slow.say_bytes(b"{\"hel").expect("a hub");
    others.still_talk();
    assert_eq!(silent.hear_end().as_deref(), Some("bad_msg"));
    assert_eq!(slow.hear_end().as_deref(), Some("bad_msg"));
    others.still_talk();
}

#[test]
fn a_slow_writer_holds_nobody_up_and_is_understood() {
    let dir = DataDir::new();
    let mut others = Others::new(&dir);
    let mut slow = dir.raw();
    for byte in
        format!("{}\n", to_wire(&json!({"type": "register", "id": 1, "who": Raw::who("slow")}))).bytes()
    {
        slow.say_bytes(&[byte]).expect("a hub");
        if byte == b'{' {
            others.still_talk();
        }
    }
    assert_eq!(slow.hear_type("ok")["answer"]["name"], "slow");
}

#[test]
fn a_half_closed_connection_is_a_closed_one() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "0")]);
    let mut others = Others::new(&dir);
    let mut half = dir.peer("half");
    half.stream().shutdown(Shutdown::Write).expect("a socket");
    assert_eq!(half.hear_end(), None);
    until("its end for the others", || {
        let roster = others.a.call(json!({"type": "peers"})).expect("a roster");
        (!roster.to_string().contains("\"half\"")).then_some(())
    });
    others.still_talk();
}

#[test]
fn a_reader_that_stalls_is_disconnected_and_its_asks_fail() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "0"), ("RELAY_ASKS_PER_MIN", "0")]);
    let mut others = Others::new(&dir);
    // It never reads a byte of what it watches and what it is asked.
    let stalled = dir.peer("stalled");
    stalled.say(&json!({"type": "watch", "id": 77}));
    let asked = others.a.begin(Raw::ask_as("ask_to_stalled", "stalled", "?"));
    others.a.end(asked).expect("asked");
    // The traffic of the others fills its queue, and they do not notice.
    let text = "x".repeat(500_000);
    let mut flood = 0;
    while dir.logged("peer_stalled").is_empty() {
        let ask_id = format!("ask_flood{flood}");
        let asked = others.a.begin(Raw::ask_as(&ask_id, "b", &text));
        others.b.take_push();
        others.a.end(asked).expect("asked");
        let replied = others.b.begin(json!({"type": "reply", "ask_id": ask_id, "text": "ok"}));
        while others.a.take_push()["ask_id"] != json!(ask_id) {}
        others.b.end(replied).expect("replied");
        flood += 1;
        assert!(flood < 10_000, "its queue is bounded");
    }
    drop(stalled);
    let roster = others.a.call(json!({"type": "peers"})).expect("a roster");
    assert!(!roster.to_string().contains("\"stalled\""), "{roster}");
    others.still_talk();
}

#[test]
fn a_flood_of_requests_by_one_is_served_and_hurts_nobody() {
    let dir = DataDir::new();
    let mut others = Others::new(&dir);
    let mut flooder = dir.raw();
    for id in 0..3000 {
        writeln!(flooder.stream(), "{}", to_wire(&json!({"type": "status", "id": id}))).expect("a hub");
    }
    others.still_talk();
    for id in 0..3000 {
        assert_eq!(flooder.hear().expect("an answer")["id"], id);
    }
}

#[test]
fn a_hundred_connections_that_come_and_go() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "0")]);
    let mut others = Others::new(&dir);
    for n in 0..100 {
        match n % 4 {
            0 => drop(Raw::connect(&dir)),
            1 => drop(dir.raw()),
            2 => drop(dir.peer("comes-and-goes")),
            _ => drop(Raw::connect(&dir).say_bytes(b"{\"he")),
        }
    }
    others.still_talk();
    until("the end of their threads", || {
        let status = others.a.call(json!({"type": "status"})).expect("a status");
        (status["connections"] == 2 && status["peers"] == 2).then_some(())
    });
}

/// The hub writes to it first, and finds nobody there.
#[test]
fn what_is_said_before_the_end_counts_though_nobody_hears_the_answers() {
    let dir = DataDir::with(&[("RELAY_ASKS_PER_MIN", "0")]);
    dir.start_hub();
    let mut b = dir.raw();
    b.register("b");
    let mut a = dir.raw();
    a.register("a");
    let mut lines = format!("{}\n", to_wire(&json!({"type": "status", "id": 90}))).repeat(40);
    for n in 0..15 {
        let mut ask = Raw::ask_as(&format!("ask_{n:08}"), "b", "?");
        ask["id"] = json!(100 + n);
        lines += &format!("{}\n", to_wire(&ask));
    }
    lines += "\"bye\"\n";
    a.say_bytes(lines.as_bytes()).expect("a hub that reads");
    drop(a);
    for n in 0..15 {
        assert_eq!(b.take_push()["ask_id"], json!(format!("ask_{n:08}")));
    }
}
