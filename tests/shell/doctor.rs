//! `relay doctor`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::claude::{RULE, copy, setup, with_claude};
use crate::shell_kit::{self, Home, Proc};

/// The findings of a check.
fn findings<'a>(report: &'a Value, check: &str) -> Vec<&'a Value> {
    let all = report["findings"].as_array().expect("findings");
    all.iter().filter(|finding| finding["check"] == check).collect()
}

/// The finding of a check, which must be an error or a warning and name a remedy.
#[track_caller]
fn problem<'a>(report: &'a Value, check: &str, level: &str) -> &'a str {
    let found = findings(report, check);
    let found = found.iter().find(|finding| finding["level"] == level);
    let found = found.unwrap_or_else(|| panic!("no {level} about {check} in {report}"));
    assert_ne!(found["remedy"], "", "{found}");
    found["detail"].as_str().expect("a detail")
}

fn diagnose(home: &Home) -> Value {
    home.run(&["doctor", "--json"]).json()
}

#[test]
fn a_healthy_installation_has_no_errors() {
    let home = with_claude();
    let before = home.run(&["doctor", "--json"]);
    assert_eq!(before.code, Some(1));
    assert!(problem(&before.json(), "plugin", "error").contains("not installed"));
    assert!(!shell_kit::exists(home.data()), "the doctor changes nothing");
    setup(&home, &[]);
    let after = home.run(&["doctor", "--json"]);
    assert_eq!(after.code, Some(0), "{after:?}");
    for finding in after.json()["findings"].as_array().expect("findings") {
        // Sessions of the user who runs this test may be warned about.
        assert!(
            finding["level"] == "ok" && finding["remedy"] == "" || finding["check"] == "session",
            "{finding}"
        );
    }
    let _bob = home.join("bob");
    let text = home.run(&["doctor"]);
    assert_eq!(text.code, Some(0), "{text:?}");
    for part in ["ok      relay", "2.1.332", "starts relay", "owned by you", "peers: 1\n", "KiB of logs"] {
        assert!(text.out.contains(part), "{part}: {}", text.out);
    }
}

#[test]
fn doctor_finds_what_is_wrong_with_the_installation() {
    let home = with_claude();
    setup(&home, &[]);
    home.write("plugin", "false");
    assert!(problem(&diagnose(&home), "plugin", "error").contains("disabled"));
    home.write("plugin", "true");
    home.write("errors", "\"hooks.json is broken\"");
    assert!(problem(&diagnose(&home), "plugin", "error").contains("hooks.json is broken"));
    fs::remove_file(home.path.join("errors")).expect("removed");

    let launcher = copy(&home).join("plugin/bin/relay-launcher");
    let original = fs::read(&launcher).expect("the launcher");
    fs::set_permissions(&launcher, fs::Permissions::from_mode(0o644)).expect("a mode");
    assert!(problem(&diagnose(&home), "plugin", "error").contains("Permission denied"));
    fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::write(&launcher, "#!/bin/sh\necho 'relay of somebody else'\n").expect("written");
    assert!(problem(&diagnose(&home), "plugin", "error").contains("is not Claude Relay"));
    fs::write(&launcher, original).expect("restored");

    fs::rename(copy(&home), home.path.join("moved")).expect("moved");
    let report = diagnose(&home);
    assert!(problem(&report, "plugin", "error").contains("failed to load"));
    fs::remove_file(home.path.join("bin/claude")).expect("removed");
    let report =
        home.relay(&["doctor", "--json"]).env("PATH", home.path.join("bin")).output().expect("it runs");
    let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
    assert!(
        !problem(&report, "claude", "error").contains("npm install"),
        "only the remedy says it: {report}"
    );
}

#[test]
fn colours_are_for_terminals_whose_user_wants_them() {
    let home = Home::new();
    for (no_color, is_coloured) in [("", true), ("1", false)] {
        let Some(doctor) = home.on_terminal_with("NO_COLOR", no_color, &["doctor"]) else { return };
        let text = doctor.out.text();
        assert!(text.contains("ERROR"), "{text:?}");
        assert_eq!(text.contains('\u{1b}'), is_coloured, "{text:?}");
    }
}

#[test]
fn doctor_reads_the_settings_of_claude_code() {
    let home = with_claude();
    setup(&home, &["--no-allow"]);
    let write = |settings: Value| home.write(".claude/settings.json", &settings.to_string());
    let allow = |rule: &str| json!({"permissions": {"allow": [rule]}});
    for settings in [json!({}), allow("mcp__plugin_relay_relay__relay_ask")] {
        write(settings);
        assert!(problem(&diagnose(&home), "permission", "warning").contains("147 KB"));
    }
    for rule in [RULE, "mcp__plugin_relay_relay"] {
        write(allow(rule));
        let report = diagnose(&home);
        assert_eq!(findings(&report, "permission")[0]["level"], "ok", "{rule}");
    }
    // What "don't ask again" at a dialog adds in the project does not hide the rule for all tools.
    let one = allow("mcp__plugin_relay_relay__relay_ask").to_string();
    home.write("work/.claude/settings.local.json", &one);
    assert_eq!(findings(&diagnose(&home), "permission")[0]["level"], "ok");
    home.write(
        "work/.claude/settings.local.json",
        r#"{"permissions": {"deny": ["mcp__plugin_relay_relay__*"]}}"#,
    );
    assert!(problem(&diagnose(&home), "permission", "error").contains("settings.local.json"));
    home.write("work/.claude/settings.json", r#"{"disableAllHooks": true}"#);
    assert!(problem(&diagnose(&home), "hooks", "error").contains("work/.claude/settings.json"));
}

#[test]
fn doctor_finds_what_is_wrong_with_the_data_directory() {
    let home = with_claude();
    setup(&home, &[]);
    home.join("bob");
    home.run(&["stop"]);
    fs::set_permissions(home.data(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let report = diagnose(&home);
    assert_eq!(findings(&report, "directory")[0]["level"], "ok", "the next session makes it private");
    fs::set_permissions(home.data(), fs::Permissions::from_mode(0o777)).expect("a mode");
    assert!(problem(&diagnose(&home), "directory", "error").contains("chmod 700"));
    fs::set_permissions(home.data(), fs::Permissions::from_mode(0o700)).expect("a mode");

    // A limit on the size of files stands in for a full disk.
    let limited = format!("trap '' XFSZ; ulimit -f 1; exec {} doctor --json", shell_kit::relay_path());
    let ran = home.command("sh").args(["-c", &limited]).output().expect("sh runs");
    let report: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    assert!(problem(&report, "directory", "error").contains("File too large"));
    let left = fs::read_dir(home.data()).expect("it is there").flatten();
    assert!(
        left.map(|e| e.file_name()).all(|name| !name.to_string_lossy().starts_with(".probe")),
        "nothing is left"
    );

    let limited = format!("trap '' XFSZ; ulimit -f 0; exec {} stop", shell_kit::relay_path());
    let ran = home.command("sh").args(["-c", &limited]).output().expect("sh runs");
    assert!(ran.status.success(), "only the doctor looks for room: {ran:?}");

    let ran = home.relay(&["doctor", "--json"]).env("RELAY_SOCKET", "/nowhere").output().expect("it runs");
    let report: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
    assert!(problem(&report, "hub", "error").contains("no hub listens on /nowhere"), "{report}");

    let socket = home.data().join("hub.sock");
    fs::create_dir(&socket).expect("a directory");
    assert!(problem(&diagnose(&home), "socket", "error").contains("in the socket's place"));
    fs::remove_dir(&socket).and_then(|()| fs::write(&socket, "")).expect("a file");
    problem(&diagnose(&home), "socket", "error");

    let file = home.write("file", "");
    for dir in [file.clone(), file.join("below")] {
        let ran = home.relay(&["doctor", "--json", "--data-dir"]).arg(dir).output().expect("it runs");
        let report: Value = serde_json::from_slice(&ran.stdout).expect("JSON");
        problem(&report, "directory", "error");
        assert!(!findings(&report, "directory")[0].to_string().contains("chmod"), "{report}");
        assert!(findings(&report, "hub").is_empty(), "said once: {report}");
    }
}

#[test]
fn doctor_says_why_a_running_session_cannot_be_asked() {
    let home = with_claude();
    setup(&home, &[]);
    let session = |started: u64| {
        let session = json!({"pid": 1, "name": "web", "cwd": home.path.join("work"), "startedAt": started});
        home.write(".claude/sessions/1.json", &session.to_string());
    };
    let reason = |expected: &str| {
        let report = diagnose(&home);
        let detail = problem(&report, "session", "error");
        assert!(detail.starts_with("web (process 1, in ~/work) cannot be asked: "), "{detail}");
        assert!(detail.contains(expected), "{expected}: {detail}");
    };
    let installed = 1_795_784_744_000; // as in the list of plugins
    session(installed - 1000);
    reason("before the plugin was installed");
    session(installed + 1000);
    reason("its channel is not connected");
    let disabled = json!({"projects": {(home.path.join("work").to_str().expect("text")): {"disabledMcpServers": ["plugin:relay:relay"]}}});
    home.write(".claude.json", &disabled.to_string());
    reason("its MCP server is disabled");
    home.write("work/.claude/settings.json", r#"{"enabledPlugins": {"relay@claude-relay": false}}"#);
    reason("the plugin is disabled in");
    home.write("errors", "\"broken\"");
    reason("failed to load");
    for file in ["market", "plugin"] {
        fs::remove_file(home.path.join(file)).expect("removed");
    }
    reason("the plugin is not installed");
}

#[test]
fn a_session_file_without_a_process_is_of_no_session() {
    let home = with_claude();
    home.write(".claude/sessions/odd.json", "{}");
    for no_proc in ["", "1"] {
        let ran = home.relay(&["peers"]).env("RELAY_NO_PROC", no_proc).output().expect("it runs");
        let err = String::from_utf8_lossy(&ran.stderr);
        assert!(!err.contains("cannot be asked"), "{no_proc:?} {err}");
    }
}

#[test]
fn registered_sessions_are_not_missing() {
    let home = with_claude();
    setup(&home, &[]);
    // The session is this process.
    let pid = std::process::id();
    home.write(
        &format!(".claude/sessions/{pid}.json"),
        &json!({"pid": pid, "name": "me", "cwd": "/\u{1b}[2J"}).to_string(),
    );
    home.write(".claude/sessions/4194305.json", r#"{"pid": 4194305, "name": "dead"}"#);
    home.write(".claude/sessions/odd.json", "[");
    let peers = home.run(&["peers"]);
    assert!(peers.err.contains("Running sessions that cannot be asked: 1. Run `relay doctor`"), "{peers:?}");
    assert!(problem(&diagnose(&home), "session", "error").contains("me (process"));
    assert!(!home.run(&["doctor"]).out.contains('\u{1b}'), "a directory is no terminal sequence");

    let _one = home.channel("one");
    let report = diagnose(&home);
    let missing = |finding: &Value| finding["detail"].as_str().is_some_and(|d| d.starts_with("me (process"));
    assert!(!findings(&report, "session").iter().any(|finding| missing(finding)), "{report}");
    assert_eq!(home.run(&["peers"]).err, "");
    let _another = home.channel("two"); // a session of its own under the same process
    assert_eq!(findings(&diagnose(&home), "channels"), [&Value::Null; 0]);
    let _second = home.channel("one");
    let report = diagnose(&home);
    assert_eq!(problem(&report, "channels", "error"), "me has 2 channels: me, me-3");
}

#[test]
fn doctor_finds_sessions_with_another_configuration_directory() {
    if !Path::new("/proc/self/environ").exists() {
        eprintln!("SKIPPED: this system does not show the environment of processes");
        return;
    }
    let home = with_claude();
    home.program("../other/claude", "#!/bin/sh\nread -r line\n");
    let elsewhere = home.path.join("elsewhere");
    let program = home.path.join("other/claude");
    let mut command: Command = home.command(program.to_str().expect("text"));
    let claude = Proc::start(command.env("CLAUDE_CONFIG_DIR", &elsewhere));
    let pid = claude.child.id();
    let file = json!({"pid": pid, "name": "hidden", "cwd": "/srv"});
    home.write(&format!("elsewhere/sessions/{pid}.json"), &file.to_string());
    let report = diagnose(&home);
    let found = findings(&report, "session");
    let found = found.iter().find(|f| f["detail"].as_str().is_some_and(|d| d.contains("hidden")));
    let found = found.unwrap_or_else(|| panic!("not found: {report}"));
    assert_eq!(found["level"], "warning");
    assert!(found["detail"].to_string().contains(elsewhere.to_str().expect("text")), "{found}");
}
