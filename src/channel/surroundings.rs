//! The surroundings of our process in a Claude Code session: the Claude Code process, its launch flags, its session
//! file, and the git repository. Claude Code documents hardly any of it, so everything is read leniently and up to a limit;
//! what is missing or malformed counts as unknown.

use crate::datadir;
use crate::name;
use crate::process::{self, key};
use crate::repository::{Git, MAX_FILE, MAX_NAME, current_dir, git, path_var, read, shown};
use crate::wire::{self, Activity};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The `nameSource` of names that Claude Code made up.
const MADE_UP: [&str; 3] = ["derived", "auto", "collision"];
/// How long after `tools/list` the path `channel` is offered. The client's terminal UI silently drops notifications
/// until it has registered the channel; 14 to 196 ms were measured, on an idle and on a loaded machine.
const CHANNEL: Duration = Duration::from_secs(1);
/// How long after a key its user may be about to press the next one.
const TYPING: Duration = Duration::from_secs(10);

/// Whether the process `pid` was launched with a channel flag that names the relay; `false` if that cannot be
/// determined.
pub fn channel_flag(pid: u32) -> bool {
    names_relay(process::arguments(pid).iter().map(String::as_str))
}

fn names_relay<'a>(args: impl Iterator<Item = &'a str>) -> bool {
    const FLAGS: [&str; 2] = ["--dangerously-load-development-channels", "--channels"];
    let mut in_flag = false;
    for arg in args.take_while(|arg| *arg != "--") {
        let (flag, values) = match arg.split_once('=') {
            Some(parts) if arg.starts_with('-') => parts,
            None if arg.starts_with('-') => (arg, ""),
            _ => ("", arg),
        };
        let named = if flag.is_empty() { in_flag } else { FLAGS.contains(&flag) };
        let ours = |value: &str| value.starts_with("plugin:relay@") || value == "server:relay";
        if named && values.split([',', ' ']).any(ours) {
            return true;
        }
        // Any number of arguments may follow, but not after a `=`.
        in_flag = named && (flag.is_empty() || flag == arg);
    }
    false
}

/// The file of Claude Code about a running session, `${CLAUDE_CONFIG_DIR:-~/.claude}/sessions/<pid>.json`.
#[derive(Debug, Clone, Default)]
pub struct SessionFile {
    path: Option<PathBuf>,
    /// Modification time (seconds, nanoseconds), length and inode when it was last read.
    stamp: Option<(i64, i64, u64, u64)>,
    /// The id of its conversation: of the one that it goes on with, also after `--continue` and `/clear`.
    pub session: Option<String>,
    /// The session's name, if the user gave it.
    pub name: Option<String>,
    /// `Idle`, `Busy`, or `Waiting` at a permission dialog. Unlike the hooks, the file shows interrupted turns.
    pub status: Option<Activity>,
    /// When it was last set, in milliseconds since 1970: a turn may begin and be interrupted between two reads.
    pub status_at: Option<u64>,
    /// The session's inbox socket.
    pub inbox: Option<PathBuf>,
}

impl SessionFile {
    /// The file of the Claude Code process `pid`. Reads nothing yet.
    pub fn new(pid: u32) -> Self {
        Self::at(datadir::config_dir().map(|dir| dir.join(format!("sessions/{pid}.json"))))
    }

    fn at(path: Option<PathBuf>) -> Self {
        SessionFile { path, ..SessionFile::default() }
    }

    /// How long ago the status was set, in milliseconds.
    pub fn status_age(&self) -> Option<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis();
        Some(u64::try_from(now).ok()?.saturating_sub(self.status_at?))
    }

    /// Reads the file if it was modified, and returns whether a field changed. Costs one `stat` otherwise. A file that
    /// is missing, incomplete, malformed or over 64 KiB leaves the fields unchanged.
    pub fn changed(&mut self) -> bool {
        let meta = self.path.as_ref().and_then(|path| fs::metadata(path).ok());
        let stamp = meta.map(|meta| (meta.mtime(), meta.mtime_nsec(), meta.len(), meta.ino()));
        if stamp.is_none_or(|(_, _, length, _)| length > MAX_FILE) || stamp == self.stamp {
            return false;
        }
        let text = self.path.as_ref().and_then(read).unwrap_or_default();
        let Ok(file) = serde_json::from_str::<serde_json::Map<String, Value>>(&text) else { return false };
        self.stamp = stamp;

        let text = |key| file.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let name =
            text("name").filter(|_| text("nameSource").is_none_or(|source| !MADE_UP.contains(&source)));
        let name = name.map(|name| name.chars().take(MAX_NAME).collect());
        let status = match text("status") {
            Some("idle") => Some(Activity::Idle),
            Some("busy") => Some(Activity::Busy),
            Some("waiting") if text("waitingFor") == Some("permission prompt") => Some(Activity::Waiting),
            Some("waiting") => Some(Activity::Screen),
            _ => None,
        };
        let status_at = file.get("statusUpdatedAt").and_then(Value::as_u64);
        let inbox = text("messagingSocketPath").map(PathBuf::from).filter(|path| path.is_absolute());
        let session = text("sessionId").map(str::to_owned);
        let before = (&self.session, &self.name, self.status, self.status_at, &self.inbox);
        let changed = (&session, &name, status, status_at, &inbox) != before;
        (self.session, self.name, self.inbox) = (session, name, inbox);
        (self.status, self.status_at) = (status, status_at);
        changed
    }
}

/// The surroundings of a channel in its session.
pub struct Surroundings {
    pub pid: u32,
    /// See [`process_key`].
    pub key: String,
    /// The session's project directory.
    dir: PathBuf,
    pub git: Git,
    pub file: SessionFile,
    /// Whether the session was launched with a channel flag that names the relay.
    flagged: bool,
    /// Whether the user's settings hold messages of other sessions until the user accepts them.
    pub is_held: bool,
    /// The time of the client's first `tools/list`.
    pub listed: Option<Instant>,
    /// `RELAY_PUSH`, unless it is `auto`.
    only: Option<wire::Path>,
    /// The terminal that its user sits at. Known when forms have been looked at.
    pub terminal: Option<PathBuf>,
}

impl Surroundings {
    pub fn new() -> Self {
        let pid = parent_id();
        let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let dir = path_var("CLAUDE_PROJECT_DIR").map_or_else(current_dir, |dir| current_dir().join(dir));
        let only = var("RELAY_PUSH").and_then(|p| serde_json::from_value::<wire::Path>(p.into()).ok());
        let mut file = SessionFile::new(pid);
        file.changed();
        Surroundings {
            pid,
            key: key(pid),
            git: git(&dir),
            is_held: holds_messages(&dir),
            dir,
            file,
            flagged: channel_flag(pid),
            listed: None,
            only: only.filter(|p| matches!(p, wire::Path::Channel | wire::Path::Inbox | wire::Path::Hook)),
            terminal: None,
        }
    }

    pub fn inbox(&self) -> Option<PathBuf> {
        path_var("CLAUDE_CODE_MESSAGING_SOCKET").or_else(|| self.file.inbox.clone())
    }

    /// The id of its conversation. Of a `claude --continue` the environment has another one, which is never used.
    pub fn id(&self) -> Option<String> {
        let var = || std::env::var("CLAUDE_CODE_SESSION_ID").ok().filter(|id| !id.is_empty());
        self.file.session.clone().or_else(var)
    }

    /// Its directory, for peers to see.
    pub fn cwd(&self) -> String {
        shown(&self.dir)
    }

    /// The repository and the branch of the directory now.
    pub fn look_at_git(&self) -> Git {
        git(&self.dir)
    }

    /// Whether `RELAY_PUSH` prescribes the path to this session.
    pub fn is_way_forced(&self) -> bool {
        self.only.is_some()
    }

    /// The paths to this session, the preferred one first.
    pub fn find_paths(&self) -> Vec<wire::Path> {
        if let Some(only) = self.only {
            return vec![only];
        }
        let mut paths = Vec::new();
        if self.flagged && self.listed.is_some_and(|at| at.elapsed() >= CHANNEL) {
            paths.push(wire::Path::Channel);
        }
        if self.inbox().is_some() {
            paths.push(wire::Path::Inbox);
        }
        // The hook would bypass the user's review of incoming messages.
        if !(self.is_held && paths.contains(&wire::Path::Inbox)) {
            paths.push(wire::Path::Hook);
        }
        paths
    }

    /// Whether a form would be seen: at a terminal, unless `claude -p` runs there. `RELAY_PERSON=on` says so of any other
    /// client that shows forms.
    pub fn find_person(&mut self) -> bool {
        self.terminal = process::terminal(self.pid);
        let is_printing = || {
            let mut args = process::arguments(self.pid).into_iter().take_while(|arg| arg != "--");
            args.any(|arg| matches!(arg.as_str(), "-p" | "--print"))
        };
        is_set("RELAY_PERSON", "on") || self.terminal.is_some() && !is_printing()
    }

    /// Whether something was typed at the terminal within the last 10 s: Linux notes it to 8 s.
    pub fn is_typing(&self) -> bool {
        let read = self.terminal.as_ref().and_then(|path| fs::metadata(path).ok()?.accessed().ok());
        read.is_some_and(|at| at.elapsed().is_ok_and(|age| age < TYPING))
    }

    /// The name that whoever started the session preset, or that its user gave it, or that of its directory.
    pub fn default_name(&self) -> String {
        let preset = std::env::var("CLAUDE_RELAY_PRESET_NAME").unwrap_or_default();
        let preset = Some(preset.trim()).filter(|name| name::is_valid(name)).map(str::to_owned);
        let directory = || name::slug(&self.dir.file_name().unwrap_or_default().to_string_lossy());
        preset.or_else(|| self.file.name.clone()).unwrap_or_else(directory)
    }
}

/// `RELAY_CONSENT`, unless it is `off`.
pub fn consent() -> Option<wire::Consent> {
    let value = std::env::var("RELAY_CONSENT").ok()?;
    serde_json::from_value(value.into()).ok()
}

/// Whether an environment variable has this value.
pub fn is_set(name: &str, value: &str) -> bool {
    std::env::var_os(name).is_some_and(|set| set == value)
}

/// Whether `crossSessionInbound` is `hold` in the settings that apply in `cwd`: the user's, the project's, the user's for
/// the project; the last one that has it counts.
fn holds_messages(cwd: &Path) -> bool {
    let user = datadir::config_dir().map(|dir| dir.join("settings.json"));
    let project = ["settings.json", "settings.local.json"].map(|name| cwd.join(".claude").join(name));
    let setting = |path: PathBuf| {
        let settings: Value = serde_json::from_str(&read(path)?).ok()?;
        settings.get("crossSessionInbound")?.as_str().map(str::to_owned)
    };
    user.into_iter().chain(project).filter_map(setting).next_back().as_deref() == Some("hold")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::tests::{dir, write};

    #[test]
    fn channel_flags() {
        for (yes, line) in [
            (true, "claude --dangerously-load-development-channels plugin:relay@claude-relay"),
            (true, "claude --channels plugin:other@x plugin:relay@y --model z"),
            (true, "claude --channels=plugin:other@x,plugin:relay@y"),
            (true, "node cli.js -p --channels server:relay"),
            (true, "claude --channels --channels server:a,server:relay"),
            (false, "claude"),
            (false, ""),
            (false, "claude --channels plugin:other@x --model plugin:relay@y"),
            (false, "claude --channels=plugin:other@x plugin:relay@y"),
            (false, "claude --channels server:relay2 plugin:relays@x"),
            (true, "claude --x=y --channels=a -p --channels b server:relay"),
            (false, "claude --channels a=b -p server:relay"),
            (false, "claude --channelss server:relay"),
            (false, "claude -- --channels server:relay"),
            (false, "claude plugin:relay@claude-relay"),
        ] {
            assert_eq!(names_relay(line.split(' ')), yes, "{line}");
        }
        assert!(names_relay(["claude", "--channels", "server:a server:relay", ""].into_iter()));
        assert!(!names_relay(["claude", "say --channels server:relay"].into_iter()));
        assert!(!channel_flag(std::process::id()));
    }

    #[test]
    fn session_file_is_read_leniently() {
        let dir = dir("file");
        let path = dir.join("1.json");
        let mut file = SessionFile::at(Some(path.clone()));
        assert!(!file.changed());
        write(
            &path,
            r#"{"name":"me","nameSource":"user","status":"busy","messagingSocketPath":"/tmp/x.sock","new":[1]}"#,
        );
        assert!(file.changed());
        assert_eq!(file.name.as_deref(), Some("me"));
        assert_eq!(file.status, Some(Activity::Busy));
        assert_eq!(file.inbox.as_deref(), Some(Path::new("/tmp/x.sock")));
        assert!(!file.changed());
        write(&path, r#"{"name":"me","#);
        assert!(!file.changed());
        write(&path, &format!(r#"{{"name":"{}"}}"#, "x".repeat(MAX_FILE as usize)));
        assert!(!file.changed());
        write(&path, "[1]");
        assert!(!file.changed());
        assert_eq!(file.name.as_deref(), Some("me"));
        write(&path, r#"{"name":"made up","nameSource":"derived","status":7,"messagingSocketPath":"rel"}"#);
        assert!(file.changed());
        assert_eq!((file.name.clone(), file.status, file.inbox.clone()), (None, None, None));
        for source in ["auto", "collision"] {
            write(&path, &format!(r#"{{"name":"made up by {source}","nameSource":"{source}"}}"#));
            assert!(!file.changed() && file.name.is_none(), "{source}");
        }
        write(&path, r#"{"name":"old client","status":"idle"}"#);
        assert!(file.changed());
        assert_eq!(file.name.as_deref(), Some("old client"));
        fs::remove_dir_all(dir).expect("removed");
    }
}
