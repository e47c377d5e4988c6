//! Two and more real sessions talk.

mod support;

use std::path::Path;

use serde_json::{Value, json};
use support::client::{self, NEWEST};
use support::home::{Home, run};
use support::model::Request;
use support::stage::{Stage, ask_line, field, headers_in, peer_line};

#[test]
fn a_session_asks_another_and_gets_the_answer() {
    let Some(claude) = client::claude(NEWEST) else { return };
    let stage = Stage::new(&claude);
    let (mut alice, mut bob) = (stage.piped("alice"), stage.piped("bob"));
    let watch = stage.watch();
    stage.answers("bob", "it is 4711");

    alice.meet("bob");
    let ask_id = alice.ask("bob", "which port?");
    let question = stage.wait_for_ask("bob", "which port?");
    assert_eq!((question.ask_id.as_str(), question.from.as_str()), (ask_id.as_str(), "alice"));
    let answer = stage.model.wait_for("alice", "the answer", |request| request.hears("4711"));
    let headers = headers_in(&answer, "reply");
    assert_eq!(headers.len(), 1);
    assert_eq!(field(&headers[0], "ask_id").as_deref(), Some(ask_id.as_str()));
    assert_eq!(field(&headers[0], "from").as_deref(), Some("bob"));

    assert_eq!(alice.settle().received("4711").matches, 1);
    assert_eq!(bob.settle().received("which port?").matches, 1);
    for kind in ["ask", "reply"] {
        let course = watch.course(kind, &ask_id);
        assert_eq!(course.last().map(String::as_str), Some("seen by inbox"), "{kind}: {course:?}");
        assert!(course.iter().all(|step| step.ends_with("by inbox")), "{kind}: {course:?}");
    }

    let peers = alice.peers();
    assert_eq!(peers["self"]["name"], "alice");
    assert_eq!(peers["asks"], json!([]));
    let line = peer_line(&peers, "bob");
    assert_eq!(
        (&line["push"], &line["confirmed"], &line["kind"]),
        (&json!("inbox"), &json!(true), &json!("session"))
    );
    assert_eq!(line["cwd"].as_str(), stage.home.project("bob").to_str());
    stage.wait_for_waiters(0); // the path is known to work on both sides, so nobody waits for another

    drop(watch);
    let logs = logs_of(&stage.home);
    assert!(logs.contains("\"register_ack\"") && !logs.contains("4711") && !logs.contains("which port?"));
    alice.end();
    bob.end();
    stage.finish();
}

#[test]
fn a_broadcast_brings_every_answer_and_a_summary() {
    let Some(claude) = client::claude(NEWEST) else { return };
    let stage = Stage::new(&claude);
    let names = ["bob", "carol", "dave"];
    let mut alice = stage.piped("alice");
    let others: Vec<_> = names.iter().map(|name| stage.launch(name).piped()).collect();
    let mut others: Vec<_> =
        others.into_iter().zip(names).map(|(session, name)| stage.act(session, name)).collect();
    for name in names {
        stage.answers(name, &format!("{name}'s branch is green"));
    }
    alice.wait_for_peers("three peers", |peers| {
        peers["peers"].as_array().is_some_and(|peers| peers.len() == 3)
    });

    let sent = alice.get("relay_broadcast", json!({"question": "which branch?"}));
    let to: Vec<&str> =
        sent["asks"].as_array().expect("asks").iter().filter_map(|ask| ask["to"].as_str()).collect();
    assert_eq!(to, names);
    let summary =
        stage.model.wait_for("alice", "the summary", |request| !headers_in(request, "summary").is_empty());
    let header = headers_in(&summary, "summary").remove(0);
    assert_eq!(field(&header, "broadcast_id").as_deref(), sent["broadcast_id"].as_str());
    assert!(summary.hears("The broadcast is closed: 3 of 3 answered ("), "{}", summary.fresh_text());

    // One message, so one turn.
    assert!(
        names.iter().all(|name| summary.hears(&format!("{name}'s branch is green"))),
        "{}",
        summary.fresh_text()
    );
    let all = alice.settle();
    assert_eq!(all.received("3 of 3 answered").matches, 1);
    for (other, name) in others.iter_mut().zip(names) {
        assert_eq!(all.received(&format!("{name}'s branch is green")).matches, 1, "{name}");
        assert_eq!(other.settle().received("which branch?").matches, 1, "{name}");
    }
    others.into_iter().for_each(|other| other.end());
    alice.end();
    stage.finish();
}

#[test]
fn a_session_is_asked_by_the_name_it_has() {
    let Some(claude) = client::claude(NEWEST) else { return };
    let stage = Stage::new(&claude);
    let named = stage.launch("bob").arg("--name").arg("The Builder").piped();
    let (mut alice, mut bob) = (stage.piped("alice"), stage.act(named, "bob"));
    alice.meet("The-Builder");
    stage.answers("bob", "yes, we can");
    alice.ask("The-Builder", "can you fix it?");
    stage.model.wait_for("alice", "the answer", |request| request.hears("yes, we can"));

    assert!(bob.fail("relay_rename", json!({"name": "Alice"})).starts_with("name_taken: "));
    assert_eq!(bob.get("relay_rename", json!({"name": "Back End"})), json!({"ok": true, "name": "Back-End"}));
    stage.answers("bob", "of course");
    alice.ask("Back-End", "and that?");
    stage.model.wait_for("alice", "the second answer", |request| request.hears("of course"));

    let all = alice.settle();
    assert_eq!((all.received("yes, we can").matches, all.received("of course").matches), (1, 1));
    let all = bob.settle();
    assert_eq!((all.received("can you fix it?").matches, all.received("and that?").matches), (1, 1));
    alice.end();
    bob.end();
    stage.finish();
}

#[test]
fn an_asker_is_told_that_the_peer_left() {
    let Some(claude) = client::claude(NEWEST) else { return };
    let mut stage = Stage::new(&claude);
    stage.env("RELAY_GRACE_S", "1");
    let (mut alice, bob, mut carol) = (stage.piped("alice"), stage.piped("bob"), stage.piped("carol"));
    alice.meet("bob");
    alice.meet("carol");
    let to_bob = alice.ask("bob", "are you there, bob?");
    let to_carol = alice.ask("carol", "are you there, carol?");
    stage.wait_for_ask("bob", "are you there, bob?");
    stage.wait_for_ask("carol", "are you there, carol?");

    // The same request may also tell that somebody ended a turn without an answer.
    let failed = |request: &Request, id: &str| {
        headers_in(request, "failed")
            .into_iter()
            .find(|header| field(header, "ask_id").as_deref() == Some(id))
    };
    bob.end();
    let told = stage.model.wait_for("alice", "bob's end", |request| failed(request, &to_bob).is_some());
    let header = failed(&told, &to_bob).expect("just seen");
    assert_eq!(field(&header, "code").as_deref(), Some("peer_gone"));
    assert_eq!(field(&header, "from").as_deref(), Some("bob"));

    // A crash: no goodbye.
    carol.session.kill();
    stage.model.wait_for("alice", "carol's end", |request| failed(request, &to_carol).is_some());
    let all = alice.settle();
    assert_eq!(all.received("peer_gone: \"bob\"").matches, 1);
    assert_eq!(all.received("peer_gone: \"carol\"").matches, 1);
    assert_eq!(alice.peers()["asks"], json!([]));
    drop(carol);
    alice.end();
    stage.finish();
}

#[test]
fn what_cannot_be_asked_is_a_tool_error() {
    let Some(claude) = client::claude(NEWEST) else { return };
    let stage = Stage::new(&claude);
    let (mut alice, bob) = (stage.piped("alice"), stage.piped("bob"));
    alice.meet("bob");
    let unknown = alice.fail("relay_ask", json!({"to": "bobb", "question": "?"}));
    assert!(
        unknown.starts_with("peer_not_found: ") && unknown.contains("did you mean \"bob\"?"),
        "{unknown}"
    );
    assert!(unknown.ends_with("Tell the user; do not broadcast as a fallback."), "{unknown}");
    assert!(alice.fail("relay_ask", json!({"to": "alice", "question": "?"})).starts_with("bad_args: "));
    let unowed = alice.fail("relay_reply", json!({"ask_id": "ask_0", "answer": "?"}));
    assert!(unowed.starts_with("unknown_ask: "), "{unowed}");
    assert_eq!(ask_line(&alice.peers(), "ask_0"), Value::Null);
    alice.end();
    bob.end();
    stage.finish();
}

/// Hooks that should run in the background do not when there is no stream of prompts: a waiter would hang the session.
#[test]
fn a_session_of_one_prompt_answers_and_ends() {
    for claude in client::VERSIONS.into_iter().filter_map(client::claude) {
        let stage = Stage::new(&claude);
        stage.model.script("alice", |_| support::model::Step::say("here you are"));
        let mut command = stage.home.command(&claude);
        command.args(["-p", "one prompt only"]).current_dir(stage.home.project("alice"));
        command.env("ANTHROPIC_BASE_URL", stage.model.base_url("alice"));
        command.env("RELAY_BIN", support::relay_path()).env("RELAY_IDLE_EXIT_S", "0.5");
        assert_eq!(run(&mut command), "here you are\n");
        stage.finish();
    }
}

#[test]
fn the_client_accepts_the_plugin_and_its_server() {
    for claude in client::VERSIONS.into_iter().filter_map(client::claude) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let stage = Stage::new(&claude);
        for dir in [root.to_owned(), root.join("plugin")] {
            run(stage.home.command(&claude).args(["plugin", "validate", "--strict"]).arg(dir));
        }
        let listed = run(stage.home.command(&claude).args(["plugin", "list"]));
        assert!(listed.contains("relay@claude-relay") && listed.contains("enabled"), "{listed}");
        let mut servers = stage.home.command(&claude);
        servers.args(["mcp", "list"]).env("RELAY_BIN", support::relay_path()).env("RELAY_IDLE_EXIT_S", "0.5");
        let servers = run(&mut servers);
        let ours = servers.lines().find(|line| line.contains("plugin:relay:relay")).expect("our server");
        assert!(ours.contains("Connected"), "{ours}");
        stage.finish();
    }
}

fn logs_of(home: &Home) -> String {
    let logs = std::fs::read_dir(home.plugin_data().join("logs")).expect("logs");
    logs.map(|log| std::fs::read_to_string(log.expect("a log").path()).expect("a log")).collect()
}
