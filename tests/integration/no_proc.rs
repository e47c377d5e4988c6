//! Without `/proc`, as on macOS: `RELAY_NO_PROC` has the binary take that way on Linux.

use std::fs;

use serde_json::Value;

use crate::driver::{DataDir, until};

const NO_PROC: [(&str, &str); 1] = [("RELAY_NO_PROC", "1")];

#[test]
fn sessions_talk_without_proc() {
    let dir = DataDir::with(&NO_PROC);
    let (a, b) = (dir.channel("a"), dir.channel("b"));
    let ask_id = a.ask("b", "without /proc?");
    b.take("ask", &ask_id);
    b.reply(&ask_id, "yes").ok();
    a.take("reply", &ask_id);
}

/// A session's key is then the bare number of its process: the file of one that has ended goes, that of one that runs stays.
#[test]
fn files_of_ended_sessions_are_removed_without_proc() {
    let dir = DataDir::with(&NO_PROC);
    let first = dir.channel("first");
    let sessions = dir.path().join("sessions");
    let mut ended = std::process::Command::new("true").spawn().expect("a process");
    ended.wait().expect("ended");
    let (gone, running) =
        (sessions.join(ended.id().to_string()), sessions.join(std::process::id().to_string()));
    for file in [&gone, &running] {
        fs::write(file, "{}").expect("a file");
    }
    let second = dir.channel("second");
    until("the file of the ended process to go", || (!gone.exists()).then_some(()));
    assert!(running.exists());
    for channel in [first, second] {
        channel.call("relay_peers", Value::Null).ok();
    }
}

/// Without a session's own name its key is the number of the parent process, which `ps` describes: here it is this test,
/// which has no channel flag.
#[test]
fn a_session_is_known_by_the_number_of_its_process() {
    let dir = DataDir::with(&NO_PROC);
    let channel = dir.launch("auto").env("RELAY_SESSION", "").env("RELAY_PUSH", "auto").start();
    channel.initialize();
    channel.peers();
    let file = dir.path().join("sessions").join(std::process::id().to_string());
    until("the session's file", || file.exists().then_some(()));
}
