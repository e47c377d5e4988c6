//! Disks, directories and hubs that are not as they should be: each a clear error or a self-repair.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::process::Command;

use serde_json::json;

use crate::driver::{Channel, DataDir, is_running, until};

/// Two channels can talk.
fn talk(a: &Channel, b: &Channel) {
    until("both", || a.peer_names().contains(&b.session).then_some(()));
    let ask_id = a.ask(&b.session, "?");
    b.take("ask", &ask_id);
    b.reply(&ask_id, "!").ok();
    a.take("reply", &ask_id);
}

fn gone(hub: u32) {
    until("the old hub's end", || (!is_running(hub)).then_some(()));
}

#[test]
fn a_socket_that_is_deleted_under_the_hub() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    let hub = dir.hub();
    fs::remove_file(dir.socket()).expect("removed");
    let c = dir.channel("c");
    gone(hub);
    // Those who were with the old hub come over, with what they had.
    talk(&c, &a);
    b.reply(&ask_id, "!").ok();
    a.take("reply", &ask_id);
    dir.hub();
}

#[test]
fn a_socket_that_is_replaced_under_the_hub() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let hub = dir.hub();
    fs::remove_file(dir.socket()).expect("removed");
    drop(UnixListener::bind(dir.socket()).expect("another socket"));
    gone(hub);
    talk(&a, &b);
}

#[test]
fn a_data_directory_that_is_moved_away() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let hub = dir.hub();
    fs::rename(dir.path(), dir.root().join("moved")).expect("moved");
    let c = dir.channel("c");
    gone(hub);
    talk(&a, &b);
    talk(&c, &b);
    dir.hub();
}

#[test]
fn a_data_directory_that_is_removed() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let hub = dir.hub();
    until("its removal", || fs::remove_dir_all(dir.path()).ok());
    gone(hub);
    talk(&a, &b);
    assert_eq!(fs::metadata(dir.path()).expect("it is back").permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_log_directory_that_is_removed() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    fs::remove_dir_all(dir.path().join("logs")).expect("removed");
    talk(&a, &b);
    let c = dir.channel("c");
    talk(&c, &a);
    assert!(dir.logged("peer_register").iter().any(|l| l["from"] == "c"), "{:?}", dir.log());
}

/// The tool call's error in a data directory that can't be used.
fn refusal(channel: &Channel) -> String {
    channel.initialize();
    let result = channel.call("relay_peers", json!({}));
    let text = result.text.clone();
    assert_eq!(result.code(), "hub_unreachable");
    text
}

#[test]
fn logs_that_are_no_directory() {
    let dir = DataDir::new();
    fs::create_dir(dir.path()).expect("made");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("a mode");
    fs::write(dir.path().join("logs"), "").expect("a file");
    let text = refusal(&dir.launch("a").start());
    assert!(text.contains("/logs is not a directory"), "{text}");
}

#[test]
fn a_directory_that_others_can_write_to() {
    let dir = DataDir::new();
    fs::create_dir(dir.path()).expect("made");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).expect("a mode");
    let text = refusal(&dir.launch("a").start());
    assert!(text.contains("others can write to it") && text.contains("chmod 700"), "{text}");
    // And goes on when that is mended.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("a mode");
    let b = dir.channel("b");
    assert_eq!(b.name(), "b");
}

fn am_root(dir: &DataDir) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(dir.root()).expect("our own").uid() == 0
}

/// Nobody's number.
const NOBODY: u32 = 65_534;

#[test]
fn a_directory_of_somebody_else() {
    let dir = DataDir::new();
    if !am_root(&dir) {
        return eprintln!("SKIPPED: only root can give a directory away");
    }
    fs::create_dir(dir.path()).expect("made");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("a mode");
    chown(dir.path(), Some(NOBODY), None).expect("given away");
    let text = refusal(&dir.launch("a").start());
    assert!(text.contains("belongs to user 65534, and this is user 0"), "{text}");
}

#[test]
fn a_directory_that_cannot_be_used() {
    let dir = DataDir::new();
    if !am_root(&dir) {
        return eprintln!("SKIPPED: only root can start a program as another user");
    }
    fs::create_dir(dir.path()).expect("made");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).expect("a mode");
    let text = refusal(&dir.launch("a").user(NOBODY).start());
    assert!(text.contains("Permission denied") && text.contains("RELAY_DATA_DIR"), "{text}");
    // One that its owner may not write to, on the other hand, is made writable.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o500)).expect("a mode");
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).expect("given away");
    let b = dir.launch("b").user(NOBODY).start();
    b.initialize();
    assert_eq!(b.name(), "b");
}

#[test]
fn a_disk_without_room_costs_the_log_only() {
    let dir = DataDir::new();
    // No file may grow, for the channels and their hub.
    let [a, b] = ["a", "b"].map(|s| dir.launch(s).shell("trap '' XFSZ; ulimit -f 0").start());
    a.initialize();
    b.initialize();
    talk(&a, &b);
    dir.kill_hub();
    talk(&b, &a);
    assert_eq!(dir.log(), Vec::<serde_json::Value>::new());
}

#[test]
fn a_file_system_that_is_full_says_so() {
    let dir = DataDir::new();
    fs::create_dir(dir.path()).expect("made");
    let at = dir.path().to_str().expect("text");
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "nr_inodes=4,size=16k,mode=700", "tmpfs", at])
        .status();
    if !mount.is_ok_and(|s| s.success()) {
        return eprintln!("SKIPPED: no file system may be mounted here");
    }
    for n in 0..4 {
        let _ = fs::write(dir.path().join(format!("full-{n}")), [0; 8192]); // until it is full
    }
    let channel = dir.launch("a").start();
    let text = refusal(&channel);
    drop(channel);
    let unmounted = Command::new("umount").arg(at).status().expect("umount");
    assert!(unmounted.success());
    assert!(text.contains("No space left on device"), "{text}");
}
