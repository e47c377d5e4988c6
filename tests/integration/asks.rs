//! Asks, replies and broadcasts between channels, and every way in which an ask can end.

use serde_json::json;

use crate::driver::{Channel, DataDir, Raw, until};

#[test]
fn an_ask_is_answered() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let asked = a.call("relay_ask", json!({"to": "B", "question": "what is 6 * 7?"})).ok();
    assert_eq!((&asked["to"], &asked["state"]), (&json!("b"), &json!("pushed")));
    let ask_id = asked["ask_id"].as_str().expect("an id");
    let ask = b.take("ask", ask_id);
    assert_eq!(
        (ask.from.as_str(), ask.meta("cwd")),
        ("a", a.peers()["self"]["cwd"].as_str().expect("a cwd"))
    );
    assert!(ask.content.starts_with("> what is 6 * 7?\n"), "{}", ask.content);
    assert!(ask.content.contains("relay_reply") && ask.content.contains(ask_id), "{}", ask.content);
    let replied = b.reply(ask_id, "42").ok();
    assert_eq!((&replied["ask_id"], &replied["to"]), (&json!(ask_id), &json!("a")));
    let reply = a.take("reply", ask_id);
    assert_eq!((reply.from.as_str(), reply.quoted(), reply.meta("late")), ("b", "> 42", ""));
    assert!(reply.content.ends_with("this session's question: what is 6 * 7?"), "{}", reply.content);
    assert_eq!((a.peers()["asks"].clone(), b.peers()["owed"].clone()), (json!([]), json!([])));
    assert!(a.pushes().is_empty() && b.pushes().is_empty(), "nothing comes twice");
}

#[test]
fn a_conversation_has_one_thread() {
    let dir = DataDir::with(&[("RELAY_LOG", "debug")]);
    let [a, b] = dir.channels(["a", "b"]);
    let made = a.call("relay_ask", json!({"to": "b", "question": "?"})).ok()["thread_id"].clone();
    assert!(made.as_str().is_some_and(|thread| thread.starts_with("thr_")), "{made}");
    for thread in [made.as_str().expect("text"), "the review of #4711", &"t".repeat(128)] {
        let asked = a.call("relay_ask", json!({"to": "b", "question": "?", "thread_id": thread}));
        assert!(asked.text.contains(&format!("thread_id {thread},")), "{}", asked.text);
        let asked = asked.ok();
        let ask_id = asked["ask_id"].as_str().expect("an id");
        assert_eq!(asked["thread_id"], thread);
        assert_eq!(b.take("ask", ask_id).meta("thread_id"), thread);
        let open =
            a.peers()["asks"].as_array().expect("asks").iter().find(|ask| ask["ask_id"] == ask_id).cloned();
        assert_eq!(open.expect("the ask")["thread"], thread);
        b.reply(ask_id, "!").ok();
        assert_eq!(a.take("reply", ask_id).meta("thread_id"), thread);
        for event in ["ask_received", "reply_received"] {
            assert!(
                dir.logged(event).iter().any(|line| line["ask_id"] == ask_id && line["thread"] == thread),
                "{event}"
            );
        }
    }
    // What the message could not show as it is would begin another conversation when it is passed back.
    for thread in ["", " a", "a\nb", "a \"b\"", "[a]", &"t".repeat(129)] {
        let refused = a.call("relay_ask", json!({"to": "b", "question": "?", "thread_id": thread}));
        assert!(refused.text.contains("`thread_id`"), "{}", refused.text);
        assert_eq!(refused.code(), "bad_args", "{thread:?}");
    }
    let other = a.call("relay_ask", json!({"to": "b", "question": "?"})).ok()["thread_id"].clone();
    assert_ne!(other, made, "a new conversation");
}

#[test]
fn both_may_ask_each_other_at_once() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let (one, two) = (a.ask("b", "ping"), b.ask("a", "pong"));
    b.take("ask", &one);
    a.take("ask", &two);
    a.reply(&two, "to two").ok();
    b.reply(&one, "to one").ok();
    assert_eq!(a.take("reply", &one).quoted(), "> to one");
    assert_eq!(b.take("reply", &two).quoted(), "> to two");
}

#[test]
fn a_text_of_512_kib_arrives_whole() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let text = "ü\u{1F600}\"\\/x".repeat(48_000);
    let text = &text[..text.floor_char_boundary(512 << 10)];
    let ask_id = a.ask("b", text);
    assert!(b.take("ask", &ask_id).content.starts_with(&format!("> {text}\n")));
    b.reply(&ask_id, text).ok();
    assert_eq!(a.take("reply", &ask_id).quoted(), format!("> {text}"));
}

#[test]
fn an_ask_takes_one_answer() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    b.reply(&ask_id, "first").ok();
    assert_eq!(b.reply(&ask_id, "second").code(), "unknown_ask");
    a.take("reply", &ask_id);
    a.peers();
    assert!(a.pushes().is_empty());
}

#[test]
fn only_who_was_asked_may_answer() {
    let dir = DataDir::new();
    let [a, b, thief] = dir.channels(["a", "b", "thief"]);
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    assert_eq!(thief.reply(&ask_id, "mine").code(), "unknown_ask");
    assert_eq!(a.reply(&ask_id, "my own").code(), "unknown_ask");
    b.reply(&ask_id, "theirs").ok();
    assert_eq!(a.take("reply", &ask_id).quoted(), "> theirs");
}

#[test]
fn an_ask_that_nobody_answers_times_out() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let asked = a.call("relay_ask", json!({"to": "b", "question": "?", "timeout_s": 1})).ok();
    let ask_id = asked["ask_id"].as_str().expect("an id");
    b.take("ask", ask_id);
    let failed = a.take("failed", ask_id);
    assert_eq!((failed.meta("code"), failed.from.as_str()), ("timeout", "b"));
    assert!(failed.content.starts_with("timeout: "), "{}", failed.content);
    assert!(failed.content.contains("late answer is still delivered"), "{}", failed.content);
    // What comes after all still holds work, and says that it is late.
    b.reply(ask_id, "sorry, was away").ok();
    let late = a.take("reply", ask_id);
    assert_eq!((late.meta("late"), late.from.as_str()), ("true", "b"));
    assert!(late.content.starts_with("> sorry, was away"), "{}", late.content);
    assert_eq!(b.reply(ask_id, "and another thing").code(), "unknown_ask");
}

#[test]
fn a_peer_that_says_goodbye_is_gone_at_once() {
    // The grace is longer than this test may take.
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    let [a, mut b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    b.close();
    let failed = a.take("failed", &ask_id);
    assert_eq!(failed.meta("code"), "peer_gone");
    assert_eq!(a.call("relay_ask", json!({"to": "b", "question": "?"})).code(), "peer_not_found");
}

#[test]
fn a_peer_that_dies_is_gone_after_the_grace() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "0.3")]);
    let [a, mut b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.kill();
    assert_eq!(a.take("failed", &ask_id).meta("code"), "peer_gone");
}

#[test]
fn an_answer_to_a_peer_that_left_is_peer_gone() {
    let dir = DataDir::new();
    let [mut a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    a.close();
    assert_eq!(b.reply(&ask_id, "too late").code(), "peer_gone");
    assert_eq!(b.peers()["owed"], json!([]));
}

#[test]
fn oneself_is_not_asked() {
    let dir = DataDir::new();
    let a = dir.channel("a");
    assert_eq!(a.call("relay_ask", json!({"to": "a", "question": "?"})).code(), "bad_args");
}

fn broadcast(from: &Channel, arguments: serde_json::Value) -> (String, Vec<(String, String)>) {
    let data = from.call("relay_broadcast", arguments).ok();
    let text = |v: &serde_json::Value| v.as_str().expect("text").to_owned();
    let asks = data["asks"].as_array().expect("asks").iter();
    (text(&data["broadcast_id"]), asks.map(|a| (text(&a["to"]), text(&a["ask_id"]))).collect())
}

#[test]
fn a_broadcast_that_streams_brings_answers_and_one_summary() {
    let dir = DataDir::new();
    let [a, b, c] = dir.channels(["a", "b", "c"]);
    let (id, asks) = broadcast(&a, json!({"question": "all well?", "collect": false}));
    let names: Vec<&str> = asks.iter().map(|(to, _)| to.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
    for (channel, (_, ask_id)) in [&b, &c].into_iter().zip(&asks) {
        let ask = channel.take("ask", ask_id);
        assert_eq!((ask.meta("broadcast"), ask.meta("thread_id")), ("true", id.as_str()));
        channel.reply(ask_id, "yes").ok();
        let reply = a.take("reply", ask_id);
        assert_eq!((reply.meta("broadcast"), reply.meta("thread_id")), ("true", id.as_str()));
    }
    let summary = a.take("summary", &id);
    assert!(summary.content.contains("2 of 2 answered (b: answered, c: answered)"), "{}", summary.content);
    a.peers();
    assert!(a.pushes().is_empty(), "one summary");
}

#[test]
fn a_broadcast_that_collects_brings_all_answers_in_one_message() {
    let dir = DataDir::new();
    let [a, b, c] = dir.channels(["a", "b", "c"]);
    let (id, asks) = broadcast(&a, json!({"question": "all well?"}));
    for (channel, (to, ask_id)) in [&b, &c].into_iter().zip(&asks) {
        channel.take("ask", ask_id);
        channel.reply(ask_id, &format!("{to} is well")).ok();
    }
    let summary = a.take("summary", &id);
    let about = "answers this session's question: all well?";
    for part in [
        "b answers:\n> b is well\n",
        "c answers:\n> c is well\n",
        "2 of 2 answered (b: answered, c: answered)",
        about,
    ] {
        assert!(summary.content.contains(part), "{}", summary.content);
    }
    a.peers();
    assert!(a.pushes().is_empty(), "one message");
}

#[test]
fn a_broadcast_may_hand_over_what_is_in_before_its_end() {
    let dir = DataDir::new();
    let [a, b, c] = dir.channels(["a", "b", "c"]);
    let (id, asks) = broadcast(&a, json!({"question": "all well?", "collect_s": 1}));
    b.take("ask", &asks[0].1);
    b.reply(&asks[0].1, "b is well").ok();
    let notice = a.take("notice", &id);
    assert!(
        ["> b is well", "1 more", "question: all well?"].iter().all(|part| notice.content.contains(part)),
        "{}",
        notice.content
    );
    c.take("ask", &asks[1].1);
    c.reply(&asks[1].1, "c is well").ok();
    a.take("reply", &asks[1].1);
    assert!(a.take("summary", &id).content.contains("2 of 2 answered"));
}

#[test]
fn a_broadcast_reaches_its_asker_only_if_it_says_so() {
    let dir = DataDir::new();
    let a = dir.channel("a");
    let asked = |arguments| broadcast(&a, arguments).1.len();
    assert_eq!(asked(json!({"question": "?"})), 0);
    assert_eq!(asked(json!({"question": "?", "exclude_self": true})), 0);
    let (id, asks) = broadcast(&a, json!({"question": "?", "exclude_self": false}));
    assert_eq!(asks.len(), 1);
    a.take("ask", &asks[0].1);
    a.reply(&asks[0].1, "myself").ok();
    assert!(a.take("summary", &id).content.contains("> myself"));
}

#[test]
fn a_broadcasts_summary_names_who_did_not_answer_and_why() {
    let dir = DataDir::new();
    let [a, b, mut c, d] = dir.channels(["a", "b", "c", "d"]);
    let (id, asks) = broadcast(&a, json!({"question": "all well?", "collect": false, "timeout_s": 1}));
    for (channel, (_, ask_id)) in [&b, &c, &d].into_iter().zip(&asks) {
        channel.take("ask", ask_id);
    }
    b.reply(&asks[0].1, "yes").ok();
    c.close();
    let summary = a.take("summary", &id);
    for part in ["1 of 3 answered (", "b: answered", "c: peer_gone", "d: timeout"] {
        assert!(summary.content.contains(part), "{}", summary.content);
    }
    a.take("reply", &asks[0].1);
    assert!(a.pushes().is_empty(), "the summary stands for the failures: {:?}", a.pushes());
    // Late is late here, too.
    d.reply(&asks[2].1, "oh").ok();
    assert_eq!(a.take("reply", &asks[2].1).meta("late"), "true");
}

#[test]
fn a_broadcast_to_nobody_is_an_answer() {
    let dir = DataDir::new();
    let a = dir.channel("a");
    let (_, asks) = broadcast(&a, json!({"question": "hello?"}));
    assert!(asks.is_empty());
    a.peers();
    assert!(a.pushes().is_empty());
}

#[test]
fn an_ask_that_is_repeated_after_its_asker_was_given_up_tells_its_end() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "0")]);
    dir.start_hub();
    let (b, a) = (dir.peer("b"), dir.peer("a"));
    let mut observer = dir.raw();
    let asked = Raw::ask_as("ask_12345678", "b", "?");
    a.say(&{
        let mut first = asked.clone();
        first["id"] = json!(7);
        first
    });
    until("the ask", || {
        let list = observer.call(json!({"type": "asks"})).expect("a list");
        (list["open"][0]["ask_id"] == "ask_12345678").then_some(())
    });
    // Its answer is not read; the same process comes back after the grace, and asks again.
    a.hang_up();
    until("the end of the asker", || {
        let peers = observer.call(json!({"type": "peers"})).expect("peers")["peers"].to_string();
        (!peers.contains("\"a\"")).then_some(())
    });
    let mut a = dir.raw();
    let mut who = Raw::who("a");
    who["fresh"] = json!(false);
    a.call(json!({"type": "register", "who": who})).expect("registered");
    assert_eq!(a.call(asked).expect("a repeated request")["state"], "ended");
    let end = a.hear_type("push");
    assert_eq!((&end["kind"], &end["code"]), (&json!("failed"), &json!("hub_unreachable")));
    drop(b);
}

/// Else it would be open for its asker for good, and end again when a hub loses its state.
#[test]
fn a_broadcast_that_is_repeated_after_its_end_has_ended() {
    let dir = DataDir::new();
    dir.start_hub();
    let (mut a, mut b) = (dir.peer("a"), dir.peer("b"));
    let all = json!({"type": "broadcast", "broadcast_id": "bc_12345678", "text": "?", "scope": "machine", "timeout_ms": 60_000});
    a.call(all.clone()).expect("asked");
    let ask_id = b.take_push()["ask_id"].clone();
    b.call(json!({"type": "reply", "ask_id": ask_id, "text": "!"})).expect("replied");
    for kind in ["reply", "summary"] {
        let push = a.take_push();
        assert_eq!(push["kind"], kind);
        a.say(&json!({"type": "seen", "receipts": [[push["push"], "seen"]]}));
    }
    a.hang_up();
    let mut a = dir.raw();
    let mut who = Raw::who("a");
    who["fresh"] = json!(false);
    a.call(json!({"type": "register", "who": who})).expect("registered");
    a.call(all).expect("a repeated request");
    let end = a.hear_type("state");
    assert_eq!((&end["ask_id"], &end["state"]), (&json!("bc_12345678"), &json!("replied")));
    assert!(end["path"].is_string(), "{end}");
}
