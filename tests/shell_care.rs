//! `relay doctor`, `setup`, `demo`, `completions`, and the man page.

mod shell_kit;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use shell_kit::{Home, Ran, keys, relay_path};

const RULE: &str = "mcp__plugin_relay_relay__*";

/// A `claude` that does what the real one does to plugins, and writes down what it was asked.
const FAKE: &str = r#"#!/bin/sh
cd "$HOME" || exit 9
echo "$*" >>asked
case "$*" in
    --version) echo "${FAKE_VERSION:-2.1.330} (Claude Code)" ;;
    "plugin marketplace list --json")
        if [ -f market ]; then echo "[{\"name\":\"claude-relay\",\"path\":\"$(cat market)\"}]"; else echo '[]'; fi ;;
    "plugin marketplace add "*) echo "$4" >market && echo "Adding…✔ added" ;;
    "plugin marketplace remove claude-relay") rm -f market plugin && echo "✔ removed" ;;
    "plugin list --json")
        if [ -f plugin ]; then
            echo "[{\"id\":\"relay@claude-relay\",\"version\":\"0.1.0\",\"enabled\":$(cat plugin),\"installPath\":\"$HOME/market-dir/plugin\"}]"
        else echo '[]'; fi ;;
    "plugin install relay@claude-relay") echo true >plugin && echo "✔ installed" ;;
    "plugin enable relay@claude-relay") echo true >plugin && echo "✔ enabled" ;;
    "plugin uninstall relay@claude-relay") rm plugin && echo "✔ uninstalled" ;;
    *) echo "✘ what?" >&2; exit 1 ;;
esac
"#;

/// A home with a marketplace and the fake `claude`.
fn with_claude() -> (Home, PathBuf) {
    let home = Home::new();
    home.program("claude", FAKE);
    home.write("market-dir/.claude-plugin/marketplace.json", r#"{"name": "claude-relay", "plugins": []}"#);
    let mcp =
        json!({"mcpServers": {"relay": {"command": "${CLAUDE_PLUGIN_ROOT}/start", "args": ["channel"]}}});
    home.write("market-dir/plugin/.mcp.json", &mcp.to_string());
    home.program("../market-dir/plugin/start", &format!("#!/bin/sh\nexec {} \"$@\"\n", relay_path()));
    let market = fs::canonicalize(home.path.join("market-dir")).expect("its path");
    (home, market)
}

fn setup(home: &Home, args: &[&str]) -> Ran {
    let ran = home.run(&[&["setup"], args].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran
}

/// What was asked of `claude` since last time, but for questions.
fn done(home: &Home) -> Vec<String> {
    let asked = home.read("asked");
    let _ = fs::remove_file(home.path.join("asked"));
    asked.lines().filter(|l| !l.contains("list") && !l.contains("version")).map(str::to_owned).collect()
}

#[test]
fn setup_and_back() {
    let (home, market) = with_claude();
    let market = market.to_str().expect("text");
    let add = format!("plugin marketplace add {market}");
    let ran = setup(&home, &["--from", market]);
    assert_eq!(done(&home), [add.as_str(), "plugin install relay@claude-relay"]);
    assert!(
        ran.out.contains("sessions start relay 0.") && ran.out.contains("relay setup --allow"),
        "{}",
        ran.out
    );
    assert!(
        !shell_kit::exists(home.path.join(".claude/settings.json")),
        "nobody said --allow, and nobody could be asked"
    );
    setup(&home, &["--from", market, "--allow"]);
    assert_eq!(done(&home), [""; 0], "once is enough");
    let settings: Value = serde_json::from_str(&home.read(".claude/settings.json")).expect("JSON");
    assert_eq!(settings, json!({"permissions": {"allow": [RULE]}}));
    home.write("plugin", "false");
    setup(&home, &["--no-allow", "--from", market]);
    assert_eq!(done(&home), ["plugin enable relay@claude-relay"]);
    // The checkout has moved.
    home.write("market", "/elsewhere");
    setup(&home, &["--from", market]);
    assert_eq!(
        done(&home),
        ["plugin marketplace remove claude-relay", add.as_str(), "plugin install relay@claude-relay"]
    );
    setup(&home, &["--remove"]);
    assert_eq!(
        done(&home),
        ["plugin uninstall relay@claude-relay", "plugin marketplace remove claude-relay"]
    );
    assert_eq!(home.read(".claude/settings.json"), "{}\n");
    setup(&home, &["--remove"]);
    assert_eq!(done(&home), [""; 0]);
}

#[test]
fn setup_finds_the_checkout_around_it() {
    let (home, market) = with_claude();
    fs::create_dir_all(market.join("deep/er")).expect("directories");
    // A copy of the binary: the real one lies in a checkout itself.
    let relay = home.path.join("bin/relay");
    fs::copy(relay_path(), &relay).expect("a copy");
    let ran =
        home.command("relay").arg("setup").current_dir(market.join("deep/er")).output().expect("it runs");
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(done(&home)[0], format!("plugin marketplace add {}", market.display()));
    fs::remove_file(home.path.join("market")).expect("forgotten");
    let ran = home.command("relay").arg("setup").output().expect("it runs");
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("--from DIR"));
}

#[test]
fn setup_that_cannot() {
    let (home, market) = with_claude();
    let market = market.to_str().expect("text");
    assert_eq!(home.run(&["setup", "--from", "/dev"]).code, Some(1));
    for (settings, why) in [
        ("no JSON", "odd shape"),
        ("[]", "odd shape"),
        (r#"{"permissions": []}"#, "odd shape"),
        (r#"{"permissions": {"allow": "all"}}"#, "odd shape"),
        (r#"{"permissions": 1, "x": {"permissions": {"allow": []}}}"#, "odd shape"),
    ] {
        home.write(".claude/settings.json", settings);
        let ran = home.run(&["setup", "--allow", "--from", market]);
        assert_eq!(ran.code, Some(1), "{settings}");
        assert!(ran.err.contains(why) && ran.err.contains("by hand"), "{}", ran.err);
        assert_eq!(home.read(".claude/settings.json"), settings, "untouched");
    }
    home.program("claude", "#!/bin/sh\necho 'out of order' >&2\nexit 1\n");
    let ran = home.run(&["setup", "--from", market]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.contains("out of order"), "{}", ran.err);
    fs::remove_file(home.path.join("bin/claude")).expect("removed");
    let ran = home.relay(&["setup"]).env("PATH", home.path.join("bin")).output().expect("it runs");
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("Claude Code must be on PATH"));
}

#[test]
fn settings_stay_as_they_are() {
    let (home, market) = with_claude();
    let market = market.to_str().expect("text");
    for (before, after) in [
        ("{}", format!("{{\"permissions\": {{\"allow\": [\"{RULE}\"]}}}}")),
        (
            "{\n  \"z\": 1.50,\n  \"a\": [ ]\n}\n",
            format!(
                "{{\n  \"permissions\": {{\"allow\": [\"{RULE}\"]}},\n  \"z\": 1.50,\n  \"a\": [ ]\n}}\n"
            ),
        ),
        (
            "{\"b\":\"{\\\"}]\", \"permissions\":{\"deny\":[\"x\"]}}",
            format!("{{\"b\":\"{{\\\"}}]\", \"permissions\":{{\"allow\": [\"{RULE}\"], \"deny\":[\"x\"]}}}}"),
        ),
        (
            "{\n\t\"x\": {\"allow\": [\"{RULE}\"], \"permissions\": {}},\n\t\"permissions\" : {\n\t\t\"allow\" : [\n\t\t\t\"Bash(echo \\\"]\\\")\",\n\t\t\t\"Read\"\n\t\t]\n\t}\n}",
            format!(
                "{{\n\t\"x\": {{\"allow\": [\"{{RULE}}\"], \"permissions\": {{}}}},\n\t\"permissions\" : {{\n\t\t\"allow\" : [\n\t\t\t\"{RULE}\",\n\t\t\t\"Bash(echo \\\"]\\\")\",\n\t\t\t\"Read\"\n\t\t]\n\t}}\n}}"
            ),
        ),
    ] {
        let path = home.write(".claude/settings.json", before);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a mode");
        setup(&home, &["--allow", "--from", market]);
        assert_eq!(home.read(".claude/settings.json"), after);
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o640);
        setup(&home, &["--remove"]);
        assert_eq!(home.read(".claude/settings.json"), before);
    }
    // In the middle, and first; a file that is a link stays one.
    let real = home.write(
        "dotfiles/settings.json",
        &format!("{{\"permissions\":{{\"allow\":[\"{RULE}\", \"a\", \"{RULE}\" , \"b\"]}}}}"),
    );
    let link = home.path.join(".claude/settings.json");
    fs::remove_file(&link).and_then(|()| symlink(&real, &link)).expect("a link");
    setup(&home, &["--remove"]);
    assert_eq!(fs::read_to_string(&real).expect("text"), "{\"permissions\":{\"allow\":[\"a\", \"b\"]}}");
    assert!(fs::symlink_metadata(&link).expect("the link").is_symlink());
    assert_eq!(
        fs::read_dir(home.path.join("dotfiles")).expect("it is there").count(),
        1,
        "nothing else is left"
    );
}

#[test]
fn setup_asks_on_a_terminal() {
    let (home, market) = with_claude();
    for (answer, allowed) in [("n\n", false), ("\n", false), ("yes\n", true)] {
        let args = ["setup", "--from", market.to_str().expect("text")];
        let Some(mut proc) = home.on_terminal(&args) else { return };
        proc.out.until("[y/N]");
        proc.write(answer);
        assert_eq!(proc.code(), Some(0));
        assert_eq!(home.read(".claude/settings.json").contains(RULE), allowed);
    }
}

/// The findings of one check.
fn finding<'a>(findings: &'a Value, check: &str) -> &'a Value {
    let list = findings["findings"].as_array().expect("findings");
    list.iter().find(|f| f["check"] == check).unwrap_or_else(|| panic!("no {check} in {findings}"))
}

#[test]
fn the_doctor() {
    let (home, market) = with_claude();
    let sick = home.run(&["doctor", "--json"]);
    assert_eq!(sick.code, Some(1));
    assert_eq!(finding(&sick.json(), "plugin")["ok"], false);
    assert!(!shell_kit::exists(home.data()), "it only looks");
    setup(&home, &["--from", market.to_str().expect("text")]);
    let well = home.run(&["doctor", "--json"]);
    assert_eq!(well.code, Some(0), "{well:?}");
    for finding in well.json()["findings"].as_array().expect("findings") {
        assert_eq!(keys(finding), ["check", "detail", "ok"]);
    }
    let _bob = home.join("bob");
    let text = home.run(&["doctor"]);
    assert_eq!(text.code, Some(0), "{text:?}");
    for part in ["ok    relay", "2.1.330", "launcher", "private", "1 peer\n", "1 file, "] {
        assert!(text.out.contains(part), "{part}: {}", text.out);
    }
    let old = home.relay(&["doctor"]).env("FAKE_VERSION", "2.1.197").output().expect("it runs");
    assert!(String::from_utf8_lossy(&old.stdout).contains("before 2.1.224"));

    // Each of these is wrong, is said, and has a remedy.
    fs::set_permissions(home.data(), fs::Permissions::from_mode(0o755)).expect("a mode");
    fs::remove_file(market.join("plugin/start")).expect("removed");
    fs::File::create(home.data().join("logs/relay-2000-01-01.log"))
        .and_then(|f| f.set_len(50_000_000))
        .expect("a big log");
    let sick = home.run(&["doctor", "--json"]);
    assert_eq!(sick.code, Some(1));
    for check in ["directory", "launcher", "logs"] {
        let sick = sick.json();
        let finding = finding(&sick, check);
        assert_eq!((&finding["ok"], finding["remedy"].is_string()), (&json!(false), true), "{finding}");
    }
    fs::set_permissions(home.data(), fs::Permissions::from_mode(0o700)).expect("a mode");
    fs::remove_file(home.path.join("bin/claude")).expect("removed");
    let sick =
        home.relay(&["doctor", "--json"]).env("PATH", home.path.join("bin")).output().expect("it runs");
    let sick: Value = serde_json::from_slice(&sick.stdout).expect("JSON");
    let claude = finding(&sick, "claude");
    assert_eq!(claude["ok"], false);
    assert!(
        !claude.to_string().replacen("npm install", "", 1).contains("npm install"),
        "said once: {claude}"
    );
}

#[test]
fn the_doctor_names_what_helps() {
    let (home, market) = with_claude();
    setup(&home, &["--from", market.to_str().expect("text")]);
    let file = home.write("file", "");
    for dir in [file.clone(), file.join("below")] {
        let sick = home.relay(&["doctor", "--json", "--data-dir"]).arg(dir).output().expect("it runs");
        let sick: Value = serde_json::from_slice(&sick.stdout).expect("JSON");
        let wrong = finding(&sick, "directory");
        assert!(wrong["ok"] == false && !wrong.to_string().contains("chmod"), "{wrong}");
        let all = sick["findings"].as_array().expect("findings");
        assert!(all.iter().all(|f| f["check"] != "hub"), "the first session can't start one: {sick}");
    }
    let _ = fs::remove_file(market.join("plugin/start"));
    home.program("../market-dir/plugin/start", "#!/bin/sh\nexit 0\n");
    let sick = home.run(&["doctor", "--json"]).json();
    assert!(finding(&sick, "launcher").to_string().contains("is not relay"), "{sick}");
    home.write(".claude/settings.json", "{no");
    let sick = home.run(&["doctor", "--json"]).json();
    assert!(finding(&sick, "settings").to_string().contains("settings.json"), "{sick}");
}

/// The newest real client, where `.ci/install-claude` has put one.
fn real_claude() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/claude");
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
fn the_real_client() {
    let Some(claude) = real_claude() else {
        eprintln!("SKIPPED: no real client; .ci/install-claude brings one");
        return;
    };
    let (home, market) = with_claude();
    let bin = home.path.join("bin/claude");
    fs::remove_file(&bin).and_then(|()| symlink(claude, &bin)).expect("a link");
    let plugin = json!({"name": "relay", "source": "./plugin", "description": "x"});
    let manifest = json!({"name": "claude-relay", "owner": {"name": "x"}, "plugins": [plugin]});
    home.write("market-dir/.claude-plugin/marketplace.json", &manifest.to_string());
    let plugin = json!({"name": "relay", "version": "0.1.0", "description": "x", "author": {"name": "x"}});
    home.write("market-dir/plugin/.claude-plugin/plugin.json", &plugin.to_string());
    let run = |args: &[&str]| {
        let ran = home.relay(args).env("DISABLE_AUTOUPDATER", "1").output().expect("it runs");
        assert!(ran.status.success(), "{args:?} {ran:?}");
        String::from_utf8_lossy(&ran.stdout).into_owned()
    };
    let from = market.to_str().expect("text");
    for _ in 0..2 {
        run(&["setup", "--allow", "--from", from]);
        assert!(run(&["doctor"]).contains("launcher    starts relay"));
    }
    let settings: Value = serde_json::from_str(&home.read(".claude/settings.json")).expect("JSON");
    assert_eq!(settings["enabledPlugins"]["relay@claude-relay"], true);
    assert_eq!(settings["permissions"], json!({"allow": [RULE]}));
    for _ in 0..2 {
        run(&["setup", "--remove"]);
    }
    let settings: Value = serde_json::from_str(&home.read(".claude/settings.json")).expect("JSON");
    assert_eq!(settings, json!({"enabledPlugins": {}, "extraKnownMarketplaces": {}}));
}

#[test]
fn the_demo() {
    let home = Home::new();
    let ran = home.run(&["demo"]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    for part in [
        "hears: ask from alice",
        "hears: reply from bob",
        "hears: summary",
        "now called \"reviewer\"",
        "hears: failed from reviewer",
        "peer_gone",
    ] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert!(!ran.out.contains("jsonrpc"));
    let verbose = home.run(&["demo", "--verbose"]);
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
    let overview = overview.split("\nOptions of every").next().expect("a part");
    let names = overview.lines().filter(|l| l.starts_with("  ")).filter_map(|l| l.split_whitespace().next());
    let option = |line: &str| {
        line.strip_prefix("  --").and_then(|l| l.split_whitespace().next()).map(|o| format!("--{o}"))
    };
    names
        .map(|name| (name.to_owned(), home.run(&[name, "--help"]).out.lines().filter_map(option).collect()))
        .collect()
}

#[test]
fn the_man_page() {
    let home = Home::new();
    let source =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/relay.1")).expect("the page");
    let page = source.replace("\\-", "-");
    let section = |command: &str| {
        let after = page
            .split(&format!("\n.SS relay {command}"))
            .nth(1)
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
    let words = sources.split(|c: char| !c.is_ascii_uppercase() && c != '_' && !c.is_ascii_digit());
    // (The simulation of the router is a test.)
    let read: BTreeSet<&str> =
        words.filter(|w| w.starts_with("RELAY_") && w.len() > 6 && !w.starts_with("RELAY_SIM_")).collect();
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
fn completions() {
    let home = Home::new();
    let _bob = home.join("bob");
    let commands = commands(&home);
    for shell in ["bash", "zsh", "fish"] {
        let ran = home.run(&["completions", shell]);
        assert_eq!(ran.code, Some(0));
        for (command, options) in &commands {
            assert!(ran.out.contains(command.as_str()), "{shell} {command}");
            for option in options {
                let flag = if shell == "fish" { option.replacen("--", "-l ", 1) } else { option.clone() };
                assert!(ran.out.contains(&flag), "{shell} {command} {option}");
            }
        }
        let path = home.write(&format!("completions.{shell}"), &ran.out);
        match home.command(shell).arg("-n").arg(path).output() {
            Ok(checked) => {
                assert!(checked.status.success() && checked.stderr.is_empty(), "{shell} {checked:?}")
            }
            Err(_) => eprintln!("SKIPPED: there is no {shell}"),
        }
    }
    let complete = |words: &[&str]| {
        let quoted: Vec<String> = words.iter().map(|w| format!("'{w}'")).collect();
        let (at, last) = (words.len() - 1, words[words.len() - 1]);
        let before = if at > 0 { words[at - 1] } else { "" };
        let script = format!(
            "relay() {{ {} \"$@\"; }}\n. \"$HOME/completions.bash\"\nCOMP_WORDS=({})\nCOMP_CWORD={at}\n\
             _relay relay '{last}' '{before}'\necho \"${{COMPREPLY[*]}}\"",
            relay_path(),
            quoted.join(" ")
        );
        let ran = home.command("bash").args(["-c", &script]).output().expect("bash runs");
        String::from_utf8_lossy(&ran.stdout).trim().to_owned()
    };
    assert_eq!(complete(&["relay", "as"]), "ask");
    assert_eq!(complete(&["relay", "ask", "--t"]), "--timeout");
    assert_eq!(complete(&["relay", "ask", "b"]), "bob");
    assert_eq!(complete(&["relay", "broadcast", "--scope", ""]), "machine repo directory");
    assert_eq!(complete(&["relay", "completions", "z"]), "zsh");
}
