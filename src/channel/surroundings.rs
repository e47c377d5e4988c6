//! The surroundings of our process in a Claude Code session: the Claude Code process, its launch flags, its session
//! file, and the git repository. Claude Code documents hardly any of it, so everything is read leniently and up to a limit;
//! what is missing or malformed counts as unknown.

use super::identity::Identity;
use crate::datadir;
use crate::mcp::replace_lone_surrogates;
use crate::name;
use crate::process::{self, key};
use crate::repository::{Git, MAX_NAME, current_dir, git, path_var, read, shown, var};
use crate::wire::{self, Activity, Who};
use serde_json::{Map, Value};
use std::fs;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The `nameSource` of names that Claude Code made up.
const MADE_UP: [&str; 3] = ["derived", "auto", "collision"];
/// How long after `tools/list` the path `channel` is offered. The client's terminal UI silently drops notifications
/// until it has registered the channel; 14 to 196 ms were measured, on an idle and on a loaded machine.
const CHANNEL: Duration = Duration::from_secs(1);
/// How long after a keystroke the user counts as typing.
const TYPING: Duration = Duration::from_secs(10);

/// Whether a flag for channels and our name are among the arguments of a process. If they do not belong together, pushes by
/// `channel` stay unconfirmed, and the next path is used.
fn has_channel_flag(arguments: &[String]) -> bool {
    const FLAGS: [&str; 2] = ["--dangerously-load-development-channels", "--channels"];
    let ours = |value: &str| value.starts_with("plugin:relay@") || value == "server:relay";
    let args = || arguments.iter().take_while(|arg| *arg != "--");
    args().any(|arg| FLAGS.contains(&arg.split('=').next().unwrap_or_default()))
        && args().any(|arg| arg.split(['=', ',', ' ']).any(ours))
}

/// The file of Claude Code about a running session, `${CLAUDE_CONFIG_DIR:-~/.claude}/sessions/<pid>.json`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SessionFile {
    /// The id of the present conversation, also after `--continue` and `/clear`.
    pub session: Option<String>,
    /// The session's name, if the user gave it.
    pub name: Option<String>,
    /// `Idle`, `Busy`, or `Waiting` at a permission dialog. Unlike the hooks, the file shows interrupted turns.
    pub status: Option<Activity>,
    /// When the status was last set, in milliseconds since 1970: a turn may begin and be interrupted between two reads.
    pub status_at: Option<u64>,
    /// The session's inbox socket.
    pub inbox: Option<PathBuf>,
}

impl SessionFile {
    /// The file of the Claude Code process `pid`. `None` if it is missing, incomplete, malformed or over 64 KiB.
    fn of(pid: u32) -> Option<Self> {
        Self::at(&datadir::config_dir()?.join(format!("sessions/{pid}.json")))
    }

    fn at(path: &Path) -> Option<Self> {
        // A name may be cut within an emoji.
        let file: Map<String, Value> = serde_json::from_str(&replace_lone_surrogates(&read(path)?)).ok()?;
        let text = |key| file.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let is_made_up = text("nameSource").is_some_and(|source| MADE_UP.contains(&source));
        let status = match (text("status"), text("waitingFor")) {
            (Some("idle"), _) => Some(Activity::Idle),
            (Some("busy"), _) => Some(Activity::Busy),
            (Some("waiting"), Some("permission prompt")) => Some(Activity::Waiting),
            (Some("waiting"), _) => Some(Activity::Screen),
            _ => None,
        };
        Some(SessionFile {
            session: text("sessionId").map(str::to_owned),
            name: text("name").filter(|_| !is_made_up).map(|name| name.chars().take(MAX_NAME).collect()),
            status,
            status_at: file.get("statusUpdatedAt").and_then(Value::as_u64),
            inbox: text("messagingSocketPath").map(PathBuf::from).filter(|path| path.is_absolute()),
        })
    }

    /// How long ago the status was set, in milliseconds.
    pub fn status_age(&self) -> Option<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_millis();
        Some(u64::try_from(now).ok()?.saturating_sub(self.status_at?))
    }
}

/// The surroundings of a channel in its session.
pub struct Surroundings {
    pub pid: u32,
    /// See [`process_key`].
    pub key: String,
    /// The session's project directory.
    dir: PathBuf,
    pub file: SessionFile,
    /// Whether the session was launched with a channel flag that names the relay.
    flagged: bool,
    /// Whether the user's settings hold messages of other sessions until the user accepts them.
    pub is_held: bool,
    /// The time of the client's first `tools/list`.
    pub listed: Option<Instant>,
    /// `RELAY_PUSH`, unless it is `auto`.
    pub only: Option<wire::Path>,
    /// The user's terminal. Set by [`find_person`](Self::find_person).
    pub terminal: Option<PathBuf>,
}

impl Surroundings {
    pub fn new() -> Self {
        let pid = parent_id();
        let dir = path_var("CLAUDE_PROJECT_DIR").map_or_else(current_dir, |dir| current_dir().join(dir));
        Surroundings {
            pid,
            key: key(pid),
            is_held: holds_messages(&dir),
            dir,
            file: SessionFile::of(pid).unwrap_or_default(),
            flagged: has_channel_flag(&process::arguments(pid)),
            listed: None,
            only: var("RELAY_PUSH").and_then(|path| serde_json::from_value(path.into()).ok()),
            terminal: None,
        }
    }

    pub fn inbox(&self) -> Option<PathBuf> {
        path_var("CLAUDE_CODE_MESSAGING_SOCKET").or_else(|| self.file.inbox.clone())
    }

    /// The id of its conversation. The environment of a `claude --continue` has another id, which is never used.
    pub fn id(&self) -> Option<String> {
        self.file.session.clone().or_else(|| var("CLAUDE_CODE_SESSION_ID"))
    }

    /// Reads the session's file again. An unreadable file changes nothing.
    pub fn refresh(&mut self) {
        if let Some(file) = SessionFile::of(self.pid) {
            self.file = file;
        }
    }

    pub fn git(&self) -> Git {
        git(&self.dir)
    }

    /// The description with which the session registers.
    pub fn who(&self, Identity { peer, secret }: Identity) -> Who {
        let Git { repo, branch } = self.git();
        Who {
            name: self.default_name(),
            peer,
            secret,
            cwd: shown(&self.dir),
            repo,
            branch,
            pid: self.pid,
            claude: Some(self.key.clone()),
            listens: true,
            held: self.is_held,
            person_off: var("RELAY_PERSON").as_deref() == Some("off"),
            consent: var("RELAY_CONSENT").and_then(|v| serde_json::from_value(v.into()).ok()),
            fresh: true,
            ..Who::default()
        }
    }

    /// The paths to this session, the preferred one first.
    pub fn find_paths(&self) -> Vec<wire::Path> {
        let has_inbox = self.inbox().is_some();
        let is_open = |path: &wire::Path| match (self.only, path) {
            (Some(only), path) => only == *path,
            (None, wire::Path::Channel) => {
                self.flagged && self.listed.is_some_and(|at| at.elapsed() >= CHANNEL)
            }
            (None, wire::Path::Inbox) => has_inbox,
            // The hook would bypass the user's review of incoming messages.
            (None, _) => !(self.is_held && has_inbox),
        };
        [wire::Path::Channel, wire::Path::Inbox, wire::Path::Hook].into_iter().filter(is_open).collect()
    }

    /// Whether a form would be seen: at a terminal, unless `claude -p` runs there. `RELAY_PERSON=on` says so of any other
    /// client that shows forms.
    pub fn find_person(&mut self) -> bool {
        self.terminal = process::terminal(self.pid);
        let is_printing = || {
            let mut args = process::arguments(self.pid).into_iter().take_while(|arg| arg != "--");
            args.any(|arg| matches!(arg.as_str(), "-p" | "--print"))
        };
        var("RELAY_PERSON").as_deref() == Some("on") || self.terminal.is_some() && !is_printing()
    }

    /// Whether something was typed at the terminal within the last 10 s. Linux updates that time at most every 8 s.
    pub fn is_typing(&self) -> bool {
        let read = self.terminal.as_ref().and_then(|path| fs::metadata(path).ok()?.accessed().ok());
        read.is_some_and(|at| at.elapsed().is_ok_and(|age| age < TYPING))
    }

    /// The preset name, else the name that the user gave the session, else the name of its directory.
    fn default_name(&self) -> String {
        let preset = var("CLAUDE_RELAY_PRESET_NAME").map(|name| name.trim().to_owned());
        let preset = preset.filter(|name| name::is_valid(name));
        let directory = || name::slug(&self.dir.file_name().unwrap_or_default().to_string_lossy());
        preset.or_else(|| self.file.name.clone()).unwrap_or_else(directory)
    }
}

/// Whether `crossSessionInbound` is `hold` in the settings that apply in `cwd`. The strictest counts, and one that Claude Code
/// does not know is `hold`.
fn holds_messages(cwd: &Path) -> bool {
    let setting = |path: PathBuf| {
        let settings: Value = serde_json::from_str(&read(path)?).ok()?;
        settings.get("crossSessionInbound")?.as_str().map(str::to_owned)
    };
    let strictness = |setting: String| ["accept", "hold", "refuse"].iter().position(|s| *s == setting);
    let settings = datadir::settings_files(cwd).filter_map(setting);
    settings.map(|setting| strictness(setting).unwrap_or(1)).max() == Some(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::tests::{dir, write};

    #[test]
    fn channel_flags() {
        let flag =
            |args: &[&str]| has_channel_flag(&args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>());
        for (yes, line) in [
            (true, "claude --dangerously-load-development-channels plugin:relay@claude-relay"),
            (true, "claude --channels plugin:other@x plugin:relay@y --model z"),
            (true, "claude --channels=plugin:other@x,plugin:relay@y"),
            (true, "node cli.js -p --channels server:relay"),
            (true, "claude --channels --channels server:a,server:relay"),
            (false, "claude"),
            (false, ""),
            (false, "claude --channels server:relay2 plugin:relays@x"),
            (true, "claude --x=y --channels=a -p --channels b server:relay"),
            (false, "claude --channels a=b -p server:other"),
            (false, "claude --channelss server:relay"),
            (false, "claude -- --channels server:relay"),
            (false, "claude plugin:relay@claude-relay"),
        ] {
            assert_eq!(flag(&line.split(' ').collect::<Vec<_>>()), yes, "{line}");
        }
        assert!(flag(&["claude", "--channels", "server:a server:relay", ""]));
        assert!(!flag(&["claude", "say --channels server:relay"]));
    }

    #[test]
    fn a_project_can_hold_messages_and_not_release_them() {
        let dir = dir("held");
        fs::create_dir(dir.join(".claude")).expect("a directory");
        for (shared, local, is_held) in [
            ("accept", "accept", false),
            ("hold", "accept", true),
            ("accept", "hold", true),
            ("hold", "refuse", false),
            ("accept", "of another version", true),
        ] {
            for (name, setting) in [("settings.json", shared), ("settings.local.json", local)] {
                let text = serde_json::json!({"crossSessionInbound": setting}).to_string();
                write(&dir.join(".claude").join(name), &text);
            }
            assert_eq!(holds_messages(&dir), is_held, "{shared}, {local}");
        }
        fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn session_file_is_read_leniently() {
        let dir = dir("file");
        let path = dir.join("1.json");
        let read = |text: &str| {
            write(&path, text);
            SessionFile::at(&path)
        };
        assert_eq!(SessionFile::at(&path), None);
        let file = read(
            r#"{"name":"me","nameSource":"user","status":"busy","messagingSocketPath":"/tmp/x.sock","new":[1]}"#,
        )
        .expect("valid");
        assert_eq!((file.name.as_deref(), file.status), (Some("me"), Some(Activity::Busy)));
        assert_eq!(file.inbox.as_deref(), Some(Path::new("/tmp/x.sock")));
        for text in [r#"{"name":"me","#, &format!(r#"{{"name":"{}"}}"#, "x".repeat(64 << 10)), "[1]"] {
            assert_eq!(read(text), None);
        }
        let cut = read(r#"{"name":"cut \ud83d","status":"idle"}"#).expect("valid");
        assert_eq!((cut.name.as_deref(), cut.status), (Some("cut \u{fffd}"), Some(Activity::Idle)));
        let odd = r#"{"name":"made up","nameSource":"derived","status":7,"messagingSocketPath":"rel"}"#;
        assert_eq!(read(odd), Some(SessionFile::default()));
        for source in ["auto", "collision"] {
            let made_up = format!(r#"{{"name":"made up by {source}","nameSource":"{source}"}}"#);
            assert_eq!(read(&made_up), Some(SessionFile::default()), "{source}");
        }
        let old = read(r#"{"name":"old client","status":"idle"}"#).expect("valid");
        assert_eq!((old.name.as_deref(), old.status), (Some("old client"), Some(Activity::Idle)));
        fs::remove_dir_all(dir).expect("removed");
    }
}
