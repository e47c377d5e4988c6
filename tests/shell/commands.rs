//! `relay peers`, `ask`, `broadcast`, `join`, `tail`, `status`, `stop`: the built binary, with and without a terminal.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::thread;

use crate::shell_kit::{self, Home, keys, kill, relay_path, shown};
use serde_json::{Value, json};

#[test]
fn commands_without_a_hub_start_nothing() {
    let home = Home::new();
    let peers = home.run(&["peers"]);
    assert!(peers.code == Some(0) && peers.out.starts_with("There are no other peers."), "{peers:?}");
    assert_eq!(home.json(&["peers", "--json"]), json!({"self": null, "peers": [], "asks": [], "owed": []}));
    let status = home.run(&["status", "--json"]);
    assert_eq!(status.code, Some(11));
    assert_eq!(status.json()["error"]["code"], "hub_unreachable");
    assert!(
        home.run(&["status"]).err.ends_with("data/hub.sock; the first session or `relay ask` starts one\n")
    );
    assert_eq!(home.run(&["tail"]).code, Some(11));
    assert_eq!(home.run(&["stop"]).code, Some(0));
    assert!(!shell_kit::exists(home.data()), "nothing was started");
}

#[test]
fn an_unusable_data_directory_is_reported() {
    let home = Home::new();
    let file = home.write("file", "");
    let open = home.write("open/x", "").parent().expect("a parent").to_owned();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).expect("a mode");
    let below = file.join("below");
    for (dir, why) in
        [(&file, "Not a directory"), (&below, "Not a directory"), (&open, "others can write to it")]
    {
        for command in ["peers", "status", "stop", "tail"] {
            let ran = home.relay(&[command, "--data-dir"]).arg(dir).output().expect("it runs");
            let err = String::from_utf8_lossy(&ran.stderr);
            assert_eq!(ran.status.code(), Some(11), "{command}: {err}");
            assert!(err.contains("cannot use") && err.contains(why), "{command}: {err}");
        }
    }
    assert_eq!(fs::read_dir(open).expect("it is there").count(), 1, "it only looks");
}

#[test]
fn usage_errors_exit_with_2_and_say_what_to_do() {
    let home = Home::new();
    for (args, said) in [
        (&["frobnicate"][..], "unknown command 'frobnicate'"),
        (&["brodcast", "bob"], "unknown command 'brodcast'"),
        (&["ask", "--jsn", "bob"], "invalid option '--jsn'"),
        (&["ask", "bob", "x", "--timeout"], "--timeout"),
        (&["peers", "bob"], "unexpected argument \"bob\""),
        (&["peers", "-x"], "invalid option '-x'"),
        (&["peers", "--json=1"], "--json"),
        (&[], "missing COMMAND"),
        (&["ask"], "missing PEER; run `relay peers`"),
        (&["ask", "bob"], "missing TEXT"),
        (&["ask", "bob", "  "], "missing TEXT"),
        (&["ask", "bob", "x", "--timeout", "5x"], "invalid timeout '5x': give 1s to 24h"),
        (&["ask", "bob", "x", "--timeout", "0"], "invalid timeout '0'"),
        (&["ask", "bob", "x", "--timeout", "25h"], "invalid timeout '25h'"),
        (&["broadcast", "x", "--scope", "moon"], "unknown scope 'moon'"),
        (&["completions", "tcsh"], "bash, zsh or fish"),
        (&["setup", "--allow", "--no-allow"], "exclude each other"),
        (&["ask", "bob", "x", "--as", ""], "invalid name ''"),
        (&["broadcast", "x", "--as", " !"], "invalid name ' !'"),
        (&["join", ""], "invalid name ''"),
    ] {
        let ran = home.run(args);
        assert_eq!(ran.code, Some(2), "{args:?} {ran:?}");
        assert!(ran.err.contains(said) && ran.out.is_empty(), "{args:?} {ran:?}");
    }
    let json = home.run(&["ask", "bob", "", "--json"]);
    assert_eq!((json.code, &json.json()["error"]["code"]), (Some(2), &json!("bad_args")));
    assert_eq!(home.run(&["hook", "--frobnicate"]).code, Some(0), "a hook must not block its session");
    assert!(!shell_kit::exists(home.data()), "nothing was started");
    assert_eq!(home.feed(&["ask", "bob", "-"], &vec![b'x'; 524_290]).code, Some(2), "over 512 KiB");
}

#[test]
fn every_command_has_help() {
    let home = Home::new();
    let overview = home.run(&["--help"]);
    assert_eq!(overview.code, Some(0));
    for line in
        overview.out.lines().take_while(|l| !l.starts_with("Global options")).filter(|l| l.starts_with("  "))
    {
        let command = line.split_whitespace().next().expect("a name");
        let help = home.run(&[command, "--help"]);
        assert_eq!(help.code, Some(0), "{command}");
        assert!(help.out.contains(&format!("\n\nUsage: relay {command}")), "{}", help.out);
        assert!(help.out.lines().all(|l| l.chars().count() <= 130), "{}", help.out);
    }
    assert!(home.run(&["--version"]).out.starts_with("relay 0."));
}

#[test]
fn ask_prints_the_answer() {
    let home = Home::new();
    let mut bob = home.join("bob");
    let by_argument = home.start(&["ask", "bob", "how", "are", "you?"]);
    bob.out.until("#1 tester asks: how are you?\n");
    bob.line("fine, thanks");
    bob.err.until("Your answer to tester: seen");
    assert_eq!(by_argument.out.text(), "fine, thanks\n");
    assert_eq!(by_argument.err.text(), "", "no status line without a terminal");

    let mut by_pipe = home.start(&["ask", "Bob", "--json", "--as", "ci"]);
    by_pipe.write("one\n  two\u{1b}[31m\n\n");
    by_pipe.stdin = None;
    bob.out.until("#2 ci asks: one\n    two\u{1b}[31m\n");
    bob.line("#2 \u{1b}[1mraw \"quoted\"");
    assert_eq!(by_pipe.code(), Some(0));
    let answer: Value = serde_json::from_str(&by_pipe.out.text()).expect("JSON");
    assert_eq!(keys(&answer), ["answer", "ask_id", "by", "from", "late", "thread"]);
    assert!(answer["ask_id"].as_str().is_some_and(|id| id.starts_with("ask_")));
    assert_eq!((&answer["answer"], &answer["from"]), (&json!("\u{1b}[1mraw \"quoted\""), &json!("bob")));
}

#[test]
fn ask_reports_how_it_failed() {
    let home = Home::new();
    let mut bob = home.join("bob");
    let nobody = home.run(&["ask", "bo", "x"]);
    assert_eq!(nobody.code, Some(3));
    assert!(
        nobody.err.starts_with("relay: peer_not_found: ") && nobody.err.contains("bob"),
        "{}",
        nobody.err
    );
    let late = home.run(&["ask", "bob", "quick", "--timeout", "1"]);
    assert_eq!((late.code, late.out.as_str()), (Some(5), ""));
    assert!(late.err.starts_with("relay: timeout: \"bob\""), "{}", late.err);
    assert!(late.err.contains("Ask again with more time"), "nobody waits for a late answer: {}", late.err);
    let json = home.run(&["ask", "bob", "quick", "--timeout", "1s", "--json"]);
    assert_eq!(json.code, Some(5));
    let json = json.json();
    assert_eq!((keys(&json), keys(&json["error"])), (vec!["error"], vec!["code", "message"]));
    assert_eq!(json["error"]["code"], "timeout");
    let message = json["error"]["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("\"bob\""), "the code is not in it again: {message}");
    assert_eq!(home.run(&["ask", "bob", "x", "--as", "bob"]).code, Some(6));
    let mut second = home.start(&["join", "bob"]);
    assert_eq!(second.code(), Some(6));
    let mut asked = home.start(&["ask", "bob", "still there?"]);
    bob.out.until("still there?");
    bob.line("/quit");
    assert_eq!((asked.code(), bob.code()), (Some(4), Some(0)));
    assert_eq!(home.run(&["ask", "x", "y", "--data-dir", "/dev/null/no"]).code, Some(11));
}

/// A hub that refuses every request of its one client with this error. It listens until it is joined and dropped.
fn refusing_hub(home: &Home, greeting: Value, refusal: Value) -> thread::JoinHandle<UnixListener> {
    fs::create_dir_all(home.data()).expect("the data directory");
    let _ = fs::remove_file(home.data().join("hub.sock"));
    let listener = UnixListener::bind(home.data().join("hub.sock")).expect("bound");
    thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a client");
        let mut lines = BufReader::new(stream.try_clone().expect("cloned")).lines();
        let say = |value: Value| writeln!(&stream, "{value}").is_ok();
        lines.next();
        say(greeting);
        while let Some(Ok(line)) = lines.next() {
            let message: Value = serde_json::from_str(&line).expect("JSON");
            let (name, fields) = match &message {
                Value::Object(message) => message.iter().next().expect("a message"),
                _ => return listener, // "bye"
            };
            let answer = match name.as_str() {
                "register" => {
                    let registered = json!({"registered": {"name": "me", "open": []}});
                    json!({"ok": {"id": fields["id"], "answer": registered}})
                }
                "ask" => {
                    let mut answer = refusal.clone();
                    answer["error"]["id"] = fields["id"].clone();
                    answer
                }
                _ => continue,
            };
            if !say(answer) {
                return listener;
            }
        }
        listener
    })
}

#[test]
fn an_exit_code_for_each_error_code() {
    let home = Home::new();
    let welcome = json!({"welcome": {"v": 2, "pid": 1, "version": "0", "epoch": "e"}});
    for (code, exit) in [
        ("bad_args", 2),
        ("peer_not_found", 3),
        ("peer_gone", 4),
        ("timeout", 5),
        ("name_taken", 6),
        ("not_registered", 7),
        ("already_registered", 8),
        ("unknown_ask", 9),
        ("bad_msg", 10),
        ("hub_unreachable", 11),
        ("overloaded", 13),
        ("declined", 14),
    ] {
        let hub =
            refusing_hub(&home, welcome.clone(), json!({"error": {"code": code, "message": "so it is"}}));
        let ran = home.run(&["ask", "bob", "x"]);
        assert_eq!((ran.code, ran.err), (Some(exit), format!("relay: {code}: so it is\n")));
        hub.join().expect("the hub ends");
    }
    let other = json!({"error": {"code": "protocol_mismatch", "message": "too new"}});
    let hub = refusing_hub(&home, other.clone(), Value::Null);
    assert_eq!(home.run(&["peers"]).code, Some(12));
    hub.join().expect("the hub ends");
    // The remedy works with a hub that we can't speak with: it leaves when its socket is gone.
    let hub = refusing_hub(&home, other, Value::Null);
    let stopped = home.run(&["stop"]);
    assert_eq!(
        (stopped.code, shell_kit::exists(home.data().join("hub.sock"))),
        (Some(0), false),
        "{stopped:?}"
    );
    hub.join().expect("the hub ends");
}

#[test]
fn peers_and_status_list_who_is_there() {
    let home = Home::new();
    let _bob = home.join("bob");
    let _asking = home.start(&["ask", "bob", "x", "--as", "script"]);
    _bob.out.until("asks: x");
    let roster = home.json(&["peers", "--json"]);
    let peers = roster["peers"].as_array().expect("peers");
    assert_eq!(peers.len(), 2);
    assert_eq!(
        keys(&peers[0]),
        [
            "activity",
            "branch",
            "confirmed",
            "confirmed_s",
            "connected_s",
            "cwd",
            "host",
            "kind",
            "name",
            "other_channels",
            "pid",
            "push"
        ]
    );
    assert_eq!((&peers[0]["name"], &peers[1]["name"]), (&json!("bob"), &json!("script")));
    assert!(peers.iter().all(|p| p["kind"] == "script" && p["push"] == "socket"));
    let table = home.run(&["peers"]).out;
    let header = table.lines().next().expect("a header");
    assert_eq!(
        header.split_whitespace().collect::<Vec<_>>(),
        ["NAME", "KIND", "STATE", "PUSH", "SINCE", "DIRECTORY"]
    );
    assert!(table.lines().nth(1).is_some_and(|l| l.starts_with("bob ")), "{table}");
    let status = home.json(&["status", "--json"]);
    assert_eq!(
        keys(&status),
        [
            "connections",
            "epoch",
            "journal",
            "open_asks",
            "peers",
            "pid",
            "protocol",
            "undelivered",
            "uptime_s",
            "version"
        ]
    );
    assert_eq!((&status["peers"], &status["open_asks"]), (&json!(2), &json!(1)));
    assert!(home.run(&["status"]).out.contains("Peers: 2. Open asks: 1. "));
    let all = home.json(&["broadcast", "to whom?", "--timeout", "1", "--json"]);
    let failed = all["failed"].as_array().expect("failed");
    assert!(failed.len() == 1 && failed[0]["to"] == "bob", "who only asks is not asked: {all}");
}

#[test]
fn broadcast_prints_answers_as_they_arrive() {
    let home = Home::new();
    let alone = home.run(&["broadcast", "anyone?", "--json"]);
    assert_eq!(alone.code, Some(3));
    assert_eq!(keys(&alone.json()), ["answers", "broadcast_id", "error", "failed"]);
    assert_eq!(alone.json()["error"]["code"], "peer_not_found");
    let (mut bob, mut carol) = (home.join("bob"), home.join("carol"));
    let mut all = home.start(&["broadcast", "what now?"]);
    bob.out.until("what now?");
    bob.line("lunch");
    all.out.until("bob: lunch\n");
    carol.out.until("what now?");
    carol.line("/quit");
    assert_eq!(all.code(), Some(0));
    assert_eq!(all.out.text(), "bob: lunch\n");
    assert_eq!(all.err.text(), "relay: peer_gone: no answer from carol\n");

    let mut all = home.start(&["broadcast", "-", "--json", "--scope", "directory", "--timeout", "2s"]);
    all.write("and\nnow?");
    all.stdin = None;
    bob.out.until("and\n  now?");
    assert_eq!(all.code(), Some(5));
    let value: Value = serde_json::from_str(&all.out.text()).expect("JSON");
    assert_eq!((&value["answers"], &value["error"]["code"]), (&json!([]), &json!("timeout")));
    assert_eq!(keys(&value["failed"][0]), ["ask_id", "code", "to"]);
    assert_eq!((&value["failed"][0]["to"], &value["failed"][0]["code"]), (&json!("bob"), &json!("timeout")));

    let mut all = home.start(&["broadcast", "--json", "last"]);
    bob.out.until("last");
    bob.line("#3 ok");
    assert_eq!(all.code(), Some(0));
    let value: Value = serde_json::from_str(&all.out.text()).expect("JSON");
    assert_eq!(keys(&value["answers"][0]), ["answer", "ask_id", "by", "from", "late", "thread"]);
    assert_eq!(value["answers"][0]["answer"], "ok");
    assert_eq!(home.run(&["broadcast", "x", "--scope", "repo"]).code, Some(2), "in no repository");
}

#[test]
fn asks_survive_a_killed_hub() {
    let home = Home::new();
    let (mut bob, mut carol) = (home.join("bob"), home.join("carol"));
    let mut ask = home.start(&["ask", "bob", "slow?"]);
    bob.out.until("#1 tester asks: slow?");
    let mut all = home.start(&["broadcast", "--as", "all", "everyone?"]);
    bob.out.until("#2 all asks: everyone?");
    carol.out.until("#1 all asks: everyone?");
    let pid = home.json(&["status", "--json"])["pid"].as_u64().expect("a pid") as u32;
    kill("-9", pid);
    bob.err.until("Lost the hub");
    bob.line("#1 slow but sure");
    assert_eq!(ask.code(), Some(0), "{}", ask.err.text());
    assert_eq!(ask.out.text(), "slow but sure\n");
    bob.line("here");
    carol.line("me too");
    assert_eq!(all.code(), Some(0));
    let out = all.out.text();
    assert!(out.contains("bob: here\n") && out.contains("carol: me too\n"), "{out}");
    assert_eq!(bob.out.text_so_far().matches("slow?").count(), 1, "nothing is shown twice");
    assert_ne!(home.json(&["status", "--json"])["pid"], pid);
}

#[test]
fn an_interrupt_withdraws_the_question() {
    let home = Home::new();
    let bob = home.join("bob");
    for (n, signal, code) in [(1, "-INT", 130), (2, "-TERM", 143)] {
        let mut ask = home.start(&["ask", "bob", "never mind"]);
        bob.out.until(&format!("#{n} tester asks: never mind"));
        ask.signal(signal);
        assert_eq!(ask.code(), Some(code));
        bob.err.until(&format!("Question #{n} is over: peer_gone"));
        assert_eq!(home.json(&["status", "--json"])["open_asks"], 0);
    }
    let mut all = home.start(&["broadcast", "never mind"]);
    bob.out.until("#3");
    all.signal("-INT");
    assert_eq!(all.code(), Some(130));
    bob.err.until("Question #3 is over: peer_gone");
}

#[test]
fn ask_shows_progress_on_a_terminal_and_leaves_no_trace() {
    let home = Home::new();
    let mut bob = home.join("bob");
    let Some(mut ask) = home.on_terminal(&["ask", "bob", "hm?"]) else { return };
    ask.out.until("bob: seen");
    assert_eq!(home.json(&["peers", "--json"])["peers"][1]["kind"], "person");
    bob.line("\u{1b}[31mred\u{1b}[0m <channel>");
    assert_eq!(ask.code(), Some(0));
    let raw = ask.out.text();
    assert!(raw.contains("bob: connecting to the hub") && !raw.contains("\u{1b}[31m"), "{raw:?}");
    assert_eq!(shown(&raw), "red <\\channel>\n", "the status line leaves no trace");

    let Some(mut ask) = home.on_terminal(&["ask", "bob", "and?"]) else { return };
    bob.out.until("#2 tester asks: and?");
    ask.write("\u{3}");
    assert_eq!(ask.code(), Some(130));
    assert_eq!(shown(&ask.out.text()).replace("^C", ""), "");
    bob.err.until("Question #2 is over: peer_gone");

    let Some(mut all) = home.on_terminal(&["broadcast", "hey"]) else { return };
    all.out.until("0 of 1 answers");
    bob.out.until("#3 tester asks: hey");
    bob.line("#3 ho");
    assert_eq!(all.code(), Some(0));
    assert_eq!(shown(&all.out.text()), "bob: ho\n");
    let Some(mut ask) = home.on_terminal(&["ask", "nobody", "x"]) else { return };
    assert_eq!(ask.code(), Some(3));
    assert!(shown(&ask.out.text()).starts_with("relay: peer_not_found: "));

    let Some(mut ask) = home.on_dumb_terminal(&["ask", "nobody", "x"]) else { return };
    assert_eq!(ask.code(), Some(3));
    let raw = ask.out.text();
    assert!(raw.starts_with("relay: peer_not_found: ") && !raw.contains('\u{1b}'), "{raw:?}");
}

#[test]
fn tail_prints_events() {
    let home = Home::new();
    let mut bob = home.join("bob");
    let mut tail = home.start(&["tail"]);
    let json = home.start(&["tail", "--json"]);
    tail.err.until("watching");
    json.err.until("watching");
    let ask = home.start(&["ask", "bob", "one\u{1b}[31m\ntwo"]);
    bob.out.until("asks: one");
    bob.line("done");
    assert_eq!(ask.out.text(), "done\n");
    let text = tail.out.until("tester  left\n");
    for line in [
        "tester  joined",
        "tester → bob  ask  ask_",
        "  one…\n",
        "tester → bob  ask seen socket  ask_",
        "bob → tester  reply  ask_",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(
        text.lines().all(|l| l.as_bytes()[2] == b':' && l.as_bytes()[5] == b':' && l[8..].starts_with("Z ")),
        "{text}"
    );
    let events = json.out.until("\"left\"");
    let events: Vec<Value> = events.lines().map_while(|l| serde_json::from_str(l).ok()).collect();
    let asked = events.iter().find(|e| e["event"] == "ask").expect("the ask");
    assert_eq!(
        (&asked["from"], &asked["to"], &asked["code"]),
        (&json!("tester"), &json!("bob"), &Value::Null)
    );
    assert_eq!(asked["text"], "one\u{1b}[31m\ntwo");
    home.run(&["stop"]);
    assert_eq!(tail.code(), Some(11));
    assert!(tail.err.text().contains("the hub has stopped"));
    bob.err.until("Lost the hub");
    bob.err.until_match("another hub", |text| text.matches("You are bob").count() == 2);
    let mut tail = home.start(&["tail"]);
    tail.err.until("watching");
    tail.signal("-TERM"); // a shell that starts the tests in the background has SIGINT ignored
    assert_eq!(tail.wait().code(), None, "by the signal itself");
}

#[test]
fn stop_keeps_open_asks() {
    let home = Home::new();
    let mut bob = home.join("bob");
    let mut ask = home.start(&["ask", "bob", "long?"]);
    bob.out.until("long?");
    let stopped = home.run(&["stop"]);
    assert_eq!(stopped.code, Some(0));
    assert!(stopped.out.contains("has stopped"), "{}", stopped.out);
    bob.line("short");
    assert_eq!(ask.code(), Some(0));
    assert_eq!(ask.out.text(), "short\n");
}

#[test]
fn a_closed_pipe_is_no_error_and_a_full_device_is() {
    let home = Home::new();
    let _bob = home.join("bob");
    for args in [&["--help"][..], &["peers"], &["peers", "--json"], &["status"], &["completions", "bash"]] {
        let mut child =
            home.relay(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        drop(child.stdout.take());
        let mut said = String::new();
        child.stderr.take().expect("stderr").read_to_string(&mut said).expect("text");
        child.wait().expect("its end");
        assert_eq!(said, "", "{args:?}");
    }
    let mut tail =
        home.relay(&["tail"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    drop(tail.stdout.take());
    while tail.try_wait().expect("its status").is_none() {
        home.run(&["ask", "nobody", "x"]); // joins and leaves: something to write
    }
    assert_eq!(tail.wait().expect("its end").code(), Some(1));
    // Errors of writing are reported, and a closed standard error is no reason to panic.
    for args in
        [&["--help"][..], &["peers"], &["peers", "--json"], &["status", "--json"], &["completions", "zsh"]]
    {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("the full device");
        let ran = home.relay(args).stdout(full).output().expect("it runs");
        let err = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{args:?} {err}");
        assert!(err.contains("cannot write to standard output: No space left"), "{args:?} {err}");
    }
    let sh = format!("{} frob 2>&-; test $? = 2", relay_path());
    let ran = Command::new("sh").args(["-c", &sh]).env("RELAY_DATA_DIR", home.data()).output().expect("sh");
    assert!(ran.status.success() && ran.stderr.is_empty(), "{ran:?}");
}
