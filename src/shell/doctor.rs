//! `relay doctor`: diagnoses problems and suggests fixes. It changes nothing.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::args::Args;
use super::claude::{self, CHANNEL_FLAG, INSTALL_CLAUDE, PLUGIN, Plugin, SessionFile, claude};
use super::peers::{is_local, unregistered};
use super::settings::{self, RULE, Settings};
use super::setup::AUTO_MODE;
use super::status::request_status;
use super::terminal::{out, paint};
use super::{Failure, Outcome, count, is_no_hub, print};
use crate::datadir::DataDir;
use crate::link::{Link, Start};
use crate::span::span;
use crate::wire::{Answer, Code, JournalStatus, PeerKind, Roster, ToHub};

/// The first version of Claude Code whose sessions have an inbox.
const INBOX: [u32; 3] = [2, 1, 224];
/// The first version of Claude Code that starts in auto mode.
const AUTO: [u32; 3] = [2, 1, 332];
/// The size of all logs, in bytes, from which they are a problem.
const LARGE_LOGS: u64 = 45_000_000;
/// How much is written to find a full disk, in bytes.
const PROBE: usize = 256 << 10;
const VERSION: &str = env!("CARGO_PKG_VERSION");

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
}

impl Report {
    fn ok(&mut self, check: &'static str, detail: impl Into<String>) -> Result<(), Failure> {
        self.add(check, Level::Ok, detail.into(), None)
    }

    fn warning(
        &mut self,
        check: &'static str,
        detail: impl Into<String>,
        remedy: &str,
    ) -> Result<(), Failure> {
        self.add(check, Level::Warning, detail.into(), Some(remedy.to_owned()))
    }

    fn error(&mut self, check: &'static str, detail: impl Into<String>, remedy: &str) -> Result<(), Failure> {
        self.add(check, Level::Error, detail.into(), Some(remedy.to_owned()))
    }

    fn add(
        &mut self,
        check: &'static str,
        level: Level,
        detail: String,
        remedy: Option<String>,
    ) -> Result<(), Failure> {
        let mark = match level {
            Level::Ok => paint("32", "ok     "),
            Level::Warning => paint("33", "warning"),
            Level::Error => paint("31", "ERROR  "),
        };
        if !self.json {
            out(&format!("{mark} {check:11} {detail}\n"))?;
            if let Some(remedy) = &remedy {
                out(&format!("{:20}→ {remedy}\n", ""))?;
            }
        }
        self.findings.push(Finding { check, ok: level < Level::Error, level, detail, remedy });
        Ok(())
    }
}

/// Runs `relay doctor`. Exit code 1 means that there is an error.
pub fn doctor(dir: &DataDir, args: &Args) -> Outcome {
    let mut report = Report { findings: Vec::new(), json: args.has("json") };
    let program = std::env::current_exe().unwrap_or_default();
    report.ok("relay", format!("{VERSION}, {}", program.display()))?;
    let cwd = std::env::current_dir().unwrap_or_default();
    let plugin = check_client(&mut report, &cwd)?;
    let is_usable = check_directory(&mut report, dir)?;
    if let Some(roster) = check_hub(&mut report, dir, is_usable)? {
        check_peers(&mut report, &roster)?;
        check_sessions(&mut report, &roster, plugin.as_ref())?;
    }
    check_logs(&mut report, dir)?;
    if report.json {
        print(&report)?;
    }
    let is_healthy = report.findings.iter().all(|finding| finding.ok);
    Ok(if is_healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Claude Code, its settings and the plugin in it. Returns the plugin.
fn check_client(report: &mut Report, cwd: &Path) -> Result<Option<Plugin>, Failure> {
    let version = match claude(&["--version"]) {
        Ok(version) => version,
        Err(why) => {
            let why = why.replace(&format!("; {INSTALL_CLAUDE}"), "");
            return report.error("claude", why, INSTALL_CLAUDE).map(|()| None);
        }
    };
    let number = claude::parse_version(&version);
    let paths = match number.as_slice() >= INBOX.as_slice() {
        true => "every session can receive messages, with or without the channel flag",
        false => "sessions before 2.1.224 have no inbox; they receive messages by a hook or the channel flag",
    };
    report.ok("claude", format!("{version}: {paths}"))?;
    if let Some(why) = settings::parse_error() {
        let detail = format!("Claude Code enables no plugin, because its settings are not JSON: {why}");
        return report.error("settings", detail, "correct that file by hand").map(|()| None);
    }
    let plugin = check_plugin(report)?;
    check_settings(report, cwd, &number)?;
    Ok(plugin)
}

fn check_plugin(report: &mut Report) -> Result<Option<Plugin>, Failure> {
    let plugin = match claude::plugin() {
        Ok(Some(plugin)) => plugin,
        Ok(None) => {
            return report
                .error("plugin", format!("{PLUGIN} is not installed"), "relay setup")
                .map(|()| None);
        }
        Err(why) => return report.error("plugin", why, "relay setup").map(|()| None),
    };
    let version = &plugin.version;
    // The checkout or copy that the plugin is read from may have been moved or deleted.
    let moved = claude::marketplace().ok().flatten().and_then(|marketplace| marketplace.path);
    if let Some(path) = moved.filter(|path| !path.join(".claude-plugin/marketplace.json").exists()) {
        let detail = format!("{} is gone, and sessions start without the plugin", path.display());
        report.error("marketplace", detail, "relay setup")?;
    }
    if !plugin.errors.is_empty() {
        let errors = plugin.errors.join("; ");
        report.error("plugin", format!("{PLUGIN} {version} failed to load: {errors}"), "relay setup")?;
        return Ok(Some(plugin));
    }
    match plugin.enabled {
        true => report.ok("plugin", format!("{PLUGIN} {version}, enabled"))?,
        false => report.error("plugin", format!("{PLUGIN} {version} is disabled"), "relay setup")?,
    }
    check_launcher(report, &plugin)?;
    Ok(Some(plugin))
}

fn check_launcher(report: &mut Report, plugin: &Plugin) -> Result<(), Failure> {
    let program = claude::server_command(plugin).ok().and_then(|words| words.into_iter().next());
    let is_file =
        |path: &String| fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 == 0);
    if let Some(path) = program.filter(is_file) {
        return report.error("launcher", format!("{path} is not executable"), &format!("chmod +x '{path}'"));
    }
    let remedy = "run `relay setup`, then restart the sessions";
    match claude::started_program(plugin) {
        Ok(program) if program.starts_with(VERSION) => {
            report.ok("launcher", format!("starts relay {program}"))
        }
        Ok(program) => report.error(
            "launcher",
            format!("the plugin starts relay {program}, but this is {VERSION}"),
            remedy,
        ),
        Err(why) => report.error("launcher", format!("the plugin cannot start relay: {why}"), remedy),
    }
}

/// What the settings that apply in `cwd` mean for us.
fn check_settings(report: &mut Report, cwd: &Path, version: &[u32]) -> Result<(), Failure> {
    let settings = Settings::read(cwd);
    if let Some(path) = settings.disables_hooks() {
        let detail = format!(
            "disableAllHooks is set in {}: messages cannot be confirmed, and idle sessions may miss them",
            path.display()
        );
        report.error("hooks", detail, "remove disableAllHooks from that file")?;
    }
    let is_auto = settings.mode().map_or(version >= AUTO.as_slice(), |mode| mode == "auto");
    let allow = "relay setup --allow";
    if let Some((rule, path)) = settings.denial() {
        let detail = format!("permissions.deny in {} has {rule}: sessions cannot answer", path.display());
        report.error("permission", detail, "remove that rule")?;
    } else if settings.is_allowed() {
        report.ok("permission", "sessions use the relay tools without a dialog")?;
    } else if is_auto {
        report.warning("permission", format!("{RULE} is not allowed. {AUTO_MODE}"), allow)?;
    } else {
        report.warning(
            "permission",
            "a dialog asks on the first use of a relay tool, also to answer",
            allow,
        )?;
    }
    let others = settings::other_servers(&settings::state(), cwd);
    if !others.is_empty() {
        let detail = format!("MCP server {} starts a second channel in each session", others.join(", "));
        report.error("channels", detail, &format!("claude mcp remove {}", others[0]))?;
    }
    Ok(())
}

/// The data directory and the files in it. Returns whether a hub can use the directory.
fn check_directory(report: &mut Report, dir: &DataDir) -> Result<bool, Failure> {
    let mode = |path: &Path| fs::symlink_metadata(path).map_or(0, |meta| meta.permissions().mode() & 0o777);
    let (path, choose) = (dir.path().display(), "choose another directory with RELAY_DATA_DIR");
    match dir.look() {
        Err(why) => {
            let remedy = if why.contains("others can") {
                format!("check the files in it, then chmod 700 {path}")
            } else {
                choose.to_owned()
            };
            return report.error("directory", why, &remedy).map(|()| false);
        }
        Ok(false) => {
            report.ok("directory", format!("{path} does not exist yet; the first session creates it"))?;
            return Ok(true);
        }
        Ok(true) => {}
    }
    let dir_mode = mode(dir.path());
    if dir_mode & 0o077 != 0 {
        let remedy = format!("check the files in it, then chmod 700 {path}");
        report.error("directory", format!("{path} is open to other users (mode {dir_mode:o})"), &remedy)?;
        return Ok(false);
    }
    match probe(dir) {
        Err(e) => {
            let detail = format!("cannot write {} KiB to {path}: {e}", PROBE >> 10);
            report.error(
                "directory",
                detail,
                "free some space, or choose another directory with RELAY_DATA_DIR",
            )?;
        }
        Ok(()) => report.ok("directory", format!("{path}, private to you"))?,
    }
    if let Some(other) = dir.other_machine() {
        let detail = format!("{path} belongs to {other}; the files of this machine's hub carry its name");
        report.ok("machine", detail)?;
    }
    let socket = dir.socket_path();
    match fs::symlink_metadata(&socket) {
        Ok(meta) if !meta.file_type().is_socket() => {
            let what = if meta.is_dir() { "a directory" } else { "a file" };
            let detail = format!("{} is {what}, so sessions cannot reach a hub", socket.display());
            report.error("socket", detail, &format!("rm -r '{}'", socket.display()))?;
        }
        Ok(_) if mode(&socket) & 0o077 != 0 => {
            let detail = format!("other users can connect to it (mode {:o})", mode(&socket));
            report.error("socket", detail, &format!("chmod 600 '{}'", socket.display()))?;
        }
        _ => {}
    }
    Ok(true)
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
fn check_hub(report: &mut Report, dir: &DataDir, is_usable: bool) -> Result<Option<Roster>, Failure> {
    let restart = "relay stop; the sessions start a new hub at once";
    let mut link = match Link::open(dir, Start::No) {
        Ok(link) => link,
        Err(fault) if !is_usable && fault.code == Code::HubUnreachable => return Ok(None), // reported already
        Err(fault) if is_no_hub(dir, &fault) => {
            report.ok("hub", "not running; the first session starts it")?;
            return Ok(Some(Roster::default()));
        }
        Err(fault) => return report.error("hub", fault.message, restart).map(|()| None),
    };
    let status = match request_status(&mut link) {
        Err(fault) if fault.code == Code::NotAllowed => {
            report.ok("hub", format!("it runs elsewhere, behind {}", dir.client_socket().display()))?;
            return Ok(link.call(|id| ToHub::Peers { id }).ok().and_then(roster));
        }
        Err(fault) => return report.error("hub", fault.message, restart).map(|()| None),
        Ok(status) => status,
    };
    let (version, up, peers) = (&status.version, span(status.uptime_s), count(status.peers, "peer"));
    match version == VERSION {
        true => report.ok("hub", format!("{version}, process {}, up for {up}, {peers}", status.pid))?,
        false => {
            report.error("hub", format!("the hub is relay {version}, but this is {VERSION}"), restart)?
        }
    }
    check_journal(report, dir, &status.journal)?;
    Ok(link.call(|id| ToHub::Peers { id }).ok().and_then(roster))
}

fn roster(answer: Answer) -> Option<Roster> {
    match answer {
        Answer::Peers(roster) => Some(roster),
        _ => None,
    }
}

/// The journal of the running hub.
fn check_journal(report: &mut Report, dir: &DataDir, journal: &JournalStatus) -> Result<(), Failure> {
    let remedy = "free some space or repair the directory; the hub tries again every minute";
    match &journal.off {
        Some(why) => report.error("journal", format!("{why}; if the hub dies now, open asks fail"), remedy),
        None => {
            let path = dir.journal_path();
            report.ok("journal", format!("{} KiB, {}", journal.bytes.div_ceil(1024), path.display()))
        }
    }
}

/// The sessions that are registered with the hub.
fn check_peers(report: &mut Report, roster: &Roster) -> Result<(), Failure> {
    let mut processes: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for peer in roster.peers.iter().filter(|peer| peer.kind == PeerKind::Session) {
        if is_local(peer) {
            processes.entry(peer.pid).or_default().push(&peer.name);
        }
        let name = &peer.name;
        match (peer.push.map(|path| path.name()), peer.confirmed_s) {
            (Some(path), Some(s)) => {
                report.ok("session", format!("{name}: reached by {path}, confirmed {} ago", span(s)))?;
            }
            (Some(path), None) => {
                report.ok("session", format!("{name}: reached by {path}; no message was confirmed yet"))?;
            }
            (None, _) => {
                let detail =
                    format!("{name}: no path works; it receives messages with its next use of a relay tool");
                report.error(
                    "session",
                    detail,
                    &format!("for Claude Code: restart it, preferably as claude {CHANNEL_FLAG}; another client: relay_wait"),
                )?;
            }
        }
    }
    for (pid, names) in processes.into_iter().filter(|(_, names)| names.len() > 1) {
        let detail =
            format!("the session with process {pid} has {} channels: {}", names.len(), names.join(", "));
        let remedy =
            "keep the plugin; remove the other server with `claude mcp remove`, then restart the session";
        report.error("channels", detail, remedy)?;
    }
    Ok(())
}

/// The sessions that run and are not registered, each with the reason.
fn check_sessions(report: &mut Report, roster: &Roster, plugin: Option<&Plugin>) -> Result<(), Failure> {
    let state = settings::state();
    for session in unregistered(roster, claude::running_sessions()) {
        let (reason, remedy) = absence_reason(&session, plugin, &state);
        report.error("session", format!("{} cannot be asked: {reason}", describe(&session)), remedy)?;
    }
    for (dir, session) in claude::foreign_sessions() {
        let detail = format!(
            "{} is not visible from here: it uses the configuration directory {}",
            describe(&session),
            dir.display()
        );
        report.warning("session", detail, "set RELAY_DATA_DIR to the same directory for all sessions")?;
    }
    Ok(())
}

fn describe(session: &SessionFile) -> String {
    let name = if session.name.is_empty() { "a session" } else { &session.name };
    format!("{name} (process {}, in {})", session.pid, claude::abbreviate_home(&session.cwd))
}

/// Why a running session is not registered, and the remedy.
fn absence_reason(
    session: &SessionFile,
    plugin: Option<&Plugin>,
    state: &serde_json::Value,
) -> (String, &'static str) {
    let reload = "type /reload-plugins in it, or restart it";
    let Some(plugin) = plugin else {
        return ("the plugin is not installed".to_owned(), "relay setup");
    };
    let disabled =
        Settings::read(Path::new(&session.cwd)).disables_plugin().map(|path| path.display().to_string());
    if !plugin.errors.is_empty() {
        ("the plugin failed to load".to_owned(), "run `relay setup`, then restart it")
    } else if let Some(path) = disabled {
        (format!("the plugin is disabled in {path}"), "enable it there, then restart the session")
    } else if !plugin.enabled {
        ("the plugin is disabled".to_owned(), "run `relay setup`, then restart it")
    } else if settings::is_server_disabled(state, &session.cwd) {
        ("its MCP server is disabled in that project".to_owned(), "enable plugin:relay:relay with /mcp in it")
    } else if claude::parse_time(&plugin.installed_at).is_some_and(|installed| session.started_ms < installed)
    {
        ("it started before the plugin was installed".to_owned(), reload)
    } else {
        (
            "its channel is not connected to this hub".to_owned(),
            "see /mcp in it; its errors are in the MCP log",
        )
    }
}

fn check_logs(report: &mut Report, dir: &DataDir) -> Result<(), Failure> {
    let files = fs::read_dir(dir.logs()).into_iter().flatten().flatten();
    let sizes: Vec<u64> = files.filter_map(|file| Some(file.metadata().ok()?.len())).collect();
    let size = sizes.iter().sum::<u64>();
    let files = count(sizes.len(), "file");
    let detail = format!("{files}, {} KiB in {}", size.div_ceil(1024), dir.logs().display());
    match size > LARGE_LOGS {
        true => report.warning(
            "logs",
            detail,
            "set RELAY_LOG=warn to log less; the files can be removed at any time",
        ),
        false => report.ok("logs", detail),
    }
}
