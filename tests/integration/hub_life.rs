//! The hub's life: one for a data directory, there when it is needed, gone without a trace when it is not.

use std::fs;
use std::os::unix::net::UnixListener;

use serde_json::json;

use crate::driver::{DataDir, Raw, is_running, signal, until};

#[test]
fn twenty_channels_at_once_start_one_hub() {
    let dir = DataDir::new();
    let channels: Vec<_> = (0..20).map(|n| dir.launch(&format!("c{n}")).start()).collect();
    for channel in &channels {
        channel.initialize();
    }
    for channel in &channels {
        let id = channel.begin_call("relay_peers", &json!({}));
        channel.end_call(id).expect("an answer").ok();
    }
    assert_eq!(channels[0].peer_names().len(), 19);
    dir.hub();
    assert_eq!(dir.logged("hub_started").len(), 1);
}

#[test]
fn hub_is_reparented() {
    let dir = DataDir::new();
    let mut channel = dir.channel("only");
    let hub = dir.hub();
    let parent_and_group = |process: u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("a process");
        let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
        fields.skip(1).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let (its, ours) = (parent_and_group(hub), parent_and_group(channel.pid()));
    assert_ne!(its[0], channel.pid().to_string());
    assert_ne!(its[1], ours[1], "a process group of its own");
    channel.kill();
    dir.raw();
    assert_eq!(dir.hub(), hub);
}

#[test]
fn the_hub_gets_nothing_of_the_sessions_environment() {
    let dir = DataDir::new();
    let channel = dir
        .launch("secretive")
        .env("ANTHROPIC_API_KEY", "sk-very-secret")
        .env("CLAUDE_CODE_MESSAGING_TOKEN", "token-very-secret")
        .start();
    channel.initialize();
    channel.peers();
    let environment = fs::read(format!("/proc/{}/environ", dir.hub())).expect("the hub");
    assert!(!String::from_utf8_lossy(&environment).contains("very-secret"));
}

#[test]
fn idle_hub_exits() {
    let dir = DataDir::with(&[("RELAY_IDLE_EXIT_S", "0.2")]);
    let mut channel = dir.channel("only");
    let hub = dir.hub();
    channel.close();
    until("the hub's end", || (!is_running(hub)).then_some(()));
    assert!(!dir.socket().exists());
    assert_eq!(dir.logged("hub_left").len(), 1);
    // And is there again when it is.
    assert_eq!(dir.channel("another").name(), "another");
    assert_ne!(dir.hub(), hub);
}

#[test]
fn a_peer_keeps_it_alive() {
    let dir = DataDir::with(&[("RELAY_IDLE_EXIT_S", "0.2"), ("RELAY_GRACE_S", "0")]);
    let _peer = {
        dir.start_hub();
        dir.peer("stays")
    };
    let hub = dir.hub();
    for n in 0..5 {
        let mut passing = dir.peer(&format!("passing-{n}"));
        passing.say(&json!({"type": "bye"}));
        passing.hear_end();
    }
    assert_eq!(dir.hub(), hub);
    assert_eq!(dir.logged("hub_left").len(), 0);
}

#[test]
fn a_second_hub_says_so_and_leaves() {
    let dir = DataDir::new();
    dir.start_hub();
    let hub = dir.hub();
    let output = dir.command(&["hub"]).output().expect("relay hub");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("another hub"), "{output:?}");
    dir.start_hub();
    assert_eq!(dir.hub(), hub);
}

#[test]
fn a_stale_socket_is_replaced() {
    let dir = DataDir::new();
    fs::create_dir_all(dir.path()).expect("the directory");
    drop(UnixListener::bind(dir.socket()).expect("a socket that nobody listens on"));
    fs::write(dir.path().join("hub.lock"), "").expect("a lock that nobody holds");
    let channel = dir.channel("only");
    assert_eq!(channel.name(), "only");
}

#[test]
fn what_is_no_socket_is_replaced() {
    let dir = DataDir::new();
    fs::create_dir_all(dir.path()).expect("the directory");
    fs::write(dir.socket(), "not a socket").expect("a file");
    assert_eq!(dir.channel("only").name(), "only");
}

#[test]
fn a_data_directory_may_have_a_very_long_path() {
    let dir = DataDir::below(&format!("{}/{}/data", "x".repeat(120), "y".repeat(120)), &[]);
    assert!(dir.path().as_os_str().len() > 240);
    let [a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "can you hear me?");
    b.take("ask", &ask_id);
    b.reply(&ask_id, "yes").ok();
    a.take("reply", &ask_id);
    dir.kill_hub();
    until("the other's return", || (a.peer_names() == ["b"]).then_some(()));
    dir.hub();
}

fn leaves_cleanly(dir: &DataDir, hub: u32) {
    until("the hub's end", || (!is_running(hub)).then_some(()));
    assert!(!dir.socket().exists(), "the socket is removed");
    assert_eq!(dir.logged("hub_left").len(), 1);
}

#[test]
fn sigterm_is_a_clean_end() {
    let dir = DataDir::new();
    dir.start_hub();
    let hub = dir.hub();
    let mut peer = dir.peer("somebody");
    signal(hub, "TERM");
    assert_eq!(peer.hear_end(), None, "closed without an error");
    leaves_cleanly(&dir, hub);
}

#[test]
fn stop_is_a_clean_end() {
    let dir = DataDir::new();
    dir.start_hub();
    let hub = dir.hub();
    let mut raw = dir.raw();
    assert_eq!(raw.call(json!({"type": "stop"})), Ok(json!({"what": "done"})));
    assert_eq!(raw.hear_end(), None);
    leaves_cleanly(&dir, hub);
}

#[test]
fn a_closing_terminal_does_not_end_it() {
    let dir = DataDir::new();
    dir.start_hub();
    let hub = dir.hub();
    signal(hub, "HUP");
    let mut raw = dir.raw();
    assert_eq!(raw.call(json!({"type": "status"})).expect("a status")["pid"], hub);
    signal(hub, "HUP");
    assert_eq!(raw.call(json!({"type": "status"})).expect("a status")["pid"], hub);
}

#[test]
fn what_was_said_before_a_stop_is_delivered() {
    let dir = DataDir::with(&[("RELAY_ASKS_PER_MIN", "0")]);
    dir.start_hub();
    let (mut asker, mut target) = (dir.peer("asker"), dir.peer("target"));
    for n in 0..60 {
        asker.begin(Raw::ask_as(&format!("ask_flush{n}"), "target", &"x".repeat(60_000)));
    }
    asker.call(json!({"type": "stop"})).expect("done");
    let mut pushed = 0;
    while let Some(message) = target.hear() {
        pushed += u32::from(message["type"] == "push");
    }
    assert_eq!(pushed, 60);
}
