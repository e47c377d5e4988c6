//! Claude Code as the shell commands see it: its command line program, its list of plugins, and the sessions that run.
//! None of its files is a documented format: they are read leniently and up to a limit.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use time::OffsetDateTime;

use crate::datadir::{config_dir, config_in};
use crate::fence::clean;
use crate::logging::TIMESTAMP;
use crate::process;
use crate::repository::read_limited;

pub const MARKETPLACE: &str = "claude-relay";
pub const PLUGIN: &str = "relay@claude-relay";
/// The name of our MCP server in a session.
pub const SERVER: &str = "plugin:relay:relay";
/// The flag that enables the push path `channel`.
pub const CHANNEL_FLAG: &str = "--dangerously-load-development-channels plugin:relay@claude-relay";
/// What to do if there is no `claude` program.
pub const INSTALL_CLAUDE: &str = "Claude Code must be on PATH (npm install -g @anthropic-ai/claude-code)";

/// How long a program may run.
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// The most that is read of a JSON file, in bytes.
pub const MAX_READ: u64 = 16 << 20;

/// An entry of `claude plugin list --json`.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Plugin {
    pub id: String,
    pub version: String,
    pub enabled: bool,
    install_path: String,
    /// The directory of a plugin that is read in place; only newer clients tell.
    read_from_folder: Option<String>,
    /// When it was installed, as an RFC 3339 time.
    pub installed_at: String,
    /// Why it failed to load.
    pub errors: Vec<String>,
}

/// An entry of `claude plugin marketplace list --json`.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Marketplace {
    pub name: String,
    /// `directory`, `git`, `github`, …
    pub source: String,
    /// The directory, for that source.
    pub path: Option<PathBuf>,
}

/// A running Claude Code session, as its file `sessions/<pid>.json` describes it.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SessionFile {
    pub pid: u32,
    name: String,
    pub cwd: String,
    /// When the session started, in milliseconds since 1970 (UTC).
    started_at: u64,
    /// When the process started, in clock ticks since boot: tells it from a later process with the same number.
    proc_start: Option<String>,
}

impl fmt::Display for SessionFile {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let name = if self.name.is_empty() { "a session" } else { &self.name };
        write!(f, "{name} (process {}, in {})", self.pid, abbreviate_home(&self.cwd))
    }
}

impl SessionFile {
    /// Whether the session started before a UTC time in the format of JavaScript's `toISOString`.
    pub fn started_before(&self, time: &str) -> bool {
        let started = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.started_at) * 1_000_000).ok();
        started.and_then(|at| at.format(TIMESTAMP).ok()).is_some_and(|at| at.as_str() < time)
    }

    /// Whether its process still runs: a client that was killed leaves its file.
    fn is_running(&self) -> bool {
        match process::process_key(self.pid).rsplit_once('-') {
            Some((_, now)) => now != "0" && self.proc_start.as_ref().is_none_or(|recorded| recorded == now),
            None => self.pid > 0 && !process::is_gone(self.pid),
        }
    }
}

/// Runs a program that ends within a minute, and returns what it printed.
///
/// # Errors
/// The program could not be started, did not end in time, or failed; then the error is what it printed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = process::run(command, RUN_LIMIT);
    let output = output.map_err(|e| format!("cannot run {}: {e}", command.get_program().display()))?;
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).trim().to_owned());
    match output.status.success() {
        true => Ok(stdout),
        false => Err(clean(if stderr.is_empty() { &stdout } else { &stderr }).replace('\n', " ")),
    }
}

/// Runs `claude` and returns what it printed.
///
/// # Errors
/// There is no `claude`, or what it printed when it failed.
pub fn claude(args: &[&str]) -> Result<String, String> {
    let printed = run(Command::new("claude").args(args));
    printed.map_err(|why| format!("`claude {}` failed: {why}", args.join(" ")))
}

/// Our plugin, as Claude Code lists it.
///
/// # Errors
/// As for [`claude`], and a list in an unknown format.
pub fn plugin() -> Result<Option<Plugin>, String> {
    entry(&["plugin", "list", "--json"], |plugin: &Plugin| plugin.id == PLUGIN)
}

/// Our marketplace, as Claude Code lists it.
///
/// # Errors
/// As for [`claude`], and a list in an unknown format.
pub fn marketplace() -> Result<Option<Marketplace>, String> {
    entry(&["plugin", "marketplace", "list", "--json"], |known: &Marketplace| known.name == MARKETPLACE)
}

/// An entry of one of Claude Code's lists; others may be of an unknown form.
fn entry<T: DeserializeOwned>(args: &[&str], is_ours: impl Fn(&T) -> bool) -> Result<Option<T>, String> {
    let printed = claude(args)?;
    let list: Vec<&RawValue> = serde_json::from_str(&printed).map_err(|e| {
        format!("`claude {}` printed no list ({e}); Claude Code may be too old", args.join(" "))
    })?;
    let mut entries = list.iter().filter_map(|entry| serde_json::from_str(entry.get()).ok());
    Ok(entries.find(is_ours))
}

/// Version and path of the program that the plugin starts.
///
/// # Errors
/// Why it starts none, or that it starts another program.
pub fn started_program(plugin: &Plugin) -> Result<String, String> {
    let root = plugin.read_from_folder.as_ref().unwrap_or(&plugin.install_path);
    let launcher = format!("{root}/bin/relay-launcher");
    let printed = run(Command::new(&launcher).arg("--which"))?;
    match printed.starts_with(|c: char| c.is_ascii_digit()) {
        true => Ok(printed),
        false => Err(format!("{launcher} is not Claude Relay (`--which` printed '{}')", clean(&printed))),
    }
}

/// The running sessions of the configuration directory `dir`.
pub fn running_sessions(dir: &Path) -> impl Iterator<Item = SessionFile> + use<> {
    let files = fs::read_dir(dir.join("sessions")).into_iter().flatten().flatten();
    files.filter_map(|file| read_json(&file.path())).filter(SessionFile::is_running)
}

/// The configuration directories, other than ours, of processes of this user. Only Linux shows the environment of other processes.
pub fn foreign_config_dirs() -> BTreeSet<PathBuf> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let dirs = processes.filter_map(|process| config_dir_of(&process.path()));
    dirs.filter(|dir| config_dir().as_ref() != Some(dir)).collect()
}

/// The configuration directory of the process with this directory in `/proc`.
fn config_dir_of(process: &Path) -> Option<PathBuf> {
    let environment = read_limited(process.join("environ"), MAX_READ).ok()?;
    config_in(&|name| {
        let mut variables = environment.split(|byte| *byte == 0);
        let value = variables.find_map(|v| v.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        Some(OsStr::from_bytes(value).to_owned())
    })
}

/// Reads a JSON file of at most [`MAX_READ`] bytes; `None` if it can't be read or is not such JSON.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&read_limited(path, MAX_READ).ok()?).ok()
}

/// `path` with `~` for the home directory.
pub fn abbreviate_home(path: impl AsRef<Path>) -> String {
    let home = std::env::home_dir().filter(|home| home.is_absolute());
    let below = home.as_ref().and_then(|home| path.as_ref().strip_prefix(home).ok());
    let shown = below.map_or(path.as_ref().to_owned(), |below| Path::new("~").join(below));
    shown.components().collect::<PathBuf>().display().to_string() // without the slash after `~` alone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_started_first_is_known_within_a_second() {
        let session: SessionFile =
            serde_json::from_str(r#"{"pid": 1, "startedAt": 1795784744120}"#).expect("a session");
        let at = |ms: &str| session.started_before(&format!("2026-11-27T13:05:44.{ms}Z"));
        assert_eq!(["121", "293", "120", "119"].map(at), [true, true, false, false]);
    }
}
