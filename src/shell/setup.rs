//! `relay setup`: puts the plugin into Claude Code, by Claude Code's own commands, and one rule into its settings.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::args::Args;
use super::terminal::{err, out};
use super::{Outcome, bad, ended};
use crate::datadir::config_dir;
use crate::fence::clean;

const MARKETPLACE: &str = "claude-relay";
pub const PLUGIN: &str = "relay@claude-relay";
/// What lets sessions use the five tools without a dialog.
const RULE: &str = "mcp__plugin_relay_relay__*";
const QUOTED: &str = "\"mcp__plugin_relay_relay__*\"";
/// The flag for the push path `channel`.
pub const FLAG: &str = "--dangerously-load-development-channels plugin:relay@claude-relay";
/// What to do where there is no `claude`.
pub const NO_CLAUDE: &str = "Claude Code must be on PATH (npm install -g @anthropic-ai/claude-code)";
/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(60);

/// `relay setup`.
pub fn setup(args: &Args) -> Outcome {
    if args.has("allow") && args.has("no-allow") {
        return bad("--allow and --no-allow at once");
    }
    ended("setup", if args.has("remove") { remove() } else { install(args) })
}

fn install(args: &Args) -> Result<(), String> {
    step("Claude Code", &claude(&["--version"])?);
    let source = match args.get("from") {
        Some(dir) => Some(marketplace_at(dir.as_ref()).ok_or(format!("no marketplace is in {dir}"))?),
        None => find_marketplace(),
    };
    let known = marketplace()?;
    if known.as_ref().is_some_and(|k| source.as_ref().is_none_or(|s| k["path"].as_str() == s.to_str())) {
        step("marketplace", "is known already");
    } else {
        let source = source.ok_or("no checkout or release around here; name it with --from DIR")?;
        if known.is_some() {
            step("marketplace", &claude(&["plugin", "marketplace", "remove", MARKETPLACE])?);
        }
        step("marketplace", &claude(&["plugin", "marketplace", "add", &source.to_string_lossy()])?);
    }
    if plugin()?.is_none() {
        step("plugin", &claude(&["plugin", "install", PLUGIN])?);
    }
    let plugin = plugin()?.ok_or("Claude Code says it installed the plugin, but does not list it")?;
    match plugin["enabled"] == true {
        true => step("plugin", "is installed and enabled"),
        false => step("plugin", &claude(&["plugin", "enable", PLUGIN])?),
    }
    let binary = launched(&plugin).map(|relay| format!("sessions start relay {relay}"));
    let hint = "NOT FOUND by the plugin: put relay on PATH or set RELAY_BIN";
    step("binary", &binary.unwrap_or_else(|why| format!("{hint} ({why})")));
    if allowed() {
        step("permission", "sessions use the relay's tools without a dialog already");
    } else if args.has("allow") || !args.has("no-allow") && confirmed() {
        step("permission", &format!("added {RULE} to permissions.allow in {}", edit(allow_in)?));
    } else {
        step("permission", "sessions ask before they use the relay's tools (see `relay setup --allow`)");
    }
    out(&format!(
        "\nStart Claude Code as usual: every new session is a peer (in one that runs: /reload-plugins). Then try\n\
         \x20   relay peers\nor tell a session: \"ask everyone what they're working on\". To have messages come by the channel too:\n\
         \x20   claude {FLAG}\n"
    ));
    Ok(())
}

fn remove() -> Result<(), String> {
    let gone = || Ok("was not there".to_owned());
    let plugin = plugin()?.map_or_else(gone, |_| claude(&["plugin", "uninstall", PLUGIN]))?;
    step("plugin", &plugin);
    let known = marketplace()?;
    let known = known.map_or_else(gone, |_| claude(&["plugin", "marketplace", "remove", MARKETPLACE]))?;
    step("marketplace", &known);
    let rule = if allowed() { format!("removed {RULE} from {}", edit(disallow_in)?) } else { gone()? };
    step("permission", &rule);
    Ok(())
}

/// Tells of a step; of what a program said, the last line.
fn step(what: &str, how: &str) {
    out(&format!("{what:12} {}\n", clean(how.lines().last().unwrap_or_default())));
}

fn confirmed() -> bool {
    let mut answer = String::new();
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        err("Let sessions use the relay's five tools without a permission dialog? [y/N] ");
        let _ = io::stdin().read_line(&mut answer); // what can't be read is no yes
    }
    matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES")
}

/// The directory of our marketplace around the binary or the working directory.
fn find_marketplace() -> Option<PathBuf> {
    let places = [std::env::current_exe(), std::env::current_dir()];
    places.into_iter().flatten().find_map(|p| fs::canonicalize(p).ok()?.ancestors().find_map(marketplace_at))
}

fn marketplace_at(dir: &Path) -> Option<PathBuf> {
    let manifest = read_json(&dir.join(".claude-plugin/marketplace.json")).ok()?;
    (manifest["name"] == MARKETPLACE).then(|| fs::canonicalize(dir).ok())?
}

fn read_json(path: &Path) -> Result<Value, String> {
    let read = fs::read(path).and_then(|text| Ok(serde_json::from_slice(&text)?));
    read.map_err(|e| format!("{}: {e}", path.display()))
}

/// What a program says that ends within a minute; the inner error is what it says when it fails.
///
/// # Errors
/// It can't be started, or does not end in time.
fn run(mut command: Command) -> Result<Result<String, String>, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| format!("cannot start {name}: {e}"))?;
    let (out, err) = match (said(child.stdout.take()), said(child.stderr.take())) {
        (Ok(out), Ok(err)) => (out, err),
        (Err(e), _) | (_, Err(e)) => {
            let _ = child.kill().and_then(|()| child.wait()); // it may have ended just now
            return Err(format!("cannot read what {name} prints: {e}"));
        }
    };
    let until = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            _ if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill().and_then(|()| child.wait()); // it may have ended just now
                return Err(format!("{name} did not end within {} s", LIMIT.as_secs()));
            }
        }
    };
    let text = |said: JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&said.join().unwrap_or_default()).trim().to_owned()
    };
    let (out, err) = (text(out), text(err));
    Ok(match status.success() {
        true => Ok(out),
        false => Err(clean(if err.is_empty() { &out } else { &err }).replace('\n', " ")),
    })
}

/// Reads what a program says, 1 MiB at most.
fn said(pipe: Option<impl Read + Send + 'static>) -> io::Result<JoinHandle<Vec<u8>>> {
    thread::Builder::new().stack_size(64 << 10).spawn(move || {
        let mut text = Vec::new();
        if let Some(pipe) = pipe {
            let _ = pipe.take(1 << 20).read_to_end(&mut text); // what has been read by then counts
        }
        text
    })
}

/// What `claude` says.
///
/// # Errors
/// There is no `claude`, or what it said when it failed.
pub fn claude(args: &[&str]) -> Result<String, String> {
    let mut command = Command::new("claude");
    command.args(args).stdin(Stdio::null());
    let said = run(command).map_err(|why| format!("{why}; {NO_CLAUDE}"))?;
    said.map_err(|why| format!("`claude {}` failed: {why}", args.join(" ")))
}

/// Our plugin, as Claude Code lists it.
pub fn plugin() -> Result<Option<Value>, String> {
    listed(&["plugin", "list", "--json"], "id", PLUGIN)
}

fn marketplace() -> Result<Option<Value>, String> {
    listed(&["plugin", "marketplace", "list", "--json"], "name", MARKETPLACE)
}

/// The entry of one of Claude Code's lists whose `key` is `value`.
fn listed(args: &[&str], key: &str, value: &str) -> Result<Option<Value>, String> {
    match serde_json::from_slice(claude(args)?.as_bytes()) {
        Ok(Value::Array(list)) => Ok(list.into_iter().find(|entry| entry[key] == value)),
        _ => Err(format!("`claude {}` gave no list; is this Claude Code too old?", args.join(" "))),
    }
}

/// Version and path of the binary that a plugin in Claude Code's list starts.
///
/// # Errors
/// Why it starts none.
pub fn launched(plugin: &Value) -> Result<String, String> {
    let root = plugin["readFromFolder"].as_str().or(plugin["installPath"].as_str()).unwrap_or_default();
    let config = read_json(&Path::new(root).join(".mcp.json"))?;
    let server = &config["mcpServers"]["relay"];
    let expand = |v: &Value| v.as_str().unwrap_or_default().replace("${CLAUDE_PLUGIN_ROOT}", root);
    let args = server["args"].as_array().into_iter().flatten().map(expand).filter(|arg| arg != "channel");
    let mut command = Command::new(expand(&server["command"]));
    command.args(args).arg("--which").env("CLAUDE_PLUGIN_ROOT", root).stdin(Stdio::null());
    let said = run(command)??;
    match said.starts_with(|c: char| c.is_ascii_digit()) {
        true => Ok(said),
        false => Err(format!("what it starts is not relay, and said '{}'", clean(&said))),
    }
}

/// The user's settings for Claude Code.
fn settings() -> Result<PathBuf, String> {
    Ok(config_dir().ok_or("HOME is not set")?.join("settings.json"))
}

/// Whether sessions may use our tools without a dialog, as far as the settings tell.
pub fn allowed() -> bool {
    settings().and_then(|path| read_json(&path)).is_ok_and(|settings| place(&settings).is_some())
}

/// What keeps Claude Code from reading its settings, and so from knowing that a plugin is enabled.
pub fn broken() -> Option<String> {
    settings().ok().filter(|path| path.exists()).and_then(|path| read_json(&path).err())
}

/// Where the rule is in the list of those that allow.
fn place(settings: &Value) -> Option<usize> {
    let rules = settings.pointer("/permissions/allow")?.as_array()?;
    rules.iter().position(|rule| rule == RULE)
}

/// Changes the settings by `change`, which is given their text; the file is replaced at once, with the mode it had.
fn edit(change: fn(&str) -> Option<String>) -> Result<String, String> {
    let path = settings()?;
    let name = path.display().to_string();
    let file = fs::canonicalize(&path).unwrap_or(path); // which may be a link
    let edited = match fs::read_to_string(&file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok("{}\n".to_owned()),
        read => read,
    };
    let edited = edited.and_then(|old| match change(&old) {
        Some(new) => replace(&file, &new),
        None => Err(io::Error::other("the settings are not JSON, or of an odd shape")),
    });
    edited.map_err(|e| format!("{e}: edit {RULE} in permissions.allow of {name} by hand"))?;
    Ok(name)
}

fn replace(file: &Path, text: &str) -> io::Result<()> {
    let mode = fs::metadata(file).map_or(0o600, |m| m.permissions().mode() & 0o7777);
    let new = file.with_extension(format!("json.relay-{}", std::process::id()));
    fs::create_dir_all(file.parent().unwrap_or(file))?;
    let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = open
        .write_all(text.as_bytes())
        .and_then(|()| open.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| open.sync_all())
        .and_then(|()| fs::rename(&new, file));
    written.inspect_err(|_| drop(fs::remove_file(&new)))
}

// The settings are edited as text, so that nothing else in them changes, not even their layout. Where a text has to be
// changed is only guessed at; of the guesses the one counts that, parsed, is what is wanted.

fn parse(text: &str) -> Option<Value> {
    serde_json::from_slice(text.as_bytes()).ok()
}

fn pick(mut guesses: impl Iterator<Item = String>, wanted: &Value) -> Option<String> {
    guesses.find(|guess| parse(guess).as_ref() == Some(wanted))
}

fn allow_in(text: &str) -> Option<String> {
    let mut wanted = parse(text)?;
    let new = match (wanted.get("permissions"), wanted.pointer("/permissions/allow")) {
        (_, Some(_)) => QUOTED.to_owned(),
        (Some(_), None) => format!("\"allow\": [{QUOTED}]"),
        (None, None) => format!("\"permissions\": {{\"allow\": [{QUOTED}]}}"),
    };
    let permissions = wanted.as_object_mut()?.entry("permissions").or_insert(json!({}));
    let rules = permissions.as_object_mut()?.entry("allow").or_insert(json!([]));
    rules.as_array_mut()?.insert(0, RULE.into());
    // As the first thing after some bracket, set off as the present one is.
    let guesses = text.match_indices(['{', '[']).map(|(at, _)| {
        let (before, after) = text.split_at(at + 1);
        let first = after.trim_start();
        let gap = &after[..after.len() - first.len()];
        match (first.starts_with([']', '}']), gap) {
            (true, _) => format!("{before}{new}{first}"),
            (false, "") => format!("{before}{new}, {first}"),
            (false, gap) => format!("{before}{gap}{new},{gap}{first}"),
        }
    });
    pick(guesses, &wanted)
}

/// Takes the rule out, and what is empty without it.
fn disallow_in(text: &str) -> Option<String> {
    let (mut text, mut wanted) = (text.to_owned(), parse(text)?);
    while let Some(at) = place(&wanted) {
        wanted.pointer_mut("/permissions/allow")?.as_array_mut()?.remove(at);
        text = without(&text, QUOTED.trim_end_matches('"'), '"', &wanted)?;
    }
    for (parent, key, end) in [("/permissions", "allow", ']'), ("", "permissions", '}')] {
        let parent = wanted.pointer_mut(parent)?.as_object_mut()?;
        if parent.get(key).is_some_and(|v| *v == json!([]) || *v == json!({})) {
            parent.remove(key);
            text = without(&text, &format!("\"{key}\""), end, &wanted)?;
        }
    }
    Some(text)
}

/// `text` without what begins with `begin` and ends with the next `end`, and without its comma.
fn without(text: &str, begin: &str, end: char, wanted: &Value) -> Option<String> {
    let guesses = text.match_indices(begin).filter_map(|(at, _)| {
        let (before, rest) = (&text[..at], &text[at + begin.len()..]);
        let rest = &rest[rest.find(end)? + 1..];
        Some(match (rest.trim_start().strip_prefix(','), before.trim_end().strip_suffix(',')) {
            (Some(after), _) => format!("{before}{}", after.trim_start()),
            (None, Some(before)) => format!("{before}{rest}"),
            (None, None) => format!("{}{}", before.trim_end(), rest.trim_start()),
        })
    });
    pick(guesses, wanted)
}
