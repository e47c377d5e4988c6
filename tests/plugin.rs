//! The plugin's manifests and commands: that they name what exists, for Claude Code and for Codex.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

const PLUGIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/plugin");

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(PLUGIN).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn read_json(path: &str) -> Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The front matter of a command, as pairs, and the prompt below it.
fn command(name: &str) -> (Vec<(String, String)>, String) {
    let text = read(format!("commands/{name}.md"));
    let (head, prompt) =
        text.strip_prefix("---\n").and_then(|t| t.split_once("\n---\n")).expect("front matter");
    let pairs = head.lines().map(|line| line.split_once(": ").expect("a pair"));
    (pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(), prompt.to_owned())
}

#[test]
fn commands_may_call_exactly_the_tools_that_they_name() {
    let list = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/channel/tools.json"))
        .expect("the tools");
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let tools: Vec<&str> =
        list["tools"].as_array().expect("tools").iter().filter_map(|t| t["name"].as_str()).collect();
    let mut names: Vec<String> = fs::read_dir(format!("{PLUGIN}/commands"))
        .expect("a folder")
        .map(|file| file.expect("a file").path().file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["ask", "asks", "broadcast", "peers", "relay-rename"]);
    for name in names {
        let (head, prompt) = command(&name);
        let get = |key: &str| head.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        assert!(get("description").is_some(), "{name}");
        assert_eq!(get("argument-hint").is_some(), prompt.contains("$ARGUMENTS"), "{name}");
        let allowed: Vec<&str> = get("allowed-tools")
            .expect("tools")
            .split(", ")
            .map(|tool| tool.strip_prefix("mcp__plugin_relay_relay__").expect("a tool of the plugin"))
            .collect();
        for tool in &tools {
            assert_eq!(allowed.contains(tool), prompt.contains(&format!("`{tool}`")), "{name} and {tool}");
        }
        assert!(allowed.iter().all(|tool| tools.contains(tool)), "{name}: {allowed:?}");
    }
}

/// `docs/parity.md` names a test for each behaviour of the original.
#[test]
fn parity_names_tests_that_exist() {
    fn read_all(dir: &Path, all: &mut String) {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            match entry.file_type().expect("a type").is_dir() {
                true => read_all(&entry.path(), all),
                false => *all += &std::fs::read_to_string(entry.path()).unwrap_or_default(),
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut all = String::new();
    ["src", "tests"].iter().for_each(|dir| read_all(&root.join(dir), &mut all));
    let table = std::fs::read_to_string(root.join("docs/parity.md")).expect("the table");
    let is_test = |name: &&str| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        name.contains('_') && name.bytes().all(plain)
    };
    // The last column of the table, and the text below it.
    let cells = table.lines().map(|line| line.rsplit('|').nth(1).unwrap_or(line));
    let named: Vec<&str> =
        cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(is_test).collect();
    assert!(named.len() > 50, "{}", named.len());
    for name in named {
        assert!(all.contains(&format!("fn {name}(")), "there is no test {name}");
    }
}

/// Codex reads its own manifest before Claude Code's. With an empty object for the hooks it does not look for
/// `hooks/hooks.json`, whose arguments it drops; an empty list would count as none given.
#[test]
fn codex_finds_a_server_and_no_hooks() {
    let (codex, claude) = (read_json(".codex-plugin/plugin.json"), read_json(".claude-plugin/plugin.json"));
    assert_eq!((&codex["name"], &codex["version"]), (&claude["name"], &claude["version"]));
    assert_eq!(codex["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(codex["hooks"], json!({}));
    let servers = read_json(codex["mcpServers"].as_str().expect("a path").trim_start_matches("./"));
    let server = &servers["relay"];
    assert_eq!(servers.as_object().map(serde_json::Map::len), Some(1), "a map of servers, without a wrapper");
    assert_eq!(server["cwd"], ".", "the plugin's folder, which Codex has no variable for");
    assert_eq!(server["args"], json!(["./bin/relay-launcher", "channel"]));
    assert!(Path::new(PLUGIN).join("bin/relay-launcher").exists());
}
