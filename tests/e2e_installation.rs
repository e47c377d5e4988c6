//! The installation tells the truth: `relay setup` and `relay doctor` beside real sessions, and what else is called relay.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use support::client::{self, BEFORE_MESSAGING, NEWEST, VERSIONS};
use support::leftovers;
use support::model::Request;
use support::relay_path;
use support::stage::{Prompted, Stage};

/// `PATH` with a directory of this home before the others, and that directory.
fn path_with_bin(stage: &Stage) -> (String, PathBuf) {
    let bin = stage.home.path().join("bin");
    fs::create_dir_all(&bin).expect("a directory");
    let path = std::env::var("PATH").expect("a PATH");
    (format!("{}:{path}", bin.display()), bin)
}

/// What a command of ours prints, with this client as `claude`. It may fail.
fn relay(stage: &Stage, program: &Path, args: &[&str]) -> String {
    let (path, bin) = path_with_bin(stage);
    let _ = symlink(&stage.claude, bin.join("claude")); // it is there the second time
    let mut command = stage.home.command(program);
    let ran = command.args(args).env("PATH", path).stdin(Stdio::null()).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        args[0] == "doctor" || ran.status.success(),
        "{args:?}: {}{}",
        text(&ran.stdout),
        text(&ran.stderr)
    );
    text(&ran.stdout) + &text(&ran.stderr)
}

/// The details of what `relay doctor` finds.
fn diagnose(stage: &Stage) -> Vec<(String, String, String)> {
    let printed = relay(stage, Path::new(relay_path()), &["doctor", "--json"]);
    let report: Value = serde_json::from_str(&printed).unwrap_or_else(|e| panic!("{e}: {printed}"));
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let all = report["findings"].as_array().expect("findings").iter();
    all.map(|f| (text(f, "check"), text(f, "level"), text(f, "detail"))).collect()
}

#[track_caller]
fn finds(found: &[(String, String, String)], check: &str, level: &str, parts: &[&str]) {
    let is_it = |(c, l, detail): &&(String, String, String)| {
        c == check && l == level && parts.iter().all(|part| detail.contains(part))
    };
    assert!(
        found.iter().any(|finding| is_it(&finding)),
        "no {level} about {check} with {parts:?}: {found:#?}"
    );
}

/// A program of somebody else that is called relay and exits with 2, as hooks do to block a prompt: it is not run, and where
/// ours is found further on, that is.
#[test]
fn another_program_called_relay_blocks_no_prompt() {
    for version in VERSIONS {
        let Some(claude) = client::claude(version) else { return };
        let stage = Stage::new(&claude);
        let (path, bin) = path_with_bin(&stage);
        let ran = stage.home.path().join("it-ran");
        fs::write(bin.join("relay"), format!("#!/bin/sh\ntouch '{}'\nexit 2\n", ran.display()))
            .expect("a program");
        fs::set_permissions(bin.join("relay"), fs::Permissions::from_mode(0o755)).expect("a mode");
        let launch = |name| stage.launch(name).env("RELAY_BIN", "").env("PATH", &path);
        let ours = stage.home.path().join(".cargo/bin");
        fs::create_dir_all(&ours)
            .and_then(|()| symlink(relay_path(), ours.join("relay")))
            .expect("our program");
        let mut bob = stage.act(launch("bob").piped(), "bob");
        assert_eq!(bob.peers()["self"]["name"], "bob");
        bob.end();
        fs::remove_dir_all(&ours).expect("removed");
        let mut alice = launch("alice").piped();
        alice.give("Q-not-blocked?");
        stage.model.wait_for("alice", "the prompt", |request| request.hears("Q-not-blocked?"));
        alice.wait_for_turns(1);
        alice.end();
        assert!(!ran.exists(), "{version}: it was run");
        stage.finish();
    }
}

/// The plugin and `claude mcp add` give each session two channels. They are one peer for others, and none for the session itself.
#[test]
fn a_session_with_two_channels_is_one_peer() {
    for version in [NEWEST, BEFORE_MESSAGING] {
        let Some(claude) = client::claude(version) else { return };
        let stage = Stage::new(&claude);
        let add = ["mcp", "add", "--scope", "user", "talk", "--", relay_path(), "channel"];
        support::home::run(stage.home.command(&claude).args(add));
        let both = |name: &str| {
            // Without it the bare server would have another data directory.
            let data = stage.home.plugin_data();
            let mut session = stage.launch(name).env("RELAY_DATA_DIR", data).piped();
            session.wait_for_server("talk");
            stage.act(session, name)
        };
        let (mut alice, mut bob) = (both("alice"), both("bob"));
        alice.meet("bob");
        bob.settle(); // 2.1.197 starts what waits for messages with the first turn
        let peers = alice.peers();
        assert_eq!(peers["peers"].as_array().map(Vec::len), Some(1), "{version}: {peers:#}");
        let asked = alice.get("relay_broadcast", json!({"question": "Q-of-all?"}));
        assert_eq!(asked["peer_count"], 1, "{version}: {asked:#}");
        stage.wait_for_ask("bob", "Q-of-all?");
        bob.got_each_once(&["Q-of-all?"]);
        assert_eq!(alice.settle().received("> Q-of-all?").matches, 0, "{version}: it asked itself");
        let found = diagnose(&stage);
        finds(&found, "channels", "error", &["has 2 channels", "bob"]);
        alice.end();
        bob.end();
        stage.finish();
    }
}

fn is_classifier(request: &Request) -> bool {
    !request.conversation && request.body.to_string().contains("<block>")
}

/// `relay setup` from a program that is then deleted: sessions run the installed copy. In auto mode the classifier sees each
/// call of ours unless the allow rule is there, which `--no-allow` takes away again.
#[test]
fn setup_installs_a_copy_and_the_allow_rule_spares_the_classifier() {
    let Some(claude) = client::claude(NEWEST) else { return };
    let stage = Stage::new(&claude);
    stage.home.settings(json!({"permissions": {"defaultMode": "auto"}}));
    let download = stage.home.path().join("download");
    let program = download.join("relay");
    fs::create_dir(&download).and_then(|()| fs::copy(relay_path(), &program)).expect("a download");
    let printed = relay(&stage, &program, &["setup"]);
    assert!(printed.contains("147 KB"), "{printed}");
    fs::remove_dir_all(&download).expect("removed");
    for (name, setup) in [("alice", None), ("bob", Some("--no-allow")), ("carol", Some("--allow"))] {
        setup.into_iter().for_each(|option| drop(relay(&stage, Path::new(relay_path()), &["setup", option])));
        stage.model.side_script(name, |_| "<block>no</block>".to_owned());
        let session = stage.launch(name).env("RELAY_BIN", "").allow_nothing();
        let mut actor = stage.act(session.arg("--permission-mode").arg("auto").piped(), name);
        assert_eq!(actor.peers()["self"]["name"], name);
        let is_allowed = setup != Some("--no-allow");
        let classified = stage.model.requests(name).iter().filter(|r| is_classifier(r)).count();
        assert_eq!(classified == 0, is_allowed, "{name}: {classified}\n{}", stage.model.dump(name));
        let found = diagnose(&stage);
        match is_allowed {
            true => finds(&found, "permission", "ok", &[]),
            false => finds(&found, "permission", "warning", &["147 KB"]),
        }
        let copy = stage.home.path().join(".local/share/claude-relay/plugin/bin");
        let ours = leftovers::processes_with(stage.home.marker());
        for channel in ours.iter().filter(|process| process.is("relay", "channel")) {
            let exe = fs::read_link(format!("/proc/{}/exe", channel.pid)).expect("it runs");
            assert!(exe.starts_with(&copy), "{} is not the copy", exe.display());
        }
        actor.end();
    }
    stage.finish();
}

/// Sessions that run and are no peers, each for another reason.
#[test]
fn doctor_says_why_real_sessions_are_missing() {
    for version in [NEWEST, BEFORE_MESSAGING] {
        let Some(claude) = client::claude(version) else { return };
        let stage = Stage::before_installation(&claude);
        let start = |name: &str| {
            let mut session = stage.launch(name).piped();
            session.give("hello there");
            session.wait_for_turns(1);
            session
        };
        let early = start("early");
        stage.home.install_plugin(&claude, Path::new(env!("CARGO_MANIFEST_DIR")));
        let off = stage.home.project("off").join(".claude");
        let settings = r#"{"enabledPlugins": {"relay@claude-relay": false}}"#;
        fs::create_dir(&off).and_then(|()| fs::write(off.join("settings.json"), settings)).expect("settings");
        let silent = stage.home.project("silent");
        let disabled = json!({"disabledMcpServers": ["plugin:relay:relay"]});
        stage.home.change_state(json!({"projects": {(silent.to_str().expect("text")): disabled}}));
        let elsewhere = stage.home.path().join("elsewhere");
        fs::create_dir(&elsewhere)
            .and_then(|()| fs::copy(stage.home.path().join(".claude.json"), elsewhere.join(".claude.json")))
            .expect("another configuration");
        let mut foreign = stage.launch("foreign").env("CLAUDE_CONFIG_DIR", &elsewhere).piped();
        foreign.give("hello there");
        foreign.wait_for_turns(1);
        let (without, mute, mut late) = (start("off"), start("silent"), stage.piped("late"));
        assert_eq!(late.peers()["self"]["name"], "late");
        let found = diagnose(&stage);
        finds(&found, "session", "error", &["early", "it started before the plugin was installed"]);
        finds(&found, "session", "error", &["/off", "the plugin is disabled in its settings"]);
        finds(&found, "session", "error", &["/silent", "its MCP server is disabled in that project"]);
        finds(&found, "session", "warning", &["/foreign", "configuration directory", "elsewhere"]);
        finds(&found, "session", "ok", &["late: reached by"]);
        assert_eq!(
            found.iter().filter(|(_, _, detail)| detail.contains("cannot be asked")).count(),
            3,
            "{found:#?}"
        );
        let peers = relay(&stage, Path::new(relay_path()), &["peers"]);
        let last = peers.lines().last().unwrap_or_default();
        assert_eq!(
            last, "Running sessions that cannot be asked: 3. Run `relay doctor` to see why.",
            "{peers}"
        );
        for session in [early, without, mute, foreign] {
            session.end();
        }
        late.end();
        stage.finish();
    }
}
