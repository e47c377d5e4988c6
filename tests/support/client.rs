//! Finding the real Claude Code client.

use std::io::Write;
use std::path::{Path, PathBuf};

/// The newest client that the tests drive.
pub const NEWEST: &str = "2.1.332";

/// A client with cross-session messaging, older than [`NEWEST`].
pub const WITH_MESSAGING: &str = "2.1.330";

/// A client from before cross-session messaging: no inbox socket, fewer receipts.
pub const BEFORE_MESSAGING: &str = "2.1.197";

/// The clients with cross-session messaging.
pub const MESSAGING: [&str; 2] = [NEWEST, WITH_MESSAGING];

/// Every client that the tests drive.
pub const VERSIONS: [&str; 3] = [NEWEST, WITH_MESSAGING, BEFORE_MESSAGING];

/// The client of that version: in `$RELAY_TEST_CLAUDE_DIR/<version>/`, else in `.ci/claude/<version>/` (which
/// `.ci/install-claude` fills). If it isn't there, says so on stderr and returns `None`: the test should return. With
/// `RELAY_REQUIRE_CLAUDE=1` it fails instead.
#[track_caller]
pub fn claude(version: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("RELAY_TEST_CLAUDE_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/claude"),
    };
    let found = client_in(&root.join(version));
    if found.is_none() {
        skip(&format!("no claude client {version} (run .ci/install-claude)"));
    }
    found
}

/// The tmux that terminal sessions run in; skips or fails like [`claude`].
#[track_caller]
pub fn tmux() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join("tmux")).find(|tmux| tmux.is_file());
    if found.is_none() {
        skip("no tmux (install it)");
    }
    found
}

fn client_in(dir: &Path) -> Option<PathBuf> {
    let direct = dir.join("claude");
    if direct.is_file() {
        return Some(direct);
    }
    let packages = std::fs::read_dir(dir.join("node_modules/@anthropic-ai")).ok()?;
    packages
        .filter_map(Result::ok)
        .filter(|package| package.file_name().to_string_lossy().starts_with("claude-code-"))
        .map(|package| package.path().join("claude"))
        .find(|client| client.is_file())
}

/// Past the test runner, which hides what a passing test prints.
#[track_caller]
fn skip(why: &str) {
    let required = std::env::var_os("RELAY_REQUIRE_CLAUDE").is_some_and(|v| v == "1");
    assert!(!required, "RELAY_REQUIRE_CLAUDE=1, but {why}");
    let test = std::thread::current();
    let note = format!("SKIPPED: {}: {why}\n", test.name().unwrap_or("a test"));
    std::io::stderr().write_all(note.as_bytes()).ok();
}
