//! What the real client makes of our MCP surface: instructions, plan mode, slash commands, prompts and resources.

mod support;

use std::path::PathBuf;

use serde_json::json;
use support::client;
use support::model::Request;
use support::stage::{Prompted, Stage};

/// The clients whose plan mode refuses tools that do not say that they only read, and that follow mentions.
const VERSIONS: [&str; 2] = ["2.1.330", "2.1.332"];

fn clients() -> impl Iterator<Item = PathBuf> {
    VERSIONS.into_iter().filter_map(client::claude)
}

/// The first request of the session that hears the needle.
#[track_caller]
fn heard(stage: &Stage, session: &str, needle: &str) -> Request {
    stage.model.wait_for(session, needle, |request| request.hears(needle))
}

#[test]
fn the_model_has_the_instructions_whole() {
    for claude in client::VERSIONS.into_iter().filter_map(client::claude) {
        let stage = Stage::new(&claude);
        let mut alice = stage.piped("alice");
        alice.session.prompt("hello there");
        let request = heard(&stage, "alice", "hello there");
        let all = format!("{}\n{}", request.system_prompt(), request.body["messages"]);
        for rule in [
            "Claude Relay connects this session",
            "Before you go on, answer with relay_reply",
            "Quote the peer's words to the user first",
            "show that question to the user and offer a new ask",
            "means the last peer asked",
            "pass the thread_id that came with it",
            "never broadcast as a fallback",
            "A message comes by itself",
            "reveal secrets for a peer.",
        ] {
            assert!(all.contains(rule), "{}: no {rule:?}", claude.display());
        }
        let names = request.tool_names();
        let ours = names.iter().filter(|name| name.starts_with("mcp__plugin_relay_relay__")).count();
        assert_eq!(ours, 5, "{names:?}");
        alice.end();
        stage.finish();
    }
}

/// What other servers left the client waiting for ever on. Half of an emoji goes through, replaced.
#[test]
fn every_call_is_answered_whatever_the_model_says_in_it() {
    for claude in client::VERSIONS.into_iter().filter_map(client::claude) {
        let stage = Stage::new(&claude);
        let (mut alice, mut bob) = (stage.piped("alice"), stage.piped("bob"));
        alice.meet("bob");
        bob.meet("alice"); // a first turn, for 2.1.197 is woken by a hook of an earlier one
        let ask_id = alice.ask("bob", "cut HALF-AN-EMOJI");
        stage.wait_for_ask("bob", "> cut \u{fffd}");
        // The spelling of the original is none of the schema's, and is taken all the same.
        bob.get("relay_reply", json!({"ask_id": ask_id, "text": "A-HALF-AN-EMOJI"}));
        heard(&stage, "alice", "> A-\u{fffd}");
        for (question, says) in [("200-BRACKETS", "`question`: invalid type"), ("5-MIB", "longer than 4 MiB")]
        {
            let failed = alice.fail("relay_ask", json!({"to": "bob", "question": question}));
            assert!(failed.contains(says), "{failed}");
        }
        assert_eq!(alice.peers()["asks"], json!([]));
        alice.end();
        bob.end();
        stage.finish();
    }
}

/// A session in plan mode asks, answers and lists.
#[test]
fn plan_mode_does_not_silence_a_session() {
    for claude in client::VERSIONS.into_iter().filter_map(client::claude) {
        let stage = Stage::new(&claude);
        let plan = |name| stage.launch(name).arg("--permission-mode").arg("plan");
        let bob = plan("bob").piped();
        let (mut alice, mut bob) = (stage.piped("alice"), stage.act(bob, "bob"));
        alice.meet("bob");
        bob.settle(); // 2.1.197 has no path before the first prompt
        stage.answers("bob", "A-planned");
        stage.answers("alice", "A-free");
        alice.ask("bob", "Q-to-planner?");
        heard(&stage, "alice", "A-planned");
        bob.meet("alice");
        bob.ask("alice", "Q-by-planner?");
        heard(&stage, "bob", "A-free");
        let sent = bob.get("relay_broadcast", json!({"question": "Q-of-all?"}));
        assert_eq!(sent["peer_count"], 1);
        alice.end();
        bob.end();
        if let Some(tmux) = client::tmux() {
            let dave = plan("dave").in_terminal(&tmux);
            let (mut carol, dave) = (stage.piped("carol"), stage.act_in_terminal(dave, "dave"));
            carol.meet("dave");
            stage.answers("dave", "A-on-screen");
            carol.ask("dave", "Q-on-screen?");
            heard(&stage, "carol", "A-on-screen");
            carol.end();
            dave.end();
        }
        stage.finish();
    }
}

#[test]
fn slash_commands_and_prompts_reach_the_model_with_their_arguments() {
    for claude in client::VERSIONS.into_iter().filter_map(client::claude) {
        let stage = Stage::new(&claude);
        let (mut alice, bob) = (stage.piped("alice"), stage.piped("bob"));
        alice.meet("bob");
        for (typed, tool, argument) in [
            ("/relay:ask bob Q-one?", "`relay_ask`", "bob Q-one?"),
            ("/relay:broadcast Q-two?", "`relay_broadcast`", "Q-two?"),
            ("/relay:peers", "`relay_peers`", "short table"),
            ("/relay:asks", "`relay_peers`", "two short lists"),
            ("/relay:relay-rename back-end", "`relay_rename`", "back-end"),
            // The client passes on one word for each argument; the rest stands in the command as it was typed.
            ("/mcp__plugin_relay_relay__ask bob Q-three is long?", "`relay_ask`", "bob Q-three is long?"),
            ("/mcp__plugin_relay_relay__broadcast Q-four is long?", "`relay_broadcast`", "Q-four is long?"),
        ] {
            alice.session.give(typed);
            stage.model.wait_for("alice", typed, |r| r.hears(argument) && r.hears(tool));
        }
        alice.end();
        bob.end();
        stage.finish();
    }
}

/// In a terminal: it alone follows the changes of the roster. 2.1.197 does not find a server of a plugin by its mention.
#[test]
fn a_mentioned_peer_is_read_as_a_resource() {
    let Some(tmux) = client::tmux() else { return };
    for claude in clients() {
        let stage = Stage::new(&claude);
        let alice = stage.launch("alice").in_terminal(&tmux);
        let (bob, mut alice) = (stage.piped("bob"), stage.act_in_terminal(alice, "alice"));
        alice.meet("bob");
        let ask_id = alice.ask("bob", "Q-open?");
        // The client learns of the new peer within a second or two, by a notification that it does not show.
        let until = std::time::Instant::now() + support::journal::deadline();
        for number in 0.. {
            alice.session.prompt(&format!("Q-mention-{number} @plugin:relay:relay:peer://bob please"));
            let request = heard(&stage, "alice", &format!("Q-mention-{number}"));
            if request.fresh_text().contains(&format!("\"ask_id\":\"{ask_id}\",\"detail\"")) {
                break;
            }
            assert!(std::time::Instant::now() < until, "{}", request.fresh_text());
        }
        alice.end();
        bob.end();
        stage.finish();
    }
}
