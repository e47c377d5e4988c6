//! What surrounds a channel: the directory that it was started in, and the process that started it.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::driver::{Channel, DataDir, FakeHub, signal};

/// The channel of a session that says nothing about its project; a shell does `before` first, in the project's directory.
fn started_in(dir: &DataDir, session: &str, before: &'static str) -> Channel {
    let project = dir.project(session);
    dir.launch(session).env("PROJECT", project).env("CLAUDE_PROJECT_DIR", "").shell(before).start()
}

fn cwd(channel: &Channel) -> String {
    channel.peers()["self"]["cwd"].as_str().expect("a directory").to_owned()
}

/// A socket in a directory with a long path is reached by changing the working directory.
#[test]
fn thirty_sessions_with_a_long_home_are_named_by_their_directories() {
    let home = format!("{}/.claude/plugins/data/relay-claude-relay", "h".repeat(59));
    let dir = DataDir::below(&home, &[]);
    let names: Vec<String> = (0..30).map(|n| format!("project-{n}")).collect();
    let all: Vec<Channel> = names.iter().map(|name| started_in(&dir, name, "cd \"$PROJECT\"")).collect();
    for (channel, name) in all.iter().zip(&names) {
        channel.initialize();
        assert_eq!(channel.name(), *name);
    }
}

#[test]
fn a_directory_that_is_not_utf_8_is_shown_as_well_as_it_can_be() {
    let dir = DataDir::new();
    let odd = r#"cd "$PROJECT" && mkdir "$(printf 'odd\377dir')" && cd "$(printf 'odd\377dir')""#;
    let by_working_directory = started_in(&dir, "one", odd);
    by_working_directory.initialize();
    assert_eq!(by_working_directory.name(), "odd-dir");
    assert!(cwd(&by_working_directory).ends_with("/one/odd\u{fffd}dir"));
    let by_variable =
        started_in(&dir, "two", r#"export CLAUDE_PROJECT_DIR="$PROJECT/$(printf 'odd\377two')""#);
    by_variable.initialize();
    assert_eq!(by_variable.name(), "odd-two");
    assert!(cwd(&by_variable).ends_with("/two/odd\u{fffd}two"));
}

#[test]
fn a_project_directory_that_is_not_absolute_is_one_of_the_working_directory() {
    let dir = DataDir::new();
    let channel =
        started_in(&dir, "three", "cd \"$PROJECT\" && mkdir below && export CLAUDE_PROJECT_DIR=below");
    channel.initialize();
    assert_eq!(channel.name(), "below");
    assert!(cwd(&channel).ends_with("/three/below") && cwd(&channel).starts_with('/'), "{}", cwd(&channel));
}

#[test]
fn a_directory_of_over_4096_bytes_keeps_nobody_out() {
    let dir = DataDir::new();
    let deep = r#"cd "$PROJECT" && d=$(printf 'd%.0s' $(seq 200)) && for i in $(seq 25); do mkdir $d && cd $d; done
        mkdir last && cd last"#;
    let by_working_directory = started_in(&dir, "one", deep);
    by_working_directory.initialize();
    assert_eq!(by_working_directory.name(), "last");
    let by_variable =
        started_in(&dir, "two", r#"export CLAUDE_PROJECT_DIR="$(printf '/d%.0s' $(seq 5000))/also-last""#);
    by_variable.initialize();
    assert_eq!(by_variable.name(), "also-last");
    for channel in [&by_working_directory, &by_variable] {
        assert!(!cwd(channel).is_empty());
    }
}

#[test]
fn a_channel_whose_parent_is_gone_leaves_though_its_stdin_is_open() {
    let dir = DataDir::new();
    let wrapper = r#"exec 3<&0; "$0" channel <&3 3<&- & wait; exit"#;
    for is_introduced in [true, false] {
        let mut channel = started_in(&dir, "wrapped", wrapper);
        channel.request("ping", &json!({}));
        if is_introduced {
            channel.initialize();
            channel.peers();
        }
        signal(channel.pid(), "KILL"); // the wrapper
        channel.wait();
    }
    assert_eq!(dir.logged("parent_gone").len(), 2);
}

/// The registration that the hub answers late has the branch of before.
#[test]
fn what_changes_while_the_hub_is_slow_to_register_a_session_is_told_afterwards() {
    let dir = DataDir::new();
    let head = dir.project("a").join(".git/HEAD");
    fs::create_dir(head.parent().expect("a directory")).expect("made");
    fs::write(&head, "ref: refs/heads/one\n").expect("written");
    let hub = FakeHub::new(&dir, move |message| {
        if message["type"] == "register" {
            assert_eq!(message["who"]["branch"], "one");
            fs::write(&head, "ref: refs/heads/two\n").expect("written");
            std::thread::sleep(Duration::from_millis(1_500)); // the channel looks once per second, and nothing shows it
        }
        None
    });
    let channel = dir.launch("a").start();
    channel.initialize();
    hub.wait_for("activity", 1);
    assert_eq!(hub.heard("activity")[0]["branch"], "two");
}
