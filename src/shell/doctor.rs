//! `relay doctor`: diagnoses problems and suggests fixes. It changes nothing.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use super::args::Args;
use super::claude::{self, CHANNEL_FLAG, INSTALL_CLAUDE, PLUGIN, Plugin, SessionFile, claude};
use super::peers::{request_roster, unregistered};
use super::settings::{self, RULE, Settings};
use super::setup::AUTO_MODE;
use super::status::request_status;
use super::terminal::{out, paint};
use super::{Failure, Outcome, count, is_no_hub, print};
use crate::datadir::DataDir;
use crate::link::{Link, Start};
use crate::span::span;
use crate::wire::{Code, PeerKind, Roster};

/// The first version of Claude Code whose sessions have an inbox.
const INBOX: [u32; 3] = [2, 1, 224];
/// The first version of Claude Code that starts in auto mode.
const AUTO: [u32; 3] = [2, 1, 332];
/// The size of all logs, in bytes, from which they are a problem.
const LARGE_LOGS: u64 = 45_000_000;
/// How much is written to find a full disk, in bytes.
const PROBE: usize = 256 << 10;
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What to do about a hub that can't be used.
const RESTART: &str = "relay stop; the sessions start a new hub at once";

/// The severity of a finding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

/// The result of a check.
#[derive(Serialize)]
struct Finding {
    check: &'static str,
    /// Whether this is no error.
    ok: bool,
    level: Level,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// The `--json` output: all findings. Without `--json` each is printed at once.
#[derive(Serialize)]
struct Report {
    findings: Vec<Finding>,
    #[serde(skip)]
    json: bool,
    /// The first error of printing.
    #[serde(skip)]
    printed: Result<(), Failure>,
}

impl Report {
    fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Level::Ok, detail.into(), None);
    }

    fn warning(&mut self, check: &'static str, detail: impl Into<String>, remedy: &str) {
        self.add(check, Level::Warning, detail.into(), Some(remedy.to_owned()));
    }

    fn error(&mut self, check: &'static str, detail: impl Into<String>, remedy: &str) {
        self.add(check, Level::Error, detail.into(), Some(remedy.to_owned()));
    }

    fn add(&mut self, check: &'static str, level: Level, detail: String, remedy: Option<String>) {
        let mark = match level {
            Level::Ok => paint("32", "ok     "),
            Level::Warning => paint("33", "warning"),
            Level::Error => paint("31", "ERROR  "),
        };
        if !self.json && self.printed.is_ok() {
            let fix = remedy.as_ref().map(|remedy| format!("{:20}→ {remedy}\n", "")).unwrap_or_default();
            self.printed = out(&format!("{mark} {check:11} {detail}\n{fix}"));
        }
        self.findings.push(Finding { check, ok: level < Level::Error, level, detail, remedy });
    }
}

/// Runs `relay doctor`. Exit code 1 means that there is an error.
pub fn doctor(dir: &DataDir, args: &Args) -> Outcome {
    let mut report = Report { findings: Vec::new(), json: args.has("json"), printed: Ok(()) };
    let program = std::env::current_exe().unwrap_or_default();
    report.ok("relay", format!("{VERSION}, {}", program.display()));
    let cwd = std::env::current_dir().unwrap_or_default();
    let plugin = check_client(&mut report, &cwd);
    let is_usable = check_directory(&mut report, dir);
    if let Some(roster) = check_hub(&mut report, dir, is_usable) {
        check_peers(&mut report, &roster);
        check_sessions(&mut report, &roster, plugin.as_ref());
    }
    check_logs(&mut report, dir);
    if report.json {
        print(&report)?;
    }
    report.printed?;
    let is_healthy = report.findings.iter().all(|finding| finding.ok);
    Ok(if is_healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Claude Code, its settings and the plugin in it. Returns the plugin.
fn check_client(report: &mut Report, cwd: &Path) -> Option<Plugin> {
    let version = match claude(&["--version"]) {
        Ok(version) => version,
        Err(why) => {
            report.error("claude", why.replace(&format!("; {INSTALL_CLAUDE}"), ""), INSTALL_CLAUDE);
            return None;
        }
    };
    let number = claude::parse_version(&version);
    let paths = match number.as_slice() >= INBOX.as_slice() {
        true => "every session can receive messages, with or without the channel flag",
        false => "sessions before 2.1.224 have no inbox; they receive messages by a hook or the channel flag",
    };
    report.ok("claude", format!("{version}: {paths}"));
    if let Some(why) = settings::parse_error() {
        let detail = format!("Claude Code enables no plugin, because its settings are not JSON: {why}");
        report.error("settings", detail, "correct that file by hand");
        return None;
    }
    let plugin = check_plugin(report);
    check_settings(report, cwd, &number);
    plugin
}

fn check_plugin(report: &mut Report) -> Option<Plugin> {
    let missing = || format!("{PLUGIN} is not installed");
    let plugin = match claude::plugin().and_then(|plugin| plugin.ok_or_else(missing)) {
        Ok(plugin) => plugin,
        Err(why) => {
            report.error("plugin", why, "relay setup");
            return None;
        }
    };
    let version = &plugin.version;
    // The checkout or copy that the plugin is read from may have been moved or deleted.
    let moved = claude::marketplace().ok().flatten().and_then(|marketplace| marketplace.path);
    if let Some(path) = moved.filter(|path| !path.join(".claude-plugin/marketplace.json").exists()) {
        let detail = format!("{} is gone, and sessions start without the plugin", path.display());
        report.error("marketplace", detail, "relay setup");
    }
    if !plugin.errors.is_empty() {
        let errors = plugin.errors.join("; ");
        report.error("plugin", format!("{PLUGIN} {version} failed to load: {errors}"), "relay setup");
        return Some(plugin);
    }
    match plugin.enabled {
        true => report.ok("plugin", format!("{PLUGIN} {version}, enabled")),
        false => report.error("plugin", format!("{PLUGIN} {version} is disabled"), "relay setup"),
    }
    check_launcher(report, &plugin);
    Some(plugin)
}

fn check_launcher(report: &mut Report, plugin: &Plugin) {
    let program = claude::server_command(plugin).ok().and_then(|words| words.into_iter().next());
    let is_file =
        |path: &String| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 == 0);
    if let Some(path) = program.filter(is_file) {
        return report.error("launcher", format!("{path} is not executable"), &format!("chmod +x '{path}'"));
    }
    let why = match claude::started_program(plugin) {
        Ok(program) if program.starts_with(VERSION) => {
            return report.ok("launcher", format!("starts relay {program}"));
        }
        Ok(program) => format!("the plugin starts relay {program}, but this is {VERSION}"),
        Err(why) => format!("the plugin cannot start relay: {why}"),
    };
    report.error("launcher", why, "run `relay setup`, then restart the sessions");
}

/// What the settings that apply in `cwd` mean for us.
fn check_settings(report: &mut Report, cwd: &Path, version: &[u32]) {
    let settings = Settings::read(cwd);
    if let Some(path) = settings.disables_hooks() {
        let path = path.display();
        let detail = format!(
            "disableAllHooks is set in {path}: messages cannot be confirmed, and idle sessions may miss them"
        );
        report.error("hooks", detail, "remove disableAllHooks from that file");
    }
    let is_auto = settings.mode().map_or(version >= AUTO.as_slice(), |mode| mode == "auto");
    if let Some((rule, path)) = settings.denial() {
        let detail = format!("permissions.deny in {} has {rule}: sessions cannot answer", path.display());
        report.error("permission", detail, "remove that rule");
    } else if settings.is_allowed() {
        report.ok("permission", "sessions use the relay tools without a dialog");
    } else {
        let detail = match is_auto {
            true => format!("{RULE} is not allowed. {AUTO_MODE}"),
            false => "a dialog asks on the first use of a relay tool, also to answer".to_owned(),
        };
        report.warning("permission", detail, "relay setup --allow");
    }
    let others = settings::other_servers(&settings::state(), cwd);
    if !others.is_empty() {
        let detail = format!("MCP server {} starts a second channel in each session", others.join(", "));
        report.error("channels", detail, &format!("claude mcp remove {}", others[0]));
    }
}

/// The data directory and the files in it. Returns whether a hub can use the directory.
fn check_directory(report: &mut Report, dir: &DataDir) -> bool {
    let mode = |path: &Path| fs::symlink_metadata(path).map_or(0, |meta| meta.permissions().mode() & 0o777);
    let (path, choose) = (dir.path().display(), "choose another directory with RELAY_DATA_DIR");
    let close = format!("check the files in it, then chmod 700 {path}");
    match dir.look() {
        Err(why) => {
            let remedy = if why.contains("others can") { &close } else { choose };
            report.error("directory", why, remedy);
            return false;
        }
        Ok(false) => {
            report.ok("directory", format!("{path} does not exist yet; the first session creates it"));
            return true;
        }
        Ok(true) => {}
    }
    let dir_mode = mode(dir.path());
    if dir_mode & 0o077 != 0 {
        report.error("directory", format!("{path} is open to other users (mode {dir_mode:o})"), &close);
        return false;
    }
    match probe(dir) {
        Err(e) => {
            let detail = format!("cannot write {} KiB to {path}: {e}", PROBE >> 10);
            report.error("directory", detail, &format!("free some space, or {choose}"));
        }
        Ok(()) => report.ok("directory", format!("{path}, private to you")),
    }
    if let Some(other) = dir.other_machine() {
        let detail = format!("{path} belongs to {other}; the files of this machine's hub carry its name");
        report.ok("machine", detail);
    }
    let socket = dir.socket_path();
    match fs::symlink_metadata(&socket) {
        Ok(meta) if !meta.file_type().is_socket() => {
            let what = if meta.is_dir() { "a directory" } else { "a file" };
            let detail = format!("{} is {what}, so sessions cannot reach a hub", socket.display());
            report.error("socket", detail, &format!("rm -r '{}'", socket.display()));
        }
        Ok(_) if mode(&socket) & 0o077 != 0 => {
            let detail = format!("other users can connect to it (mode {:o})", mode(&socket));
            report.error("socket", detail, &format!("chmod 600 '{}'", socket.display()));
        }
        _ => {}
    }
    true
}

/// Writes a file and removes it again: a disk or a quota that is full shows only so.
fn probe(dir: &DataDir) -> std::io::Result<()> {
    // The name is one that does not count as content of the directory; see `DataDir`.
    let path = dir.path().join(format!(".probe-doctor-{}", std::process::id()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let written = file.and_then(|mut file| file.write_all(&vec![0; PROBE]));
    let removed = fs::remove_file(&path);
    written.and(removed)
}

/// The hub. Returns its roster, which is empty if no hub runs; `None` if the hub can't be used.
fn check_hub(report: &mut Report, dir: &DataDir, is_usable: bool) -> Option<Roster> {
    let opened = Link::open(dir, Start::No).and_then(|mut link| Ok((request_status(&mut link)?, link)));
    let (status, mut link) = match opened {
        Ok(opened) => opened,
        Err(fault) if fault.code == Code::NotAllowed => {
            report.ok("hub", format!("it runs elsewhere, behind {}", dir.client_socket().display()));
            return Link::open(dir, Start::No).and_then(|mut link| request_roster(&mut link)).ok();
        }
        Err(fault) if !is_usable && fault.code == Code::HubUnreachable => return None, // reported already
        Err(fault) if is_no_hub(dir, &fault) => {
            report.ok(
                "hub",
                match dir.elsewhere() {
                    None => "not running; the first session starts it".to_owned(),
                    Some(_) => fault.message,
                },
            );
            return Some(Roster::default());
        }
        Err(fault) => {
            report.error("hub", fault.message, RESTART);
            return None;
        }
    };
    let (version, up, peers) = (&status.version, span(status.uptime_s), count(status.peers, "peer"));
    match version == VERSION {
        true => report.ok("hub", format!("{version}, process {}, up for {up}, {peers}", status.pid)),
        false => report.error("hub", format!("the hub is relay {version}, but this is {VERSION}"), RESTART),
    }
    match &status.journal.off {
        Some(why) => {
            let remedy = "free some space or repair the directory; the hub tries again every minute";
            report.error("journal", format!("{why}; if the hub dies now, open asks fail"), remedy);
        }
        None => {
            let (size, path) = (status.journal.bytes.div_ceil(1024), dir.journal_path());
            report.ok("journal", format!("{size} KiB, {}", path.display()));
        }
    }
    request_roster(&mut link).ok()
}

/// The sessions that are registered with the hub.
fn check_peers(report: &mut Report, roster: &Roster) {
    for peer in roster.peers.iter().filter(|peer| peer.kind == PeerKind::Session) {
        let (name, others) = (&peer.name, &peer.other_channels);
        if !others.is_empty() {
            let remedy =
                "keep the plugin; remove the other server with `claude mcp remove`, then restart the session";
            let detail = format!("{name} has {} channels: {name}, {}", others.len() + 1, others.join(", "));
            report.error("channels", detail, remedy);
        }
        let Some(path) = peer.push.map(|path| path.name()) else {
            let detail =
                format!("{name}: no path works; it receives messages with its next use of a relay tool");
            let remedy = format!(
                "for Claude Code: restart it, preferably as claude {CHANNEL_FLAG}; another client: relay_wait"
            );
            report.error("session", detail, &remedy);
            continue;
        };
        let confirmed = match peer.confirmed_s {
            Some(s) => format!(", confirmed {} ago", span(s)),
            None => "; no message was confirmed yet".to_owned(),
        };
        report.ok("session", format!("{name}: reached by {path}{confirmed}"));
    }
}

/// The sessions that run and are not registered, each with the reason.
fn check_sessions(report: &mut Report, roster: &Roster, plugin: Option<&Plugin>) {
    let state = settings::state();
    for session in unregistered(roster, claude::running_sessions()) {
        let (reason, remedy) = absence_reason(&session, plugin, &state);
        report.error("session", format!("{} cannot be asked: {reason}", describe(&session)), remedy);
    }
    for (dir, session) in claude::foreign_sessions() {
        let (session, dir) = (describe(&session), dir.display());
        let detail = format!("{session} is not visible from here: it uses the configuration directory {dir}");
        report.warning("session", detail, "set RELAY_DATA_DIR to the same directory for all sessions");
    }
}

fn describe(session: &SessionFile) -> String {
    let name = if session.name.is_empty() { "a session" } else { &session.name };
    format!("{name} (process {}, in {})", session.pid, claude::abbreviate_home(&session.cwd))
}

/// Why a running session is not registered, and the remedy.
fn absence_reason(session: &SessionFile, plugin: Option<&Plugin>, state: &Value) -> (String, &'static str) {
    const RESTART: &str = "run `relay setup`, then restart it";
    let Some(plugin) = plugin else { return ("the plugin is not installed".to_owned(), "relay setup") };
    let (reason, remedy) = if !plugin.errors.is_empty() {
        ("the plugin failed to load", RESTART)
    } else if let Some(path) = Settings::read(Path::new(&session.cwd)).disables_plugin() {
        let reason = format!("the plugin is disabled in {}", path.display());
        return (reason, "enable it there, then restart the session");
    } else if !plugin.enabled {
        ("the plugin is disabled", RESTART)
    } else if settings::is_server_disabled(state, &session.cwd) {
        ("its MCP server is disabled in that project", "enable plugin:relay:relay with /mcp in it")
    } else if claude::parse_time(&plugin.installed_at).is_some_and(|at| session.started_ms < at) {
        ("it started before the plugin was installed", "type /reload-plugins in it, or restart it")
    } else {
        ("its channel is not connected to this hub", "see /mcp in it; its errors are in the MCP log")
    };
    (reason.to_owned(), remedy)
}

fn check_logs(report: &mut Report, dir: &DataDir) {
    let files = fs::read_dir(dir.logs()).into_iter().flatten().flatten();
    let sizes: Vec<u64> = files.filter_map(|file| Some(file.metadata().ok()?.len())).collect();
    let (size, files) = (sizes.iter().sum::<u64>(), count(sizes.len(), "file"));
    let detail = format!("{files}, {} KiB in {}", size.div_ceil(1024), dir.logs().display());
    let remedy = "set RELAY_LOG=warn to log less; the files can be removed at any time";
    match size > LARGE_LOGS {
        true => report.warning("logs", detail, remedy),
        false => report.ok("logs", detail),
    }
}
