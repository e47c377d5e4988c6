//! `relay demo`, `relay completions`, the help texts and the man page.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use serde_json::json;

use crate::shell_kit::{self, Home, relay_path};

#[test]
fn the_demo_plays_to_its_end_and_leaves_nothing() {
    let home = Home::new();
    let ran = home.run(&["demo", "--fast"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    for part in [
        "receives: ask from alice",
        "receives: reply from bob",
        "receives: summary",
        "now called \"reviewer\"",
        "receives: failed from reviewer",
        "peer_gone",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert!(!ran.out.contains("jsonrpc"));
    let verbose = home.run(&["demo", "--fast", "--verbose"]);
    assert!(verbose.out.contains("notifications/claude/channel"), "{}", verbose.out);
    assert_eq!(
        fs::read_dir(home.path.join("tmp")).expect("it is there").count(),
        0,
        "nothing is left behind"
    );
    assert!(!shell_kit::exists(home.data()), "and nothing else was touched");
}

/// The commands, and the options of each, as the program tells them.
fn commands(home: &Home) -> Vec<(String, BTreeSet<String>)> {
    let overview = home.run(&["--help"]).out;
    let overview = overview.split("\nGlobal options").next().expect("a part");
    let names = overview.lines().filter(|l| l.starts_with("  ")).filter_map(|l| l.split_whitespace().next());
    let option = |line: &str| {
        line.strip_prefix("  --").and_then(|l| l.split_whitespace().next()).map(|o| format!("--{o}"))
    };
    names
        .map(|name| (name.to_owned(), home.run(&[name, "--help"]).out.lines().filter_map(option).collect()))
        .collect()
}

#[test]
fn the_man_page_describes_what_the_program_has() {
    let home = Home::new();
    let source =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/relay.1")).expect("the page");
    let page = source.replace("\\-", "-");
    let section = |command: &str| {
        let mut parts = page.split("\n.SS relay ").filter_map(|part| part.strip_prefix(command));
        let after = parts
            .find(|part| part.starts_with([' ', '\n']))
            .unwrap_or_else(|| panic!("{command} is missing"));
        after.split("\n.SS ").next().and_then(|s| s.split("\n.SH ").next()).unwrap_or_default().to_owned()
    };
    let commands = commands(&home);
    assert!(commands.len() >= 14, "{commands:?}");
    for (command, options) in &commands {
        let section = section(command);
        let heading = section.lines().next().unwrap_or_default();
        let named: BTreeSet<String> = heading
            .split(|c: char| !c.is_alphanumeric() && c != '-')
            .filter(|w| w.starts_with("--") && w.len() > 2)
            .map(str::to_owned)
            .collect();
        assert_eq!(&named, options, "{command}");
    }
    assert_eq!(page.matches("\n.SS relay ").count(), commands.len(), "and no others");
    let overview = home.run(&["--help"]).out;
    let part = |title: &str| {
        let part = overview.split(&format!("\n{title}:\n")).nth(1).expect("a part");
        let part = part.split("\n\n").next().expect("a part");
        part.lines()
            .map(|l| l.trim().split_once(' ').map(|(k, v)| (k.to_owned(), v.trim().to_owned())))
            .collect::<Option<Vec<_>>>()
    };
    let plain = page.replace(".BR ", "").replace(" :\n", ": ").replace('\n', " ");
    for (exit, when) in part("Exit codes").expect("rows") {
        assert!(page.contains(&format!("\n.TP\n.B {exit}\n")), "exit code {exit}");
        let code = when.split_once(": ").map(|(code, _)| code).filter(|c| !c.contains(' '));
        assert!(code.is_none_or(|code| plain.contains(&format!(".B {exit} {code}: "))), "{exit} {when}");
    }
    let told: BTreeSet<String> =
        part("Environment").expect("rows").into_iter().map(|(name, _)| name).collect();
    for name in &told {
        assert!(page.contains(&format!("\n.TP\n.B {name}\n")), "{name}");
    }
    // What the sources read is told, and what is told is read.
    let mut sources = String::new();
    read_sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
    let is_for_tests = |word: &str| word.starts_with("RELAY_SIM_") || word == "RELAY_NO_PROC";
    let words = sources.split(|c: char| !c.is_ascii_uppercase() && c != '_' && !c.is_ascii_digit());
    // (The simulation of the router is a test.)
    let read: BTreeSet<&str> =
        words.filter(|w| w.starts_with("RELAY_") && w.len() > 6 && !is_for_tests(w)).collect();
    let told: BTreeSet<&str> = told.iter().map(String::as_str).filter(|n| n.starts_with("RELAY_")).collect();
    assert_eq!(read, told);
    if let Ok(lint) = Command::new("mandoc")
        .args(["-T", "lint", "-W", "warning", "docs/relay.1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
    {
        assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stdout));
    }
}

fn read_sources(dir: &Path, text: &mut String) {
    for entry in fs::read_dir(dir).expect("sources").flatten() {
        match entry.path() {
            path if path.is_dir() => read_sources(&path, text),
            path => *text += &fs::read_to_string(path).unwrap_or_default(),
        }
    }
}

#[test]
fn completions_know_commands_options_and_peers() {
    let home = Home::new();
    let _bob = home.join("bob");
    let next = |words: &[&str]| {
        let ran = home.run(&[&["completions", "bash", "--", "relay"], words].concat());
        ran.out.lines().map(str::to_owned).collect::<BTreeSet<String>>()
    };
    let commands = commands(&home);
    let set = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<BTreeSet<_>>();
    assert_eq!(
        next(&[]),
        &set(&["--help", "--version"]) | &commands.iter().map(|(name, _)| name.clone()).collect()
    );
    for (command, options) in &commands {
        let expected = options | &set(&["--data-dir", "--help"]);
        assert!(next(&[command.as_str()]).is_superset(&expected), "{command}");
    }
    assert_eq!(next(&["ask", "--timeout"]), BTreeSet::new());
    assert_eq!(next(&["ask", "--data-dir"]), BTreeSet::new());
    assert_eq!(next(&["no-such-command"]), BTreeSet::new());
    home.program("relay", &format!("#!/bin/sh\nexec {} \"$@\"\n", relay_path()));
    for (shell, ask) in [
        (
            "bash",
            "COMP_WORDS=($LINE ''); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))\n_relay relay \"$LAST\" x\necho \"${COMPREPLY[@]}\"",
        ),
        (
            "zsh",
            "compdef() :\ncompadd() { shift; print -r -- ${(M)@:#$LAST*} }\n. \"$0\"\nwords=(${=LINE} ''); CURRENT=$#words\n_relay",
        ),
        ("fish", "complete -C \"$LINE $LAST\" | string replace -r '\\t.*' ''"),
    ] {
        let script = home.run(&["completions", shell]);
        assert_eq!(script.code, Some(0));
        let path = home.write(&format!("completions.{shell}"), &script.out);
        match home.command(shell).arg("-n").arg(&path).output() {
            Ok(checked) => {
                assert!(checked.status.success() && checked.stderr.is_empty(), "{shell} {checked:?}")
            }
            Err(_) => {
                eprintln!("SKIPPED: there is no {shell}");
                continue;
            }
        }
        // zsh has no `compdef` outside of its completion system.
        let script = if shell == "zsh" { String::new() } else { format!(". '{}'\n", path.display()) };
        let complete = |line: &str, last: &str| {
            let mut command = home.command(shell);
            let command = command.args(["-c", &format!("{script}{ask}"), path.to_str().expect("text")]);
            let ran = command.env("LINE", line).env("LAST", last).output().expect("it runs");
            let words = String::from_utf8_lossy(&ran.stdout).into_owned();
            words.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(complete("relay", "as"), "ask asks", "{shell}");
        assert_eq!(complete("relay ask", "--ti"), "--timeout", "{shell}");
        assert_eq!(complete("relay ask", "b"), "bob", "{shell}");
        let scopes = complete("relay broadcast --scope", "");
        assert!(
            ["machine", "repo", "directory"].iter().all(|scope| scopes.contains(scope)),
            "{shell} {scopes}"
        );
        assert_eq!(complete("relay completions", "z"), "zsh", "{shell}");
    }
}

#[test]
fn completions_of_a_hostile_hub_are_no_commands() {
    let home = Home::new();
    fs::create_dir(home.data()).expect("the data directory");
    let listener = UnixListener::bind(home.data().join("hub.sock")).expect("bound");
    let hub = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut lines = BufReader::new(stream.try_clone().expect("cloned")).lines();
        let peer = |name: &str| {
            json!({"name": name, "kind": "session", "host": null, "cwd": "/", "branch": null, "pid": 1, "activity": "idle",
                "push": null, "confirmed": false, "connected_s": 1, "other_channels": []})
        };
        let peers = [peer("bob"), peer("$(touch owned)")];
        let roster = json!({"peers": {"self": null, "peers": peers, "asks": [], "owed": []}});
        for answer in [
            json!({"welcome": {"v": 2, "pid": 1, "version": "0", "epoch": "e"}}),
            json!({"ok": {"id": 1, "answer": roster}}),
        ] {
            lines.next().expect("a line").expect("text");
            writeln!(stream, "{answer}").expect("it reads");
        }
    });
    let words = home.run(&["completions", "bash", "--", "relay", "ask"]).out;
    hub.join().expect("the hub ends");
    assert!(words.ends_with("\nbob\n"), "{words}");
    fs::remove_file(home.data().join("hub.sock")).expect("removed");
}
