//! Real sessions in their terminal user interface: the channel, dialogs, and what only happens there.

mod support;

use std::path::PathBuf;

use serde_json::{Value, json};
use support::client::{self, NEWEST};
use support::launch::CHANNEL;
use support::session::Session;
use support::stage::{Actor, Stage, ask_line, field, headers_in, peer_line};

fn newest() -> Option<(PathBuf, PathBuf)> {
    Some((client::claude(NEWEST)?, client::tmux()?))
}

/// Blocks until what this session asks bob goes by his channel, which is closed while his session starts.
fn wait_for_channel(asker: &mut Actor<'_, Session>) {
    asker.wait_for_peers("channel of bob", |peers| peer_line(peers, "bob")["push"] == "channel");
}

#[test]
fn by_channel() {
    let Some((claude, tmux)) = newest() else { return };
    let stage = Stage::new(&claude);
    let bob = stage.launch("bob").channel(CHANNEL).in_terminal(&tmux);
    let mut alice = stage.piped("alice");
    let mut bob = stage.act_in_terminal(bob, "bob");
    wait_for_channel(&mut alice);
    let watch = stage.watch();

    let idle = alice.ask("bob", "Q-idle?");
    let question = stage.wait_for_ask("bob", "Q-idle?");
    assert!(question.header.starts_with("<channel source=\"plugin:relay:relay\" "), "{}", question.header);
    assert_eq!((question.ask_id.as_str(), question.from.as_str()), (idle.as_str(), "alice"));
    assert_eq!(field(&question.header, "cwd").as_deref(), stage.home.project("alice").to_str());
    let line = alice.wait_for_state(&idle, "seen");
    assert!(line["detail"].as_str().is_some_and(|detail| detail.starts_with("seen ")), "{line}");
    let reached = peer_line(&alice.peers(), "bob");
    assert_eq!((&reached["push"], &reached["confirmed"]), (&json!("channel"), &json!(true)));

    let call = bob.long_call();
    let busy = alice.ask("bob", "Q-busy?");
    watch.wait_for_ask(&busy, "pushed", "channel");
    let peers = alice.peers();
    assert_eq!(ask_line(&peers, &busy)["state"], "pushed");
    assert_eq!(peer_line(&peers, "bob")["activity"], "busy");
    call.end(&bob);
    stage.wait_for_ask("bob", "Q-busy?");
    alice.wait_for_state(&busy, "seen");

    let gate = bob.hold();
    let last = alice.ask("bob", "Q-last?");
    watch.wait_for_ask(&last, "pushed", "channel");
    gate.open();
    stage.wait_for_ask("bob", "Q-last?");
    alice.wait_for_state(&last, "seen");
    for (ask_id, answer) in [(&idle, "A-idle"), (&busy, "A-busy"), (&last, "A-last")] {
        bob.get("relay_reply", json!({"ask_id": ask_id, "answer": answer}));
        stage.model.wait_for("alice", answer, |request| request.hears(answer));
        watch.only_by("channel", "ask", ask_id);
    }

    // The other way: an answer comes into an idle session by its channel.
    stage.answers("alice", "A-back");
    let back = bob.ask("alice", "Q-back?");
    let answer = stage.model.wait_for("bob", "alice's answer", |request| request.hears("A-back"));
    let header = headers_in(&answer, "reply").remove(0);
    assert!(header.starts_with("<channel source=\"plugin:relay:relay\" "), "{header}");
    bob.got_each_once(&["Q-idle?", "Q-busy?", "Q-last?", "A-back"]);
    alice.got_each_once(&["A-idle", "A-busy", "A-last", "Q-back?"]);
    watch.only_by("channel", "reply", &back);
    stage.wait_for_waiters(0);

    // Claude Code's own name for the session is its name here too.
    bob.session.prompt("/rename Back End");
    alice.meet("Back-End");
    drop(watch);
    alice.end();
    bob.end();
    stage.finish();
}

/// The flag is there and the feature is not: what goes by channel is dropped without a word.
#[test]
fn past_a_channel_that_drops() {
    let Some((claude, tmux)) = newest() else { return };
    let mut stage = Stage::new(&claude);
    stage.home.feature("tengu_harbor", false);
    stage.env("RELAY_CONFIRM_S", "2"); // in which what is not dropped has to be confirmed, on a loaded machine too
    let bob = stage.launch("bob").channel(CHANNEL).in_terminal(&tmux);
    let mut alice = stage.piped("alice");
    let mut bob = stage.act_in_terminal(bob, "bob");
    wait_for_channel(&mut alice);
    let watch = stage.watch();

    // In the middle of a turn nothing is to be concluded from silence.
    let gate = bob.hold();
    let first = alice.ask("bob", "Q-first?");
    watch.wait_for_ask(&first, "pushed", "channel");
    let line = ask_line(&alice.peers(), &first);
    assert_eq!(line["state"], "pushed", "{line}");
    gate.open();
    stage.wait_for_ask("bob", "Q-first?");
    alice.wait_for_state(&first, "seen");
    let course = watch.course("ask", &first);
    assert_eq!(course.last().map(String::as_str), Some("seen by inbox"), "{course:?}");
    assert_eq!(course.iter().filter(|step| step.starts_with("seen")).count(), 1, "{course:?}");
    let events = watch.events();
    let at = |what: &dyn Fn(&Value) -> bool| events.iter().position(what).expect("it happened");
    assert!(
        at(&|event| event["event"] == "dead_path") < at(&|event| event["state"] == "seen"),
        "{}",
        watch.dump()
    );

    // The dead path is remembered.
    assert_eq!(peer_line(&alice.peers(), "bob")["push"], "inbox");
    let second = alice.ask("bob", "Q-second?");
    stage.wait_for_ask("bob", "Q-second?");
    alice.wait_for_state(&second, "seen");
    watch.only_by("inbox", "ask", &second);
    bob.got_each_once(&["Q-first?", "Q-second?"]);
    drop(watch);
    alice.end();
    bob.end();
    stage.finish();
}

/// The most common reason why an answer does not come.
#[test]
fn a_session_at_a_permission_dialog_says_so() {
    const DIALOG: &str = "Do you want to proceed?";
    const WAITS: &str = "waiting for its user's permission";
    let Some((claude, tmux)) = newest() else { return };
    let stage = Stage::new(&claude);
    let bob = stage.launch("bob").allow_nothing().in_terminal(&tmux);
    let mut alice = stage.piped("alice");
    let mut bob = stage.act_in_terminal(bob, "bob");
    alice.meet("bob");
    let waits = |peers: &Value| peer_line(peers, "bob")["activity"] == "waiting";
    let is_idle = |peers: &Value| peer_line(peers, "bob")["activity"] == "idle";

    stage.answers("bob", "A-allowed");
    let first = alice.ask("bob", "Q-allowed?");
    bob.session.wait_for_text(DIALOG);
    alice.wait_for_peers("a waiting bob", waits);
    let line = alice.wait_for_state(&first, "seen");
    let detail = line["detail"].as_str().unwrap_or_default();
    assert!(detail.starts_with("seen ") && detail.contains(WAITS), "{line}");
    bob.session.accept_dialog(DIALOG);
    stage.model.wait_for("alice", "the answer", |request| request.hears("A-allowed"));
    alice.wait_for_peers("an idle bob", is_idle);

    // It times out at the dialog, and the asker reads why. What comes then is late.
    stage.answers("bob", "A-late");
    let asked = alice.get("relay_ask", json!({"to": "bob", "question": "Q-late?", "timeout_s": 3}));
    bob.session.wait_for_text(DIALOG);
    let failed =
        stage.model.wait_for("alice", "the timeout", |request| !headers_in(request, "failed").is_empty());
    let header = headers_in(&failed, "failed").remove(0);
    assert_eq!(field(&header, "code").as_deref(), Some("timeout"));
    assert_eq!(field(&header, "ask_id").as_deref(), asked["ask_id"].as_str());
    assert!(failed.hears("(seen ") && failed.hears(WAITS), "{}", failed.fresh_text());
    bob.session.accept_dialog(DIALOG);
    let late = stage.model.wait_for("alice", "the late answer", |request| request.hears("A-late"));
    assert_eq!(field(&headers_in(&late, "reply")[0], "late").as_deref(), Some("true"));
    alice.wait_for_peers("an idle bob", is_idle);

    // No hook tells that the user has said no.
    let third = alice.ask("bob", "Q-refused?");
    bob.session.wait_for_text(DIALOG);
    alice.wait_for_peers("a waiting bob", waits);
    bob.session.press_until(&["Escape"], "that the dialog went", |screen| !screen.contains(DIALOG));
    alice.wait_for_peers("an idle bob", is_idle);
    let line = ask_line(&alice.peers(), &third);
    let detail = line["detail"].as_str().unwrap_or_default();
    assert!(line["state"] == "seen" && !detail.contains(WAITS), "{line}");

    stage.manners("bob", |_| None);
    bob.got_each_once(&["Q-allowed?", "Q-late?", "Q-refused?"]);
    alice.got_each_once(&["A-allowed", "A-late"]);
    bob.end();
    let gone = stage.model.wait_for("alice", "bob's end", |request| request.hears("peer_gone"));
    assert_eq!(field(&headers_in(&gone, "failed")[0], "ask_id").as_deref(), Some(third.as_str()));
    alice.end();
    stage.finish();
}

/// `/clear` begins another conversation in the same process: what was asked and what is owed goes on.
#[test]
fn across_a_clear_on_either_side() {
    let Some((claude, tmux)) = newest() else { return };
    let stage = Stage::new(&claude);
    let alice = stage.launch("alice").in_terminal(&tmux);
    let bob = stage.launch("bob").in_terminal(&tmux);
    let (mut alice, mut bob) = (stage.act_in_terminal(alice, "alice"), stage.act_in_terminal(bob, "bob"));
    alice.meet("bob");
    let first = alice.ask("bob", "Q-first?");
    stage.wait_for_ask("bob", "Q-first?");
    alice.wait_for_state(&first, "seen");

    bob.session.prompt("/clear");
    alice.session.prompt("/clear");
    assert_eq!(bob.peers()["owed"][0]["ask_id"], json!(first));
    assert_eq!(ask_line(&alice.peers(), &first)["state"], "seen");
    assert!(!stage.model.conversation("bob").expect("a conversation").contains("Q-first?"));
    bob.get("relay_reply", json!({"ask_id": first, "answer": "A-first"}));
    stage.model.wait_for("alice", "the answer", |request| request.hears("A-first"));

    // The hooks of the new conversation are still tied to the same channel.
    let second = alice.ask("bob", "Q-second?");
    stage.wait_for_ask("bob", "Q-second?");
    alice.wait_for_state(&second, "seen");
    bob.get("relay_reply", json!({"ask_id": second, "answer": "A-second"}));
    stage.model.wait_for("alice", "the second answer", |request| request.hears("A-second"));
    bob.got_each_once(&["Q-second?"]);
    alice.got_each_once(&["A-first", "A-second"]);
    assert_eq!(alice.peers()["asks"], json!([]));
    alice.end();
    bob.end();
    stage.finish();
}

/// A hook that waits since the session's start wakes it before its user has said a word.
#[test]
fn by_hook_into_a_session_that_was_never_prompted() {
    let Some(tmux) = client::tmux() else { return };
    for claude in client::VERSIONS.into_iter().filter_map(client::claude) {
        let mut stage = Stage::new(&claude);
        stage.env("RELAY_PUSH", "hook");
        let bob = stage.launch("bob").in_terminal(&tmux);
        let mut alice = stage.piped("alice");
        let mut bob = stage.act_in_terminal(bob, "bob");
        alice.meet("bob");
        stage.wait_for_waiters(2);
        stage.answers("bob", "A-woken");
        alice.ask("bob", "Q-woken?");
        stage.model.wait_for("alice", "the answer", |request| request.hears("A-woken"));
        bob.got_each_once(&["Q-woken?"]);
        alice.got_each_once(&["A-woken"]);
        stage.wait_for_waiters(2);
        alice.end();
        bob.end();
        stage.finish();
    }
}
