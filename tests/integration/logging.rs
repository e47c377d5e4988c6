//! The readable log lines on stderr.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::driver::{DataDir, signal};

#[test]
fn channel_logs_readable_lines_on_stderr() {
    let dir = DataDir::new();
    let mut a = dir.channel("a");
    a.close();
    let text = fs::read_to_string(dir.stderr_of("a")).expect("its stderr");
    let line = text.lines().find(|line| line.contains("register_ack")).expect("the registration");
    let (time, rest) = line.split_once(' ').expect("a time");
    assert_eq!((time.len(), rest), (8, r#"INFO register_ack name="a" paths="channel""#));
}

#[test]
fn relay_log_off_leaves_stderr_and_the_directory_empty() {
    let dir = DataDir::with(&[("RELAY_LOG", "off")]);
    let mut a = dir.channel("a");
    a.close();
    assert_eq!(fs::read_to_string(dir.stderr_of("a")).expect("its stderr"), "");
    assert_eq!(fs::read_dir(dir.path().join("logs")).expect("logs").count(), 0);
}

#[test]
fn channel_whose_stderr_is_never_read_answers_and_ends() {
    let dir = DataDir::new();
    // A pipe without room: a write would block, since the channel itself keeps the pipe open for reading.
    let full = "mkfifo pipe && exec 2<>pipe && ! dd if=/dev/zero of=pipe oflag=nonblock 2>/dev/null";
    let mut a = dir.launch("a").shell(full).start();
    a.initialize();
    assert_eq!(a.name(), "a");
    assert_eq!(dir.logged("register_ack").len(), 1);
    assert!(a.close().success());
}

#[test]
fn hub_in_the_foreground_logs_on_stderr() {
    let dir = DataDir::new();
    let mut hub = dir.command(&["hub"]).stderr(Stdio::piped()).spawn().expect("relay hub");
    let mut lines = BufReader::new(hub.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains(" INFO hub_started version=")));
    signal(hub.id(), "TERM");
    assert!(lines.any(|line| line.ends_with(r#" INFO hub_left why="a signal""#)));
    assert!(hub.wait().expect("its end").success());
}
