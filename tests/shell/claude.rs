//! A home with a `claude` that is a script.

use std::fs;
use std::path::PathBuf;

use crate::shell_kit::{Home, Ran};

/// The allow rule.
pub const RULE: &str = "mcp__plugin_relay_relay__*";

/// A `claude` that keeps its state in files of the home directory, as the real one does with other files: `market` has the
/// path of our marketplace and `source` its kind, `plugin` whether our plugin is enabled, `errors` why it failed to load.
/// It writes down how it was called in `asked`.
const SCRIPT: &str = r#"#!/bin/sh
cd "$HOME" || exit 9
echo "$*" >>asked
case "$*" in
    --version) echo "2.1.332 (Claude Code)" ;;
    "plugin marketplace list --json")
        if [ -f market ]; then
            source=directory; [ -f source ] && source=$(cat source)
            echo "[{\"name\":\"claude-relay\",\"source\":\"$source\",\"path\":\"$(cat market)\"}]"
        else echo '[]'; fi ;;
    "plugin marketplace add "*) echo "$4" >market && echo "Adding…✔ added" ;;
    "plugin marketplace remove claude-relay") rm -f market plugin errors && echo "✔ removed" ;;
    "plugin list --json")
        version=0.1.0; [ -f version ] && version=$(cat version)
        errors=; [ -f errors ] && errors=$(cat errors)
        [ ! -f market ] || [ -d "$(cat market)" ] || errors='"Marketplace claude-relay failed to load: cache-miss"'
        if [ -f plugin ]; then
            echo "[{\"id\":\"relay@claude-relay\",\"version\":\"$version\",\"enabled\":$(cat plugin),\"errors\":[$errors],"
            echo "\"installedAt\":\"2026-11-27T13:05:44.293Z\",\"installPath\":\"$(cat market)/plugin\"}]"
        else echo '[]'; fi ;;
    "plugin install relay@claude-relay") echo true >plugin && echo "✔ installed" ;;
    "plugin update relay@claude-relay") rm -f version && echo "✔ updated" ;;
    "plugin uninstall relay@claude-relay") rm plugin && echo "✔ uninstalled" ;;
    *) echo "✘ what?" >&2; exit 1 ;;
esac
"#;

/// A home with the script.
pub fn with_claude() -> Home {
    let home = Home::new();
    home.program("claude", SCRIPT);
    home
}

/// Runs `relay setup`, which must succeed.
pub fn setup(home: &Home, args: &[&str]) -> Ran {
    let ran = home.run(&[&["setup"], args].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran
}

/// The directory of the installed copy.
pub fn copy(home: &Home) -> PathBuf {
    home.path.join(".local/share/claude-relay")
}

/// The calls of `claude` since the last call of this, without those that only list.
pub fn changes(home: &Home) -> Vec<String> {
    let asked = home.read("asked");
    let _ = fs::remove_file(home.path.join("asked"));
    let lists = |line: &str| line.contains("list") || line.contains("version");
    asked.lines().filter(|line| !lists(line)).map(str::to_owned).collect()
}
