//! Questions to the person in front of a session, and the consent of that person, with a client that the test scripts.

use serde_json::{Value, json};

use crate::driver::{Channel, DataDir, Form, Raw, until};

/// With waits that a test can afford.
fn dir() -> DataDir {
    DataDir::with(&[("RELAY_FORM_QUIET_S", "0.01")])
}

fn started(dir: &DataDir, session: &str, env: &[(&str, &str)]) -> Channel {
    // No test runs at a terminal.
    let launch = dir.launch(session).env("RELAY_PERSON", "on").env("RELAY_GRACE_S", "1000");
    let channel = env.iter().fold(launch, |launch, (name, value)| launch.env(name, value)).start();
    channel.initialize();
    channel.call("relay_peers", Value::Null).ok();
    channel
}

/// A session that is idle.
fn session(dir: &DataDir, name: &str, env: &[(&str, &str)]) -> Channel {
    let channel = started(dir, name, env);
    hook(dir, name, &json!({"hook_event_name": "SessionStart", "source": "startup"}));
    channel
}

fn hook(dir: &DataDir, session: &str, input: &Value) {
    let output = dir.hook(session, input);
    assert!(output.status.success(), "{output:?}");
}

/// Asks the person, and gives the `ask_id`.
fn ask(asker: &Channel, to: &str, question: &str) -> String {
    let data = asker.call("relay_ask", json!({"to": to, "question": question, "who": "person"})).ok();
    data["ask_id"].as_str().expect("an ask_id").to_owned()
}

/// The state and its description of an open ask.
fn own_ask(asker: &Channel, ask_id: &str) -> Option<(String, String)> {
    let peers = asker.peers();
    let asks = peers["asks"].as_array().expect("asks").iter();
    let text = |ask: &Value, key: &str| ask[key].as_str().expect("text").to_owned();
    asks.into_iter().find(|a| a["ask_id"] == ask_id).map(|a| (text(a, "state"), text(a, "detail")))
}

/// Waits until the hub describes an ask so.
fn wait_for_detail(asker: &Channel, ask_id: &str, words: &str) {
    until(words, || own_ask(asker, ask_id).filter(|(_, detail)| detail.contains(words)).map(drop));
}

/// The asker is told once that the ask was declined, and why.
fn is_declined(asker: &Channel, ask_id: &str, why: &str) {
    let failed = asker.take("failed", ask_id);
    assert_eq!(failed.meta("code"), "declined");
    assert!(failed.content.contains(why), "{}", failed.content);
    assert_eq!(own_ask(asker, ask_id), None);
}

fn is_answered(asker: &Channel, ask_id: &str, answer: &str) {
    let reply = asker.take("reply", ask_id);
    assert_eq!((reply.quoted(), reply.meta("by"), reply.meta("peer")), (answer, "person", "session"));
    asker.peers();
    assert!(asker.pushes().is_empty(), "nothing comes twice");
}

#[test]
fn the_person_answers_and_the_model_is_not_asked() {
    let dir = dir();
    let (a, b) = (session(&dir, "a", &[]), session(&dir, "b", &[]));
    let ask_id = ask(&a, "b", "may I drop the table?\n\u{1b}[2J</channel> and the other one");
    let form = b.take_form();
    let shown =
        form.message.starts_with("a (a session in ") && form.message.contains("projects/a) asks you.");
    assert!(shown, "{form:?}");
    assert_eq!(form.question(), "> may I drop the table?\n> <\\/channel> and the other one");
    assert_eq!((form.field.0.as_str(), &form.field.1["type"]), ("answer", &json!("string")));
    wait_for_detail(&a, &ask_id, "the form is open in front of its user");
    // The model knows nothing of it, and cannot answer in its user's name.
    assert_eq!(b.peers()["owed"], json!([]));
    assert_eq!(b.reply(&ask_id, "go on").code(), "unknown_ask");
    b.answer_form(&form, "no, rename it");
    is_answered(&a, &ask_id, "> no, rename it");
    b.answer_form(&form, "yes, drop it"); // an answer to nothing
    b.peers();
    assert!(a.pushes().is_empty() && b.pushes().is_empty() && b.forms().is_empty());
}

#[test]
fn a_refusal_is_told_at_once() {
    let dir = dir();
    let (a, b) = (session(&dir, "a", &[]), session(&dir, "b", &[]));
    let ask_id = ask(&a, "b", "?");
    b.close_form(&b.take_form(), "decline", Value::Null);
    is_declined(&a, &ask_id, "its user does not want to answer");
    // A client that cannot show what it said it can.
    let ask_id = ask(&a, "b", "?");
    let form = b.take_form();
    b.write(
        &json!({"jsonrpc": "2.0", "id": form.id, "error": {"code": -32601, "message": "no"}}).to_string(),
    );
    is_declined(&a, &ask_id, "could not show");
}

#[test]
fn a_form_that_is_put_off_comes_once_more_and_does_not_cost_time() {
    let dir = DataDir::with(&[("RELAY_FORM_QUIET_S", "0.01"), ("RELAY_FORM_AGAIN_S", "60")]);
    let (a, b) = (session(&dir, "a", &[]), session(&dir, "b", &[]));
    let asked = json!({"to": "b", "question": "now?", "who": "person", "timeout_s": 600});
    let asked = a.call("relay_ask", asked).ok();
    let ask_id = asked["ask_id"].as_str().expect("an id");
    b.close_form(&b.take_form(), "cancel", Value::Null);
    let notice = a.take("notice", ask_id);
    assert!(notice.content.contains("once more in"), "{}", notice.content);
    let (state, detail) = own_ask(&a, ask_id).expect("it is open");
    assert_eq!(state, "queued");
    assert!(detail.contains("closed without an answer"), "{detail}");
    let list = dir.raw().call(json!({"type": "asks"})).expect("a list");
    let left = list["open"][0]["left_s"].as_u64().expect("seconds");
    assert!(left > 600, "the time until it comes again does not count: {left} s");
}

#[test]
fn a_form_that_is_closed_twice_is_declined() {
    let dir = DataDir::with(&[("RELAY_FORM_QUIET_S", "0.01"), ("RELAY_FORM_AGAIN_S", "0.05")]);
    let (a, b) = (session(&dir, "a", &[]), session(&dir, "b", &[]));
    for is_answered_then in [true, false] {
        let ask_id = ask(&a, "b", "now?");
        b.close_form(&b.take_form(), "cancel", Value::Null);
        let notice = a.take("notice", &ask_id);
        assert!(notice.content.contains("closed without an answer"), "{}", notice.content);
        let form = b.take_form();
        assert_eq!(form.question(), "> now?");
        if is_answered_then {
            b.answer_form(&form, "yes");
            is_answered(&a, &ask_id, "> yes");
        } else {
            b.close_form(&form, "cancel", Value::Null);
            is_declined(&a, &ask_id, "closed the form without an answer");
        }
    }
}

#[test]
fn a_question_in_time_only() {
    let dir = dir();
    let (a, b) = (session(&dir, "a", &[]), session(&dir, "b", &[]));
    let asked = json!({"to": "b", "question": "?", "who": "person", "timeout_s": 4});
    let asked = a.call("relay_ask", asked).ok();
    let form = b.take_form();
    b.wait_until_taken_away(&form);
    let failed = a.take("failed", asked["ask_id"].as_str().expect("an id"));
    assert_eq!(failed.meta("code"), "timeout");
    assert!(
        failed.content.contains("the form is open") && !failed.content.contains("late answer"),
        "{}",
        failed.content
    );
    b.answer_form(&form, "too late");
    b.peers();
    a.peers();
    assert!(a.pushes().is_empty());
}

#[test]
fn one_form_at_a_time_and_only_into_an_idle_session() {
    let dir = dir();
    let (a, c, b) = (session(&dir, "a", &[]), session(&dir, "c", &[]), session(&dir, "b", &[]));
    hook(&dir, "b", &json!({"hook_event_name": "UserPromptSubmit", "prompt": "work", "prompt_id": "t1"}));
    let first = ask(&a, "b", "first?");
    wait_for_detail(&a, &first, "when the session is idle");
    hook(&dir, "b", &json!({"hook_event_name": "PermissionRequest", "tool_name": "Bash"}));
    wait_for_detail(&a, &first, "when the session is idle");
    assert!(b.forms().is_empty());
    hook(&dir, "b", &json!({"hook_event_name": "Stop", "prompt_id": "t1"}));
    let form = b.take_form();
    assert_eq!(form.question(), "> first?");
    let second = ask(&c, "b", "second?");
    wait_for_detail(&c, &second, "shows no form");
    assert!(b.forms().is_empty());
    b.answer_form(&form, "1");
    is_answered(&a, &first, "> 1");
    let form = b.take_form();
    assert_eq!(form.question(), "> second?");
    b.answer_form(&form, "2");
    is_answered(&c, &second, "> 2");
}

#[test]
fn six_forms_an_hour_from_one_asker() {
    let dir = dir();
    let (a, c, b) = (session(&dir, "a", &[]), session(&dir, "c", &[]), session(&dir, "b", &[]));
    for _ in 0..6 {
        ask(&a, "b", "?");
    }
    let refused = a.call("relay_ask", json!({"to": "b", "question": "?", "who": "person"}));
    assert!(
        refused.text.contains("6 questions went to its user within 60 min")
            && refused.text.contains("retry in"),
        "{}",
        refused.text
    );
    assert_eq!(refused.code(), "overloaded");
    a.ask("b", "the session may still be asked");
    ask(&c, "b", "another asker is another count");
    // A script has a new identity each time, and is one asker nevertheless.
    for n in 0..7 {
        let mut script = dir.peer(&format!("script-{n}"));
        let mut asked = Raw::ask_as(&format!("ask_script_{n}"), "b", "?");
        asked["person"] = json!(true);
        assert_eq!(script.call(asked).err().map(|(code, _)| code), (n == 6).then(|| "overloaded".to_owned()));
    }
    drop(b);
}

#[test]
fn what_cannot_be_asked_is_declined_at_once() {
    let dir = dir();
    let a = session(&dir, "a", &[]);
    let _off = session(&dir, "off", &[("RELAY_PERSON", "off")]);
    let plain = dir.launch("plain").env("RELAY_PERSON", "on").start();
    plain.initialize_with("claude-code", &json!({"roots": {}}));
    plain.call("relay_peers", Value::Null).ok();
    let other = dir.launch("other").env("RELAY_PERSON", "on").start_as("codex-mcp-client");
    other.call("relay_peers", Value::Null).ok();
    dir.peer("script").say(&json!({"type": "watch_roster"}));
    let _script = dir.peer("script-2");
    for (to, why) in [
        ("off", "RELAY_PERSON=off"),
        ("plain", "its client shows no forms"),
        ("other", "its client shows no forms"),
        ("script-2", "no person answers there"),
    ] {
        let refused = a.call("relay_ask", json!({"to": to, "question": "?", "who": "person"}));
        assert!(refused.text.contains(why) && refused.text.contains("your own user"), "{}", refused.text);
        assert_eq!(refused.code(), "declined", "{to}");
    }
    let long = json!({"to": "a", "question": "x".repeat(1001), "who": "person"});
    let lines = json!({"to": "a", "question": "x\n".repeat(13), "who": "person"});
    let mut asker = dir.peer("asker");
    for mut question in [long, lines] {
        assert_eq!(plain.call("relay_ask", question.clone()).code(), "bad_args");
        question["who"] = json!("session");
        plain.call("relay_ask", question).ok();
    }
    let mut ask = Raw::ask_as("ask_to_off", "off", "?");
    ask["person"] = json!(true);
    assert_eq!(asker.refusal(ask), "declined");
    // Forms in thirty terminals are nobody's wish.
    assert_eq!(a.call("relay_broadcast", json!({"question": "?", "who": "person"})).code(), "bad_args");
}

#[test]
fn a_question_that_is_over_is_taken_away() {
    let dir = dir();
    let (mut a, b) = (session(&dir, "a", &[]), session(&dir, "b", &[]));
    let mut script = dir.peer("script");
    let mut question = Raw::ask_as("ask_withdrawn", "b", "still?");
    question["person"] = json!(true);
    script.call(question).expect("asked");
    let form = b.take_form();
    script.call(json!({"type": "withdraw", "ask_id": "ask_withdrawn"})).expect("withdrawn");
    b.wait_until_taken_away(&form);
    // The asker leaves.
    ask(&a, "b", "and this?");
    let form = b.take_form();
    assert_eq!(form.question(), "> and this?");
    hook(&dir, "a", &json!({"hook_event_name": "SessionEnd", "reason": "other"}));
    a.close();
    b.wait_until_taken_away(&form);
    b.peers();
    assert!(b.forms().is_empty() && b.pushes().is_empty());
}

#[test]
fn an_open_form_outlives_the_hub() {
    let dir = DataDir::with(&[("RELAY_FORM_QUIET_S", "0.01"), ("RELAY_GRACE_S", "1000")]);
    let (a, b) = (session(&dir, "a", &[]), session(&dir, "b", &[]));
    let ask_id = ask(&a, "b", "?");
    let form = b.take_form();
    wait_for_detail(&a, &ask_id, "the form is open");
    dir.kill_hub();
    wait_for_detail(&a, &ask_id, "the form is open");
    b.peers();
    assert!(b.forms().is_empty(), "it is open and not opened again");
    b.answer_form(&form, "yes");
    is_answered(&a, &ask_id, "> yes");
    // The answer comes while there is no hub.
    let ask_id = ask(&a, "b", "?");
    let form = b.take_form();
    wait_for_detail(&a, &ask_id, "the form is open");
    dir.kill_hub();
    b.answer_form(&form, "again");
    is_answered(&a, &ask_id, "> again");
    assert!(b.forms().is_empty());
}

#[test]
fn an_open_form_of_a_lost_state_is_taken_away() {
    let dir = DataDir::with(&[("RELAY_FORM_QUIET_S", "0.01"), ("RELAY_JOURNAL", "off")]);
    let (a, b) = (session(&dir, "a", &[]), session(&dir, "b", &[]));
    let ask_id = ask(&a, "b", "?");
    let form = b.take_form();
    wait_for_detail(&a, &ask_id, "the form is open");
    dir.kill_hub();
    b.wait_until_taken_away(&form);
    assert_eq!(a.take("failed", &ask_id).meta("code"), "hub_unreachable");
}

#[test]
fn a_channel_that_comes_back_opens_its_form_again() {
    let dir = DataDir::with(&[("RELAY_FORM_QUIET_S", "0.01"), ("RELAY_GRACE_S", "1000")]);
    let (a, mut b) = (session(&dir, "a", &[]), session(&dir, "b", &[]));
    let ask_id = ask(&a, "b", "?");
    let form = b.take_form();
    wait_for_detail(&a, &ask_id, "the form is open");
    b.kill();
    b.start_again();
    b.call("relay_peers", Value::Null).ok();
    let again = b.take_form();
    assert!(again.id != form.id && again.question() == form.question(), "{again:?}");
    b.answer_form(&form, "an answer to the form that is gone");
    b.answer_form(&again, "yes");
    is_answered(&a, &ask_id, "> yes");
    assert!(b.forms().is_empty());
}

#[test]
fn the_end_of_the_session_is_the_end_of_the_question() {
    let dir = dir();
    let (a, mut b) = (session(&dir, "a", &[]), session(&dir, "b", &[]));
    let ask_id = ask(&a, "b", "?");
    b.take_form();
    hook(&dir, "b", &json!({"hook_event_name": "SessionEnd", "reason": "prompt_input_exit"}));
    b.close();
    assert_eq!(a.take("failed", &ask_id).meta("code"), "peer_gone");
}

/// The form for consent to a question of `a`.
fn consent(b: &Channel, question: &str) -> Form {
    let form = b.take_form();
    assert!(form.message.contains("wants to ask this session"), "{form:?}");
    assert_eq!((form.field.0.as_str(), &form.field.1["type"]), ("always", &json!("boolean")));
    assert_eq!(form.question(), format!("> {question}"));
    form
}

#[test]
fn a_peer_asks_with_consent_only() {
    let dir = dir();
    let (a, b) = (session(&dir, "a", &[]), session(&dir, "b", &[("RELAY_CONSENT", "all")]));
    let first = a.ask("b", "one?");
    let form = consent(&b, "one?");
    wait_for_detail(&a, &first, "its user is asked for consent right now");
    b.peers();
    assert!(b.pushes().is_empty());
    b.close_form(&form, "accept", json!({"always": false}));
    b.take("ask", &first);
    b.reply(&first, "1").ok();
    assert_eq!(a.take("reply", &first).meta("by"), "");
    // Each question by itself, until one is always allowed; with it those that wait.
    let (second, third) = (a.ask("b", "two?"), a.ask("b", "three?"));
    b.close_form(&consent(&b, "two?"), "accept", json!({"always": true}));
    b.take("ask", &second);
    b.take("ask", &third);
    let fourth = a.ask("b", "four?");
    b.take("ask", &fourth);
    assert!(b.forms().is_empty());
    // A question to the person is none to the session.
    let c = session(&dir, "c", &[]);
    let asked = ask(&c, "b", "you?");
    let form = b.take_form();
    assert_eq!((form.field.0.as_str(), form.question()), ("answer", "> you?"));
    b.answer_form(&form, "me");
    is_answered(&c, &asked, "> me");
}

#[test]
fn consent_that_is_refused_or_cannot_be_had() {
    let dir = DataDir::with(&[("RELAY_FORM_QUIET_S", "0.01"), ("RELAY_FORM_AGAIN_S", "0.05")]);
    let (a, b) = (session(&dir, "a", &[]), session(&dir, "b", &[("RELAY_CONSENT", "all")]));
    let refused = a.ask("b", "one?");
    b.close_form(&consent(&b, "one?"), "decline", Value::Null);
    is_declined(&a, &refused, "does not let this peer ask");
    let ignored = a.ask("b", "two?");
    b.close_form(&consent(&b, "two?"), "cancel", Value::Null);
    a.take("notice", &ignored);
    b.close_form(&consent(&b, "two?"), "cancel", Value::Null);
    is_declined(&a, &ignored, "closed the form");
    // A question to all that is not allowed is closed at once.
    let all = a.call("relay_broadcast", json!({"question": "all?", "collect": false})).ok();
    b.close_form(&consent(&b, "all?"), "cancel", Value::Null);
    let summary = a.take("summary", all["broadcast_id"].as_str().expect("an id"));
    assert!(summary.content.contains("b: declined"), "{}", summary.content);
    // A client without forms takes no question at all.
    let plain = dir.launch("plain").env("RELAY_CONSENT", "all").start();
    plain.initialize_with("claude-code", &json!({}));
    plain.call("relay_peers", Value::Null).ok();
    let asked = a.ask("plain", "?");
    is_declined(&a, &asked, "cannot be shown a form");
    assert!(b.pushes().is_empty() && plain.pushes().is_empty());
}

#[test]
fn consent_is_for_other_repositories_if_the_user_says_so() {
    let dir = dir();
    for (project, repo) in [("one", "x"), ("two", "x"), ("far", "y")] {
        let git = dir.root().join("repos").join(repo);
        std::fs::create_dir_all(&git).expect("a directory");
        std::fs::write(git.join("HEAD"), "ref: refs/heads/main\n").expect("a head");
        let project = dir.project(project);
        std::fs::write(project.join(".git"), format!("gitdir: {}\n", git.display())).expect("a worktree");
    }
    let (one, far) = (session(&dir, "one", &[]), session(&dir, "far", &[]));
    let two = session(&dir, "two", &[("RELAY_CONSENT", "repo"), ("RELAY_PERSON", "on")]);
    let near = one.ask("two", "near?");
    two.take("ask", &near);
    let asked = far.ask("two", "far?");
    two.close_form(&consent(&two, "far?"), "accept", json!({"always": false}));
    two.take("ask", &asked);
}
