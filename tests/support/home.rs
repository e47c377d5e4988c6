//! A home directory of its own for the sessions of one test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::leftovers;

/// The key that sessions show to the scripted model. It opens nothing.
pub const API_KEY: &str = "sk-dummy-loopback";

/// A fresh directory that sessions have as `$HOME`: settings, projects, plugins, the relay's data. Removed on drop,
/// after everything that still runs with it was killed (`RELAY_TEST_KEEP=1` leaves the files).
pub struct Home {
    path: PathBuf,
}

impl Default for Home {
    fn default() -> Self {
        Home::new()
    }
}

impl Home {
    /// A home whose sessions start without a dialog and may use channels.
    pub fn new() -> Home {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.subsec_nanos());
        // Short, because sockets live in it.
        let name = format!("e2e-{}-{number}-{nanos:08x}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a directory for the home");
        let home = Home { path: path.canonicalize().expect("the home's real path") };
        for dir in ["tmp", ".claude", "work"] {
            std::fs::create_dir(home.path.join(dir)).expect("the home's directories");
        }
        home.write_state(&json!({
            "hasCompletedOnboarding": true,
            "theme": "dark",
            "customApiKeyResponses": {"approved": [API_KEY], "rejected": []},
            "projects": {},
            // It offers to make the automatic mode the default, in a dialog that sometimes comes before the prompt.
            "hasSeenAutoDefaultNudge": true,
        }));
        home.trust(&home.path.join("work"));
        home.feature("tengu_harbor", true);
        // Else 2.1.330 starts in its automatic mode in a terminal, which asks the model what it thinks of every tool call.
        home.settings(json!({"permissions": {"defaultMode": "default"}}));
        home
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the relay's processes have logged.
    pub fn relay_log(&self) -> String {
        let files = std::fs::read_dir(self.plugin_data().join("logs")).into_iter().flatten().flatten();
        files.filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect()
    }

    /// Where the plugin keeps its data if nothing else is said: `CLAUDE_PLUGIN_DATA` of its processes.
    pub fn plugin_data(&self) -> PathBuf {
        self.path.join(".claude/plugins/data/relay-claude-relay")
    }

    /// Merges `settings` into the user's `settings.json`, e.g. `{"crossSessionInbound": "refuse"}`.
    pub fn settings(&self, settings: Value) {
        let path = self.path.join(".claude/settings.json");
        let mut all = if path.exists() { read_json(&path) } else { json!({}) };
        merge(&mut all, settings);
        write_json(&path, &all);
    }

    /// Sets a feature that the client would ask its vendor for when online. `tengu_harbor` (channels) is on already.
    pub fn feature(&self, name: &str, value: impl Into<Value>) {
        self.change_state(json!({"cachedGrowthBookFeatures": {name: value.into()}}));
    }

    /// Merges `change` into `.claude.json`. Best done before a session runs: a running one writes the file too.
    pub fn change_state(&self, change: Value) {
        let mut state = read_json(&self.state_path());
        merge(&mut state, change);
        self.write_state(&state);
    }

    /// Creates the project directory `work/<name>` and returns its path. No harm if it exists. It is trusted, as all
    /// of `work` is.
    pub fn project(&self, name: &str) -> PathBuf {
        let path = self.path.join("work").join(name);
        std::fs::create_dir_all(&path).expect("a project directory");
        path
    }

    /// Like [`Home::project`], and a git repository on the branch `main`, with one commit. Create it before any session
    /// runs: a repository has to be trusted by itself.
    pub fn git_project(&self, name: &str) -> PathBuf {
        let path = self.project(name);
        self.trust(&path);
        if !path.join(".git").exists() {
            for args in [&["init", "--quiet"][..], &["symbolic-ref", "HEAD", "refs/heads/main"]] {
                run(self.command("git").args(args).current_dir(&path));
            }
            let identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"];
            let commit = ["commit", "--quiet", "--allow-empty", "--message=Start"];
            run(self.command("git").args(identity).args(commit).current_dir(&path));
        }
        path
    }

    /// Marks a directory as trusted, so that a session in it, or in a directory of it that is no repository of its own,
    /// starts without asking.
    pub fn trust(&self, dir: &Path) {
        let key = dir.to_str().expect("a path in UTF-8");
        let trusted = json!({"hasTrustDialogAccepted": true, "allowedTools": [], "hasCompletedProjectOnboarding": true});
        self.change_state(json!({"projects": {key: trusted}}));
    }

    /// Installs the plugin from the marketplace in that directory, as its user would.
    #[track_caller]
    pub fn install_plugin(&self, claude: &Path, marketplace: &Path) {
        run(self.command(claude).args(["plugin", "marketplace", "add"]).arg(marketplace));
        run(self.command(claude).args(["plugin", "install", "relay@claude-relay"]));
    }

    /// A command in this home with a clean environment: `HOME`, `PATH`, and little else.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.environment()).current_dir(&self.path);
        command
    }

    /// The clean environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        let home = self.path.to_str().expect("a path in UTF-8");
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
        [
            ("HOME", home),
            ("PATH", &path),
            ("TMPDIR", &format!("{home}/tmp")),
            ("LANG", "C.UTF-8"),
            ("SHELL", "/bin/sh"),
            ("USER", "tester"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("ANTHROPIC_API_KEY", API_KEY),
            // A client that isn't told where its model is must not find the real one.
            ("ANTHROPIC_BASE_URL", "http://127.0.0.1:9"),
            ("DISABLE_AUTOUPDATER", "1"),
            // Else MCP tools are deferred, and a scripted model must search for them first.
            ("ENABLE_TOOL_SEARCH", "false"),
            // Side requests that look like the conversation itself.
            ("CLAUDE_CODE_ENABLE_PROMPT_SUGGESTION", "false"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// The home's path as it appears in the environment of everything that runs in it: the marker for
    /// [`leftovers::processes_with`].
    pub fn marker(&self) -> &str {
        self.path.to_str().expect("a path in UTF-8")
    }

    fn state_path(&self) -> PathBuf {
        self.path.join(".claude.json")
    }

    fn write_state(&self, state: &Value) {
        write_json(&self.state_path(), state);
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        leftovers::kill_all(self.marker());
        if std::env::var_os("RELAY_TEST_KEEP").is_some() {
            eprintln!("kept {}", self.path.display());
            return;
        }
        // What was just killed may still be writing its last.
        for _ in 0..50 {
            if std::fs::remove_dir_all(&self.path).is_ok() || !self.path.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("could not remove {}", self.path.display());
    }
}

/// Runs a command to its end and fails with all it said if it failed. Returns its stdout.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{:?} {:?}: {}\n--- stdout\n{stdout}\n--- stderr\n{stderr}",
        command.get_program(),
        command.get_args().collect::<Vec<_>>(),
        output.status,
    );
    stdout
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Replaces the file in one step: a session that reads it meanwhile sees the old or the new one.
fn write_json(path: &Path, value: &Value) {
    let new = path.with_extension("new");
    std::fs::write(&new, format!("{value:#}\n")).unwrap_or_else(|e| panic!("{}: {e}", new.display()));
    std::fs::rename(&new, path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Objects are merged key by key, everything else is replaced.
fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (key, value) in change {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}
