//! What a person in front of a session sees of the relay: one line per message.

mod support;

use support::client::{self, BEFORE_MESSAGING, NEWEST, WITH_MESSAGING};
use support::launch::CHANNEL;
use support::stage::{Actor, Stage, peer_line};
use support::terminal::Terminal;

const COLUMNS: u32 = 100;
const NARROW: u32 = 60;
const QUESTION: &str = "Did the shape of the auth token change since Tuesday?";

/// The lines from the one with this mark to the next thing on the screen, blank ones apart.
fn lines_from(screen: &str, mark: &str) -> Vec<String> {
    let begins = |line: &str| line.starts_with(['●', '›', '←', '❯', '─', '✻']);
    let mut lines = screen.lines().skip_while(|line| !line.contains(mark));
    let first = lines.next().map(str::to_owned);
    let rest = lines.take_while(|line| !begins(line)).filter(|line| !line.trim().is_empty());
    first.into_iter().chain(rest.map(str::to_owned)).collect()
}

/// A question goes to bob, who says no more than "noted". Returns what his screen shows of it.
fn message_on_the_screen(version: &str, path: &str, mark: &str, columns: u32) -> Option<Vec<String>> {
    let (claude, tmux) = (client::claude(version)?, client::tmux()?);
    let stage = Stage::new(&claude);
    // A channel that is not forced becomes a path only when the client has begun to listen to it.
    let launch = stage.launch("bob");
    let launch = if path == "channel" { launch.channel(CHANNEL) } else { launch.env("RELAY_PUSH", path) };
    let terminal = launch.in_terminal(&tmux);
    terminal.resize(columns, 50);
    let mut alice = stage.piped("alice");
    let mut bob: Actor<'_, Terminal> = stage.act_in_terminal(terminal, "bob");
    alice.wait_for_peers("bob", |peers| peer_line(peers, "bob")["push"] == path);
    alice.ask("bob", QUESTION);
    stage.wait_for_ask("bob", QUESTION);
    let screen = bob.session.wait_for("the model's word", |screen| screen.contains("● noted"));
    bob.got_each_once(&[QUESTION]);
    Some(lines_from(&screen, mark))
}

#[test]
fn by_inbox() {
    for (version, columns) in
        [(NEWEST, COLUMNS), (NEWEST, NARROW), (WITH_MESSAGING, COLUMNS), (WITH_MESSAGING, NARROW)]
    {
        let mark = "Message from @alice";
        let Some(lines) = message_on_the_screen(version, "inbox", mark, columns) else { return };
        assert!((1..=2).contains(&lines.len()) && lines.concat().contains("auth token"), "{lines:#?}");
        assert!(!lines.concat().contains("push_") && !lines.concat().contains('<'), "{lines:#?}");
    }
}

#[test]
fn by_channel() {
    for version in [NEWEST, BEFORE_MESSAGING] {
        let Some(lines) = message_on_the_screen(version, "channel", "relay · alice:", COLUMNS) else {
            return;
        };
        assert!(lines.len() == 1 && lines[0].contains("auth token"), "{lines:#?}");
        assert!(!lines[0].contains("push_"), "{lines:#?}");
    }
}

#[test]
fn by_hook() {
    for version in [NEWEST, BEFORE_MESSAGING] {
        let mark = "Message from a peer session (relay)";
        let Some(lines) = message_on_the_screen(version, "hook", mark, COLUMNS) else { return };
        assert_eq!(lines.len(), 1, "{lines:#?}");
    }
}

/// The reminder at the end of a turn is short, and no error.
#[test]
fn a_reminder() {
    let (Some(claude), Some(tmux)) = (client::claude(NEWEST), client::tmux()) else { return };
    let stage = Stage::new(&claude);
    let terminal = stage.launch("bob").in_terminal(&tmux);
    terminal.resize(COLUMNS, 50);
    let mut alice = stage.piped("alice");
    let bob = stage.act_in_terminal(terminal, "bob");
    alice.meet("bob");
    alice.ask("bob", QUESTION);
    let screen = bob.session.wait_for("the reminder", |screen| {
        screen.contains("still unanswered") && screen.matches("● noted").count() == 2
    });
    let lines = lines_from(&screen, "Ran ");
    assert!((2..=4).contains(&lines.len()), "{lines:#?}");
    assert!(!screen.contains("problem") && !screen.contains("error"), "{screen}");
}

/// `relay statusline` as the user's own `statusLine` command.
#[test]
fn the_status_line() {
    let (Some(claude), Some(tmux)) = (client::claude(NEWEST), client::tmux()) else { return };
    let stage = Stage::new(&claude);
    let command = format!("{} statusline", support::relay_path());
    // Without the interval the client runs it only when its own conversation changes.
    let setting = serde_json::json!({"type": "command", "command": command, "refreshInterval": 1});
    stage.home.settings(serde_json::json!({"statusLine": setting}));
    let terminal = stage.launch("bob").in_terminal(&tmux);
    terminal.resize(COLUMNS, 50);
    let mut alice = stage.piped("alice");
    let bob = stage.act_in_terminal(terminal, "bob");
    alice.meet("bob");
    let gate = stage.hold_at("bob", QUESTION);
    alice.ask("bob", QUESTION);
    bob.session.wait_for_text("relay: bob · 1 owed");
    gate.open();
}
