//! People, scripts and real Claude Code sessions ask each other.

mod shell_kit;
mod support;

use serde_json::{Value, json};
use shell_kit::{Proc, relay_path};
use support::client::{self, NEWEST};
use support::stage::{Stage, field, headers_in, peer_line};

/// A command of ours beside the sessions of a stage.
fn relay(stage: &Stage, args: &[&str]) -> Proc {
    let mut command = stage.home.command(relay_path());
    Proc::start(command.args(args).arg("--data-dir").arg(stage.home.plugin_data()))
}

#[test]
fn a_script_asks_a_session() {
    let Some(claude) = client::claude(NEWEST) else { return };
    let stage = Stage::new(&claude);
    let mut bob = stage.piped("bob");
    stage.answers("bob", "it is 4711");
    bob.wait_for_peers("itself", |peers| peers["self"]["name"] == "bob");
    let mut ask = relay(&stage, &["ask", "bob", "--json", "--as", "ci", "which port?"]);
    assert_eq!(ask.code(), Some(0), "{}", ask.err.text());
    let answer: Value = serde_json::from_str(&ask.out.text()).expect("JSON");
    assert_eq!((&answer["answer"], &answer["from"]), (&json!("it is 4711"), &json!("bob")));
    let asked = stage.wait_for_ask("bob", "which port?");
    assert_eq!(
        (asked.from.as_str(), asked.ask_id.as_str()),
        ("ci", answer["ask_id"].as_str().expect("an id"))
    );
    let mut all = relay(&stage, &["broadcast", "and now?"]);
    assert_eq!(all.code(), Some(0));
    assert_eq!(all.out.text(), "bob: it is 4711\n");
    assert_eq!(bob.settle().received("which port?").matches, 1);
    bob.end();
    stage.finish();
}

#[test]
fn a_session_asks_a_person() {
    let Some(claude) = client::claude(NEWEST) else { return };
    let stage = Stage::new(&claude);
    let mut alice = stage.piped("alice");
    let mut anna = relay(&stage, &["join", "anna"]);
    anna.err.until("You are anna");
    alice.meet("anna");
    assert_eq!(peer_line(&alice.peers(), "anna")["push"], "socket");
    let ask_id = alice.ask("anna", "shall I merge?");
    anna.out.until("#1 alice asks: shall I merge?");
    alice.wait_for_state(&ask_id, "seen");
    anna.line("yes, merge");
    let heard = stage.model.wait_for("alice", "the answer", |request| request.hears("yes, merge"));
    assert_eq!(field(&headers_in(&heard, "reply")[0], "from").as_deref(), Some("anna"));
    anna.line("/quit");
    assert_eq!(anna.code(), Some(0));
    alice.end();
    stage.finish();
}

/// The status line of `relay ask`, `relay asks` and `relay tail` say the same of a session whose user refuses the answer.
#[test]
fn a_person_who_asks_sees_what_the_session_does() {
    let (Some(claude), Some(tmux)) = (client::claude(NEWEST), client::tmux()) else { return };
    let stage = Stage::new(&claude);
    let bob = stage.launch("bob").allow_nothing().in_terminal(&tmux);
    let mut alice = stage.piped("alice");
    let bob = stage.act_in_terminal(bob, "bob");
    alice.meet("bob");
    let (tail, events) = (relay(&stage, &["tail"]), relay(&stage, &["tail", "--json"]));
    tail.err.until("watching");
    events.err.until("watching");
    stage.answers("bob", "A-refused");
    let line =
        format!("{} --data-dir {} ask bob 'Q-refused?'", relay_path(), stage.home.plugin_data().display());
    let mut terminal = stage.home.command("script");
    let mut ask = Proc::start(terminal.env("TERM", "xterm").args(["-qefc", &line, "/dev/null"]));
    ask.out.until("bob: pushed by inbox, ");
    ask.out.until("not seen yet: the session is busy");
    ask.out.until("the session is waiting for its user's permission");
    let dialog = "Do you want to proceed?";
    bob.session.wait_for_text(dialog);
    bob.session.press_until(&["Escape"], "that the dialog went", |screen| !screen.contains(dialog));
    let words = "declined: the reply was refused there (its user refused it at the permission dialog)";
    ask.out.until(&format!("bob: seen, {words}"));
    tail.out.until("tester → bob  note  ask_");
    tail.out.until(&format!("seen, {words}"));
    events.out.until("\"note\":\"declined\"");
    let asks = relay(&stage, &["asks", "--json"]);
    asks.out.until(words);
    ask.write("\u{3}");
    assert_eq!(ask.code(), Some(130));
    drop((tail, events, asks));
    alice.end();
    bob.end();
    stage.finish();
}
