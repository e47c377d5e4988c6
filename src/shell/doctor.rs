//! `relay doctor`: diagnoses problems and suggests fixes. It changes nothing.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use super::args::Args;
use super::claude::{self, CHANNEL_FLAG, INSTALL_CLAUDE, PLUGIN, Plugin, SessionFile, claude};
use super::peers::{request_roster, unregistered};
use super::settings::{self, RULE, Settings};
use super::setup::WHY_ALLOW;
use super::status::request_status;
use super::terminal::{out, paint};
use super::{Failure, Outcome, count, open, print};
use crate::datadir::DataDir;
use crate::span::span;
use crate::wire::{Code, PeerKind, Roster, Status};

/// The first version of Claude Code whose sessions have an inbox.
const INBOX: [u32; 3] = [2, 1, 224];
/// The size of all logs, in bytes, from which they are a problem.
const LARGE_LOGS: u64 = 45_000_000;
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
    level: Level,
    detail: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    remedy: String,
}

/// The `--json` output.
#[derive(Default, Serialize)]
struct Report {
    findings: Vec<Finding>,
}

impl Report {
    fn ok(&mut self, check: &'static str, detail: impl Into<String>) {
        self.add(check, Level::Ok, detail, "");
    }

    fn warning(&mut self, check: &'static str, detail: impl Into<String>, remedy: &str) {
        self.add(check, Level::Warning, detail, remedy);
    }

    fn error(&mut self, check: &'static str, detail: impl Into<String>, remedy: &str) {
        self.add(check, Level::Error, detail, remedy);
    }

    fn add(&mut self, check: &'static str, level: Level, detail: impl Into<String>, remedy: &str) {
        self.findings.push(Finding { check, level, detail: detail.into(), remedy: remedy.to_owned() });
    }
}

fn describe_finding(Finding { check, level, detail, remedy }: &Finding) -> String {
    let mark = match level {
        Level::Ok => paint("32", "ok     "),
        Level::Warning => paint("33", "warning"),
        Level::Error => paint("31", "ERROR  "),
    };
    let fix = if remedy.is_empty() { "" } else { &format!("{:20}→ {remedy}\n", "") };
    format!("{mark} {check:11} {detail}\n{fix}")
}

/// Runs `relay doctor`. Exit code 1 means that there is an error.
pub fn doctor(dir: &DataDir, args: &Args) -> Outcome {
    let mut report = Report::default();
    let program = std::env::current_exe().unwrap_or_default();
    report.ok("relay", format!("{VERSION}, {}", program.display()));
    let plugin = check_client(&mut report);
    let is_usable = check_directory(&mut report, dir);
    if let Some(roster) = check_hub(&mut report, dir, is_usable) {
        check_peers(&mut report, &roster);
        check_sessions(&mut report, &roster, &plugin);
    }
    check_logs(&mut report, dir);
    match args.has("json") {
        true => print(&report)?,
        false => out(&report.findings.iter().map(describe_finding).collect::<String>())?,
    }
    let is_healthy = report.findings.iter().all(|finding| finding.level < Level::Error);
    if is_healthy { Ok(()) } else { Err(Failure::Exit(ExitCode::FAILURE)) }
}

/// Claude Code, its settings and the plugin in it. The error is why no session has the plugin.
fn check_client(report: &mut Report) -> Result<Plugin, String> {
    let version = claude(&["--version"]).inspect_err(|why| report.error("claude", why, INSTALL_CLAUDE))?;
    let paths = match claude::parse_version(&version).as_slice() >= INBOX.as_slice() {
        true => "every session can receive messages; no launch flag is needed",
        false => {
            "sessions before 2.1.224 have no inbox; they receive messages by a hook, which needs no launch flag"
        }
    };
    report.ok("claude", format!("{version}: {paths}"));
    if let Some(why) = settings::parse_error() {
        let detail = format!("Claude Code enables no plugin, because its settings are not JSON: {why}");
        report.error("settings", &detail, "correct that file by hand");
        return Err(detail);
    }
    // The checkout or copy that the plugin is read from may have been moved or deleted.
    let moved = claude::marketplace().ok().flatten().and_then(|marketplace| marketplace.path);
    if let Some(path) = moved.filter(|path| !path.join(".claude-plugin/marketplace.json").exists()) {
        let detail = format!("{} is gone, and sessions start without the plugin", path.display());
        report.error("marketplace", detail, "relay setup");
    }
    let plugin = enabled_plugin().inspect_err(|why| report.error("plugin", why, "relay setup"))?;
    report.ok("plugin", format!("{PLUGIN} {}, enabled", plugin.version));
    check_launcher(report, &plugin);
    check_settings(report);
    Ok(plugin)
}

fn enabled_plugin() -> Result<Plugin, String> {
    match claude::plugin()? {
        None => Err("the plugin is not installed".to_owned()),
        Some(plugin) if !plugin.errors.is_empty() => {
            Err(format!("the plugin failed to load: {}", plugin.errors.join("; ")))
        }
        Some(plugin) if !plugin.enabled => Err("the plugin is disabled".to_owned()),
        Some(plugin) => Ok(plugin),
    }
}

fn check_launcher(report: &mut Report, plugin: &Plugin) {
    let why = match claude::started_program(plugin) {
        Ok(program) if program.starts_with(VERSION) => {
            return report.ok("launcher", format!("starts relay {program}"));
        }
        Ok(program) => format!("the plugin starts relay {program}, but this is {VERSION}"),
        Err(why) => format!("the plugin cannot start relay: {why}"),
    };
    report.error("launcher", why, "run `relay setup`, then restart the sessions");
}

/// What the settings that apply in the working directory mean for us.
fn check_settings(report: &mut Report) {
    let settings = Settings::read(&std::env::current_dir().unwrap_or_default());
    if let Some(path) = settings.disables_hooks() {
        let path = path.display();
        let detail = format!(
            "disableAllHooks is set in {path}: messages cannot be confirmed, and idle sessions may miss them"
        );
        report.error("hooks", detail, "remove disableAllHooks from that file");
    }
    if let Some((rule, path)) = settings.denial() {
        let detail = format!("permissions.deny in {} has {rule}: sessions cannot answer", path.display());
        report.error("permission", detail, "remove that rule");
    } else if settings.is_allowed() {
        report.ok("permission", "sessions use the relay tools without a dialog");
    } else {
        let detail = format!("{RULE} is not allowed. {WHY_ALLOW}");
        report.warning("permission", detail, "relay setup --allow");
    }
}

/// The data directory and the files in it. Returns whether a hub can use the directory.
fn check_directory(report: &mut Report, dir: &DataDir) -> bool {
    let path = dir.path().display();
    match dir.look() {
        Err(why) => {
            report.error(
                "directory",
                why,
                "free some space, or choose another directory with RELAY_DATA_DIR",
            );
            return false;
        }
        Ok(false) => {
            report.ok("directory", format!("{path} does not exist yet; the first session creates it"));
        }
        Ok(true) => report.ok("directory", format!("{path}, owned by you")),
    }
    if let Some(other) = dir.other_machine() {
        let detail = format!("{path} belongs to {other}; the files of this machine's hub carry its name");
        report.ok("machine", detail);
    }
    let socket = dir.socket_path();
    if let Some(meta) = fs::symlink_metadata(&socket).ok().filter(|meta| !meta.file_type().is_socket()) {
        let what = if meta.is_dir() { "a directory" } else { "a file" };
        let detail = format!("{} is {what}, so sessions cannot reach a hub", socket.display());
        report.error("socket", detail, &format!("rm -r '{}'", socket.display()));
    }
    true
}

/// The hub. Returns its roster, which is empty if no hub runs; `None` if the hub can't be used, which is no finding of its own
/// where the directory `is_usable` neither.
fn check_hub(report: &mut Report, dir: &DataDir, is_usable: bool) -> Option<Roster> {
    let mut link = match open(dir) {
        Ok(Some(link)) => link,
        Ok(None) => {
            match dir.elsewhere() {
                None => report.ok("hub", "not running; the first session starts it"),
                Some(socket) => {
                    let detail = format!("no hub listens on {}, so there are no peers", socket.display());
                    report.warning("hub", detail, "relay hub --detach, on the machine that it belongs to");
                }
            }
            return Some(Roster::default());
        }
        Err(fault) => {
            if is_usable {
                report.error("hub", fault.message, RESTART);
            }
            return None;
        }
    };
    match request_status(&mut link) {
        Ok(status) => check_status(report, &status),
        Err(fault) if fault.code == Code::NotAllowed => {
            report.ok("hub", format!("it runs elsewhere, behind {}", dir.client_socket().display()));
        }
        Err(fault) => report.error("hub", fault.message, RESTART),
    }
    request_roster(&mut link).ok()
}

fn check_status(report: &mut Report, status: &Status) {
    let (version, up, peers) = (&status.version, span(status.uptime_s), count(status.peers, "peer"));
    match version == VERSION {
        true => report.ok("hub", format!("{version}, process {}, up for {up}, {peers}", status.pid)),
        false => report.error("hub", format!("the hub is relay {version}, but this is {VERSION}"), RESTART),
    }
    if let Some(why) = &status.journal.off {
        let remedy = "free some space or repair the directory; the hub tries again every minute";
        report.error("journal", format!("{why}; if the hub dies now, open asks fail"), remedy);
    }
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
            let remedy =
                format!("allow hooks or the inbox in its settings, or restart it as claude {CHANNEL_FLAG}");
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
fn check_sessions(report: &mut Report, roster: &Roster, plugin: &Result<Plugin, String>) {
    let state = settings::state();
    for session in unregistered(roster, claude::running_sessions()) {
        let (reason, remedy) = match plugin {
            Ok(plugin) => absence_reason(&session, plugin, &state),
            Err(why) => (why.clone(), "run `relay setup`, then restart it"),
        };
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

/// Why a running session is not registered although the plugin is enabled, and the remedy.
fn absence_reason(session: &SessionFile, plugin: &Plugin, state: &Value) -> (String, &'static str) {
    let (reason, remedy) = if let Some(path) = Settings::read(Path::new(&session.cwd)).disables_plugin() {
        let reason = format!("the plugin is disabled in {}", path.display());
        return (reason, "enable it there, then restart the session");
    } else if settings::is_server_disabled(state, &session.cwd) {
        ("its MCP server is disabled in that project", "enable plugin:relay:relay with /mcp in it")
    } else if session.started_before(&plugin.installed_at) {
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
