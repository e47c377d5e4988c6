//! The data directory: whose it is, who may write to it, and what is in it.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::all_is_well;
use crate::driver::{DataDir, until};

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).mode() & 0o777
}

/// Somebody else's hub: counts who comes, and how much is said.
fn trap(socket: &Path) -> Arc<AtomicUsize> {
    let listener = UnixListener::bind(socket).expect("a socket");
    let heard = Arc::new(AtomicUsize::new(0));
    let count = heard.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let count = count.clone();
            std::thread::spawn(move || {
                let welcome = json!({"welcome": {"v": 2, "pid": 1, "version": "0", "epoch": "e"}});
                let _ = writeln!(stream, "{welcome}");
                let mut buffer = [0; 4096];
                while let Ok(n @ 1..) = std::io::Read::read(&mut stream, &mut buffer) {
                    count.fetch_add(n, Ordering::SeqCst);
                }
            });
        }
    });
    heard
}

/// Every way in refuses the directory and says why; nobody says a word to whoever listens there.
fn refuses(dir: &DataDir, why: &str) {
    let run = |args: &[&str], input: &str| {
        let mut command = dir.command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("relay");
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        child.wait_with_output().expect("an end")
    };
    for args in [&["hub"][..], &["hub", "--detach"], &["ask", "ben", "secret text"]] {
        let output = run(args, "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_ne!(output.status.code(), Some(0), "{args:?}");
        assert!(said.contains(why), "{args:?}: {said}");
    }
    let hook =
        run(&["hook"], r#"{"hook_event_name":"UserPromptSubmit","prompt":"push_0123456789abcdef01234567"}"#);
    assert_eq!((hook.status.code(), hook.stderr.len()), (Some(0), 0));
    let channel = dir.launch("ann").start();
    channel.initialize();
    let refused = channel.call("relay_ask", json!({"to": "ben", "question": "secret text"}));
    assert!(refused.text.contains(why), "{}", refused.text);
    assert_eq!(refused.code(), "hub_unreachable");
}

#[test]
fn a_directory_that_others_can_write_to_is_refused_by_all() {
    for bits in [0o777, 0o770, 0o702] {
        let dir = DataDir::new();
        fs::create_dir(dir.path()).expect("a directory");
        chmod(dir.path(), bits);
        let heard = trap(&dir.socket());
        refuses(&dir, "others can write to it");
        assert_eq!(heard.load(Ordering::SeqCst), 0, "{bits:o}: something was said to whoever listens there");
        assert_eq!(mode(dir.path()), bits, "it is left as it is");
    }
}

/// Only root can make a file somebody else's; elsewhere `prepare_refuses_what_others_can_write` has to do.
#[test]
fn a_directory_of_somebody_else_is_refused_by_all() {
    let dir = DataDir::new();
    fs::create_dir(dir.path()).expect("a directory");
    chmod(dir.path(), 0o755);
    let heard = trap(&dir.socket());
    chmod(&dir.socket(), 0o777);
    if std::os::unix::fs::chown(dir.path(), Some(65_534), Some(65_534)).is_err() {
        return println!("SKIPPED: only root can give a directory away");
    }
    refuses(&dir, "belongs to user 65534");
    assert_eq!(heard.load(Ordering::SeqCst), 0, "something was said to whoever listens there");
}

#[test]
fn a_socket_that_is_a_link_is_not_followed() {
    let dir = DataDir::new();
    fs::create_dir(dir.path()).expect("a directory");
    chmod(dir.path(), 0o700);
    let elsewhere = dir.root().join("elsewhere.sock");
    let heard = trap(&elsewhere);
    symlink(&elsewhere, dir.socket()).expect("a link");
    let output = dir.command(&["peers"]).output().expect("relay peers");
    assert!(output.status.success());
    dir.hook("ann", &json!({"hook_event_name": "Stop"}));
    // A hub replaces it.
    dir.start_hub();
    assert!(!dir.socket().is_symlink());
    assert_eq!(mode(&dir.socket()), 0o600);
    assert_eq!(heard.load(Ordering::SeqCst), 0);
    assert!(elsewhere.exists(), "what it led to is left alone");
    all_is_well(&dir);
}

/// Everything that is made, with what mode.
#[test]
fn modes_are_right_whatever_the_umask() {
    for umask in ["umask 000", "umask 022", "umask 077", "umask 277", "umask 777"] {
        let dir = DataDir::below("a/b/data", &[]);
        let channel = dir.launch("ann").shell(umask).start();
        channel.initialize();
        let result = channel.call("relay_peers", Value::Null);
        assert!(!result.is_error, "{umask}: {}", result.text);
        for (name, bits) in
            [("", 0o700), ("logs", 0o700), ("sessions", 0o700), ("hub.sock", 0o600), ("hub.journal", 0o600)]
        {
            assert_eq!(mode(&dir.path().join(name)), bits, "{umask}: {name}");
        }
        let mut files: Vec<PathBuf> = vec![dir.path().join("hub.lock")];
        for inner in ["logs", "sessions"] {
            let entries = fs::read_dir(dir.path().join(inner)).expect("a directory");
            files.extend(entries.map(|e| e.expect("an entry").path()));
        }
        assert!(files.len() >= 3, "{files:?}");
        for file in files {
            assert_eq!(mode(&file) & 0o077, 0, "{umask}: {}", file.display());
        }
        for parent in ["a", "a/b"] {
            assert_eq!(mode(&dir.root().join(parent)) & 0o022, 0, "{umask}: others may write to {parent}");
        }
    }
}

/// Names, errors and texts of peers go into the log as values of one line, texts not at all, and never into its name.
#[test]
fn messages_cannot_influence_the_log_file() {
    let dir = DataDir::with(&[("RELAY_LOG", "debug")]);
    dir.start_hub();
    let mut eve = dir.raw();
    let mut who = crate::driver::Raw::who("e");
    who["name"] = json!("../../x\n{\"event\":\"forged\"}\u{1b}[31m/../y");
    who["cwd"] = json!("/\n{\"event\":\"forged\"}");
    eve.call(json!({"type": "register", "who": who})).expect("registered");
    let mut ben = dir.peer("ben");
    let id =
        eve.begin(crate::driver::Raw::ask_as("ask_00000001", "ben", "secret-text\n{\"event\":\"forged\"}"));
    ben.take_push();
    eve.end(id).expect("asked");
    let id = ben.begin(json!({"type": "reply", "ask_id": "ask_00000001", "text": "secret-text too"}));
    eve.take_push();
    ben.end(id).expect("replied");
    eve.call(json!({"type": "rename", "name": "/etc/passwd\0", "exact": true})).expect("renamed");
    all_is_well(&dir);
    assert!(dir.logged("forged").is_empty());
    let logs: Vec<String> = fs::read_dir(dir.path().join("logs"))
        .expect("logs")
        .map(|e| e.expect("a log").file_name().into_string().expect("text"))
        .collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    let text = fs::read_to_string(dir.path().join("logs").join(&logs[0])).expect("the log");
    assert!(!text.contains("secret-text") && !text.contains('\u{1b}'), "{text}");
    // No other file of the directory holds a text either, but for the journal, which needs it.
    let mut grep = Command::new("grep");
    grep.args(["-r", "-l", "--exclude=hub.journal", "secret-text"]).arg(dir.root());
    let grep = grep.output().expect("grep");
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "");
}

/// What stands where the log should be is neither waited for nor followed.
#[test]
fn hub_runs_without_a_usable_log_file() {
    for kind in ["fifo", "link", "directory"] {
        let dir = DataDir::new();
        let logs = dir.path().join("logs");
        fs::create_dir_all(&logs).expect("directories");
        chmod(dir.path(), 0o700);
        let target = dir.root().join("target");
        let today = Command::new("date").args(["-u", "+relay-%Y-%m-%d.log"]).output().expect("date");
        let path = logs.join(String::from_utf8_lossy(&today.stdout).trim());
        match kind {
            "fifo" => assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success()),
            "link" => symlink(&target, &path).expect("a link"),
            _ => fs::create_dir(&path).expect("a directory"),
        }
        dir.start_hub();
        all_is_well(&dir);
        assert!(!target.exists(), "{kind}");
        let hub = dir.hub();
        crate::driver::signal(hub, "TERM");
        until("its end", || (!crate::driver::is_running(hub)).then_some(()));
        let _ = fs::remove_file(&path);
        let _ = fs::remove_dir(&path);
    }
}

/// A pipe in place of the lock file is refused; nobody waits for a writer.
#[test]
fn lock_file_that_is_a_pipe_is_refused_by_all() {
    let dir = DataDir::new();
    fs::create_dir(dir.path()).expect("a directory");
    chmod(dir.path(), 0o700);
    let lock = dir.path().join("hub.lock");
    assert!(Command::new("mkfifo").arg(&lock).status().expect("mkfifo").success());
    for args in [&["hub"][..], &["hub", "--detach"], &["ask", "ben", "text"]] {
        let output = dir.command(args).stdin(Stdio::null()).output().expect("relay");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("not a regular file"), "{args:?}: {said}");
    }
    for command in ["status", "stop", "doctor", "peers"] {
        dir.command(&[command]).stdin(Stdio::null()).output().expect("relay"); // it ends
    }
}

/// The hub of a directory that was removed leaves the files of the hub that has taken its place alone.
#[test]
fn hub_of_a_removed_directory_does_not_touch_the_next_ones_journal() {
    let dir = DataDir::new();
    dir.start_hub();
    let first = dir.hub();
    fs::rename(dir.path(), dir.root().join("moved")).expect("moved");
    dir.start_hub();
    let epoch = || {
        let journal = fs::read_to_string(dir.path().join("hub.journal")).expect("a journal");
        let header: Value = serde_json::from_str(journal.lines().next().expect("a line")).expect("a header");
        header["epoch"].clone()
    };
    let before = epoch();
    until("the end of the first hub", || (!crate::driver::is_running(first)).then_some(()));
    assert_eq!(epoch(), before);
    all_is_well(&dir);
}

/// A journal that somebody has edited is used or ignored; the hub starts in any case, says so, and works.
#[test]
fn hub_starts_whatever_its_journal_says() {
    let written = DataDir::new();
    written.start_hub();
    let (mut ann, mut ben) = (written.peer("ann"), written.peer("ben"));
    let asked = ann.begin(crate::driver::Raw::ask_as("ask_00000001", "ben", "?"));
    ben.take_push();
    ann.end(asked).expect("asked");
    written.stop_hub();
    let journal = fs::read_to_string(written.path().join("hub.journal")).expect("a journal");
    let header: Value = serde_json::from_str(&journal).expect("a snapshot only");
    let records = [
        json!({"at": 1, "ids": [], "input": "tock"}),
        json!({"at": u64::MAX, "ids": [], "input": "tick"}),
        json!({"at": 1, "ids": [], "input": {"opened": u64::MAX}}),
    ];
    let mut edited: Vec<String> = records.iter().map(|record| format!("{journal}{record}\n")).collect();
    for (pointer, value) in [
        ("/snapshot/now", json!(u64::MAX)),
        ("/snapshot/last_conn", json!(u64::MAX)),
        ("/snapshot/next_no", json!(u64::MAX)),
        ("/snapshot/limits/grace", json!(u64::MAX)),
        ("/snapshot/timers", json!([[u64::MAX, "Idle"]])),
        ("/snapshot/peers", json!({})),
    ] {
        let mut header = header.clone();
        *header.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
        edited.push(format!("{header}\n"));
    }
    for journal in edited {
        let dir = DataDir::new();
        fs::create_dir(dir.path()).expect("a directory");
        chmod(dir.path(), 0o700);
        fs::write(dir.path().join("hub.journal"), &journal).expect("written");
        dir.start_hub();
        all_is_well(&dir);
        assert_eq!(dir.logged("journal_unreadable").len(), 1, "{journal}");
    }
}
