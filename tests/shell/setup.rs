//! `relay setup`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::claude::{RULE, changes, copy, setup, with_claude};
use crate::shell_kit::{self, Home, relay_path};

const INSTALL: &str = "plugin install relay@claude-relay";
const REMOVE: &str = "plugin marketplace remove claude-relay";

fn add(home: &Home) -> String {
    format!("plugin marketplace add {}", copy(home).display())
}

fn settings(home: &Home) -> Value {
    serde_json::from_str(&home.read(".claude/settings.json")).expect("JSON")
}

#[test]
fn setup_installs_a_copy_that_needs_nothing_else_and_remove_undoes_it() {
    let home = with_claude();
    // A program from somewhere else, which is gone afterwards.
    let download = home.path.join("download");
    fs::create_dir(&download)
        .and_then(|()| fs::copy(relay_path(), download.join("relay")))
        .expect("a download");
    let program = download.join("relay");
    let ran = home.command(program.to_str().expect("text")).arg("setup").output().expect("it runs");
    let out = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(changes(&home), [add(&home).as_str(), INSTALL]);
    assert!(out.contains("147 KB") && out.contains("and the plugin are in ~/.local/share"), "{out}");
    assert_eq!(settings(&home), json!({"permissions": {"allow": [RULE]}}), "yes is the default");
    fs::remove_dir_all(download).expect("removed");
    let started = Command::new(copy(&home).join("plugin/bin/relay-launcher")).arg("--which").output();
    let started = String::from_utf8_lossy(&started.expect("it runs").stdout).into_owned();
    let inside = copy(&home).canonicalize().expect("its path");
    assert!(started.contains(inside.to_str().expect("text")), "{started}");
    let share = home.path.join(".local/share");
    let completions =
        fs::read_to_string(share.join("bash-completion/completions/relay")).expect("completions");
    assert_eq!(completions, home.run(&["completions", "bash"]).out);
    for file in ["zsh/site-functions/_relay", "fish/vendor_completions.d/relay.fish", "man/man1/relay.1"] {
        assert!(shell_kit::exists(share.join(file)), "{file}");
    }

    let again = setup(&home, &["--allow"]);
    assert_eq!(changes(&home), [INSTALL], "which says that it is installed already");
    assert!(!again.out.contains("147 KB"), "nothing to ask: {}", again.out);
    home.write("plugin", "false");
    setup(&home, &["--no-allow"]);
    assert_eq!(
        (changes(&home).as_slice(), home.read("plugin").trim()),
        ([INSTALL.to_owned()].as_slice(), "true")
    );
    assert_eq!(home.read(".claude/settings.json"), "{}\n");

    setup(&home, &["--allow"]);
    changes(&home);
    setup(&home, &["--remove"]);
    assert_eq!(changes(&home), ["plugin uninstall relay@claude-relay", REMOVE]);
    assert_eq!(home.read(".claude/settings.json"), "{}\n");
    let left = Command::new("find").arg(&share).args(["-type", "f"]).output().expect("find runs");
    assert_eq!(String::from_utf8_lossy(&left.stdout), "");
    setup(&home, &["--remove"]);
    assert_eq!(changes(&home), [""; 0]);
}

/// The files below `dir`, with whether they can be run and what is in them.
fn files(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, (bool, Vec<u8>)>) {
    for entry in fs::read_dir(root.join(dir)).expect("a directory").flatten() {
        let name = dir.join(entry.file_name());
        let meta = entry.metadata().expect("it is there");
        if meta.is_dir() {
            files(root, &name, found);
        } else {
            let bytes = fs::read(entry.path()).expect("a file");
            found.insert(name, (meta.permissions().mode() & 0o111 != 0, bytes));
        }
    }
}

#[test]
fn the_copy_has_every_file_of_the_plugin() {
    let home = with_claude();
    setup(&home, &[]);
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR"));
    for dir in ["plugin", ".claude-plugin"] {
        let (mut ours, mut copied) = (BTreeMap::new(), BTreeMap::new());
        files(checkout, Path::new(dir), &mut ours);
        files(&copy(&home), Path::new(dir), &mut copied);
        copied.retain(|path, _| path.file_name() != Some("relay".as_ref()));
        assert_eq!(
            copied.keys().collect::<Vec<_>>(),
            ours.keys().collect::<Vec<_>>(),
            "a new file must be added to the list in src/shell/package.rs"
        );
        assert!(copied == ours, "a file differs");
    }
}

#[test]
fn setup_again_upgrades_and_repairs() {
    let home = with_claude();
    // A checkout that was moved.
    home.write("market", "/elsewhere");
    home.write("plugin", "true");
    setup(&home, &[]);
    assert_eq!(changes(&home), [REMOVE, &add(&home), INSTALL]);
    // A checkout that is still there: the copy takes its place.
    home.write("market", home.path.to_str().expect("text"));
    setup(&home, &[]);
    assert_eq!(changes(&home), [REMOVE, &add(&home), INSTALL]);
    // A plugin that fails to load.
    home.write("errors", "\"broken\"");
    setup(&home, &[]);
    assert_eq!(changes(&home), [REMOVE, &add(&home), INSTALL]);
    // An earlier version, with a file that the present one does not have, and a launcher that can't be run.
    home.write("version", "0.0.9");
    home.write(".local/share/claude-relay/plugin/commands/old.md", "old");
    let launcher = copy(&home).join("plugin/bin/relay-launcher");
    fs::set_permissions(&launcher, fs::Permissions::from_mode(0o644)).expect("a mode");
    setup(&home, &[]);
    assert_eq!(changes(&home), [INSTALL, "plugin update relay@claude-relay"]);
    assert!(!shell_kit::exists(copy(&home).join("plugin/commands/old.md")));
    assert_eq!(fs::metadata(launcher).expect("the launcher").permissions().mode() & 0o777, 0o755);
    // The installed program can install itself.
    let program = fs::read_dir(copy(&home).join("plugin/bin")).expect("programs").flatten();
    let program = program.map(|entry| entry.path().join("relay")).find(|path| path.exists()).expect("one");
    let ran = home.command(program.to_str().expect("text")).arg("setup").output().expect("it runs");
    assert!(ran.status.success() && fs::metadata(program).is_ok_and(|m| m.len() > 0), "{ran:?}");
}

#[test]
fn setup_leaves_a_marketplace_from_git_to_claude_code() {
    let home = with_claude();
    home.write("market", home.path.to_str().expect("text"));
    home.write("source", "git");
    let ran = setup(&home, &[]);
    assert_eq!(changes(&home), [INSTALL]);
    assert!(ran.out.contains("claude plugin marketplace update"), "{}", ran.out);
    assert!(!shell_kit::exists(copy(&home)));
}

#[test]
fn setup_reports_what_it_cannot_do() {
    let home = with_claude();
    for settings in [
        "no JSON",
        "[]",
        r#"{"permissions": []}"#,
        r#"{"permissions": {"allow": "all"}}"#,
        r#"{"permissions": 1, "x": {"permissions": {"allow": []}}}"#,
    ] {
        home.write(".claude/settings.json", settings);
        let ran = home.run(&["setup", "--allow"]);
        assert_eq!(ran.code, Some(1), "{settings}");
        assert!(ran.err.contains("cannot edit") && ran.err.contains("by hand"), "{}", ran.err);
        assert_eq!(home.read(".claude/settings.json"), settings, "untouched");
    }
    let commented = format!("{{\"permissions\": {{\"allow\": [\"{RULE}\"]}} /* ours */}}");
    home.write(".claude/settings.json", &commented);
    for option in ["--no-allow", "--remove"] {
        let ran = home.run(&["setup", option]);
        assert!(ran.code == Some(1) && ran.err.contains("cannot edit"), "the rule is still there: {ran:?}");
    }
    fs::remove_file(home.path.join(".claude/settings.json")).expect("removed");
    let made = Command::new("mkfifo").arg(home.path.join(".claude/settings.json")).status().expect("mkfifo");
    assert!(made.success());
    let ran = home.run(&["setup", "--allow"]);
    assert!(ran.code == Some(1) && ran.err.contains("it is not a file"), "{ran:?}");
    fs::remove_file(home.path.join(".claude/settings.json")).expect("removed");
    assert_eq!(edit(&home, "", "--allow"), edit(&home, "{}", "--allow"), "an empty file has no settings");
    // Somebody else's file in the place of ours stays, and is not removed either.
    home.write(".claude/settings.json", "{}");
    let strange = home.write(".local/share/man/man1/relay.1", "another relay");
    let latin = home.write(".local/share/zsh/site-functions/_relay", "");
    fs::write(&latin, b"another, in Latin-1: \xe9").expect("a file");
    setup(&home, &[]);
    setup(&home, &["--remove"]);
    assert_eq!(fs::read_to_string(strange).expect("it is there"), "another relay");
    assert!(fs::read(latin).expect("it is there").ends_with(b"\xe9"));

    fs::remove_dir_all(home.path.join(".local")).expect("removed");
    home.write(".local", "a file");
    let ran = home.run(&["setup"]);
    assert!(ran.code == Some(1) && ran.err.contains("cannot write"), "{ran:?}");
    home.program("claude", "#!/bin/sh\necho 'out of order' >&2\nexit 1\n");
    let ran = home.run(&["setup"]);
    assert!(ran.code == Some(1) && ran.err.contains("out of order"), "{ran:?}");
    fs::remove_file(home.path.join("bin/claude")).expect("removed");
    let ran = home.relay(&["setup"]).env("PATH", home.path.join("bin")).output().expect("it runs");
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("Claude Code must be on PATH"));
}

/// Changes the settings by `setup`, and returns the file.
fn edit(home: &Home, before: &str, option: &str) -> String {
    home.write(".claude/settings.json", before);
    setup(home, &[option]);
    home.read(".claude/settings.json")
}

#[test]
fn setup_changes_nothing_else_in_the_settings() {
    let home = with_claude();
    for (without, with) in [
        ("{}\n", "{\n  \"permissions\": {\n    \"allow\": [\n      \"RULE\"\n    ]\n  }\n}\n"),
        (
            "{\n  \"z\": 1.50,\n  \"a\": [ ]\n}\n",
            "{\n  \"z\": 1.50,\n  \"a\": [ ],\n  \"permissions\": {\n    \"allow\": [\n      \"RULE\"\n    ]\n  }\n}\n",
        ),
        (
            "{\n  \"permissions\": {\n    \"deny\": [\"{\\\"}]\"]\n  },\n  \"b\": {\"RULE\":1.5e9}\n}\n",
            "{\n  \"permissions\": {\n    \"deny\": [\"{\\\"}]\"],\n    \"allow\": [\n      \"RULE\"\n    ]\n  },\n  \"b\": {\"RULE\":1.5e9}\n}\n",
        ),
        (
            "{\n  \"permissions\": {\n    \"allow\": [\n      \"Read\"\n    ],\n    \"ask\": []\n  },\n  \"x\": 1\n}\n",
            "{\n  \"permissions\": {\n    \"allow\": [\n      \"Read\",\n      \"RULE\"\n    ],\n    \"ask\": []\n  },\n  \"x\": 1\n}\n",
        ),
    ] {
        let [without, with] = [without, with].map(|text| text.replace("RULE", RULE));
        let path = home.write(".claude/settings.json", &without);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a mode");
        assert_eq!(edit(&home, &without, "--allow"), with);
        assert_eq!(edit(&home, &with, "--allow"), with);
        assert_eq!(edit(&home, &with, "--remove"), without);
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o640);
    }
    // Where a key occurs twice, Claude Code takes the last one. A rule may be written in another way.
    let escaped = RULE.replace('*', "\\u002a");
    let twice = format!(
        "{{\"permissions\":{{\"allow\":[\"{RULE}\"]}},\n\"permissions\":{{\"allow\":[\"{escaped}\"]}}}}"
    );
    assert_eq!(edit(&home, &twice, "--no-allow"), "{}\n");
    // A byte order mark, as some editors write it.
    assert_eq!(edit(&home, "\u{feff}{\"a\": 1}", "--no-allow"), "\u{feff}{\"a\": 1}");
    let marked = format!("\u{feff}{{\"a\":1,\"permissions\":{{\"allow\":[\"{RULE}\"]}}}}");
    assert_eq!(edit(&home, &marked, "--allow"), marked);
    assert_eq!(edit(&home, &marked, "--no-allow"), "{\n  \"a\": 1\n}\n");
    // The rule is first and in the middle, and the file is a link.
    let rules = format!("{{\"permissions\":{{\"allow\":[\"{RULE}\", \"a\", \"{RULE}\" , \"b\"]}}}}");
    let real = home.write("dotfiles/settings.json", &rules);
    let link = home.path.join(".claude/settings.json");
    fs::remove_file(&link).and_then(|()| symlink(&real, &link)).expect("a link");
    setup(&home, &["--remove"]);
    assert_eq!(settings(&home), json!({"permissions": {"allow": ["a", "b"]}}));
    assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
    let left = fs::read_dir(home.path.join("dotfiles")).expect("it is there").count();
    assert_eq!(left, 1, "nothing else is left");
}

/// The copy has the name of the repository, which somebody may have cloned into the same directory.
#[test]
fn setup_never_replaces_or_removes_a_checkout() {
    let home = with_claude();
    home.write(".local/share/claude-relay/.git/HEAD", "ref: refs/heads/main\n");
    home.write(".local/share/claude-relay/.claude-plugin/marketplace.json", r#"{"name":"claude-relay"}"#);
    home.write(".local/share/claude-relay/notes", "mine");
    let ran = home.run(&["setup"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("was not made by relay"), "{}", ran.err);
    assert_eq!(home.run(&["setup", "--remove"]).code, Some(1));
    assert_eq!(home.read(".local/share/claude-relay/notes"), "mine");
}

#[test]
fn setup_asks_on_a_terminal_and_yes_is_the_default() {
    let home = with_claude();
    for (answer, allowed) in [("n\n", false), ("\u{4}", false), ("what\n", false), ("\n", true)] {
        let Some(mut proc) = home.on_terminal(&["setup"]) else { return };
        proc.out.until("[Y/n]");
        proc.write(answer);
        proc.out.until("May they? [Y/n]");
        proc.write("\n");
        assert_eq!(proc.code(), Some(0));
        assert_eq!(home.read(".claude/settings.json").contains(RULE), allowed, "{answer:?}");
        assert!(!home.read(".claude/settings.json").contains("RELAY_PERSON"));
    }
    let home = with_claude();
    home.write(".claude/settings.json", r#"{"env": {"A": "1", "RELAY_PERSON": "on"}}"#);
    let Some(mut proc) = home.on_terminal(&["setup"]) else { return };
    proc.out.until("[Y/n]");
    proc.write(" Yes \n");
    proc.out.until("May they? [Y/n]");
    proc.write("n\n");
    proc.out.until("RELAY_PERSON is off");
    assert_eq!(proc.code(), Some(0));
    assert_eq!(
        settings(&home),
        json!({"permissions": {"allow": [RULE]}, "env": {"A": "1", "RELAY_PERSON": "off"}})
    );
    // What was said once is not asked again.
    let again = setup(&home, &[]);
    assert!(again.out.contains("RELAY_PERSON is off") && !again.out.contains("May they?"), "{}", again.out);
    setup(&home, &["--remove"]);
    assert_eq!(settings(&home), json!({"env": {"A": "1"}}));
}

/// The newest real client, where `.ci/install-claude` has put one.
fn real_claude() -> Option<PathBuf> {
    let root = std::env::var_os("RELAY_TEST_CLAUDE_DIR").map(PathBuf::from);
    let root = root.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/claude"));
    let mut found: Vec<PathBuf> = Vec::new();
    for version in fs::read_dir(root).ok()?.flatten() {
        let packages = version.path().join("node_modules/@anthropic-ai");
        found.extend(fs::read_dir(packages).into_iter().flatten().flatten().map(|p| p.path().join("claude")));
    }
    found.retain(|p| p.is_file());
    found.sort();
    found.pop()
}

#[test]
fn setup_works_with_the_real_client() {
    let Some(claude) = real_claude() else {
        eprintln!("SKIPPED: no real client; .ci/install-claude installs one");
        return;
    };
    let home = with_claude();
    let bin = home.path.join("bin/claude");
    fs::remove_file(&bin).and_then(|()| symlink(claude, &bin)).expect("a link");
    let run = |args: &[&str]| {
        let ran = home.relay(args).env("DISABLE_AUTOUPDATER", "1").output().expect("it runs");
        assert!(ran.status.success(), "{args:?} {ran:?}");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    for _ in 0..2 {
        run(&["setup", "--allow"]);
        assert!(run(&["doctor"]).contains("starts relay"));
    }
    assert_eq!(settings(&home)["enabledPlugins"]["relay@claude-relay"], true);
    assert_eq!(settings(&home)["permissions"], json!({"allow": [RULE]}));
    // The directory that the plugin is read from is lost. The doctor says so, and setup repairs it.
    fs::rename(copy(&home), home.path.join("moved")).expect("moved");
    let sick = home.run(&["doctor"]);
    assert!(sick.code == Some(1) && sick.out.contains("the plugin failed to load"), "{sick:?}");
    run(&["setup"]);
    assert!(run(&["doctor"]).contains("starts relay"));
    for _ in 0..2 {
        run(&["setup", "--remove"]);
    }
    assert_eq!(settings(&home), json!({"enabledPlugins": {}, "extraKnownMarketplaces": {}}));
}
