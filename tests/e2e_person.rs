//! Questions to the person in front of a real session: the form in its terminal, typed answers, and no model that is asked.

mod shell_kit;
mod support;

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use shell_kit::{Proc, relay_path};
use support::client::{self, BEFORE_MESSAGING, NEWEST};
use support::leftovers;
use support::session::Session;
use support::stage::{Actor, Stage, ask_line, field, headers_in, wait_until};
use support::terminal::Terminal;

/// What the form and the permission dialog say.
const FORM: &str = "asks you. Esc: later.";
const DIALOG: &str = "Do you want to proceed?";

fn stage(version: &str) -> Option<(Stage, PathBuf)> {
    let (claude, tmux) = (client::claude(version)?, client::tmux()?);
    let mut stage = Stage::new(&claude);
    stage.env("RELAY_FORM_QUIET_S", "0.5");
    stage.env("RELAY_FORM_AGAIN_S", "1");
    stage.env("RELAY_GRACE_S", "60");
    Some((stage, tmux))
}

/// A command of ours beside the sessions of a stage.
fn relay(stage: &Stage, args: &[&str]) -> Proc {
    let mut command = stage.home.command(relay_path());
    Proc::start(command.args(args).arg("--data-dir").arg(stage.home.plugin_data()))
}

/// Asks bob's person, and gives the `ask_id`.
fn ask(alice: &mut Actor<'_, Session>, question: &str) -> String {
    let asked = alice.get("relay_ask", json!({"to": "bob", "question": question, "who": "person"}));
    asked["ask_id"].as_str().expect("an id").to_owned()
}

/// Waits for the form with that question.
fn wait_for_form(bob: &Terminal, question: &str) {
    bob.wait_for(&format!("the form {question:?}"), |screen| {
        screen.contains(FORM) && screen.contains(&format!("> {question}"))
    });
}

fn wait_until_gone(bob: &Terminal) {
    bob.wait_for("that the form went", |screen| !screen.contains(FORM));
}

/// Types an answer into the form, and accepts it.
fn accept(bob: &Terminal, question: &str, answer: &str) {
    wait_for_form(bob, question);
    bob.send_text(answer);
    bob.wait_for_text(&format!("Your answer: {answer}"));
    bob.press_until(&["Enter"], "that the form went", |screen| !screen.contains(FORM));
}

/// Alice's model has the answer, as the words of a person.
fn is_answered(stage: &Stage, ask_id: &str, answer: &str) {
    let heard = stage.model.wait_for("alice", answer, |request| request.hears(answer));
    let header = headers_in(&heard, "reply").remove(0);
    assert_eq!(field(&header, "ask_id").as_deref(), Some(ask_id));
    assert_eq!(field(&header, "by").as_deref(), Some("person"), "{header}");
}

/// Alice's model learns that it was declined, and why.
fn is_declined(stage: &Stage, ask_id: &str, why: &str) {
    let heard = stage.model.wait_for("alice", why, |request| request.hears(why));
    let header = headers_in(&heard, "failed").remove(0);
    assert_eq!(field(&header, "ask_id").as_deref(), Some(ask_id));
    assert_eq!(field(&header, "code").as_deref(), Some("declined"), "{header}");
}

fn wait_for_detail(alice: &mut Actor<'_, Session>, ask_id: &str, words: &str) {
    alice.wait_for_peers(words, |peers| {
        ask_line(peers, ask_id)["detail"].as_str().is_some_and(|detail| detail.contains(words))
    });
}

/// The channel of the session in that terminal.
fn channel_of(stage: &Stage, session: &Terminal) -> u32 {
    let is_child = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields.to_owned()).unwrap_or_default();
        fields.split_whitespace().nth(1) == Some(&session.pid().to_string())
    };
    let channel = leftovers::wait_until_some(stage.home.marker(), "bob's channel", |process| {
        process.is("relay", "channel") && is_child(process.pid)
    });
    channel.pid
}

/// What bob's person can do with a form, and what can happen to it meanwhile.
fn person(version: &str) {
    let Some((stage, tmux)) = stage(version) else { return };
    let bob = stage.launch("bob").in_terminal(&tmux);
    let mut alice = stage.piped("alice");
    let mut bob = stage.act_in_terminal(bob, "bob");
    alice.meet("bob");
    let screen = &bob.session;

    let accepted = ask(&mut alice, "Q-accept?");
    accept(screen, "Q-accept?", "A-accept");
    is_answered(&stage, &accepted, "A-accept");

    let mut script = relay(&stage, &["ask", "bob", "--person", "--json", "--as", "ci", "Q-shell?"]);
    accept(screen, "Q-shell?", "A-shell");
    assert_eq!(script.code(), Some(0), "{}", script.err.text());
    let answer: Value = serde_json::from_str(&script.out.text()).expect("one answer");
    assert_eq!((&answer["answer"], &answer["by"]), (&json!("A-shell"), &json!("person")));

    let declined = ask(&mut alice, "Q-decline?");
    wait_for_form(screen, "Q-decline?");
    screen.press_until(&["Down"], "the button", |screen| screen.contains("❯ Decline"));
    screen.press_until(&["Enter"], "that the form went", |screen| !screen.contains(FORM));
    is_declined(&stage, &declined, "its user does not want to answer");

    let closed = ask(&mut alice, "Q-escape?");
    wait_for_form(screen, "Q-escape?");
    screen.press_until(&["Escape"], "that the form went", |screen| !screen.contains(FORM));
    stage.model.wait_for("alice", "the notice", |request| request.hears("once more in"));
    wait_for_form(screen, "Q-escape?");
    screen.press_until(&["Escape"], "that the form went", |screen| !screen.contains(FORM));
    is_declined(&stage, &closed, "its user closed the form without an answer");

    let mut script = relay(&stage, &["ask", "bob", "--person", "Q-withdraw?"]);
    wait_for_form(screen, "Q-withdraw?");
    script.signal("-INT");
    wait_until_gone(screen);
    assert_eq!(script.code(), Some(130));

    let open = ask(&mut alice, "Q-hub?");
    wait_for_form(screen, "Q-hub?");
    wait_for_detail(&mut alice, &open, "the form is open");
    stage.kill_hub();
    wait_for_detail(&mut alice, &open, "the form is open");
    accept(screen, "Q-hub?", "A-hub");
    is_answered(&stage, &open, "A-hub");

    let open = ask(&mut alice, "Q-channel?");
    wait_for_form(screen, "Q-channel?");
    leftovers::signal(channel_of(&stage, screen), "KILL");
    wait_until_gone(screen);
    screen.prompt("/mcp reconnect plugin:relay:relay");
    accept(screen, "Q-channel?", "A-channel");
    is_answered(&stage, &open, "A-channel");

    assert_eq!(stage.model.requests("bob").len(), 0, "{}", stage.model.dump("bob"));
    alice.got_each_once(&["A-accept", "A-hub", "A-channel"]);

    // In the middle of a turn it waits.
    let call = bob.long_call();
    let busy = ask(&mut alice, "Q-busy?");
    wait_for_detail(&mut alice, &busy, "when the session is idle");
    assert!(!bob.session.screen().contains(FORM));
    call.end(&bob);
    accept(&bob.session, "Q-busy?", "A-busy");
    is_answered(&stage, &busy, "A-busy");
    alice.got_each_once(&["A-busy"]);
    assert!(!stage.model.conversation("bob").expect("a conversation").contains("Q-"));

    // A session without a terminal has nobody in front of it.
    let mut script = relay(&stage, &["ask", "alice", "--person", "Q-nobody?"]);
    assert_eq!(script.code(), Some(14));
    assert!(script.err.text().contains("runs without a terminal"), "{}", script.err.text());
    alice.end();
    bob.end();
    stage.finish();
}

#[test]
fn person_of_the_newest_client() {
    person(NEWEST);
}

#[test]
fn person_of_an_old_client() {
    person(BEFORE_MESSAGING);
}

/// The session shows a dialog of its own; later it ends while the form is open.
#[test]
fn person_at_a_dialog_and_a_session_that_ends() {
    for version in [NEWEST, BEFORE_MESSAGING] {
        let Some((stage, tmux)) = stage(version) else { return };
        let bob = stage.launch("bob").allow("Bash").in_terminal(&tmux);
        let mut alice = stage.piped("alice");
        let mut bob = stage.act_in_terminal(bob, "bob");
        alice.meet("bob");
        let call = bob.start("relay_peers", json!({}));
        bob.session.wait_for_text(DIALOG);
        let waits = ask(&mut alice, "Q-dialog?");
        wait_for_detail(&mut alice, &waits, "when the session is idle");
        assert!(!bob.session.screen().contains(FORM));
        bob.session.accept_dialog(DIALOG);
        bob.result(&call);
        accept(&bob.session, "Q-dialog?", "A-dialog");
        is_answered(&stage, &waits, "A-dialog");

        let before = stage.model.requests("bob").len();
        let open = ask(&mut alice, "Q-exit?");
        wait_for_form(&bob.session, "Q-exit?");
        leftovers::signal(bob.session.pid(), "TERM");
        bob.session.wait_for_exit();
        let gone = stage.model.wait_for("alice", "bob's end", |request| request.hears("peer_gone"));
        assert_eq!(field(&headers_in(&gone, "failed")[0], "ask_id").as_deref(), Some(open.as_str()));
        assert_eq!(stage.model.requests("bob").len(), before);
        alice.got_each_once(&["A-dialog"]);
        alice.end();
        stage.finish();
    }
}

/// The user has said no for good, in the settings; another wants to be asked first, by a form.
#[test]
fn person_who_said_no_and_consent() {
    let Some((mut stage, tmux)) = stage(NEWEST) else { return };
    stage.home.settings(json!({"env": {"RELAY_PERSON": "off"}}));
    stage.env("RELAY_CONSENT", "all");
    let bob = stage.launch("bob").in_terminal(&tmux);
    let bob = stage.act_in_terminal(bob, "bob");
    stage.answers("bob", "A-allowed");
    wait_until("bob is there", || {
        let mut peers = relay(&stage, &["peers", "--json"]);
        peers.code() == Some(0) && peers.out.text().contains("\"bob\"")
    });
    let mut refused = relay(&stage, &["ask", "bob", "--person", "Q-off?"]);
    assert_eq!(refused.code(), Some(14));
    assert!(refused.err.text().contains("RELAY_PERSON=off"), "{}", refused.err.text());

    let mut allowed = relay(&stage, &["ask", "bob", "Q-allowed?"]);
    bob.session.wait_for("the form", |screen| {
        screen.contains("wants to ask this session") && screen.contains("> Q-allowed?")
    });
    assert_eq!(stage.model.requests("bob").len(), 0);
    bob.session.press_until(&["Enter"], "that the form went", |screen| !screen.contains("wants to ask"));
    assert_eq!(allowed.code(), Some(0), "{}", allowed.err.text());
    assert_eq!(allowed.out.text(), "A-allowed\n");
    bob.end();
    stage.finish();
}

/// The form at a small terminal, after half a prompt was typed there.
#[test]
fn person_at_a_narrow_terminal_who_is_typing_sees_the_whole_question() {
    let Some((mut stage, tmux)) = stage(NEWEST) else { return };
    stage.env("RELAY_LOG", "debug");
    let bob = stage.launch("bob").in_terminal(&tmux);
    let bob = stage.act_in_terminal(bob, "bob");
    bob.session.resize(70, 24);
    wait_until("bob is there", || {
        let mut peers = relay(&stage, &["peers", "--json"]);
        peers.code() == Some(0) && peers.out.text().contains("\"bob\"")
    });
    let words: Vec<String> = (0..90).map(|n| format!("word{n:02}")).collect();
    bob.session.send_text("half a prompt");
    let mut script = relay(&stage, &["ask", "bob", "--person", &words.join(" ")]);
    wait_until("the form waits", || {
        let logs = fs::read_dir(stage.home.plugin_data().join("logs")).into_iter().flatten().flatten();
        let mut texts = logs.filter_map(|log| fs::read_to_string(log.path()).ok());
        texts.any(|text| text.contains("form_postponed"))
    });
    assert!(!bob.session.screen().contains(FORM));
    let screen = bob.session.wait_for("the form", |screen| screen.contains("word89"));
    assert!(words.iter().all(|word| screen.contains(word)), "{screen}");
    assert!(
        screen.lines().filter(|line| line.contains("word")).all(|line| line.contains("> word")),
        "{screen}"
    );
    bob.session.send_text("seen");
    bob.session.press_until(&["Enter"], "that the form went", |screen| !screen.contains("word89"));
    assert_eq!(script.code(), Some(0), "{}", script.err.text());
    assert_eq!(script.out.text(), "seen\n");
    bob.session.wait_for_text("half a prompt");
    bob.session.press_until(&["C-u"], "an empty prompt", |screen| !screen.contains("half a prompt"));
    bob.end();
    stage.finish();
}
