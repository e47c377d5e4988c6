//! What is on disk: where, for whom, and never a message.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::driver::{DataDir, Inbox};

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
    for name in ["", "hub.sock", "hub.lock", "logs", "sessions/named-a"] {
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
fn no_file_ever_holds_a_text() {
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
    dir.stop_hub();
    for path in tree(dir.path()).into_iter().filter(|p| p.is_file()) {
        let text = String::from_utf8_lossy(&fs::read(&path).expect("readable")).into_owned();
        assert!(!text.contains("xyzzy"), "{}: {text}", path.display());
    }
    assert!(dir.logged("ask_received").len() >= 5, "asks are logged, without their texts");
}

#[test]
fn every_log_line_has_its_fields() {
    let dir = DataDir::with(&[("RELAY_LOG", "debug")]);
    let [a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.reply(&ask_id, "!").ok();
    let log = dir.log();
    for event in ["hub_started", "register_ack", "peer_register", "ask_received", "reply_received", "state"] {
        assert!(log.iter().any(|l| l["event"] == event), "{event}");
    }
    for line in log {
        let texts = ["ts", "level", "proc", "event"].map(|key| line[key].as_str().map(str::to_owned));
        assert!(texts.iter().all(Option::is_some) && line["pid"].is_u64(), "{line}");
        assert!(texts[0].as_ref().is_some_and(|ts| ts.len() == 24 && ts.ends_with('Z')), "{line}");
    }
}

#[test]
fn a_session_leaves_no_file_behind() {
    let dir = DataDir::new();
    let [mut a, b] = dir.channels(["a", "b"]);
    a.ask("b", "?");
    a.close();
    assert!(!dir.path().join("sessions/named-a").exists());
    drop(b);
}
