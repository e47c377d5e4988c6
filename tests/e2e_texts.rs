//! Texts of 512 KiB in real sessions: what the model gets of them, and where it finds the rest.

mod support;

use serde_json::json;
use support::client::{self, BEFORE_MESSAGING, NEWEST, VERSIONS, WITH_MESSAGING};
use support::launch::CHANNEL;
use support::model::Request;
use support::session::Session;
use support::stage::{Actor, Stage, ask_line, peer_line};

/// The largest text that is taken, in lines of 64 bytes.
fn largest() -> String {
    let lines: String = (0..8191).map(|n| format!("line {n:<58}\n")).collect();
    format!("{lines}{:<64}", "the last line")
}

fn quoted(text: &str) -> String {
    format!("> {}", text.replace('\n', "\n> "))
}

/// Asks bob, and returns what his model got of it, once the client has shown that it is in the conversation.
fn ask(stage: &Stage, alice: &mut Actor<'_, Session>, question: &str) -> (String, Request) {
    let ask_id = alice.ask("bob", question);
    let got = stage.model.wait_for("bob", "the question", |request| request.hears(&ask_id));
    alice.wait_for_state(&ask_id, "seen");
    (ask_id, got)
}

#[test]
fn the_inbox_carries_512_kib() {
    for version in [NEWEST, WITH_MESSAGING] {
        let Some(claude) = client::claude(version) else { return };
        let stage = Stage::new(&claude);
        let (mut alice, mut bob) = (stage.piped("alice"), stage.piped("bob"));
        alice.meet("bob");
        bob.settle();
        let watch = stage.watch();
        let (ask_id, got) = ask(&stage, &mut alice, &largest());
        assert!(got.fresh_text().contains(&quoted(&largest())), "{version}: whole");
        watch.only_by("inbox", "ask", &ask_id);
        assert!(bob.settle().received("the last line").matches == 1, "{version}: once");
        drop(watch);
        alice.end();
        bob.end();
        stage.finish();
    }
}

#[test]
fn the_channel_carries_512_kib() {
    let Some(tmux) = client::tmux() else { return };
    for claude in [NEWEST, BEFORE_MESSAGING].into_iter().filter_map(client::claude) {
        let stage = Stage::new(&claude);
        let bob = stage.launch("bob").channel(CHANNEL).in_terminal(&tmux);
        let (mut alice, bob) = (stage.piped("alice"), stage.act_in_terminal(bob, "bob"));
        alice.wait_for_peers("channel of bob", |peers| peer_line(peers, "bob")["push"] == "channel");
        let watch = stage.watch();
        let (ask_id, got) = ask(&stage, &mut alice, &largest());
        assert!(got.fresh_text().contains(&quoted(&largest())), "{}: whole", claude.display());
        watch.only_by("channel", "ask", &ask_id);
        drop(watch);
        alice.end();
        bob.end();
        stage.finish();
    }
}

/// Without hooks and inbox nothing else is left.
#[test]
fn a_tool_result_carries_490_000_characters() {
    for claude in client::VERSIONS.into_iter().filter_map(client::claude) {
        let mut stage = Stage::new(&claude);
        stage.home.settings(json!({"disableAllHooks": true}));
        stage.env("RELAY_PUSH", "hook");
        let (mut alice, mut bob) = (stage.piped("alice"), stage.piped("bob"));
        alice.meet("bob");
        for text in [largest()[..450_000].to_owned(), largest()] {
            let ask_id = alice.ask("bob", &text);
            let peers = bob.peers();
            let message =
                peers["messages"][0].as_str().unwrap_or_else(|| panic!("{}: {peers}", claude.display()));
            let lines: Vec<&str> = message.lines().filter(|line| line.starts_with("> ")).collect();
            assert!(
                quoted(&text).starts_with(&lines.join("\n")) && lines.len() > 7_000,
                "{} lines",
                lines.len()
            );
            assert_eq!(message.contains("The rest is in "), text == largest());
            bob.get("relay_reply", json!({"ask_id": ask_id, "answer": "read"}));
        }
        alice.end();
        bob.end();
        stage.finish();
    }
}

#[test]
fn what_a_path_cannot_carry_is_in_a_file_that_goes_with_the_ask() {
    // The inbox counts what JSON escapes twice.
    let quotes = "\"\\\"\t\"\n".repeat(87_000) + "the last line";
    for (version, push, text) in [
        (NEWEST, "inbox", quotes.clone()),
        (WITH_MESSAGING, "inbox", quotes),
        (NEWEST, "hook", largest()),
        (WITH_MESSAGING, "hook", largest()),
        (BEFORE_MESSAGING, "hook", largest()),
    ] {
        let Some(claude) = client::claude(version) else { return };
        let mut stage = Stage::new(&claude);
        stage.env("RELAY_PUSH", push);
        let rule = "Read(~/.claude/plugins/data/relay-claude-relay/texts/**)"; // as docs/reference.md says
        stage.home.settings(json!({"permissions": {"allow": [rule]}}));
        let (mut alice, mut bob) = (stage.piped("alice"), stage.piped("bob"));
        alice.meet("bob");
        bob.settle();
        let watch = stage.watch();
        let (ask_id, got) = ask(&stage, &mut alice, &text);
        watch.only_by(push, "ask", &ask_id);
        let message = got.fresh_text();
        let (_, note) =
            message.split_once("The rest is in ").unwrap_or_else(|| panic!("{version} {push}: not cut"));
        let file = note.split_once(", from that line ").expect("a line").0;
        // Whole up to where it says.
        let first = std::fs::read_to_string(file).expect("the file");
        assert_eq!(first, quoted(&text) + "\n", "{version} {push}");
        let (_, after) = message.split_once("up to line ").expect("a line");
        let line: usize = after.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
        let begin: String = quoted(&text).split_inclusive('\n').take(line).collect();
        assert!(message.contains(begin.trim_end_matches('\n')), "{version} {push}: whole up to line {line}");
        assert!(!message.contains("characters truncated"), "{version} {push}");
        let read = bob.call("Read", json!({"file_path": file, "offset": text.lines().count(), "limit": 1}));
        assert!(!read.is_error && read.text.contains("> the last line"), "{version} {push}: {read:?}");

        bob.get("relay_reply", json!({"ask_id": ask_id, "answer": "read"}));
        assert!(!std::path::Path::new(file).exists(), "{version} {push}: the ask has ended");
        drop(watch);
        alice.end();
        bob.end();
        stage.finish();
    }
}

/// A client that finds a tool result too long replaces it by a preview.
#[test]
fn two_texts_of_60_kib_in_a_tool_result() {
    for claude in VERSIONS.into_iter().filter_map(client::claude) {
        let stage = Stage::bare(&claude);
        let (mut alice, bob) = (stage.piped("alice"), stage.launch("bob").env("RELAY_PUSH", "hook").piped());
        let mut bob = stage.act(bob, "bob");
        alice.meet("bob");
        let ids = ["one", "two"].map(|name| {
            let text = format!("{}\nthe end of {name}", format!("{name} ").repeat(15 << 10));
            alice.ask("bob", &text)
        });
        let peers = alice.peers();
        assert!(ids.iter().all(|id| ask_line(&peers, id)["state"] == "queued"), "{peers}");
        bob.peers();
        bob.got_each_once(&["> the end of one", "> the end of two"]);
        let peers = alice.peers();
        assert!(ids.iter().all(|id| ask_line(&peers, id)["state"] == "pushed"), "{peers}");
        alice.end();
        bob.end();
        stage.finish();
    }
}
