//! What is on disk: where, for whom, and for how long.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::driver::{DataDir, Inbox, until};

/// Everything below a directory, and itself.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    if fs::symlink_metadata(dir).is_ok_and(|m| m.is_dir()) {
        all.extend(fs::read_dir(dir).expect("a directory").flatten().flat_map(|e| tree(&e.path())));
    }
    all
}

fn private_under(umask: &'static str) {
    let dir = DataDir::new();
    let channels = ["a", "b"].map(|s| dir.launch(s).shell(umask).start());
    channels.iter().for_each(|c| drop(c.initialize()));
    let [a, b] = channels;
    b.peers();
    let ask_id = a.ask("b", "?");
    b.reply(&ask_id, "!").ok();
    for path in tree(dir.path()) {
        let meta = fs::symlink_metadata(&path).expect("it is there");
        let expected = if meta.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(meta.permissions().mode() & 0o777, expected, "{} under {umask}", path.display());
    }
    for name in ["", "hub.sock", "hub.lock", "hub.journal", "logs", "sessions/named-a"] {
        assert!(dir.path().join(name).exists(), "{name}");
    }
}

#[test]
fn all_is_private_under_umask_000() {
    private_under("umask 000");
}

#[test]
fn all_is_private_under_umask_077() {
    private_under("umask 077");
}

#[test]
fn no_file_but_the_journal_ever_holds_a_text() {
    let dir = DataDir::with(&[("RELAY_LOG", "debug"), ("RELAY_GRACE_S", "0.1"), ("RELAY_CONFIRM_S", "0.1")]);
    let words =
        ["xyzzy-asked", "xyzzy-answered", "xyzzy-unanswered", "xyzzy-broadcast", "xyzzy-bad", "xyzzy-inbox"];
    let [a, b, mut c] = dir.channels(["a", "b", "c"]);
    let inbox = Inbox::new(&dir, "d");
    let d =
        dir.launch("d").env("RELAY_PUSH", "inbox").env("CLAUDE_CODE_MESSAGING_SOCKET", inbox.path()).start();
    d.initialize();
    d.peers();
    let ask_id = a.ask("b", words[0]);
    let ask = b.take("ask", &ask_id);
    let hook = json!({"hook_event_name": "UserPromptSubmit", "prompt": format!("{} {}", ask.meta("push"), ask.content)});
    dir.hook("b", &hook);
    dir.kill_hub();
    b.reply(&ask_id, words[1]).ok();
    a.take("reply", &ask_id);
    let failed = a.ask("c", words[2]);
    c.kill();
    a.take("failed", &failed);
    let all = a.call("relay_broadcast", json!({"question": words[3], "timeout_s": 1})).ok();
    a.take("summary", all["broadcast_id"].as_str().expect("an id"));
    a.call("relay_ask", json!({"to": words[4], "question": words[4], "extra": words[4]})).code();
    a.call("relay_ask", json!({"to": "nobody", "question": words[4]})).code();
    dir.raw().say(&json!({"type": "xyzzy-bad"}));
    a.ask("d", words[5]);
    inbox.take(words[5]);
    drop([a, b, d]); // they would start another hub, which writes its journal
    dir.stop_hub();
    let journal = dir.path().join("hub.journal");
    for path in tree(dir.path()).into_iter().filter(|p| p.is_file() && *p != journal) {
        let text = String::from_utf8_lossy(&fs::read(&path).expect("readable")).into_owned();
        assert!(!text.contains("xyzzy"), "{}: {text}", path.display());
    }
    assert!(dir.logged("ask_received").len() >= 5, "asks are logged, without their texts");
}

#[test]
fn every_log_line_has_its_fields() {
    let dir = DataDir::with(&[("RELAY_LOG", "debug")]);
    let [a, b, mut c] = dir.channels(["a", "b", "c"]);
    let ask_id = a.ask("b", "?");
    b.reply(&ask_id, "!").ok();
    b.call("relay_rename", json!({"name": "boris"})).ok();
    let late = a.call("relay_ask", json!({"to": "boris", "question": "?", "timeout_s": 1})).ok();
    a.take("failed", late["ask_id"].as_str().expect("an id"));
    let gone = a.ask("c", "?");
    c.close();
    a.take("failed", &gone);
    dir.kill_hub();
    until("another hub", || (a.peer_names() == ["boris"]).then_some(()));
    let log = dir.log();
    for event in "channel_start register_ack hub_disconnect tool_call channel_close peer_register peer_rename peer_disconnect \
        ask_received ask_delivered reply_received pending_ask_timeout pending_ask_peer_gone hub_started state"
        .split_whitespace()
    {
        assert!(log.iter().any(|l| l["event"] == event), "{event}");
    }
    for line in log {
        let texts = ["ts", "level", "proc", "event"].map(|key| line[key].as_str().map(str::to_owned));
        assert!(texts.iter().all(Option::is_some) && line["pid"].is_u64(), "{line}");
        assert!(texts[0].as_ref().is_some_and(|ts| ts.len() == 24 && ts.ends_with('Z')), "{line}");
    }
}

/// The file of a session tells the next channel of the same session who it is, and nothing else.
#[test]
fn file_of_a_session_holds_its_identity_and_its_secret() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    for session in ["a", "b"] {
        let file = fs::read(dir.path().join(format!("sessions/named-{session}"))).expect("its file");
        let file: serde_json::Value = serde_json::from_slice(&file).expect("JSON");
        let keys: Vec<&String> = file.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["peer", "secret"]);
    }
}

#[test]
fn a_session_name_without_a_plain_character_is_none() {
    let dir = DataDir::new();
    let a = dir.launch("a").env("RELAY_SESSION", "日本語").start();
    a.initialize();
    a.peers();
    // All such names would share this key, and their sessions would be one.
    let files = tree(&dir.path().join("sessions"));
    assert!(!files.iter().any(|file| file.ends_with("named-")), "{files:?}");
}

#[test]
fn file_of_a_session_is_removed_by_the_next_channel_when_its_process_is_gone() {
    let dir = DataDir::new();
    let a = dir.launch("a").env("RELAY_SESSION", "").start();
    a.initialize();
    a.peers();
    let files = || tree(&dir.path().join("sessions")).into_iter().filter(|p| p.is_file()).collect::<Vec<_>>();
    let [of_a] = &files()[..] else { panic!("one file: {:?}", files()) };
    // The process before this one, of a session that has ended.
    let name = of_a.file_name().and_then(|n| n.to_str()).expect("a name");
    let (namespace, _) = name.split_once('-').expect("its namespace");
    let gone = of_a.with_file_name(format!("{namespace}-{}-1", std::process::id()));
    fs::write(&gone, "{}").expect("written");
    let b = dir.channel("b");
    until("its end", || (!gone.exists()).then_some(()));
    assert!(of_a.exists(), "its process lives");
    drop(b);
}
