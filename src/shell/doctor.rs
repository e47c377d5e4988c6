//! `relay doctor`: what is wrong, and how to mend it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::Args;
use super::setup::{self, FLAG, PLUGIN, allowed, claude, launched};
use super::status::ask_status;
use super::terminal::{out, paint};
use super::{Outcome, count, no_hub, print};
use crate::datadir::DataDir;
use crate::link::{Link, Start};
use crate::span::span;
use crate::wire::{Answer, Code, JournalStatus, PeerKind, ToHub};

/// The first Claude Code in which a session takes messages at its inbox.
const INBOX: [u32; 3] = [2, 1, 224];
/// From this size on, the logs of a week are worth a word.
const BIG_LOG: u64 = 45_000_000;
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The findings so far, each told as it is made, unless they are wanted as JSON.
struct Findings {
    json: bool,
    healthy: bool,
    all: Vec<Value>,
}

impl Findings {
    /// How a thing is, or what is wrong with it; then the remedy is told too.
    fn add(&mut self, check: &str, how: Result<String, String>, remedy: &str) {
        let ok = how.is_ok();
        let detail = how.unwrap_or_else(|wrong| wrong);
        let mark = if ok { paint("32", "ok   ") } else { paint("31", "WRONG") };
        let mut finding = json!({"check": check, "ok": ok, "detail": detail});
        let mut text = format!("{mark} {check:11} {detail}\n");
        if !ok {
            finding["remedy"] = remedy.into();
            text += &format!("{:18}→ {remedy}\n", "");
        }
        if !self.json {
            out(&text);
        }
        self.healthy &= ok;
        self.all.push(finding);
    }
}

/// `relay doctor`.
pub fn doctor(dir: &DataDir, args: &Args) -> Outcome {
    let mut found = Findings { json: args.has("json"), healthy: true, all: Vec::new() };
    let exe = std::env::current_exe().unwrap_or_default();
    found.add("relay", Ok(format!("{VERSION}, {}", exe.display())), "");
    client(&mut found);
    let usable = directory(&mut found, dir);
    hub(&mut found, dir, usable);
    let files = fs::read_dir(dir.logs()).into_iter().flatten().flatten();
    let sizes: Vec<u64> = files.filter_map(|file| Some(file.metadata().ok()?.len())).collect();
    let size = sizes.iter().sum::<u64>();
    let logs =
        format!("{}, {} KiB in {}", count(sizes.len(), "file"), size.div_ceil(1024), dir.logs().display());
    let logs = if size > BIG_LOG { Err(logs) } else { Ok(logs) };
    found.add("logs", logs, "RELAY_LOG=warn writes less; the files may be removed at any time");
    if found.json {
        print(&json!({"findings": found.all}));
    }
    Ok(if found.healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Claude Code itself, and the plugin in it.
fn client(found: &mut Findings) {
    let said = claude(&["--version"]);
    let here = said.is_ok();
    let said = said.map(|said| {
        let number = said.split_whitespace().next().unwrap_or_default();
        let parts: Vec<u32> = number.split('.').map_while(|n| n.parse().ok()).collect();
        let ways = match parts.as_slice() >= INBOX.as_slice() {
            true => "every session takes messages, with and without the channel flag",
            false => "before 2.1.224 sessions have no inbox; messages come by a waiting hook, or by the channel flag",
        };
        format!("{said}: {ways}")
    });
    let said = said.map_err(|why| why.replace(&format!("; {}", setup::NO_CLAUDE), ""));
    found.add("claude", said, setup::NO_CLAUDE);
    if !here {
        return;
    }
    if let Some(why) = setup::broken() {
        let how = Err(format!("this is not JSON, so Claude Code enables no plugin: {why}"));
        return found.add("settings", how, "mend that file by hand");
    }
    let plugin = setup::plugin().and_then(|plugin| plugin.ok_or(format!("{PLUGIN} is not installed")));
    let plugin = match plugin {
        Ok(plugin) => plugin,
        Err(why) => return found.add("plugin", Err(why), "relay setup"),
    };
    let version = plugin["version"].as_str().unwrap_or_default();
    let enabled = match plugin["enabled"] == true {
        true => Ok(format!("{PLUGIN} {version}, enabled")),
        false => Err(format!("{PLUGIN} {version} is disabled")),
    };
    found.add("plugin", enabled, "relay setup");
    let launched = match launched(&plugin) {
        Ok(said) if said.starts_with(VERSION) => Ok(format!("starts relay {said}")),
        Ok(said) => Err(format!("the plugin starts relay {said}, and this is {VERSION}")),
        Err(why) => Err(format!("the plugin can't start relay: {why}")),
    };
    let remedy = "put this relay on PATH or set RELAY_BIN to it, then restart the sessions";
    found.add("launcher", launched, remedy);
    let permission = match allowed() {
        true => "sessions use the relay's tools without a dialog",
        false => "sessions ask before they use the relay's tools, also to answer (see `relay setup --allow`)",
    };
    found.add("permission", Ok(permission.to_owned()), "");
}

/// Whether it can be used.
fn directory(found: &mut Findings, dir: &DataDir) -> bool {
    let mode = |path: &Path| fs::symlink_metadata(path).map_or(0, |m| m.permissions().mode() & 0o777);
    let (at, socket) = (dir.path().display(), dir.socket_path());
    let how = dir.look().and_then(|there| match mode(dir.path()) {
        _ if !there => Ok(format!("{at} is not there yet; the first session makes it")),
        mode if mode & 0o077 != 0 => Err(format!("others can look into {at} (mode {mode:o})")),
        _ => dir.prepare().map(|()| format!("{at}, private")),
    });
    let usable = how.is_ok();
    let remedy = match &how {
        Err(why) if why.contains("others can") => format!("chmod 700 {at}, after a look at what is in it"),
        _ => "choose a directory of yours with RELAY_DATA_DIR".to_owned(),
    };
    found.add("directory", how, &remedy);
    let mode = mode(&socket);
    if mode & 0o077 != 0 {
        let how = Err(format!("others can use it (mode {mode:o})"));
        found.add("socket", how, &format!("chmod 600 {}", socket.display()));
    }
    usable
}

/// The hub, and through it the sessions.
fn hub(found: &mut Findings, dir: &DataDir, usable: bool) {
    let mut link = Link::open(dir, Start::No);
    let how = match link.as_mut().map_err(|fault| fault.clone()).and_then(ask_status) {
        Ok(s) if s.version != VERSION => Err(format!("relay {} runs it, and this is {VERSION}", s.version)),
        Ok(s) => {
            let up = span(s.uptime_s);
            Ok(format!("{}, process {}, up for {up}, {}", s.version, s.pid, count(s.peers, "peer")))
        }
        Err(fault) if !usable && fault.code == Code::HubUnreachable => return, // as the directory has told
        Err(fault) if no_hub(dir, &fault) => Ok("none runs; the first session starts it".to_owned()),
        Err(fault) => Err(fault.message),
    };
    found.add("hub", how, "relay stop; the sessions start a new one at once");
    if let Some(other) = dir.other_machine() {
        let how = format!(
            "{} belongs to {other}; the files of this machine's hub carry its name",
            dir.path().display()
        );
        found.add("machine", Ok(how), "");
    }
    if let Ok(JournalStatus { bytes, off }) =
        link.as_mut().map_err(|_| ()).and_then(|l| ask_status(l).map_err(|_| ())).map(|s| s.journal)
    {
        let how = match off {
            Some(why) => Err(format!("{why}; if the hub dies now, open asks fail")),
            None => Ok(format!("{} KiB, {}", bytes.div_ceil(1024), dir.journal_path().display())),
        };
        found.add("journal", how, "make room or mend the directory; the hub tries again every minute");
    }
    let Ok(Ok(Answer::Peers(roster))) = link.map(|mut link| link.call(|id| ToHub::Peers { id })) else {
        return;
    };
    for peer in roster.peers.iter().filter(|p| p.kind == PeerKind::Session) {
        let name = &peer.name;
        let how = match (peer.push.map(|p| p.name()), peer.confirmed_s) {
            (Some(path), Some(s)) => Ok(format!("{name}: reached by {path}, last confirmed {} ago", span(s))),
            (Some(path), None) => {
                Ok(format!("{name}: would be reached by {path}; no push was confirmed yet"))
            }
            (None, _) => {
                Err(format!("{name}: every way in failed; its next use of a relay tool brings its messages"))
            }
        };
        found.add("session", how, &format!("restart it, best as claude {FLAG}"));
    }
}
