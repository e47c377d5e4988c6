//! Large texts: what each path carries, and where the rest is.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::driver::{Channel, DataDir, Inbox, until};

/// The largest text that is taken, in lines of 64 bytes.
fn largest() -> String {
    let lines: String = (0..8192).map(|n| format!("{n:<63}\n")).collect();
    assert_eq!(lines.len(), 512 << 10);
    lines.trim_end().to_owned() + &" ".repeat(8) + "end"
}

fn quoted(text: &str) -> String {
    format!("> {}", text.replace('\n', "\n> "))
}

fn by_inbox(dir: &DataDir, session: &str, inbox: &Inbox) -> Channel {
    let channel = dir
        .launch(session)
        .env("RELAY_PUSH", "inbox")
        .env("CLAUDE_CODE_MESSAGING_SOCKET", inbox.path())
        .start();
    channel.initialize();
    channel.peers();
    channel
}

/// The files of texts that are there.
fn files(dir: &DataDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.path().join("texts")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The file that a message with only the first part of a text names. It is private, and holds the whole.
fn file_in(message: &str, text: &str) -> PathBuf {
    let note = message.split("[relay: ").nth(1).expect("a cut text").lines().next().expect("a note");
    let (_, after) = note.split_once("The rest is in ").unwrap_or_else(|| panic!("{note}"));
    let file = PathBuf::from(after.split_once(", from that line ").expect("a line").0);
    assert_eq!(fs::read_to_string(&file).expect("the file"), quoted(text) + "\n");
    assert_eq!(fs::metadata(&file).expect("the file").mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(file.parent().expect("a directory")).expect("it").mode() & 0o777, 0o700);
    file
}

/// The quoted lines of a message are a beginning of the text, up to the end of a line that the message names.
fn check_first_part(message: &str, text: &str) {
    let lines: Vec<&str> = message.lines().filter_map(|line| line.strip_prefix("> ")).collect();
    let first = lines.join("\n");
    assert!(text.starts_with(&first) && text[first.len()..].starts_with('\n'), "cut in a line");
    let (line, of) = (lines.len(), text.lines().count());
    assert!(message.contains(&format!("only the first part of the text, up to line {line} of {of}.")));
}

#[test]
fn the_inbox_carries_512_kib() {
    let dir = DataDir::new();
    let inbox = Inbox::new(&dir, "b");
    let (a, b) = (dir.channel("a"), by_inbox(&dir, "b", &inbox));
    let text = largest();
    let ask_id = a.ask("b", &text);
    let lines = inbox.take(&ask_id);
    let content = lines[0]["message"]["content"].as_str().expect("a text");
    assert!(content.contains(&format!("\n{}\n", quoted(&text))), "whole");
    b.reply(&ask_id, &text).ok();
    assert_eq!(a.take("reply", &ask_id).quoted(), quoted(&text), "the channel carries all");
    assert!(files(&dir).is_empty());
}

#[test]
fn what_the_inbox_would_drop_is_cut_and_the_rest_is_in_a_file_until_the_ask_ends() {
    let dir = DataDir::new();
    let inbox = Inbox::new(&dir, "b");
    let (a, b) = (dir.channel("a"), by_inbox(&dir, "b", &inbox));
    // Escaped it is twice as long, and quoted longer still.
    let text = "\"\"\\\"\t\"\n".repeat(74_000) + "end";
    let ask = || {
        let ask_id = a.ask("b", &text);
        let line = inbox.take(&ask_id).remove(0);
        let length = line.to_string().encode_utf16().count();
        assert!((1_040_000..=1_048_500).contains(&length), "{length}");
        let content = line["message"]["content"].as_str().expect("a text").to_owned();
        check_first_part(&content, &text);
        assert!(content.ends_with("\n</cross-session-message>"));
        (ask_id, file_in(&content, &text))
    };
    let (ask_id, file) = ask();
    b.reply(&ask_id, "all read").ok();
    assert!(!file.exists(), "the ask has ended");
    a.take("reply", &ask_id);

    let mut script = dir.command(&["ask", "b", "-"]).stdin(Stdio::piped()).spawn().expect("relay ask");
    script.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("a reader");
    let content = inbox.take("only the first part")[0]["message"]["content"].to_string();
    assert!(content.contains("The rest is in "));
    let file = until("the file", || files(&dir).pop());
    crate::driver::signal(script.id(), "INT");
    script.wait().expect("an end");
    until("its removal", || (!file.exists()).then_some(()));
    drop(b);
}

#[test]
fn a_waiter_prints_what_the_client_keeps() {
    let dir = DataDir::new();
    let a = dir.channel("a");
    let b = dir.launch("b").env("RELAY_PUSH", "hook").start();
    b.initialize();
    b.peers();
    let start = json!({"hook_event_name": "SessionStart", "source": "startup"});
    dir.hook("b", &start);
    let text = largest();
    for question in [text.clone(), text.replace('\n', "\u{1f600}")[..512 << 10].to_owned()] {
        let waiter = dir.waiter("b", &start);
        let ask_id = a.ask("b", &question);
        let mark_busy = waiter.mark_busy();
        let length = mark_busy.encode_utf16().count();
        assert!((80_000..=90_100).contains(&length), "{length}");
        if question == text {
            check_first_part(&mark_busy, &text);
        }
        let file = file_in(&mark_busy, &question);
        b.reply(&ask_id, "read").ok();
        assert!(!file.exists());
    }
}

#[test]
fn a_tool_result_carries_what_the_client_shows() {
    let dir = DataDir::new();
    let a = dir.channel("a");
    // No inbox is there, and no other way allowed.
    let b = dir.launch("b").env("RELAY_PUSH", "inbox").start();
    b.initialize();
    b.peers();
    let text = largest();
    let ask_id = a.ask("b", &text);
    let waiting = until("the text", || {
        let data: Value = b.peers();
        data["messages"][0].as_str().map(str::to_owned)
    });
    assert!(waiting.contains(&ask_id));
    check_first_part(&waiting, &text);
    file_in(&waiting, &text);
}

#[test]
fn the_shell_takes_512_kib_from_stdin() {
    let dir = DataDir::new();
    let b = dir.channel("b");
    let text = largest();
    let mut script = dir
        .command(&["ask", "b", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("relay ask");
    script.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("a reader");
    let ask = b.take_where("the ask", |push| push.kind == "ask");
    assert!(ask.content.starts_with(&format!("{}\n", quoted(&text))));
    b.reply(&ask.id, &text).ok();
    let output = script.wait_with_output().expect("an end");
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).expect("text"), text + "\n");
}

#[test]
fn files_of_texts_go_with_their_session_and_after_an_hour() {
    use std::os::linux::fs::MetadataExt as _;
    let dir = DataDir::new();
    let _a = dir.channel("a");
    let texts = dir.path().join("texts");
    fs::create_dir(&texts).expect("a directory");
    fs::set_permissions(&texts, fs::Permissions::from_mode(0o700)).expect("a mode");
    let namespace = fs::metadata("/proc/self/ns/pid").expect("a namespace").st_ino();
    // A process that never was, and a session that has no process of its own.
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
    let boot = boot.split('-').next().unwrap_or_default();
    let gone = texts.join(format!("{boot}-{namespace}-{}-1.ask_1.ask", u32::MAX));
    let (old, kept) = (texts.join("named-b.ask_1.ask"), texts.join("named-b.ask_2.reply"));
    let hour_ago = SystemTime::now() - Duration::from_secs(3600);
    for file in [&kept, &old, &gone] {
        fs::write(file, "> a text\n").expect("written");
    }
    fs::File::options().write(true).open(&old).and_then(|f| f.set_modified(hour_ago)).expect("an old file");
    until("their removal", || (files(&dir) == [kept.clone()]).then_some(()));
}
