//! Nobody waits in vain: what an asker learns of a session that has its question and will not answer.

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;
use support::client::{self, BEFORE_MESSAGING, NEWEST, VERSIONS, WITH_MESSAGING};
use support::model::Request;
use support::session::Session;
use support::stage::{Actor, Prompted, Stage, ask_line, field, headers_in, peer_line};

/// What the permission dialog says.
const DIALOG: &str = "Do you want to proceed?";
/// What a reminder of the asked session says, at the end of its turn and in a push of its own.
const REMINDER: &str = "still unanswered: ";
const NUDGE: &str = "still waits for the answer to ";

/// The notice to the asker that this ask may not be answered, once its model has it.
fn wait_for_notice(stage: &Stage, ask_id: &str, words: &str) -> Request {
    let of_it = |header: &String| field(header, "ask_id").as_deref() == Some(ask_id);
    stage.model.wait_for("alice", &format!("the notice {words:?} of {ask_id}"), |request| {
        headers_in(request, "notice").iter().any(of_it) && request.hears(words)
    })
}

/// The ask is open, seen, and has this note; the late answer counts.
fn is_open_and_noted<S: Prompted>(
    stage: &Stage,
    alice: &mut Actor<'_, Session>,
    bob: &mut Actor<'_, S>,
    ask_id: &str,
    note: &str,
) {
    let line = ask_line(&alice.peers(), ask_id);
    assert_eq!((&line["state"], &line["note"]), (&json!("seen"), &json!(note)), "{line}");
    let answer = format!("A-after-all-{ask_id}");
    bob.get("relay_reply", json!({"ask_id": ask_id, "answer": answer}));
    let reply = stage.model.wait_for("alice", "the answer after all", |request| request.hears(&answer));
    assert_eq!(field(&headers_in(&reply, "reply")[0], "late"), None);
    assert_eq!(alice.peers()["asks"], json!([]));
    alice.got_each_once(&[&answer]);
}

/// The turn ends without an answer: the model is reminded once, and when it ends its turn again, the asker is told.
#[test]
fn a_turn_that_ends_without_an_answer() {
    for (version, push) in
        [(NEWEST, "auto"), (NEWEST, "hook"), (WITH_MESSAGING, "auto"), (BEFORE_MESSAGING, "auto")]
    {
        let Some(claude) = client::claude(version) else { return };
        let mut stage = Stage::new(&claude);
        stage.env("RELAY_PUSH", push);
        let (mut alice, mut bob) = (stage.piped("alice"), stage.piped("bob"));
        alice.meet("bob");
        bob.settle();
        let id = alice.ask("bob", "Q-ignored?");
        let notice = wait_for_notice(&stage, &id, "unanswered");
        assert_eq!(field(&headers_in(&notice, "notice")[0], "from").as_deref(), Some("bob"));
        bob.got_each_once(&["Q-ignored?", &format!("{REMINDER}{id}")]);
        // The turn that has just ended brought no second reminder and no second notice.
        bob.got_each_once(&[&format!("{REMINDER}{id}")]);
        is_open_and_noted(&stage, &mut alice, &mut bob, &id, "unanswered");
        assert_eq!(alice.settle().received("The ask stays open").matches, 1);
    }
}

/// An answer in the turn that the reminder continued: nobody is told of anything.
#[test]
fn a_reminder_is_enough() {
    let Some(claude) = client::claude(NEWEST) else { return };
    let stage = Stage::new(&claude);
    let (mut alice, mut bob) = (stage.piped("alice"), stage.piped("bob"));
    alice.meet("bob");
    bob.settle();
    stage.when_reminded("bob", REMINDER, "A-reminded");
    alice.ask("bob", "Q-ignored?");
    stage.model.wait_for("alice", "the answer", |request| request.hears("A-reminded"));
    alice.got_each_once(&["A-reminded"]);
    bob.got_each_once(&["Q-ignored?", REMINDER]);
    assert_eq!(alice.settle().received("The ask stays open").matches, 0);
    assert_eq!(alice.peers()["asks"], json!([]));
}

/// Auto mode's classifier blocks the answer.
#[test]
fn an_answer_that_the_classifier_denies() {
    for version in [NEWEST, BEFORE_MESSAGING] {
        let Some(claude) = client::claude(version) else { return };
        let stage = Stage::new(&claude);
        let auto = stage.launch("bob").allow_nothing().arg("--permission-mode").arg("auto").piped();
        let (mut alice, mut bob) = (stage.piped("alice"), stage.act(auto, "bob"));
        alice.meet("bob");
        bob.settle();
        stage
            .model
            .side_script("bob", |_| "<block>yes</block><reason>A peer is not the user</reason>".to_owned());
        stage.answers("bob", "A-denied");
        let id = alice.ask("bob", "Q-denied?");
        let notice = wait_for_notice(&stage, &id, "declined");
        assert!(notice.hears("A peer is not the user"), "{}", notice.fresh_text());
        assert_eq!(bob.settle().received(REMINDER).matches, 0);
        let line = ask_line(&alice.peers(), &id);
        assert_eq!((&line["state"], &line["note"]), (&json!("seen"), &json!("declined")), "{line}");
        assert_eq!(alice.settle().received("A-denied").matches, 0);
        assert_eq!(alice.settle().received("The ask stays open").matches, 1);
    }
}

/// The user refuses the answer at the dialog, of which no hook tells.
#[test]
fn an_answer_that_the_user_refuses_at_the_dialog() {
    let Some(tmux) = client::tmux() else { return };
    for version in [NEWEST, BEFORE_MESSAGING] {
        let Some(claude) = client::claude(version) else { return };
        let stage = Stage::new(&claude);
        let bob = stage.launch("bob").allow_nothing().in_terminal(&tmux);
        let mut alice = stage.piped("alice");
        let mut bob = stage.act_in_terminal(bob, "bob");
        alice.meet("bob");
        for key in ["3", "Escape"] {
            stage.answers("bob", "A-refused");
            let id = alice.ask("bob", &format!("Q-{key}?"));
            bob.session.wait_for_text(DIALOG);
            alice.wait_for_peers("a waiting bob", |peers| peer_line(peers, "bob")["activity"] == "waiting");
            bob.session.press_until(&[key], "that the dialog went", |screen| !screen.contains(DIALOG));
            let notice = wait_for_notice(&stage, &id, "declined");
            assert!(notice.hears("its user refused it"), "{}", notice.fresh_text());
            let line = ask_line(&alice.peers(), &id);
            assert_eq!((&line["state"], &line["note"]), (&json!("seen"), &json!("declined")), "{line}");
            // The user thinks better of it.
            stage.manners("bob", |_| None);
            let late = bob.start("relay_reply", json!({"ask_id": id, "answer": format!("A-{key}")}));
            bob.session.accept_dialog(DIALOG);
            bob.result(&late);
            stage.model.wait_for("alice", "the answer", |request| request.hears(&format!("A-{key}")));
        }
        alice.got_each_once(&["A-3", "A-Escape"]);
        assert_eq!(alice.settle().received("The ask stays open").matches, 2);
    }
}

/// alice asks bob, whose model's server is overloaded, and is told that the turn failed. Returns both, and the ask's id.
fn ask_an_overloaded_session(stage: &Stage) -> (Actor<'_, Session>, Actor<'_, Session>, String) {
    let bob = stage.launch("bob").env("CLAUDE_CODE_MAX_RETRIES", "1").piped();
    let (mut alice, mut bob) = (stage.piped("alice"), stage.act(bob, "bob"));
    alice.meet("bob");
    bob.settle();
    stage.overload("bob", true);
    let id = alice.ask("bob", "Q-overloaded?");
    wait_for_notice(stage, &id, "turn failed");
    (alice, bob, id)
}

/// The model's server is overloaded when the question's turn begins.
#[test]
fn a_turn_that_fails() {
    for version in VERSIONS {
        let Some(claude) = client::claude(version) else { return };
        let mut stage = Stage::new(&claude);
        stage.env("RELAY_NUDGE_S", "3");
        let (mut alice, mut bob, id) = ask_an_overloaded_session(&stage);
        let line = ask_line(&alice.peers(), &id);
        assert_eq!((&line["state"], &line["note"]), (&json!("seen"), &json!("turn_failed")), "{line}");
        stage.overload("bob", false);
        stage.model.wait_for("bob", "the nudge", |request| request.hears(&format!("{NUDGE}{id}")));
        bob.got_each_once(&["Q-overloaded?", NUDGE]);
        assert_eq!(bob.settle().received(REMINDER).matches, 0, "one reminder is enough");
        bob.get("relay_reply", json!({"ask_id": id, "answer": "A-overloaded"}));
        stage.model.wait_for("alice", "the answer", |request| request.hears("A-overloaded"));
        alice.got_each_once(&["A-overloaded"]);
        assert_eq!(alice.peers()["asks"], json!([]));
    }
}

/// The next turn of the session succeeds before the time for a nudge: its end brings the question up.
#[test]
fn a_turn_that_fails_before_another_one() {
    for version in VERSIONS {
        let Some(claude) = client::claude(version) else { return };
        let stage = Stage::new(&claude);
        let (mut alice, mut bob, _) = ask_an_overloaded_session(&stage);
        stage.when_reminded("bob", REMINDER, "A-reminded");
        stage.overload("bob", false);
        bob.session.prompt("something else");
        stage.model.wait_for("alice", "the answer", |request| request.hears("A-reminded"));
        bob.got_each_once(&["Q-overloaded?", REMINDER]);
        assert_eq!(bob.settle().received(NUDGE).matches, 0, "one reminder is enough");
        alice.got_each_once(&["A-reminded"]);
        assert_eq!(alice.peers()["asks"], json!([]));
    }
}

/// The question is in the conversation and no turn begins, a fault that the client has at times. Here the user's settings
/// have the client swallow the question, and the test writes into the transcript what the client would have written.
#[test]
fn a_turn_that_does_not_begin() {
    let Some(claude) = client::claude(NEWEST) else { return };
    let mut stage = Stage::new(&claude);
    stage.home.settings(json!({"crossSessionInbound": "refuse"}));
    stage.env("RELAY_BEGIN_TURN_S", "2");
    let (mut alice, mut bob) = (stage.piped("alice"), stage.piped("bob"));
    alice.meet("bob");
    bob.settle();
    alice.wait_for_peers("an idle bob", |peers| peer_line(peers, "bob")["activity"] == "idle");
    let watch = stage.watch();
    let nudged = stage.hold_at("bob", NUDGE);
    let id = alice.ask("bob", "Q-no-turn?");
    watch.wait_for_ask(&id, "pushed", "inbox");
    write_receipt(&stage, &id);
    let noted = alice.wait_for_peers("the note", |peers| ask_line(peers, &id)["note"] == "no_turn");
    assert_eq!(ask_line(&noted, &id)["state"], "seen");
    stage.model.wait_for("bob", "the nudge", |request| request.hears(&format!("{NUDGE}{id}")));
    let notice = watch.wait_for("the nudge", |event| event["kind"] == "notice" && event["to"] == "bob");
    assert_eq!(notice["path"], "hook", "another path than the question's");
    nudged.open();
    bob.got_each_once(&[NUDGE]);
    assert_eq!(bob.settle().received(REMINDER).matches, 0, "one reminder is enough");
    bob.get("relay_reply", json!({"ask_id": id, "answer": "A-no-turn"}));
    assert_eq!(alice.peers()["asks"], json!([]));
}

/// Appends to bob's transcript the line that the client writes for the push of this ask.
fn write_receipt(stage: &Stage, ask_id: &str) {
    let journal = fs::read_to_string(stage.home.plugin_data().join("hub.journal")).expect("the journal");
    let step = journal.lines().rfind(|line| line.contains(ask_id)).expect("the ask in the journal");
    let at = step.rfind("push_").expect("the identifier that the ask drew");
    let push: String = step[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    let line =
        json!({"type": "user", "origin": {"kind": "peer"}, "message": {"role": "user", "content": push}});
    let transcript = transcript_of(&stage.home.path().join(".claude/projects"), "-bob");
    let mut file = fs::OpenOptions::new().append(true).open(transcript).expect("the transcript");
    writeln!(file, "{line}").expect("a line in the transcript");
}

/// The transcript of the session in the project whose directory ends so.
fn transcript_of(projects: &Path, project: &str) -> PathBuf {
    let entries = |dir: &Path| fs::read_dir(dir).expect("a directory").filter_map(Result::ok);
    let of_it = |path: &PathBuf| path.to_str().is_some_and(|path| path.ends_with(project));
    let dir = entries(projects).map(|entry| entry.path()).find(of_it).expect("the project");
    let is_transcript = |path: &PathBuf| path.extension().is_some_and(|e| e == "jsonl");
    entries(&dir).map(|entry| entry.path()).find(is_transcript).expect("a transcript")
}
