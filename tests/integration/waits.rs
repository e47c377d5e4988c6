//! Every wait for a hub is bounded: 5 s for one that is not there, 10 s in all, counted from the call, whatever the hub does.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::driver::{Channel, DataDir, FakeHub, Reaction, relay_path, signal, until};

/// What is promised, and as much again for a machine that is busy with other things.
const BOUND: Duration = Duration::from_secs(20);

/// A tool call that fails for want of a hub; its text.
fn fails(channel: &Channel, tool: &str, arguments: Value) -> String {
    let called = Instant::now();
    let result = channel.call(tool, arguments);
    let (took, text) = (called.elapsed(), result.text.clone());
    assert!(took < BOUND, "{tool} took {took:?}");
    assert_eq!(result.code(), "hub_unreachable", "{tool}");
    text
}

/// A command that does the same.
fn command_fails(dir: &DataDir, args: &[&str]) -> String {
    let called = Instant::now();
    let Output { status, stderr, .. } = dir.command(args).stdin(Stdio::null()).output().expect("relay");
    let took = called.elapsed();
    assert!(took < BOUND, "{args:?} took {took:?}");
    assert_eq!(status.code(), Some(11), "{args:?}");
    String::from_utf8(stderr).expect("text")
}

/// A hub that renames.
fn renamed(message: &Value) -> Option<Reaction> {
    let answer = json!({"renamed": {"name": message["name"]}});
    (message["type"] == "rename")
        .then(|| Reaction::Say(json!({"type": "ok", "id": message["id"], "answer": answer})))
}

#[test]
fn request_whose_hub_died_under_it_twice_is_not_sent_again() {
    let dir = DataDir::new();
    let hub = FakeHub::new(&dir, |message| match message["type"].as_str() {
        Some("ask" | "broadcast" | "reply" | "peers") => Some(Reaction::Die),
        Some("withdraw") => Some(Reaction::Say(json!({"type": "ok", "id": message["id"], "answer": "done"}))),
        _ => renamed(message),
    });
    let channel = dir.launch("a").start();
    channel.initialize();
    for (kind, tool, arguments) in [
        ("ask", "relay_ask", json!({"to": "b", "question": "?"})),
        ("broadcast", "relay_broadcast", json!({"question": "?"})),
        ("reply", "relay_reply", json!({"ask_id": "ask_12345678", "answer": "!"})),
        ("peers", "relay_peers", json!({})),
    ] {
        let text = fails(&channel, tool, arguments);
        assert!(text.contains("hubs have died while they had this request"), "{text}");
        // Another request is served meanwhile, and comes after whatever was sent again.
        channel.call("relay_rename", json!({"name": "still here"})).ok();
        assert_eq!(hub.heard(kind).len(), 2, "{kind}");
    }
    // What may have reached a hub is taken back.
    let ids = |kind: &str, key: &str| hub.heard(kind).iter().map(|m| m[key].clone()).collect::<Vec<_>>();
    hub.wait_for("withdraw", 2);
    let asked = [ids("ask", "ask_id"), ids("broadcast", "broadcast_id")];
    assert_eq!(ids("withdraw", "ask_id"), [asked[0][0].clone(), asked[1][0].clone()]);
    assert!(asked.iter().all(|ids| ids[0] == ids[1]), "under the same id: {asked:?}");
}

#[test]
fn withdrawal_that_kills_each_hub_is_not_sent_for_ever() {
    let dir = DataDir::new();
    let hub = FakeHub::new(&dir, |message| match message["type"].as_str() {
        Some("ask" | "withdraw") => Some(Reaction::Die),
        _ => renamed(message),
    });
    let channel = dir.launch("a").start();
    channel.initialize();
    fails(&channel, "relay_ask", json!({"to": "b", "question": "?"}));
    hub.wait_for("withdraw", 16);
    channel.call("relay_rename", json!({"name": "still here"})).ok();
    assert_eq!(hub.heard("withdraw").len(), 16);
}

#[test]
fn relay_ask_is_not_sent_a_third_time_either() {
    let dir = DataDir::new();
    let hub = FakeHub::new(&dir, |message| (message["type"] == "ask").then_some(Reaction::Die));
    let text = command_fails(&dir, &["ask", "b", "?"]);
    assert!(text.contains("hubs have died while they had this request"), "{text}");
    assert_eq!(hub.heard("ask").len(), 2);
}

#[test]
fn hub_that_never_answers_is_waited_for_no_longer_than_promised() {
    let dir = DataDir::new();
    let _hub = FakeHub::new(&dir, |message| (message["type"] == "peers").then_some(Reaction::Nothing));
    let channel = dir.launch("a").start();
    channel.initialize();
    let text = fails(&channel, "relay_peers", json!({}));
    assert!(text.contains("the hub does not answer; see `relay doctor`"), "{text}");
}

#[test]
fn hubs_that_die_before_they_register_anyone_extend_no_wait() {
    let dir = DataDir::new();
    let _hub = FakeHub::new(&dir, |message| (message["type"] == "register").then_some(Reaction::Die));
    let channel = dir.launch("a").start();
    channel.initialize();
    fails(&channel, "relay_peers", json!({}));
    fails(&channel, "relay_ask", json!({"to": "b", "question": "?"}));
    command_fails(&dir, &["ask", "b", "?"]);
}

#[test]
fn hub_that_hangs_is_named_with_its_process() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let hub = dir.hub();
    signal(hub, "STOP");
    let named = |text: String| assert!(text.contains(&format!("process {hub}")), "{text}");
    named(fails(&a, "relay_ask", json!({"to": "b", "question": "lost?"})));
    named(fails(&a, "relay_peers", json!({})));
    for args in [&["peers"][..], &["status"], &["stop"], &["tail"], &["ask", "b", "?"]] {
        named(command_fails(&dir, args));
    }
    let doctor = dir.command(&["doctor", "--json"]).output().expect("relay doctor");
    named(String::from_utf8(doctor.stdout).expect("text"));
    signal(hub, "CONT");
    // It was there all the time. What was given up is taken back: nobody waits for it.
    until("both", || (a.peer_names() == ["b"] && b.peer_names() == ["a"]).then_some(()));
    until("the withdrawal", || {
        (a.peers()["asks"] == json!([]) && b.peers()["owed"] == json!([])).then_some(())
    });
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    assert_eq!(dir.hub(), hub);
}

#[test]
fn hub_that_does_not_accept_connections_is_named_with_its_process() {
    let dir = DataDir::new();
    // In a network of its own, where hardly anybody may wait to be accepted.
    let start = "echo 1 >/proc/sys/net/core/somaxconn && exec \"$0\" hub --detach";
    let mut unshare = dir.command_of("unshare");
    let started = unshare.args(["-n", "/bin/sh", "-c", start, relay_path()]).output();
    if !started.as_ref().is_ok_and(|o| o.status.success()) {
        return eprintln!(
            "SKIPPED: no network namespace may be made here, so no backlog can be filled: {started:?}"
        );
    }
    let hub = dir.hub();
    signal(hub, "STOP");
    // Fills the backlog: a connection for which there is no room waits.
    let socket = dir.socket();
    let filling: Vec<_> = (0..4)
        .map(|_| {
            let socket = socket.clone();
            std::thread::spawn(move || std::os::unix::net::UnixStream::connect(socket))
        })
        .collect();
    until("a full backlog", || (filling.iter().filter(|t| t.is_finished()).count() >= 2).then_some(()));
    let named = |text: String| assert!(text.contains(&format!("process {hub}")), "{text}");
    let channel = dir.launch("a").start();
    channel.initialize();
    named(fails(&channel, "relay_peers", json!({})));
    named(command_fails(&dir, &["status"]));
    let hook = Instant::now();
    dir.hook("a", &json!({"hook_event_name": "UserPromptSubmit", "prompt": "x"}));
    assert!(hook.elapsed() < BOUND);
    signal(hub, "CONT");
    filling.into_iter().for_each(|connecting| drop(connecting.join().expect("a thread")));
    until("the channel", || (!channel.call("relay_peers", json!({})).is_error).then_some(()));
    assert_eq!(dir.hub(), hub);
}

/// As in a sandbox: another hub would not help.
#[test]
fn socket_that_refuses_permission_starts_no_hub() {
    const NOBODY: u32 = 65_534;
    let dir = DataDir::new();
    fs::create_dir(dir.path()).expect("made");
    let listener = UnixListener::bind(dir.socket()).expect("a socket");
    fs::set_permissions(dir.socket(), Permissions::from_mode(0o000)).expect("a mode");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("a mode");
    let inode = fs::metadata(dir.socket()).expect("a socket").ino();
    let mut launch = dir.launch("a");
    if fs::metadata(dir.root()).expect("our own").uid() == 0 {
        // Nothing is forbidden to root.
        for path in [dir.path().to_owned(), dir.socket()] {
            chown(path, Some(NOBODY), Some(NOBODY)).expect("given away");
        }
        launch = launch.user(NOBODY);
    }
    let channel = launch.start();
    channel.initialize();
    let text = fails(&channel, "relay_peers", json!({}));
    assert!(text.contains("cannot connect to") && text.contains("Permission denied"), "{text}");
    assert_eq!(fs::metadata(dir.socket()).expect("a socket").ino(), inode, "nobody replaced it");
    assert!(!dir.path().join("hub.lock").exists(), "nobody became the hub");
    drop((channel, listener));
}

#[test]
fn process_that_became_the_hub_and_does_not_listen_is_named() {
    let dir = DataDir::new();
    fs::create_dir(dir.path()).expect("made");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("a mode");
    let lock = dir.path().join("hub.lock");
    fs::write(&lock, "4711\n").expect("written");
    let held = File::open(&lock).expect("the lock");
    held.lock().expect("locked");
    let channel = dir.launch("a").start();
    channel.initialize();
    let text = fails(&channel, "relay_peers", json!({}));
    assert!(text.contains("process 4711"), "{text}");
    let text = command_fails(&dir, &["ask", "b", "?"]);
    assert!(text.contains("process 4711"), "{text}");
    drop(held);
    until("a hub", || (!channel.call("relay_peers", json!({})).is_error).then_some(()));
}
