//! `relay doctor`: diagnoses problems and suggests fixes. It changes nothing.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::args::Args;
use super::claude::{self, INSTALL_CLAUDE, Plugin, claude};
use super::peers::{roster, unregistered};
use super::settings::{self, RULE, Settings};
use super::setup::WHY_ALLOW;
use super::terminal::paint;
use super::{Failure, Outcome, request, show};
use crate::connection::no_hub;
use crate::datadir::DataDir;
use crate::fence::clean;
use crate::span::span;
use crate::wire::{Answer, Code, PeerKind, Roster, Status, ToHub};

/// What the versions of Claude Code support.
const SUPPORT: &str = "sessions from 2.1.224 on have an inbox, earlier ones receive messages by a hook";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// How much is written to find a full disk, in bytes.
const ROOM: usize = 256 << 10;
/// What to do about a plugin that does not work.
const SETUP: &str = "run `relay setup`, then restart the sessions";
/// What to do about a hub that can't be used.
const RESTART: &str = "relay stop; the sessions start a new hub at once";
/// What to do about a hub that does not run, and that no session here can start.
const START_ELSEWHERE: &str = "relay hub --detach, on the machine that it belongs to";

/// The severity of a finding.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
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
    /// Empty if nothing is wrong.
    remedy: String,
}

/// The `--json` output.
#[derive(Default, Serialize)]
struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// Adds the result of a check: what was found, or what is wrong. The remedy is for the latter.
    fn add(&mut self, check: &'static str, result: Result<String, String>, remedy: &str) {
        match result {
            Ok(detail) => self.push(Level::Ok, check, detail, ""),
            Err(detail) => self.push(Level::Error, check, detail, remedy),
        }
    }

    fn push(&mut self, level: Level, check: &'static str, detail: String, remedy: &str) {
        self.findings.push(Finding { check, level, detail, remedy: remedy.to_owned() });
    }
}

fn describe_finding(Finding { check, level, detail, remedy }: &Finding) -> String {
    let mark = match level {
        Level::Ok => paint("32", "ok     "),
        Level::Warning => paint("33", "warning"),
        Level::Error => paint("31", "ERROR  "),
    };
    let fix = if remedy.is_empty() { "" } else { &format!("{:20}→ {remedy}\n", "") };
    format!("{mark} {check:11} {}\n{fix}", clean(detail)) // it quotes directories and names
}

/// Runs `relay doctor`. Exit code 1 means that there is an error.
pub fn doctor(dir: &DataDir, args: &Args) -> Outcome {
    let mut report = Report::default();
    let program = std::env::current_exe().unwrap_or_default();
    report.add("relay", Ok(format!("{VERSION}, {}", program.display())), "");
    let version = claude(&["--version"]).map(|version| format!("{version}; {SUPPORT}"));
    report.add("claude", version, INSTALL_CLAUDE);
    let plugin = enabled_plugin();
    report.add("plugin", plugin.as_ref().map_err(String::clone).and_then(check_launcher), SETUP);
    check_settings(&mut report);
    if (check_directory(&mut report, dir) || dir.is_claimed())
        && let Some(roster) = check_hub(&mut report, dir)
    {
        check_peers(&mut report, &roster);
        check_sessions(&mut report, &roster, &plugin);
    }
    show(args, &report, |report| report.findings.iter().map(describe_finding).collect())?;
    match report.findings.iter().any(|finding| finding.level == Level::Error) {
        true => Err(Failure::Exit(ExitCode::FAILURE)),
        false => Ok(()),
    }
}

/// The plugin; the error is why no session has it.
fn enabled_plugin() -> Result<Plugin, String> {
    let plugin = claude::plugin()?.ok_or("the plugin is not installed")?;
    match plugin.errors.is_empty() {
        false => Err(format!("the plugin failed to load: {}", plugin.errors.join("; "))),
        true if !plugin.enabled => Err("the plugin is disabled".to_owned()),
        true => Ok(plugin),
    }
}

fn check_launcher(plugin: &Plugin) -> Result<String, String> {
    match claude::started_program(plugin) {
        Ok(program) if program.starts_with(VERSION) => Ok(format!("enabled; starts relay {program}")),
        Ok(program) => Err(format!("the plugin starts relay {program}, but this is {VERSION}")),
        Err(why) => Err(format!("the plugin cannot start relay: {why}")),
    }
}

/// What the settings that apply in the working directory mean for us.
fn check_settings(report: &mut Report) {
    let settings = Settings::read(&std::env::current_dir().unwrap_or_default());
    if let Some(path) = settings.disables_hooks() {
        let why = format!("disableAllHooks in {}: idle sessions may miss messages", path.display());
        report.add("hooks", Err(why), "remove it from that file");
    }
    if let Some((rule, path)) = settings.denial() {
        let why = format!("permissions.deny in {} has {rule}: sessions cannot answer", path.display());
        report.add("permission", Err(why), "remove that rule");
    } else if settings.is_allowed() {
        report.add("permission", Ok("sessions use the relay tools without a dialog".to_owned()), "");
    } else {
        let detail = format!("{RULE} is not allowed. {WHY_ALLOW}");
        report.push(Level::Warning, "permission", detail, "relay setup --allow");
    }
}

/// The data directory and the files in it. Returns whether a hub can use the directory.
fn check_directory(report: &mut Report, dir: &DataDir) -> bool {
    let path = dir.path().display();
    let logs = fs::read_dir(dir.logs()).into_iter().flatten().flatten();
    let logs: u64 = logs.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    let usable = dir.look(ROOM).map(|()| format!("{path}, owned by you; {} KiB of logs", logs / 1024));
    let is_usable = usable.is_ok();
    report.add("directory", usable, "repair that directory, or set RELAY_DATA_DIR to another one");
    let socket = dir.socket_path();
    if fs::symlink_metadata(&socket).is_ok_and(|meta| !meta.file_type().is_socket()) {
        let socket = socket.display();
        let why = format!("{socket} is in the socket's place");
        report.add("socket", Err(why), &format!("rm -r '{socket}'"));
    }
    is_usable
}

/// The hub. Returns its roster, which is empty if no hub runs; `None` if the hub can't be used.
fn check_hub(report: &mut Report, dir: &DataDir) -> Option<Roster> {
    let remedy = if dir.elsewhere().is_some() { START_ELSEWHERE } else { RESTART };
    // First, so that a hub that hangs is waited for only once.
    let roster = roster(dir).map_err(|fault| report.add("hub", Err(fault.message), remedy)).ok()?;
    let found = match request(dir, |id| ToHub::Status { id }) {
        Ok(Some(Answer::Status(Status { version, pid, uptime_s, peers, journal, .. }))) => {
            if let Some(why) = journal.off {
                let remedy = "free some space or repair the directory; the hub tries again every minute";
                report.add("journal", Err(format!("{why}; if the hub dies now, open asks fail")), remedy);
            }
            let detail = format!("{version}, process {pid}, up for {}, peers: {peers}", span(uptime_s));
            if version == VERSION { Ok(detail) } else { Err(format!("{detail}, but this is {VERSION}")) }
        }
        Ok(_) => Ok(no_hub(dir).message),
        Err(fault) if fault.code == Code::NotAllowed => {
            Ok(format!("it runs elsewhere, behind {}", dir.client_socket().display()))
        }
        Err(fault) => Err(fault.message),
    };
    report.add("hub", found, remedy);
    Some(roster)
}

/// The sessions that are registered with the hub.
fn check_peers(report: &mut Report, roster: &Roster) {
    for peer in roster.peers.iter().filter(|peer| peer.kind == PeerKind::Session) {
        let (name, others) = (&peer.name, &peer.other_channels);
        if !others.is_empty() {
            let why = format!("{name} has {} channels: {name}, {}", others.len() + 1, others.join(", "));
            report.add("channels", Err(why), "remove the server beside the plugin with `claude mcp remove`");
        }
        let confirmed = peer.confirmed_s.map(|s| format!("confirmed {} ago", span(s)));
        let confirmed = confirmed.unwrap_or_else(|| "no message was confirmed yet".to_owned());
        let reached = match peer.push {
            Some(path) => Ok(format!("{name}: reached by {}, {confirmed}", path.name())),
            None => Err(format!("{name}: reached only when it uses a relay tool")),
        };
        let remedy = "allow hooks or the inbox in its settings, or start it with the channel flag";
        report.add("session", reached, remedy);
    }
}

/// The sessions that run and are not registered, each with the reason.
fn check_sessions(report: &mut Report, roster: &Roster, plugin: &Result<Plugin, String>) {
    for session in unregistered(roster) {
        let (reason, remedy) = match plugin {
            Err(why) => (why.as_str(), SETUP),
            Ok(_) if Settings::read(Path::new(&session.cwd)).disables_plugin() => {
                ("the plugin is disabled in its settings", "enable it with /plugin in it")
            }
            Ok(_) if settings::is_server_disabled(&session.cwd) => {
                ("its MCP server is disabled in that project", "enable plugin:relay:relay with /mcp in it")
            }
            Ok(plugin) if session.started_before(&plugin.installed_at) => {
                ("it started before the plugin was installed", "type /reload-plugins in it, or restart it")
            }
            Ok(_) => ("its channel is not connected to this hub", "see /mcp in it"),
        };
        report.add("session", Err(format!("{session} cannot be asked: {reason}")), remedy);
    }
    for dir in claude::foreign_config_dirs() {
        for session in claude::running_sessions(&dir) {
            let dir = dir.display();
            let detail = format!("{session} is not visible from here: its configuration directory is {dir}");
            let remedy = "set RELAY_DATA_DIR to the same directory for all sessions";
            report.push(Level::Warning, "session", detail, remedy);
        }
    }
}
