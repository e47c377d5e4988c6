//! `relay doctor`: what is wrong, and how to mend it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use crate::cli::Args;
use crate::datadir::DataDir;
use crate::json::{self, name, put, record, take};
use crate::link::{Link, Start};
use crate::look::ask_status;
use crate::setup::{FLAG, PLUGIN, allowed, claude, launched, listed};
use crate::shell::{Outcome, is_there, print, span};
use crate::term::{out, paint};
use crate::wire::{Answer, Code, PeerKind, ToHub};

/// The first Claude Code in which a session takes messages at its inbox.
const INBOX: [u32; 3] = [2, 1, 224];
/// From this size on, the logs of a week are worth a word.
const BIG_LOG: u64 = 45_000_000;
const VERSION: &str = env!("CARGO_PKG_VERSION");

record! {
    /// How one thing is.
    struct Finding {
        check: String,
        ok: bool,
        detail: String,
        remedy: Option<String> = None,
    }
}

/// The findings so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, check: &'static str, detail: impl Into<String>) {
        self.0.push(Finding { check: check.to_owned(), ok: true, detail: detail.into(), remedy: None });
    }

    fn wrong(&mut self, check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Finding {
            check: check.to_owned(),
            ok: false,
            detail: detail.into(),
            remedy: Some(remedy.into()),
        });
    }
}

/// `relay doctor`.
pub fn doctor(dir: &DataDir, args: &Args) -> Outcome {
    let mut found = Findings::default();
    let exe = std::env::current_exe().map(|p| p.display().to_string()).unwrap_or_default();
    found.good("relay", format!("{VERSION}, {exe}"));
    if client(&mut found) {
        plugin(&mut found);
    }
    directory(&mut found, dir);
    hub(&mut found, dir);
    logs(&mut found, dir);
    let Findings(findings) = found;
    let healthy = findings.iter().all(|f| f.ok);
    if args.has("json") {
        let findings: Vec<_> = findings.iter().map(json::fields).collect();
        print(&json!({"findings": findings}));
    } else {
        for Finding { check, ok, detail, remedy } in &findings {
            let mark = if *ok { paint("32", "ok   ") } else { paint("31", "WRONG") };
            let remedy = remedy.as_ref().map(|r| format!("{:18}→ {r}\n", "")).unwrap_or_default();
            out(&format!("{mark} {check:11} {detail}\n{remedy}"));
        }
    }
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Claude Code itself; whether it is there.
fn client(found: &mut Findings) -> bool {
    let said = match claude(&["--version"]) {
        Ok(said) => said,
        Err(why) => {
            found.wrong("claude", why, "install Claude Code, or put `claude` on PATH");
            return false;
        }
    };
    let number = said.split_whitespace().next().unwrap_or_default();
    let parts: Vec<u32> = number.split('.').map_while(|n| n.parse().ok()).collect();
    if parts.as_slice() >= &INBOX[..] {
        found.good(
            "claude",
            format!("{said}: every session takes messages, with and without the channel flag"),
        );
    } else {
        found.good(
            "claude",
            format!("{said}: before 2.1.224 sessions have no inbox; messages come by a waiting hook, or by the channel: claude {FLAG}"),
        );
    }
    true
}

/// The plugin, and the binary that it starts.
fn plugin(found: &mut Findings) {
    let plugin = match listed(&["plugin", "list", "--json"], "id", PLUGIN) {
        Ok(Some(plugin)) => plugin,
        Ok(None) => return found.wrong("plugin", format!("{PLUGIN} is not installed"), "relay setup"),
        Err(why) => return found.wrong("plugin", why, "update Claude Code, then `relay setup`"),
    };
    let version = plugin["version"].as_str().unwrap_or_default();
    match plugin["enabled"] == true {
        true => found.good("plugin", format!("{PLUGIN} {version}, enabled")),
        false => found.wrong("plugin", format!("{PLUGIN} {version} is disabled"), "relay setup"),
    }
    match launched(&plugin) {
        Ok(said) if said.starts_with(VERSION) => found.good("launcher", format!("starts relay {said}")),
        Ok(said) => found.wrong(
            "launcher",
            format!("the plugin starts relay {said}, and this is {VERSION}"),
            "update that one, or set RELAY_BIN to the one you want, then restart the sessions",
        ),
        Err(why) => found.wrong(
            "launcher",
            format!("the plugin can't start relay: {why}"),
            "put relay on PATH or set RELAY_BIN to it, then restart the sessions",
        ),
    }
    match allowed() {
        Some(true) => found.good("permission", "sessions use the relay's tools without a dialog"),
        _ => found.good(
            "permission",
            "sessions ask their user before they use the relay's tools, also to answer (`relay setup --allow` changes that)",
        ),
    }
}

fn directory(found: &mut Findings, dir: &DataDir) {
    let at = dir.path().display();
    let mode = |path: &Path| fs::symlink_metadata(path).map(|m| m.permissions().mode() & 0o777);
    match mode(dir.path()) {
        Err(_) => {
            return found.good("directory", format!("{at} is not there yet; the first session makes it"));
        }
        Ok(mode) if mode & 0o077 != 0 => {
            return found.wrong(
                "directory",
                format!("others can look into {at} (mode {mode:o})"),
                format!("chmod 700 {at}"),
            );
        }
        Ok(_) => {}
    }
    match dir.prepare() {
        Ok(()) => found.good("directory", format!("{at}, private")),
        Err(why) => found.wrong("directory", why, "mend that, or choose another with RELAY_DATA_DIR"),
    }
    if let Ok(mode) = mode(&dir.socket_path())
        && mode & 0o077 != 0
    {
        let socket = dir.socket_path();
        found.wrong(
            "socket",
            format!("others can use it (mode {mode:o})"),
            format!("chmod 600 {}", socket.display()),
        );
    }
}

/// The hub, and through it the sessions.
fn hub(found: &mut Findings, dir: &DataDir) {
    let stop = "relay stop; the sessions start a new one at once";
    let mut link = match Link::open(dir, Start::No) {
        Ok(link) => link,
        Err(fault) if fault.code == Code::HubUnreachable && !is_there(dir) => {
            return found.good("hub", "none runs; the first session starts it");
        }
        Err(fault) => return found.wrong("hub", fault.message, stop),
    };
    match ask_status(&mut link) {
        Ok(s) if s.version != VERSION => {
            found.wrong("hub", format!("relay {} runs it, and this is {VERSION}", s.version), stop);
        }
        Ok(s) => found.good(
            "hub",
            format!("{}, process {}, up for {}, {} peers", s.version, s.pid, span(s.uptime_s), s.peers),
        ),
        Err(fault) => return found.wrong("hub", fault.message, stop),
    }
    let Ok(Answer::Peers(roster)) = link.call(|id| ToHub::Peers { id }) else { return };
    for peer in roster.peers.iter().filter(|p| p.kind == PeerKind::Session) {
        let name = &peer.name;
        match (peer.push, peer.confirmed) {
            (Some(path), true) => {
                found.good("session", format!("{name}: reached by {}, confirmed", path.name()))
            }
            (Some(path), false) => found.good(
                "session",
                format!("{name}: would be reached by {}; nothing was pushed and confirmed yet", path.name()),
            ),
            (None, _) => found.wrong(
                "session",
                format!(
                    "{name}: every way into it failed; it gets its messages at its next use of a relay tool"
                ),
                format!("restart it, best as claude {FLAG}"),
            ),
        }
    }
}

fn logs(found: &mut Findings, dir: &DataDir) {
    let files = fs::read_dir(dir.logs()).into_iter().flatten().flatten();
    let (count, size) =
        files.filter_map(|f| f.metadata().ok()).fold((0, 0), |(n, sum), m| (n + 1, sum + m.len()));
    let detail = format!("{count} files, {} KiB in {}", size.div_ceil(1024), dir.logs().display());
    match size > BIG_LOG {
        true => {
            found.wrong("logs", detail, "RELAY_LOG=warn writes less; the files may be removed at any time")
        }
        false => found.good("logs", detail),
    }
}
