//! What happens when the hub dies, alone or together with a channel: to its peers it is a lost connection, and the next hub
//! has the state from the journal. Nobody has to do anything, and nothing is lost or doubled.

use serde_json::{Value, json};

use crate::driver::{Channel, DataDir, Raw, until};

fn no_rate_limit() -> DataDir {
    DataDir::with(&[("RELAY_ASKS_PER_MIN", "0")])
}

/// Nothing is open, nothing was pushed that was not taken, and `hubs` hubs have run, of which one is left.
pub fn all_settled(dir: &DataDir, channels: &[&Channel], hubs: usize) {
    for channel in channels {
        let peers = channel.peers();
        assert_eq!((&peers["asks"], &peers["owed"]), (&json!([]), &json!([])), "{}", channel.session);
        assert!(channel.pushes().is_empty(), "{}: {:?}", channel.session, channel.pushes());
    }
    dir.hub();
    assert_eq!(dir.logged("hub_started").len(), hubs);
}

fn both_are_back(a: &Channel, b: &Channel) {
    until("both", || (a.peer_names() == ["b"] && b.peer_names() == ["a"]).then_some(()));
}

pub fn owed(channel: &Channel) -> Vec<Value> {
    channel.peers()["owed"].as_array().expect("debts").iter().map(|d| d["ask_id"].clone()).collect()
}

#[test]
fn ask_outlives_the_hub_that_pushed_it() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    dir.kill_hub();
    b.reply(&ask_id, "in that very moment").ok();
    assert_eq!(a.take("reply", &ask_id).quoted(), "> in that very moment");
    all_settled(&dir, &[&a, &b], 2);
    assert_eq!((a.name(), b.name()), ("a".into(), "b".into()));
}

#[test]
fn ask_outlives_the_hub_that_had_it_queued() {
    let dir = DataDir::new();
    let a = dir.channel("a");
    // No path leads into this session, so the question waits for its next tool call.
    let b = dir.launch("b").env("RELAY_PUSH", "hook").start();
    b.initialize();
    b.peers();
    let asked = a.call("relay_ask", json!({"to": "b", "question": "after the crash?"})).ok();
    assert_eq!(asked["state"], "queued");
    let ask_id = asked["ask_id"].as_str().expect("an id");
    dir.kill_hub();
    until("the question", || {
        b.call("relay_peers", json!({})).text.contains("after the crash?").then_some(())
    });
    assert!(!b.call("relay_peers", json!({})).text.contains("after the crash?"), "once");
    b.reply(ask_id, "yes").ok();
    a.take("reply", ask_id);
    all_settled(&dir, &[&a, &b], 2);
}

#[test]
fn ask_that_was_seen_stays_seen() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    dir.hook("b", &json!({"hook_event_name": "SessionStart", "source": "startup"}));
    let ask_id = a.ask("b", "?");
    let ask = b.take("ask", &ask_id);
    let line = json!({"type": "user", "origin": {"kind": "channel"}, "message": ask.meta("push")});
    let transcript = dir.transcript(&[&line]);
    dir.hook("b", &json!({"hook_event_name": "PostToolUse", "transcript_path": transcript}));
    until("the receipt", || (a.peers()["asks"][0]["state"] == "seen").then_some(()));
    dir.kill_hub();
    both_are_back(&a, &b);
    assert_eq!(a.peers()["asks"][0]["state"], "seen");
    b.reply(&ask_id, "yes").ok();
    a.take("reply", &ask_id);
    all_settled(&dir, &[&a, &b], 2);
}

#[test]
fn reply_outlives_the_hub_that_could_not_hand_it_over() {
    let dir = DataDir::new();
    let b = dir.channel("b");
    let a = dir.launch("a").env("RELAY_PUSH", "hook").start();
    a.initialize();
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    b.reply(&ask_id, "the answer").ok();
    dir.kill_hub();
    until("the answer", || a.call("relay_peers", json!({})).text.contains("the answer").then_some(()));
    assert!(!a.call("relay_peers", json!({})).text.contains("the answer"), "once");
    all_settled(&dir, &[&a, &b], 2);
}

#[test]
fn ask_that_has_ended_stays_ended() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    b.reply(&ask_id, "!").ok();
    a.take("reply", &ask_id);
    for hubs in 2..5 {
        dir.kill_hub();
        both_are_back(&a, &b);
        all_settled(&dir, &[&a, &b], hubs);
    }
    assert_eq!(b.reply(&ask_id, "again").code(), "unknown_ask");
}

#[test]
fn calls_succeed_while_the_hub_dies() {
    let dir = no_rate_limit();
    let [a, b] = dir.channels(["a", "b"]);
    for round in 0..8 {
        let owed = b.ask("a", "?");
        a.take("ask", &owed);
        dir.kill_hub();
        match round % 4 {
            0 => drop(a.peers()),
            1 => drop(a.reply(&owed, "!").ok()),
            2 => drop(a.call("relay_rename", json!({"name": format!("round-{round}")})).ok()),
            _ => {
                // The target need not be back yet.
                let ask_id = a.ask("b", "are you back?");
                b.take("ask", &ask_id);
                b.reply(&ask_id, "I am").ok();
                a.take("reply", &ask_id);
            }
        }
        if round % 4 != 1 {
            a.reply(&owed, "!").ok();
        }
        b.take("reply", &owed);
        a.call("relay_rename", json!({"name": "a"})).ok();
    }
    all_settled(&dir, &[&a, &b], 9);
}

#[test]
fn broadcast_while_the_hub_dies_reaches_everyone() {
    let dir = no_rate_limit();
    let [a, b, c, d] = dir.channels(["a", "b", "c", "d"]);
    for _ in 0..5 {
        dir.kill_hub();
        let data = a.call("relay_broadcast", json!({"question": "?", "collect": false})).ok();
        let asks = data["asks"].as_array().expect("asks").clone();
        assert_eq!(asks.len(), 3, "{data}");
        for (channel, ask) in [&b, &c, &d].into_iter().zip(asks) {
            let ask_id = ask["ask_id"].as_str().expect("an id");
            channel.take("ask", ask_id);
            channel.reply(ask_id, "here").ok();
            a.take("reply", ask_id);
        }
        a.take("summary", data["broadcast_id"].as_str().expect("an id"));
    }
    all_settled(&dir, &[&a, &b, &c, &d], 6);
}

#[test]
fn broadcast_outlives_hubs_and_gets_one_summary() {
    let dir = no_rate_limit();
    let [a, b, c, d] = dir.channels(["a", "b", "c", "d"]);
    let data = a.call("relay_broadcast", json!({"question": "?", "collect": false})).ok();
    let id = |n: usize| data["asks"][n]["ask_id"].as_str().expect("an id").to_owned();
    for (n, channel) in [&b, &c, &d].into_iter().enumerate() {
        channel.take("ask", &id(n));
        channel.reply(&id(n), "here").ok();
        a.take("reply", &id(n));
        dir.kill_hub();
    }
    let summary = a.take("summary", data["broadcast_id"].as_str().expect("an id"));
    assert!(summary.content.contains("3 of 3 answered"), "{}", summary.content);
    all_settled(&dir, &[&a, &b, &c, &d], 4);
}

#[test]
fn timeout_goes_on_counting_without_a_hub() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let asked = a.call("relay_ask", json!({"to": "b", "question": "?", "timeout_s": 2})).ok();
    let ask_id = asked["ask_id"].as_str().expect("an id");
    dir.kill_hub();
    assert_eq!(a.take("failed", ask_id).meta("code"), "timeout");
    dir.kill_hub();
    b.reply(ask_id, "late").ok();
    assert_eq!(a.take("reply", ask_id).meta("late"), "true");
}

#[test]
fn names_survive_in_whatever_order_peers_come_back() {
    let dir = DataDir::new();
    let same = dir.project("api");
    let all: Vec<Channel> = (0..4)
        .map(|n| {
            let channel = dir.launch(&format!("s{n}")).env("CLAUDE_PROJECT_DIR", &same).start();
            channel.initialize();
            channel.peers();
            channel
        })
        .collect();
    all[0].call("relay_rename", json!({"name": "chief"})).ok();
    for _ in 0..3 {
        dir.kill_hub();
        let names: Vec<String> = all.iter().map(Channel::name).collect();
        assert_eq!(names, ["chief", "api-2", "api-3", "api-4"]);
    }
}

#[test]
fn ask_stays_with_its_target_whoever_wants_that_name_at_the_next_hub() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    dir.start_hub();
    let (mut a, mut b) = (dir.peer("a"), dir.peer("b"));
    let asked = a.begin(Raw::ask_as("ask_12345678", "b", "?"));
    b.take_push();
    a.end(asked).expect("asked");
    dir.kill_hub();
    dir.start_hub();
    let mut other = Raw::who("other");
    other["name"] = json!("b");
    let mut c = dir.raw();
    assert_eq!(c.call(json!({"type": "register", "who": other})).expect("registered")["name"], "b-2");
    let reply = json!({"type": "reply", "ask_id": "ask_12345678", "text": "mine"});
    assert_eq!(c.refusal(reply.clone()), "unknown_ask");
    let (mut a, mut b) = (dir.peer("a"), dir.peer("b"));
    b.begin(reply);
    assert_eq!(a.take_push()["text"], "mine");
}

#[test]
fn stop_hands_over_without_loss() {
    let dir = no_rate_limit();
    let [a, b] = dir.channels(["a", "b"]);
    for round in 0..6 {
        let ask_id = a.ask("b", "?");
        if round % 2 == 0 {
            dir.stop_hub();
        } else {
            dir.raw().call(json!({"type": "stop"})).expect("done");
        }
        b.take("ask", &ask_id);
        b.reply(&ask_id, "!").ok();
        a.take("reply", &ask_id);
    }
    all_settled(&dir, &[&a, &b], 7);
}

#[test]
fn asker_and_hub_may_die_together() {
    let dir = no_rate_limit();
    let [mut a, b] = dir.channels(["a", "b"]);
    for _ in 0..3 {
        let ask_id = a.ask("b", "?");
        b.take("ask", &ask_id);
        a.kill();
        dir.kill_hub();
        a.start_again();
        b.reply(&ask_id, "!").ok();
        a.take("reply", &ask_id);
    }
    all_settled(&dir, &[&a, &b], 4);
}

#[test]
fn target_and_hub_may_die_together() {
    let dir = no_rate_limit();
    let [a, mut b] = dir.channels(["a", "b"]);
    for _ in 0..3 {
        let ask_id = a.ask("b", "?");
        b.take("ask", &ask_id);
        b.kill();
        dir.kill_hub();
        b.start_again();
        until("the debt", || (owed(&b) == [json!(ask_id)]).then_some(()));
        b.reply(&ask_id, "!").ok();
        a.take("reply", &ask_id);
    }
    all_settled(&dir, &[&a, &b], 4);
}

/// The author of an answer and the hub die right after the answer was taken: the hub's next life has it.
#[test]
fn reply_outlives_its_author_and_the_hub() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000"), ("RELAY_ASKS_PER_MIN", "0")]);
    let [mut a, mut b] = dir.channels(["a", "b"]);
    for _ in 0..3 {
        let ask_id = a.ask("b", "?");
        b.take("ask", &ask_id);
        a.kill();
        b.reply(&ask_id, "!").ok();
        b.kill();
        dir.kill_hub();
        a.start_again();
        a.take("reply", &ask_id);
        b.start_again();
    }
    all_settled(&dir, &[&a, &b], 4);
}

#[test]
fn hubs_that_keep_dying_hold_no_call_up_and_lose_no_reply() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    let [mut a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    a.kill(); // and does not come back: no hub can hand the answer over
    let registered = || dir.logged("register_ack").iter().filter(|line| line["name"] == "b").count();
    dir.kill_hub();
    let answer = b.begin_call("relay_reply", &json!({"ask_id": ask_id, "answer": "!"}));
    let mut lives = registered();
    until("the end of the call", || {
        // A hub lives until b is back, and no longer.
        if registered() > lives {
            lives = registered();
            dir.kill_hub();
        }
        b.has_answer(answer).then_some(())
    });
    let result = b.end_call(answer).expect("an answer");
    if result.is_error {
        assert!(result.text.contains("hubs have died while they had this request"), "{}", result.text);
        assert_eq!(result.code(), "hub_unreachable");
        b.reply(&ask_id, "!").ok();
    }
    a.start_again();
    a.take("reply", &ask_id);
    all_settled(&dir, &[&a, &b], dir.logged("hub_started").len());
}

#[test]
fn broadcast_outlives_its_askers_channel_and_the_hub() {
    for hub_dies in [false, true] {
        let dir = DataDir::new();
        let [mut a, b, c] = dir.channels(["a", "b", "c"]);
        let data = a.call("relay_broadcast", json!({"question": "?", "collect": false})).ok();
        let id = |n: usize| data["asks"][n]["ask_id"].as_str().expect("an id").to_owned();
        b.take("ask", &id(0));
        b.reply(&id(0), "before").ok();
        a.take("reply", &id(0));
        a.kill();
        if hub_dies {
            dir.kill_hub();
        }
        a.start_again();
        c.take("ask", &id(1));
        c.reply(&id(1), "after").ok();
        a.take("reply", &id(1));
        let summary = a.take("summary", data["broadcast_id"].as_str().expect("an id"));
        assert!(
            summary.content.contains("2 of 2 answered (b: answered, c: answered)"),
            "{}",
            summary.content
        );
        all_settled(&dir, &[&a, &b, &c], if hub_dies { 2 } else { 1 });
    }
}

#[test]
fn timeout_and_late_reply_outlive_the_askers_channel_and_the_hub() {
    for hub_dies in [false, true] {
        let dir = DataDir::new();
        let [mut a, b] = dir.channels(["a", "b"]);
        let asked = a.call("relay_ask", json!({"to": "b", "question": "?", "timeout_s": 1})).ok();
        let ask_id = asked["ask_id"].as_str().expect("an id");
        b.take("ask", ask_id);
        let next_life = |a: &mut Channel| {
            a.kill();
            if hub_dies {
                dir.kill_hub();
            }
            a.start_again();
        };
        next_life(&mut a);
        assert_eq!(a.take("failed", ask_id).meta("code"), "timeout");
        a.peers(); // the hub knows that it was pushed when it answers the next request
        next_life(&mut a);
        b.reply(ask_id, "late").ok();
        assert_eq!(a.take("reply", ask_id).meta("late"), "true");
        all_settled(&dir, &[&a, &b], if hub_dies { 3 } else { 1 });
    }
}

#[test]
fn client_that_comes_while_the_hub_leaves_loses_nothing() {
    let dir = DataDir::with(&[("RELAY_IDLE_EXIT_S", "0.1"), ("RELAY_ASKS_PER_MIN", "0")]);
    for round in 0..24 {
        let [mut a, mut b] = dir.channels(["a", "b"]);
        let ask_id = a.ask("b", "?");
        b.take("ask", &ask_id);
        b.reply(&ask_id, "!").ok();
        a.take("reply", &ask_id);
        assert!(a.close().success() && b.close().success());
        // Now the hub counts to 100 ms, and the next two come around that time.
        std::thread::sleep(std::time::Duration::from_millis(88 + round));
    }
    assert!(dir.logged("hub_started").len() > 1, "no hub ever left, so nothing was shown");
}

/// A broadcast by `a` to these, who have its asks.
fn broadcast_to(dir: &DataDir, a: &mut Raw, names: &[&str]) -> Vec<(Raw, String)> {
    let mut targets: Vec<Raw> = names.iter().map(|name| dir.peer(name)).collect();
    let all = json!({"type": "broadcast", "broadcast_id": "bc_12345678", "text": "?", "scope": "machine",
        "timeout_ms": 600_000});
    a.call(all).expect("asked");
    let asks: Vec<String> =
        targets.iter_mut().map(|t| t.take_push()["ask_id"].as_str().expect("an id").to_owned()).collect();
    targets.into_iter().zip(asks).collect()
}

#[test]
fn replies_that_come_before_their_asker_is_back_are_summed_up_once() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    dir.start_hub();
    let mut a = dir.peer("a");
    let names = ["b", "c", "d"];
    let asks: Vec<String> = broadcast_to(&dir, &mut a, &names).into_iter().map(|(_, id)| id).collect();
    dir.kill_hub();
    dir.start_hub();
    for (name, ask_id) in names.into_iter().zip(asks) {
        let answer = dir.peer(name).call(json!({"type": "reply", "ask_id": ask_id, "text": "here"}));
        assert_eq!(answer.expect("replied")["state"], "queued");
    }
    let mut a = dir.peer("a");
    let pushes: Vec<Value> = (0..4).map(|_| a.take_push()).collect();
    let kinds: Vec<&str> = pushes.iter().filter_map(|p| p["kind"].as_str()).collect();
    assert_eq!(kinds, ["reply", "reply", "reply", "summary"]);
    assert!(pushes[3]["text"].as_str().is_some_and(|t| t.contains("3 of 3 answered")), "{}", pushes[3]);
    a.call(json!({"type": "status"})).expect("a status");
    a.hang_up();
}

#[test]
fn debts_outlive_their_channel_and_the_hubs_that_follow() {
    let dir = no_rate_limit();
    let [a, mut b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    b.kill();
    b.start_again();
    for _ in 0..3 {
        dir.kill_hub();
        until("the debt", || (owed(&b) == [json!(ask_id)]).then_some(()));
    }
    // A reply while there is no hub waits for the next one.
    dir.kill_hub();
    b.reply(&ask_id, "!").ok();
    a.take("reply", &ask_id);
    all_settled(&dir, &[&a, &b], 5);
}
