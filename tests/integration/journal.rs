//! The journal of the hub: what is in it when, what a hub does with one that it can't use, and what happens without one.
//! (Its own tests in `src/hub/journal/` cut it at every byte, and move the clock.)

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::driver::{DataDir, Raw, until};

fn path(dir: &DataDir) -> PathBuf {
    dir.path().join("hub.journal")
}

fn text(dir: &DataDir) -> String {
    fs::read_to_string(path(dir)).expect("a journal")
}

fn status(dir: &DataDir) -> Value {
    let output = dir.command(&["status", "--json"]).output().expect("relay status");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn asks(dir: &DataDir) -> Value {
    let asks = dir.raw().call(json!({"type": "asks"})).expect("asks");
    let ids = |key: &str| {
        let all = asks[key].as_array().expect("a list").iter();
        all.map(|ask| (ask["ask_id"].clone(), ask["code"].clone())).collect::<Vec<_>>()
    };
    json!({"open": ids("open"), "ended": ids("ended")})
}

/// Two peers, one of which has asked the other.
fn with_an_ask(dir: &DataDir) -> (Raw, Raw) {
    let (mut a, mut b) = (dir.peer("a"), dir.peer("b"));
    let asked = a.begin(Raw::ask_as("ask_12345678", "b", "xyzzy?"));
    b.take_push();
    a.end(asked).expect("asked");
    (a, b)
}

#[test]
fn step_is_in_the_journal_before_anyone_learns_of_it() {
    let dir = DataDir::with(&[("RELAY_ASKS_PER_MIN", "0")]);
    dir.start_hub();
    let mut a = dir.raw();
    a.register("a");
    assert!(text(&dir).contains("secret of a"));
    let mut b = dir.peer("b");
    for n in 0..60 {
        let ask_id = format!("ask_{n:08}");
        let asked = a.begin(Raw::ask_as(&ask_id, "b", "?"));
        let push = b.hear_type("push");
        let now = text(&dir);
        assert!(now.contains(&ask_id) && now.contains(push["push"].as_str().expect("an id")));
        b.say(&json!({"type": "pushed", "push": push["push"]}));
        a.end(asked).expect("asked");
        assert!(text(&dir).matches(push["push"].as_str().expect("an id")).count() >= 2, "its report too");
        a.call(json!({"type": "withdraw", "ask_id": ask_id})).expect("withdrawn");
    }
}

#[test]
fn requests_that_only_read_are_not_recorded() {
    let dir = DataDir::new();
    dir.start_hub();
    let (mut a, _b) = with_an_ask(&dir);
    let before = fs::metadata(path(&dir)).expect("a journal").len();
    for request in ["peers", "asks", "status", "watch"] {
        a.call(json!({"type": request})).expect("an answer");
    }
    assert_eq!(fs::metadata(path(&dir)).expect("a journal").len(), before);
}

/// A hub that is killed inside the write leaves a part of the last line. Nobody heard of that step.
#[test]
fn torn_last_line_is_cut_off() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    dir.start_hub();
    let (mut a, _b) = with_an_ask(&dir);
    let before = (text(&dir), asks(&dir));
    a.call(json!({"type": "withdraw", "ask_id": "ask_12345678"})).expect("withdrawn");
    let after = (text(&dir), asks(&dir));
    assert!(
        after.0.starts_with(&before.0)
            && after.0[before.0.len()..].lines().count() == 1
            && before.1 != after.1
    );
    let epoch = Raw::connect(&dir).hello()["epoch"].clone();
    for end in before.0.len()..=after.0.len() {
        dir.kill_hub();
        fs::write(path(&dir), &after.0[..end]).expect("written");
        dir.start_hub();
        let expected = if end == after.0.len() { &after.1 } else { &before.1 };
        assert_eq!(asks(&dir), *expected, "cut at byte {end}");
        assert_eq!(Raw::connect(&dir).hello()["epoch"], epoch, "cut at byte {end}");
    }
    assert!(dir.logged("journal_unreadable").is_empty());
}

#[test]
fn clean_stop_leaves_a_snapshot_alone_and_the_next_hub_goes_on_from_it() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    dir.start_hub();
    let (mut a, mut b) = with_an_ask(&dir);
    assert!(text(&dir).lines().count() > 1);
    let epoch = status(&dir)["epoch"].clone();
    a.call(json!({"type": "stop"})).expect("done");
    while a.hear().is_some() {}
    while b.hear().is_some() {}
    until("its end", || dir.hubs().is_empty().then_some(()));
    assert_eq!(text(&dir).lines().count(), 1);
    dir.start_hub();
    assert_eq!(status(&dir)["epoch"], epoch);
    let (mut a, mut b) = (dir.peer("a"), dir.peer("b"));
    b.begin(json!({"type": "reply", "ask_id": "ask_12345678", "text": "after all"}));
    assert_eq!(a.take_push()["text"], "after all");
}

/// The hub says why it can't use it, and begins a new epoch; who asked before learns that honestly.
fn unusable(make: impl Fn(&DataDir, String), event: &str, why: &str) {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "?");
    b.take("ask", &ask_id);
    let before = status(&dir)["epoch"].clone();
    // No channel may start the next hub before the journal is spoiled.
    let hub = dir.hub();
    crate::driver::signal(a.pid(), "STOP");
    crate::driver::signal(b.pid(), "STOP");
    crate::driver::signal(hub, "KILL");
    until("the hub's death", || (!crate::driver::is_running(hub)).then_some(()));
    make(&dir, text(&dir));
    crate::driver::signal(a.pid(), "CONT");
    crate::driver::signal(b.pid(), "CONT");
    let failed = a.take("failed", &ask_id);
    assert_eq!(failed.meta("code"), "hub_unreachable");
    assert!(failed.content.contains("was lost"), "{}", failed.content);
    assert_ne!(status(&dir)["epoch"], before);
    let logged = dir.logged(event);
    assert_eq!(logged.len(), 1, "{:?}", dir.log());
    assert!(logged[0].to_string().contains(why), "{}", logged[0]);
    // And life goes on.
    assert_eq!(b.reply(&ask_id, "!").code(), "unknown_ask");
    until("both", || (a.peer_names() == ["b"]).then_some(()));
    let ask_id = a.ask("b", "again?");
    b.take("ask", &ask_id);
    b.reply(&ask_id, "yes").ok();
    a.take("reply", &ask_id);
    assert_eq!(status(&dir)["journal"]["off"], Value::Null);
}

#[test]
fn journal_of_a_newer_format_is_not_used() {
    let newer = |dir: &DataDir, text: String| {
        fs::write(path(dir), text.replacen("\"format\":2,", "\"format\":3,", 1)).expect("written");
    };
    unusable(newer, "journal_unreadable", "format 3");
}

#[test]
fn journal_that_is_garbage_is_not_used() {
    let garbage = |dir: &DataDir, _| fs::write(path(dir), [0xff; 5000]).expect("written");
    unusable(garbage, "journal_unreadable", "no whole line");
}

#[test]
fn journal_with_garbage_in_the_middle_is_not_used() {
    let broken = |dir: &DataDir, text: String| {
        let (header, records) = text.split_once('\n').expect("a header");
        fs::write(path(dir), format!("{header}\n{{\"at\":1}}\n{records}")).expect("written");
    };
    unusable(broken, "journal_unreadable", "missing field");
}

#[test]
fn journal_that_is_a_link_is_not_followed() {
    let link = |dir: &DataDir, _| {
        let target = dir.root().join("target");
        fs::rename(path(dir), &target).expect("moved");
        std::os::unix::fs::symlink(target, path(dir)).expect("a link");
    };
    unusable(link, "journal_unreadable", "not a regular file");
}

/// Runs `test` on a data directory that is a file system of its own, of 256 KiB.
fn on_a_small_disk(test: impl Fn(&DataDir)) {
    let dir = DataDir::with(&[("RELAY_ASKS_PER_MIN", "0")]);
    fs::create_dir(dir.path()).expect("made");
    let at = dir.path().to_str().expect("text");
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", at]).status();
    if !mount.is_ok_and(|s| s.success()) {
        return eprintln!("SKIPPED: no file system may be mounted here, so no disk can be filled");
    }
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&dir)));
    dir.stop();
    // The last thread of a hub may outlive its process by a moment.
    until("its end as a file system", || {
        let umount = Command::new("umount").arg(at).stderr(Stdio::null()).status().expect("umount");
        umount.success().then_some(())
    });
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn full_disk_under_a_running_hub_turns_the_journal_off_and_nothing_else() {
    on_a_small_disk(|dir| {
        dir.start_hub();
        let (mut a, mut b) = with_an_ask(dir);
        assert_eq!(status(dir)["journal"]["off"], Value::Null);
        // All but the room that the log needs for a line.
        let full = dir.path().join("full");
        while fs::write(&full, vec![0; fs::metadata(&full).map_or(0, |m| m.len() as usize) + 1024]).is_ok() {}
        let text = "x".repeat(20_000);
        for n in 0..3 {
            let ask_id = format!("ask_{n:08}");
            let asked = a.begin(Raw::ask_as(&ask_id, "b", &text));
            b.take_push();
            a.end(asked).expect("asks go on");
            let replied = b.begin(json!({"type": "reply", "ask_id": ask_id, "text": text}));
            while a.take_push()["ask_id"] != json!(ask_id) {}
            b.end(replied).expect("answers go on");
        }
        assert!(!path(dir).exists(), "a journal without all steps must never be replayed");
        until("that the hub tells", || status(dir)["journal"]["off"].is_string().then_some(()));
        let status_line = dir.command(&["status"]).output().expect("relay status");
        let status_line = String::from_utf8_lossy(&status_line.stdout).into_owned();
        assert!(status_line.contains("No space left on device"), "{status_line}");
        let doctor = dir.command(&["doctor", "--json"]).output().expect("relay doctor");
        let doctor: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
        let findings = doctor["findings"].as_array().expect("findings");
        let journal = findings.iter().find(|f| f["check"] == "journal").expect("the journal");
        assert_eq!(journal["level"], "error");
        assert!(journal["detail"].as_str().is_some_and(|d| d.contains("No space left")), "{journal}");
        assert!(journal["remedy"].is_string());
        assert_eq!(dir.logged("journal_off").len(), 1, "{:?}", dir.log());
        // When this hub dies there is nothing that could be replayed.
        dir.kill_hub();
        fs::remove_file(&full).expect("removed");
        dir.start_hub();
        assert_eq!(asks(dir), json!({"open": [], "ended": []}));
        assert_eq!(status(dir)["journal"]["off"], Value::Null);
    });
}

#[test]
fn hub_that_finds_no_room_for_a_journal_works_without_one() {
    on_a_small_disk(|dir| {
        fs::write(dir.path().join("full"), vec![0; 300 << 10]).expect_err("full");
        // Room for the names of files, but for no byte in them.
        let hub = dir.command(&["hub", "--detach"]).output().expect("relay hub");
        assert!(hub.status.success(), "{hub:?}");
        assert!(status(dir)["journal"]["off"].as_str().is_some_and(|off| off.contains("No space left")));
        with_an_ask(dir);
    });
}

#[test]
fn without_a_journal_open_asks_end_honestly_when_the_hub_dies() {
    let dir = DataDir::with(&[("RELAY_JOURNAL", "off")]);
    let [a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "xyzzy?");
    b.take("ask", &ask_id);
    let all = a.call("relay_broadcast", json!({"question": "xyzzy all?"})).ok();
    let all = all["broadcast_id"].as_str().expect("an id");
    b.take_where("the broadcast", |push| push.kind == "ask");
    assert!(!path(&dir).exists());
    let status_line = dir.command(&["status"]).output().expect("relay status");
    assert!(String::from_utf8_lossy(&status_line.stdout).contains("RELAY_JOURNAL=off"), "{status_line:?}");
    dir.kill_hub();
    for id in [ask_id.as_str(), all] {
        let failed = a.take_where("the end", |push| push.kind == "failed" && push.id == id);
        assert_eq!(failed.meta("code"), "hub_unreachable");
        assert!(failed.content.contains("was lost"), "{}", failed.content);
    }
    assert_eq!(b.reply(&ask_id, "!").code(), "unknown_ask");
    until("both", || (a.peer_names() == ["b"] && b.peer_names() == ["a"]).then_some(()));
    assert!(a.pushes().is_empty() && b.pushes().is_empty(), "once");
    assert_eq!((&a.peers()["asks"], &b.peers()["owed"]), (&json!([]), &json!([])));
    let again = a.ask("b", "again?");
    b.take("ask", &again);
}

#[test]
fn relay_ask_without_a_journal_ends_when_the_hub_dies() {
    let dir = DataDir::with(&[("RELAY_JOURNAL", "off")]);
    let b = dir.channel("b");
    let ask = dir.command(&["ask", "b", "?"]).stderr(Stdio::piped()).spawn().expect("relay ask");
    b.take_where("the ask", |push| push.kind == "ask");
    dir.kill_hub();
    let ended = ask.wait_with_output().expect("an end");
    assert_eq!(ended.status.code(), Some(11), "{ended:?}");
    assert!(String::from_utf8_lossy(&ended.stderr).contains("hub_unreachable"), "{ended:?}");
}

/// What was there for a hub with a journal is of no use to one without.
#[test]
fn journal_that_is_switched_off_is_removed() {
    let dir = DataDir::with(&[("RELAY_GRACE_S", "1000")]);
    dir.start_hub();
    drop(with_an_ask(&dir));
    dir.stop_hub();
    assert!(path(&dir).exists());
    let hub = dir.command(&["hub", "--detach"]).env("RELAY_JOURNAL", "off").output().expect("relay hub");
    assert!(hub.status.success());
    assert!(!path(&dir).exists());
    dir.stop_hub();
    dir.start_hub();
    assert_eq!(asks(&dir)["open"], json!([]));
}

#[test]
fn text_is_gone_from_the_journal_after_a_stop_and_after_a_restart() {
    let dir = DataDir::new();
    let [a, b] = dir.channels(["a", "b"]);
    let ask_id = a.ask("b", "a question of some length, whose end is xyzzy, far behind what an open question keeps of itself: plugh");
    b.take("ask", &ask_id);
    assert!(text(&dir).contains("plugh"));
    dir.kill_hub();
    until("both", || (a.peer_names() == ["b"] && b.peer_names() == ["a"]).then_some(()));
    assert!(!text(&dir).contains("plugh"), "it was delivered: {}", text(&dir));
    b.reply(&ask_id, "xyzzy answer").ok();
    a.take("reply", &ask_id);
    a.peers(); // the hub has heard that it was pushed
    dir.stop_hub();
    until("the next hub", || (a.peer_names() == ["b"]).then_some(()));
    assert!(!text(&dir).contains("xyzzy"), "{}", text(&dir));
}

#[test]
fn files_of_the_hub_are_private() {
    let dir = DataDir::new();
    dir.start_hub();
    let mode =
        |name: &str| fs::metadata(dir.path().join(name)).expect("it is there").permissions().mode() & 0o777;
    drop(with_an_ask(&dir));
    assert_eq!((mode("hub.journal"), mode("hub.lock"), mode("hub.sock")), (0o600, 0o600, 0o600));
    dir.stop_hub();
    assert_eq!(mode("hub.journal"), 0o600, "after a compaction, too");
}
