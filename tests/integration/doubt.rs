//! Pushes whose outcome nobody reported, because the process that was told to push, or the hub, died first.

use serde_json::{Value, json};

use crate::driver::{DataDir, Raw, until};

/// Registers a session `b` that pushes by its channel, as a process of its own (`fresh`) or the one that was there before.
fn session_b(dir: &DataDir, fresh: bool) -> Raw {
    let mut who = Raw::who("b");
    (who["kind"], who["paths"], who["fresh"]) = (json!("session"), json!(["channel"]), json!(fresh));
    (who["claude"], who["pid"]) = (json!("1-2-3"), json!(2));
    let mut b = dir.raw();
    b.call(json!({"type": "register", "who": who})).expect("registered");
    b
}

/// What `b` is pushed before the hub answers its next request.
fn pushes_until_status(b: &mut Raw) -> Vec<Value> {
    let status = b.begin(json!({"type": "status"}));
    let mut pushes = Vec::new();
    loop {
        let message = b.hear().expect("an answer");
        if message["id"] == json!(status) {
            return pushes;
        }
        if message["type"] == "push" {
            pushes.push(message);
        }
    }
}

/// Asks `b`, which is sent the question and does not say that it pushed it, and kills the hub.
fn ask_in_doubt(dir: &DataDir, b: &mut Raw) -> (Raw, Value) {
    let mut a = dir.peer("a");
    let asked = a.begin(Raw::ask_as("ask_12345678", "b", "?"));
    let push = b.hear_type("push");
    assert_eq!(a.end(asked).expect("asked")["state"], "queued");
    dir.kill_hub();
    dir.start_hub();
    (dir.peer("a"), push)
}

#[test]
fn push_without_an_outcome_is_made_again_to_the_same_process_under_the_same_identifier() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    dir.start_hub();
    let mut b = session_b(&dir, true);
    let (_a, push) = ask_in_doubt(&dir, &mut b);
    let mut b = session_b(&dir, false);
    let again = pushes_until_status(&mut b);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0]["push"], push["push"]);
}

#[test]
fn push_without_an_outcome_is_made_again_to_a_new_process_of_a_session_without_hooks() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    dir.start_hub();
    let mut b = session_b(&dir, true);
    let (_a, push) = ask_in_doubt(&dir, &mut b);
    let mut b = session_b(&dir, true);
    let again = pushes_until_status(&mut b);
    assert_eq!(again.len(), 1);
    assert_ne!(again[0]["push"], push["push"], "it is another attempt");
}

#[test]
fn push_without_an_outcome_waits_for_a_hook_where_a_session_has_hooks() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000"), ("RELAY_CONFIRM_S", "0")]);
    dir.start_hub();
    let hook = |event: &str| {
        dir.raw().call(json!({"type": "hook", "claude": "1-2-3", "event": event})).expect("heard");
    };
    let mut b = session_b(&dir, true);
    hook("start");
    let (_a, push) = ask_in_doubt(&dir, &mut b);
    let mut b = session_b(&dir, true);
    assert_eq!(pushes_until_status(&mut b).len(), 0, "a receipt may come");
    // One in the same millisecond does not count as later.
    let again = until("another attempt", || {
        hook("stop");
        pushes_until_status(&mut b).pop()
    });
    assert_ne!(again["push"], push["push"]);
}

/// A hook reports all that it finds in the end of the transcript, oldest first.
#[test]
fn receipt_counts_after_thousands_of_older_ones() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    dir.start_hub();
    let mut b = session_b(&dir, true);
    dir.raw().call(json!({"type": "hook", "claude": "1-2-3", "event": "start"})).expect("heard");
    let (mut a, push) = ask_in_doubt(&dir, &mut b);
    let mut receipts: Vec<Value> = (0..3000).map(|n| json!([format!("push_{n:024x}"), "seen"])).collect();
    receipts.push(json!([push["push"], "seen"]));
    dir.raw()
        .call(json!({"type": "hook", "claude": "1-2-3", "event": "stop", "receipts": receipts}))
        .expect("heard");
    assert_eq!(a.call(json!({"type": "peers"})).expect("a roster")["asks"][0]["state"], "seen");
}

#[test]
fn receipt_settles_a_push_without_an_outcome() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000"), ("RELAY_CONFIRM_S", "0")]);
    dir.start_hub();
    let mut b = session_b(&dir, true);
    dir.raw().call(json!({"type": "hook", "claude": "1-2-3", "event": "start"})).expect("heard");
    let (mut a, push) = ask_in_doubt(&dir, &mut b);
    let mut b = session_b(&dir, true);
    let receipts = json!([[push["push"], "seen"]]);
    dir.raw()
        .call(json!({"type": "hook", "claude": "1-2-3", "event": "stop", "receipts": receipts}))
        .expect("heard");
    assert_eq!(a.call(json!({"type": "peers"})).expect("a roster")["asks"][0]["state"], "seen");
    assert_eq!(pushes_until_status(&mut b).len(), 0);
}
