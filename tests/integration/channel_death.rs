//! What happens when a session's channel dies or is reloaded while its hub lives.

use serde_json::json;

use crate::driver::DataDir;
use crate::hub_death::{all_settled, owed};

#[test]
fn channel_that_is_killed_and_comes_back_is_the_same_peer() {
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
    assert_eq!(b.take("reply", &open).quoted(), "> while you were away");
    assert_eq!(owed(&b), [json!(debt)]);
    b.reply(&debt, "paid").ok();
    assert_eq!(a.take("reply", &debt).from, "boris");
    all_settled(&dir, &[&a, &b], 1);
}

#[test]
fn channel_that_does_not_come_back_in_time_is_gone() {
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
    // Its own ask has an end, too, and the session that asked is told.
    assert_eq!(b.take("failed", &from_b).meta("code"), "hub_unreachable");
    all_settled(&dir, &[&a, &b], 1);
}

#[test]
fn second_channel_of_a_session_is_another_peer() {
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
fn reload_of_a_session_with_hooks_keeps_everything() {
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
