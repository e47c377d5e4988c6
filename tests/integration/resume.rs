//! What happens when a part dies: the hub, a channel, or both. Nobody has to do anything, and nothing is lost or doubled.

use serde_json::{Value, json};

use crate::driver::{Channel, DataDir, Raw, until};

fn no_rate_limit() -> DataDir {
    DataDir::with(&[("RELAY_ASKS_PER_MIN", "0")])
}

/// Both have what they should have, once, and there is one hub after `before`.
fn quiet(dir: &DataDir, channels: &[&Channel], hubs: usize) {
    for channel in channels {
        let peers = channel.peers();
        assert_eq!((&peers["asks"], &peers["owed"]), (&json!([]), &json!([])), "{}", channel.session);
        assert!(channel.pushes().is_empty(), "{}: {:?}", channel.session, channel.pushes());
    }
    dir.hub();
    assert_eq!(dir.logged("hub_started").len(), hubs);
}

#[test]
fn an_ask_outlives_the_hub_that_pushed_it() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    dir.kill_hub();
    b.reply(&ask_id, "in that very moment").ok();
    assert_eq!(a.take("reply", &ask_id).content, "> in that very moment");
    quiet(&dir, &[&a, &b], 2);
    assert_eq!((a.name(), b.name()), ("a".into(), "b".into()));
}

#[test]
fn an_ask_outlives_the_hub_that_had_it_queued() {
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
    quiet(&dir, &[&a, &b], 2);
}

#[test]
fn an_ask_that_was_seen_stays_seen() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    dir.hook("b", &json!({"hook_event_name": "SessionStart", "source": "startup"}));
    let ask_id = a.ask("b", "?");
    let ask = b.take("ask", &ask_id);
    dir.hook("b", &json!({"hook_event_name": "UserPromptSubmit", "prompt": ask.meta("push")}));
    assert_eq!(a.peers()["asks"][0]["state"], "seen");
    dir.kill_hub();
    until("both", || (a.peer_names() == ["b"] && b.peer_names() == ["a"]).then_some(()));
    assert_eq!(a.peers()["asks"][0]["state"], "seen");
    b.reply(&ask_id, "yes").ok();
    a.take("reply", &ask_id);
    quiet(&dir, &[&a, &b], 2);
}

#[test]
fn an_answer_outlives_the_hub_that_could_not_hand_it_over() {
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
    quiet(&dir, &[&a, &b], 2);
}

#[test]
fn what_is_over_stays_over() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    b.reply(&ask_id, "!").ok();
    a.take("reply", &ask_id);
    for hubs in 2..5 {
        dir.kill_hub();
        until("both", || (a.peer_names() == ["b"] && b.peer_names() == ["a"]).then_some(()));
        quiet(&dir, &[&a, &b], hubs);
    }
    assert_eq!(b.reply(&ask_id, "again").code(), "unknown_ask");
}

#[test]
fn every_call_succeeds_in_the_moment_of_the_hubs_death() {
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
                // Whoever is asked need not be back yet.
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
    quiet(&dir, &[&a, &b], 9);
}

#[test]
fn a_broadcast_in_the_moment_of_the_hubs_death_reaches_everyone() {
    let dir = no_rate_limit();
    let [a, b, c, d] = dir.channels(["a", "b", "c", "d"]);
    for _ in 0..5 {
        dir.kill_hub();
        let data = a.call("relay_broadcast", json!({"question": "?"})).ok();
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
    quiet(&dir, &[&a, &b, &c, &d], 6);
}

#[test]
fn a_broadcast_outlives_hubs_and_is_summed_up_once() {
    let dir = no_rate_limit();
    let [a, b, c, d] = dir.channels(["a", "b", "c", "d"]);
    let data = a.call("relay_broadcast", json!({"question": "?"})).ok();
    let id = |n: usize| data["asks"][n]["ask_id"].as_str().expect("an id").to_owned();
    for (n, channel) in [&b, &c, &d].into_iter().enumerate() {
        channel.take("ask", &id(n));
        channel.reply(&id(n), "here").ok();
        a.take("reply", &id(n));
        dir.kill_hub();
    }
    let summary = a.take("summary", data["broadcast_id"].as_str().expect("an id"));
    assert!(summary.content.contains("3 of 3 answered"), "{}", summary.content);
    quiet(&dir, &[&a, &b, &c, &d], 4);
}

#[test]
fn a_timeout_goes_on_counting() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let asked = a.call("relay_ask", json!({"to": "b", "question": "?", "timeout_s": 2})).ok();
    let ask_id = asked["ask_id"].as_str().expect("an id");
    dir.kill_hub();
    assert_eq!(a.take("failed", ask_id).meta("code"), "timeout");
    // Its asker need not be back yet, which alone knows of it.
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
    quiet(&dir, &[&a, &b], 7);
}

fn owed(channel: &Channel) -> Vec<Value> {
    channel.peers()["owed"].as_array().expect("debts").iter().map(|d| d["ask_id"].clone()).collect()
}

#[test]
fn a_channel_that_is_killed_and_comes_back_is_the_same_peer() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    let [a, mut b] = dir.channels(["a", "b"]);
    b.call("relay_rename", json!({"name": "boris"})).ok();
    let debt = a.ask("boris", "what b owes");
    b.take("ask", &debt);
    let open = b.ask("a", "what b asked");
    a.take("ask", &open);
    b.kill();
    // In between both sides go on.
    a.reply(&open, "while you were away").ok();
    b.start_again();
    assert_eq!(b.name(), "boris");
    assert_eq!(b.take("reply", &open).content, "> while you were away");
    assert_eq!(owed(&b), [json!(debt)]);
    b.reply(&debt, "paid").ok();
    assert_eq!(a.take("reply", &debt).from, "boris");
    quiet(&dir, &[&a, &b], 1);
}

#[test]
fn a_channel_that_does_not_come_back_in_time_is_gone() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "0.2")]);
    let [a, mut b] = dir.channels(["a", "b"]);
    let to_b = a.ask("b", "?");
    b.take("ask", &to_b);
    let from_b = b.ask("a", "?");
    a.take("ask", &from_b);
    b.kill();
    assert_eq!(a.take("failed", &to_b).meta("code"), "peer_gone");
    assert_eq!(a.reply(&from_b, "!").code(), "peer_gone");
    b.start_again();
    assert_eq!(b.name(), "b", "its name was free");
    // Its own ask has an end, too, and that is told to the one who asked.
    assert_eq!(b.take("failed", &from_b).meta("code"), "hub_unreachable");
    quiet(&dir, &[&a, &b], 1);
}

#[test]
fn an_asker_and_the_hub_may_die_together() {
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
    quiet(&dir, &[&a, &b], 4);
}

#[test]
fn hubs_that_keep_dying_hold_no_answer_up() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    let [mut a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    a.kill(); // and does not come back: no hub can hand the answer over
    let back = || dir.logged("register_ack").iter().filter(|line| line["name"] == "b").count();
    dir.kill_hub();
    let answer = b.begin_call("relay_reply", &json!({"ask_id": ask_id, "answer": "!"}));
    let mut lives = back();
    until("the end of the call", || {
        // A hub lives until b is back, and no longer.
        if back() > lives {
            lives = back();
            dir.kill_hub();
        }
        b.has_answer(answer).then_some(())
    });
    b.end_call(answer).expect("an answer").ok();
    a.start_again();
    a.take("reply", &ask_id);
}

#[test]
fn an_asked_one_and_the_hub_may_die_together() {
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
    quiet(&dir, &[&a, &b], 4);
}

#[test]
fn a_broadcast_outlives_its_askers_channel() {
    let dir = DataDir::new();
    let [mut a, b, c] = dir.channels(["a", "b", "c"]);
    let data = a.call("relay_broadcast", json!({"question": "?"})).ok();
    let id = |n: usize| data["asks"][n]["ask_id"].as_str().expect("an id").to_owned();
    b.take("ask", &id(0));
    b.reply(&id(0), "before").ok();
    a.take("reply", &id(0));
    a.kill();
    a.start_again();
    c.take("ask", &id(1));
    c.reply(&id(1), "after").ok();
    a.take("reply", &id(1));
    let summary = a.take("summary", data["broadcast_id"].as_str().expect("an id"));
    assert!(summary.content.contains("2 of 2 answered (b, c)"), "{}", summary.content);
    quiet(&dir, &[&a, &b, &c], 1);
}

#[test]
fn a_broadcast_outlives_its_askers_channel_and_the_hub() {
    let dir = DataDir::new();
    let [mut a, b, c] = dir.channels(["a", "b", "c"]);
    let data = a.call("relay_broadcast", json!({"question": "?"})).ok();
    let id = |n: usize| data["asks"][n]["ask_id"].as_str().expect("an id").to_owned();
    b.take("ask", &id(0));
    b.reply(&id(0), "before").ok();
    a.take("reply", &id(0));
    a.kill();
    dir.kill_hub();
    a.start_again();
    c.take("ask", &id(1));
    c.reply(&id(1), "after").ok();
    a.take("reply", &id(1));
    let summary = a.take("summary", data["broadcast_id"].as_str().expect("an id"));
    assert!(summary.content.contains("2 of 2 answered (b, c)"), "{}", summary.content);
    quiet(&dir, &[&a, &b, &c], 2);
}

#[test]
fn a_timeout_outlives_its_askers_channel_and_so_does_a_late_answer() {
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
        a.peers(); // what it has pushed is in its diary when it does the next thing
        next_life(&mut a);
        b.reply(ask_id, "late").ok();
        assert_eq!(a.take("reply", ask_id).meta("late"), "true");
        quiet(&dir, &[&a, &b], if hub_dies { 3 } else { 1 });
    }
}

#[test]
fn a_second_channel_of_a_session_is_another_peer() {
    let dir = DataDir::new();
    let first = dir.channel("twin");
    let second = dir.channel("twin");
    assert_eq!((first.name(), second.name()), ("twin".into(), "twin-2".into()));
    let ask_id = first.ask("twin-2", "?");
    second.take("ask", &ask_id);
    second.reply(&ask_id, "!").ok();
    first.take("reply", &ask_id);
}

#[test]
fn a_reload_of_a_hooked_session_keeps_everything() {
    // Its stdin closes as at the end of a session, and only the hooks tell that it goes on.
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    let [a, mut b] = dir.channels(["a", "b"]);
    dir.hook("b", &json!({"hook_event_name": "SessionStart", "source": "startup"}));
    let debt = a.ask("b", "?");
    let ask = b.take("ask", &debt);
    dir.hook("b", &json!({"hook_event_name": "UserPromptSubmit", "prompt": ask.meta("push")}));
    b.close();
    b.start_again();
    assert_eq!((b.name(), owed(&b)), ("b".to_owned(), vec![json!(debt)]));
    b.reply(&debt, "!").ok();
    a.take("reply", &debt);
    // The end of the session is another matter.
    let last = a.ask("b", "?");
    dir.hook("b", &json!({"hook_event_name": "SessionEnd", "reason": "other"}));
    b.close();
    assert_eq!(a.take("failed", &last).meta("code"), "peer_gone");
}

#[test]
fn who_comes_while_the_hub_leaves_loses_nothing() {
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

#[test]
fn a_hub_that_hangs_is_told_from_one_that_works() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let hub = dir.hub();
    crate::driver::signal(hub, "STOP");
    let result = a.call("relay_peers", json!({}));
    crate::driver::signal(hub, "CONT");
    assert!(result.text.contains("does not answer"), "{}", result.text);
    assert_eq!(result.code(), "hub_unreachable");
    let ask_id = until("both", || (a.peer_names() == ["b"]).then(|| a.ask("b", "?")));
    b.take("ask", &ask_id);
    assert_eq!(dir.hub(), hub);
}

/// What an asker brings back of an open ask to `b`.
fn asked(ask_id: &str, broadcast: Option<&str>) -> Value {
    json!({"what": "asked", "ask_id": ask_id, "peer": "p-b", "to": "b", "state": "pushed", "age_ms": 10, "left_ms": 60_000,
        "broadcast": broadcast})
}

#[test]
fn an_answer_that_comes_back_after_its_asker_closes_the_broadcast() {
    let dir = DataDir::new();
    dir.start_hub();
    let (mut a, mut b) = (dir.raw(), dir.raw());
    a.say(&json!({"type": "resume", "held": {"what": "outcomes", "broadcast_id": "bc_12345678", "outcomes": []}}));
    a.say(&json!({"type": "resume", "held": asked("bc_12345678-p-b", Some("bc_12345678"))}));
    a.register("a");
    let replied =
        json!({"what": "replied", "ask_id": "bc_12345678-p-b", "peer": "p-a", "to": "a", "text": "here"});
    b.say(&json!({"type": "resume", "held": replied}));
    b.register("b");
    assert_eq!(a.take_push()["kind"], "reply");
    let summary = a.take_push();
    assert_eq!(summary["kind"], "summary");
    assert!(summary["text"].as_str().is_some_and(|t| t.contains("1 of 1 answered (b)")), "{summary}");
}

#[test]
fn answers_that_come_back_before_their_asker_are_summed_up_together() {
    let dir = DataDir::new();
    dir.start_hub();
    let mut targets = ["b", "c", "d"].map(|name| {
        let mut raw = dir.raw();
        let ask_id = format!("bc_12345678-p-{name}");
        let replied = json!({"what": "replied", "ask_id": ask_id, "peer": "p-a", "to": "a", "text": "here"});
        raw.say(&json!({"type": "resume", "held": replied}));
        raw.register(name);
        raw
    });
    let mut a = dir.raw();
    a.say(&json!({"type": "resume", "held": {"what": "outcomes", "broadcast_id": "bc_12345678", "outcomes": []}}));
    for name in ["b", "c", "d"] {
        let mut held = asked(&format!("bc_12345678-p-{name}"), Some("bc_12345678"));
        (held["peer"], held["to"]) = (json!(format!("p-{name}")), json!(name));
        a.say(&json!({"type": "resume", "held": held}));
    }
    a.register("a");
    let kinds: Vec<Value> =
        (0..4).map(|_| a.take_push()).inspect(|p| assert!(p["ask_id"].is_string())).collect();
    let summaries: Vec<&Value> = kinds.iter().filter(|p| p["kind"] == "summary").collect();
    assert_eq!(summaries.len(), 1);
    assert!(summaries[0]["text"].as_str().is_some_and(|t| t.contains("3 of 3 answered")), "{}", summaries[0]);
    targets.iter_mut().for_each(|t| drop(t.call(json!({"type": "status"}))));
}

#[test]
fn what_was_pushed_to_a_process_that_died_is_not_pushed_to_the_next() {
    let dir = DataDir::new();
    dir.start_hub();
    let (mut a, mut b) = (dir.raw(), dir.raw());
    let mut held = asked("ask_12345678", None);
    held["text"] = json!("?");
    a.say(&json!({"type": "resume", "held": held}));
    a.register("a");
    let mut who = Raw::who("b");
    (who["kind"], who["paths"]) = (json!("session"), json!(["channel"]));
    b.call(json!({"type": "register", "who": who})).expect("registered");
    b.call(json!({"type": "reply", "ask_id": "ask_12345678", "text": "it knew"})).expect("replied");
    assert_eq!(a.take_push()["text"], "it knew");
    b.call(json!({"type": "peers"})).expect("a roster");
    b.say(&json!({"type": "bye"}));
    while let Some(message) = b.hear() {
        assert_ne!(message["type"], "push", "{message}");
    }
}

#[test]
fn what_a_channel_owes_outlives_it_and_the_hubs_that_follow() {
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
    // An answer while there is no hub is kept until there is one.
    dir.kill_hub();
    b.reply(&ask_id, "!").ok();
    a.take("reply", &ask_id);
    quiet(&dir, &[&a, &b], 5);
}

fn given(ask_id: &str, state: &str, push: &str) -> Value {
    let parcel = json!({"push": push, "path": "socket", "kind": "ask", "ask_id": ask_id, "from": "a", "peer": "p-a",
        "cwd": "/", "text": "?", "receipt": true});
    json!({"what": "given", "parcel": parcel, "peer": "p-a", "state": state, "pushes": [[push, "socket"]], "age_ms": 10})
}

#[test]
fn of_two_that_were_given_an_ask_only_the_one_counts_that_its_asker_was_told_of() {
    for reply_first in [false, true] {
        let dir = DataDir::new();
        dir.start_hub();
        let (mut a, mut b, mut c) = (dir.raw(), dir.raw(), dir.raw());
        // The asker was told of `b`; `c` had the name before, has seen the question, and is the first to come back.
        c.say(&json!({"type": "resume", "held": given("ask_12345678", "seen", "push_of_c")}));
        c.register("c");
        b.say(&json!({"type": "resume", "held": given("ask_12345678", "pushed", "push_of_b")}));
        b.register("b");
        let reply =
            |text: &str| json!({"type": "reply", "ask_id": "ask_12345678", "text": format!("from {text}")});
        if reply_first {
            assert_eq!(c.call(reply("c")).expect("kept")["state"], "queued");
            assert_eq!(b.call(reply("b")).expect("kept")["state"], "queued");
        }
        a.say(&json!({"type": "resume", "held": asked("ask_12345678", None)}));
        a.register("a");
        let told = c.hear_type("state");
        assert_eq!(
            (&told["kind"], &told["state"], &told["code"]),
            (&json!("ask"), &json!("ended"), &json!("peer_gone"))
        );
        if reply_first {
            let told = c.hear_type("state");
            assert_eq!((&told["kind"], &told["code"]), (&json!("reply"), &json!("peer_gone")));
        } else {
            let roster = a.call(json!({"type": "peers"})).expect("a roster");
            assert_eq!(roster["asks"][0]["state"], "pushed", "{roster}");
            assert_eq!(c.refusal(reply("c")), "unknown_ask");
            b.begin(reply("b"));
        }
        let push = a.take_push();
        assert_eq!((&push["kind"], &push["text"]), (&json!("reply"), &json!("from b")));
    }
}
