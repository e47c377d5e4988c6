//! Clients and hubs of other versions: each is told what to do.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::driver::{DataDir, FakeHub, Raw, arguments, until};

/// The relay of protocol 1, as `.ci/old-relay` builds it.
fn old_relay() -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/old/debug/relay");
    if path.exists() {
        return Some(path);
    }
    eprintln!(
        "SKIPPED in part: protocol 1 is simulated by its lines, for .ci/old-relay has not built the real one"
    );
    None
}

/// The remedy is named, and works: afterwards a channel of this version is served.
fn mismatch(dir: &DataDir, stop: impl FnOnce()) {
    let channel = dir.launch("a").start();
    channel.initialize();
    let result = channel.call("relay_peers", json!({}));
    assert!(result.text.contains("relay stop"), "the remedy: {}", result.text);
    assert_eq!(result.code(), "protocol_mismatch");
    let peers = dir.command(&["peers"]).output().expect("relay peers");
    assert_eq!(peers.status.code(), Some(12), "{peers:?}");
    assert!(String::from_utf8_lossy(&peers.stderr).contains("relay stop"), "{peers:?}");
    let doctor = dir.command(&["doctor", "--json"]).output().expect("relay doctor");
    let report: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let of_the_hub = |finding: &&Value| finding["check"] == "hub";
    let hub = report["findings"].as_array().and_then(|findings| findings.iter().find(of_the_hub)).cloned();
    let hub = hub.unwrap_or_else(|| panic!("nothing about the hub: {report}"));
    assert!(
        hub["level"] == "error" && hub["remedy"].as_str().is_some_and(|r| r.contains("relay stop")),
        "{hub}"
    );
    let hook = dir.hook("a", &json!({"hook_event_name": "Stop"}));
    assert!(hook.status.success() && hook.stderr.is_empty(), "{hook:?}");
    stop();
    until("our own hub", || (!channel.call("relay_peers", json!({})).is_error).then_some(()));
}

/// A hub that answers whatever is said first with this line.
fn answered_by(answer: &'static str) {
    let dir = DataDir::new();
    let hub = FakeHub::of_another_version(&dir, answer);
    mismatch(&dir, || drop(hub));
}

#[test]
fn hub_that_refuses_our_version() {
    answered_by(
        r#"{"error":{"code":"protocol_mismatch","message":"the client speaks protocol 2, this hub 3; run `relay stop`, then retry"}}"#,
    );
}

#[test]
fn hub_that_welcomes_us_in_another_version() {
    answered_by(r#"{"welcome":{"v":3,"pid":1,"version":"9.9.9","epoch":"e"}}"#);
}

#[test]
fn hub_whose_welcome_we_do_not_know() {
    answered_by(r#"{"welcome":{"v":3,"hub":{"name":"of the future"}}}"#);
}

#[test]
fn hub_of_version_1() {
    // What it says to a hello that it does not know.
    answered_by(
        r#"{"type":"error","code":"bad_msg","message":"the first line must be hello with `v`: missing field `type`"}"#,
    );
    let Some(old) = old_relay() else { return };
    let dir = DataDir::new();
    let started =
        dir.command_of(old.to_str().expect("text")).args(["hub", "--detach"]).output().expect("an old hub");
    assert!(started.status.success(), "{started:?}");
    let hub = dir.hub();
    mismatch(&dir, || {
        let stopped = dir.command(&["stop"]).output().expect("relay stop");
        assert!(stopped.status.success(), "{stopped:?}");
        assert!(String::from_utf8_lossy(&stopped.stdout).contains("The hub has stopped"), "{stopped:?}");
        until("the old hub's end", || (!crate::driver::is_running(hub)).then_some(()));
    });
}

#[test]
fn client_of_version_1() {
    let dir = DataDir::new();
    dir.start_hub();
    let raw = Raw::connect(&dir);
    raw.say_bytes(b"{\"type\":\"hello\",\"v\":1}\n").expect("a hub");
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(raw.stream()), &mut line).expect("an error");
    let error: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("protocol_mismatch")));
    assert!(
        error["message"].as_str().is_some_and(|m| m.contains("protocol 1") && m.contains("relay stop")),
        "{error}"
    );
    let Some(old) = old_relay() else { return };
    let channel = dir.launch("old").env("OLD", &old).shell("exec \"$OLD\" channel").start();
    channel.initialize();
    let result = channel.request("tools/call", &arguments("relay_peers", json!({})))["result"].clone();
    assert_eq!(result["structuredContent"]["error"]["code"], "protocol_mismatch", "{result}");
    assert!(result["content"][0]["text"].as_str().is_some_and(|t| t.contains("relay stop")), "{result}");
    let peers = dir.command_of(old.to_str().expect("text")).arg("peers").output().expect("relay peers");
    assert_eq!(peers.status.code(), Some(12), "{peers:?}");
    let mut hook: Command = dir.command_of(old.to_str().expect("text"));
    let hook = hook.arg("hook").stdin(std::process::Stdio::null()).output().expect("relay hook");
    assert!(hook.status.success() && hook.stderr.is_empty(), "{hook:?}");
    drop(channel);
}

/// What protocol 1 left in `sessions/` is no identity of today, and no harm.
#[test]
fn session_file_of_version_1_is_replaced() {
    let dir = DataDir::new();
    dir.start_hub();
    let file = dir.path().join("sessions/named-a");
    let old = "{\"session\":{\"peer\":\"p0123456789abcdef\",\"secret\":\"0123456789abcdef01234567\"}}\n{\"hooked\":true}\n";
    std::fs::write(&file, old).expect("written");
    let mut channel = dir.channel("a");
    let new = std::fs::read_to_string(&file).expect("its file");
    assert!(new.starts_with("{\"peer\":") && new.lines().count() == 1, "{new}");
    channel.kill();
    channel.start_again();
    assert_eq!(channel.name(), "a");
    assert_eq!(std::fs::read_to_string(&file).expect("its file"), new);
}
