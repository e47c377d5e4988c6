//! Every error code of the design's table, reached through the front door. (`timeout` and `peer_gone` of asks are in
//! `asks`, `hub_unreachable` without a directory in `protocol`, mismatches between versions in `versions`.)

use serde_json::json;

use crate::driver::{Channel, DataDir, Raw};

fn code(channel: &Channel, tool: &str, arguments: serde_json::Value) -> String {
    channel.call(tool, arguments).code()
}

#[test]
fn of_the_tools() {
    let dir = DataDir::new();
    let [a, _b] = dir.channels(["a", "b"]);
    assert_eq!(code(&a, "relay_ask", json!({"to": "nobody", "question": "?"})), "peer_not_found");
    assert_eq!(code(&a, "relay_rename", json!({"name": "b"})), "name_taken");
    assert_eq!(
        code(&a, "relay_reply", json!({"ask_id": "ask_0123456789abcdef", "answer": "x"})),
        "unknown_ask"
    );
    assert_eq!(code(&a, "relay_ask", json!({"to": "b"})), "bad_args");
}

#[test]
fn not_registered() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut raw = dir.raw();
    for request in [
        Raw::ask_as("ask_12345678", "b", "?"),
        json!({"type": "reply", "ask_id": "ask_12345678", "text": "x"}),
        json!({"type": "broadcast", "broadcast_id": "bc_12345678", "text": "?", "scope": "machine", "timeout_ms": 1000}),
        json!({"type": "rename", "name": "x", "exact": true}),
    ] {
        assert_eq!(raw.refusal(request.clone()), "not_registered", "{request}");
    }
    // The roster is open to all who may open the socket.
    assert_eq!(raw.call(json!({"type": "peers"})).expect("a roster")["peers"], json!([]));
}

#[test]
fn already_registered_and_name_taken() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut raw = dir.peer("one");
    assert_eq!(raw.refusal(json!({"type": "register", "who": Raw::who("two")})), "already_registered");
    let mut exact = Raw::who("one");
    exact["exact"] = json!(true);
    exact["peer"] = json!("p-someone-else");
    assert_eq!(dir.raw().refusal(json!({"type": "register", "who": exact})), "name_taken");
}

#[test]
fn an_identity_is_not_taken_over_without_its_secret() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut one = dir.peer("one");
    let mut thief = Raw::who("one");
    thief["secret"] = json!("a guess");
    assert_eq!(dir.raw().refusal(json!({"type": "register", "who": thief})), "name_taken");
    assert_eq!(one.call(json!({"type": "peers"})).expect("a roster")["self"]["name"], "one");
}

#[test]
fn bad_msg_for_a_request_that_cannot_be() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut a = dir.peer("a");
    let _b = dir.peer("b");
    assert_eq!(a.refusal(Raw::ask_as("short", "b", "?")), "bad_msg");
    let mut who = Raw::who("c");
    who["name"] = json!("");
    assert_eq!(dir.raw().refusal(json!({"type": "register", "who": who})), "bad_msg");
}

#[test]
fn bad_args_for_what_the_tools_would_refuse() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut a = dir.peer("a");
    let _b = dir.peer("b");
    assert_eq!(a.refusal(Raw::ask_as("ask_12345678", "b", &"x".repeat((512 << 10) + 1))), "bad_args");
    assert_eq!(a.refusal(Raw::ask_as("ask_12345678", "b", " ")), "bad_args");
    let mut ask = Raw::ask_as("ask_12345678", "b", "?");
    ask["timeout_ms"] = json!(0);
    assert_eq!(a.refusal(ask), "bad_args");
}

#[test]
fn overloaded_by_asks_in_a_minute() {
    let dir = DataDir::new();
    let [a, _b, _c] = dir.channels(["a", "b", "c"]);
    for _ in 0..30 {
        a.ask("b", "?");
    }
    let refused = a.call("relay_ask", json!({"to": "b", "question": "?"}));
    assert!(refused.text.contains("30") && refused.text.contains("retry in"), "{}", refused.text);
    assert_eq!(refused.code(), "overloaded");
    a.ask("c", "another peer is another count");
}

#[test]
fn overloaded_by_open_asks() {
    let dir = DataDir::with(&[("RELAY_ASKS_PER_MIN", "0")]);
    let [a, b] = dir.channels(["a", "b"]);
    let ids: Vec<String> = (0..64).map(|_| a.ask("b", "?")).collect();
    let refused = a.call("relay_ask", json!({"to": "b", "question": "?"}));
    assert!(refused.text.contains("64"), "{}", refused.text);
    assert_eq!(refused.code(), "overloaded");
    b.reply(&ids[0], "done").ok();
    a.ask("b", "there is room again");
}

#[test]
fn overloaded_by_undelivered_messages() {
    let dir = DataDir::with(&[("RELAY_ASKS_PER_MIN", "0")]);
    dir.start_hub();
    // It reads, and never says that it has pushed anything.
    let _silent = dir.peer("silent");
    let mut askers: Vec<Raw> = (0..5).map(|n| dir.peer(&format!("asker-{n}"))).collect();
    let mut refusals = Vec::new();
    for n in 0..5 * 52 {
        let (asker, ask) = (n % 5, Raw::ask_as(&format!("ask_undelivered{n}"), "silent", "?"));
        let id = askers[asker].begin(ask);
        refusals.push((asker, id));
    }
    let refused: Vec<_> =
        refusals.into_iter().filter_map(|(asker, id)| askers[asker].end(id).err()).collect();
    assert_eq!(refused.len(), 4, "260 asks for 256 places: {refused:?}");
    assert!(refused.iter().all(|(code, why)| code == "overloaded" && why.contains("256")), "{refused:?}");
}

#[test]
fn overloaded_by_peers() {
    // Whoever left without a word keeps its place for as long as this test takes.
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    dir.start_hub();
    for n in 0..1024 {
        dir.peer(&format!("peer-{n}")).hang_up();
    }
    let (code, why) =
        dir.raw().call(json!({"type": "register", "who": Raw::who("one-more")})).expect_err("full");
    assert!(code == "overloaded" && why.contains("1024"), "{code}: {why}");
}
