//! `relay setup`: puts the plugin into Claude Code, by Claude Code's own commands, and one rule into its settings.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use serde_json::{Value, json};

use crate::cli::Args;
use crate::datadir::config_dir;
use crate::fence;
use crate::shell::{Outcome, bad};
use crate::term::{err, out};

pub const MARKETPLACE: &str = "claude-relay";
pub const PLUGIN: &str = "relay@claude-relay";
/// What lets sessions use the five tools without a dialog.
pub const RULE: &str = "mcp__plugin_relay_relay__*";
/// The flag for the push path `channel`.
pub const FLAG: &str = "--dangerously-load-development-channels plugin:relay@claude-relay";
/// How long a program may take.
const LIMIT: Duration = Duration::from_secs(60);

/// `relay setup`.
pub fn setup(args: &Args) -> Outcome {
    if args.has("allow") && args.has("no-allow") {
        return bad("--allow and --no-allow at once");
    }
    match if args.has("remove") { remove() } else { install(args) } {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(why) => {
            err(&format!("relay setup: {why}\n"));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn install(args: &Args) -> Result<(), String> {
    step("Claude Code", &claude(&["--version"])?);
    let source = match args.get("from") {
        Some(dir) => {
            Some(marketplace_at(Path::new(dir)).ok_or(format!("{dir} holds no marketplace {MARKETPLACE}"))?)
        }
        None => find_marketplace(),
    };
    let known = listed(&["plugin", "marketplace", "list", "--json"], "name", MARKETPLACE)?;
    let same =
        |known: &Value| source.as_ref().is_none_or(|s| known["path"].as_str().map(Path::new) == Some(s));
    match (&known, &source) {
        (Some(known), _) if same(known) => step("marketplace", "is known already"),
        (None, None) => {
            return Err("no checkout or release around here; name it with --from DIR".to_owned());
        }
        (known, source) => {
            if known.is_some() {
                step("marketplace", &claude(&["plugin", "marketplace", "remove", MARKETPLACE])?);
            }
            let source = source.as_ref().map(|s| s.to_string_lossy()).unwrap_or_default();
            step("marketplace", &claude(&["plugin", "marketplace", "add", &source])?);
        }
    }
    let plugin = || listed(&["plugin", "list", "--json"], "id", PLUGIN);
    if plugin()?.is_none() {
        step("plugin", &claude(&["plugin", "install", PLUGIN])?);
    }
    let plugin = plugin()?.ok_or("Claude Code says it installed the plugin, but does not list it")?;
    match plugin["enabled"] == true {
        true => step("plugin", "is installed and enabled"),
        false => step("plugin", &claude(&["plugin", "enable", PLUGIN])?),
    }
    match launched(&plugin) {
        Ok(relay) => step("binary", &format!("sessions start relay {relay}")),
        Err(why) => {
            step("binary", &format!("NOT FOUND by the plugin: put relay on PATH or set RELAY_BIN ({why})"))
        }
    }
    let allow = args.has("allow") || !args.has("no-allow") && allowed() != Some(true) && confirmed();
    match (allow, allowed() == Some(true)) {
        (true, false) => {
            let path = edit(allow_in)?;
            step("permission", &format!("added {RULE} to permissions.allow in {}", path.display()));
        }
        (_, true) => step("permission", "sessions use the relay's tools without a dialog already"),
        _ => step(
            "permission",
            "sessions ask before they use the relay's tools; `relay setup --allow` changes that",
        ),
    }
    out(&format!(
        "\nStart Claude Code as usual: every new session is a peer (in one that runs: /reload-plugins). Then try\n\
         \x20   relay peers\nor tell a session: \"ask everyone what they're working on\". To have messages come by the channel too:\n\
         \x20   claude {FLAG}\n"
    ));
    Ok(())
}

fn remove() -> Result<(), String> {
    let gone = "was not there";
    match listed(&["plugin", "list", "--json"], "id", PLUGIN)? {
        Some(_) => step("plugin", &claude(&["plugin", "uninstall", PLUGIN])?),
        None => step("plugin", gone),
    }
    match listed(&["plugin", "marketplace", "list", "--json"], "name", MARKETPLACE)? {
        Some(_) => step("marketplace", &claude(&["plugin", "marketplace", "remove", MARKETPLACE])?),
        None => step("marketplace", gone),
    }
    match allowed() {
        Some(true) => step("permission", &format!("removed {RULE} from {}", edit(disallow_in)?.display())),
        _ => step("permission", gone),
    }
    Ok(())
}

fn step(what: &str, how: &str) {
    out(&format!("{what:12} {how}\n"));
}

fn confirmed() -> bool {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return false;
    }
    err("Let sessions use the relay's five tools without a permission dialog? [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// The directory of our marketplace around the binary or the working directory.
fn find_marketplace() -> Option<PathBuf> {
    let places = [std::env::current_exe(), std::env::current_dir()];
    let places = places.into_iter().flatten().filter_map(|p| fs::canonicalize(p).ok());
    places
        .flat_map(|p| p.ancestors().map(Path::to_owned).collect::<Vec<_>>())
        .find_map(|d| marketplace_at(&d))
}

fn marketplace_at(dir: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(dir.join(".claude-plugin/marketplace.json")).ok()?;
    let manifest: Value = serde_json::from_str(&text).ok()?;
    (manifest["name"] == MARKETPLACE).then(|| fs::canonicalize(dir).ok())?
}

/// What a program said before it ended.
pub struct Said {
    pub ok: bool,
    pub out: String,
    pub err: String,
}

/// Runs a program that answers within a minute, and waits for its end.
///
/// # Errors
/// It can't be started, or does not end in time (and is killed).
pub fn run(command: &mut Command) -> Result<Said, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child: Child = spawned.map_err(|e| format!("cannot start {name}: {e}"))?;
    let (out, err) = (read_all(child.stdout.take()), read_all(child.stderr.take()));
    let until = Instant::now() + LIMIT;
    match (out.recv_deadline(until), err.recv_deadline(until)) {
        (Ok(out), Ok(err)) => {
            let status = child.wait().map_err(|e| format!("{name}: {e}"))?;
            Ok(Said { ok: status.success(), out, err })
        }
        _ => {
            let _ = child.kill().and_then(|()| child.wait().map(drop)); // it may have ended just now
            Err(format!("{name} did not end within {} s", LIMIT.as_secs()))
        }
    }
}

fn read_all(from: Option<impl Read + Send + 'static>) -> crossbeam_channel::Receiver<String> {
    let (done, text) = bounded(1);
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.map(|from| from.take(1 << 20).read_to_end(&mut bytes)); // what came counts
        let _ = done.send(String::from_utf8_lossy(&bytes).into_owned()); // fails only when nobody waits
    });
    text
}

/// Runs `claude` and gives the last line that it said.
///
/// # Errors
/// There is no `claude`, or what it said when it failed.
pub fn claude(args: &[&str]) -> Result<String, String> {
    let said = run(Command::new("claude").args(args)).map_err(|why| {
        format!("{why}; Claude Code must be on PATH (npm install -g @anthropic-ai/claude-code)")
    })?;
    let text = fence::clean(&format!("{}\n{}", said.out, if said.ok { "" } else { &said.err }));
    let last = text.trim().lines().last().unwrap_or_default().to_owned();
    match said.ok {
        true => Ok(last),
        false => Err(format!("`claude {}` failed: {last}", args.join(" "))),
    }
}

/// The entry of one of Claude Code's lists whose `key` is `value`.
///
/// # Errors
/// As [`claude`]; or the list can't be read.
pub fn listed(args: &[&str], key: &str, value: &str) -> Result<Option<Value>, String> {
    let said = run(Command::new("claude").args(args)).map_err(|why| {
        format!("{why}; Claude Code must be on PATH (npm install -g @anthropic-ai/claude-code)")
    })?;
    let list: Vec<Value> = serde_json::from_str(said.out.trim())
        .map_err(|_| format!("`claude {}` gave no list; is this Claude Code too old?", args.join(" ")))?;
    Ok(list.into_iter().find(|entry| entry[key] == value))
}

/// Version and path of the binary that a plugin in Claude Code's list starts.
///
/// # Errors
/// Why it starts none.
pub fn launched(plugin: &Value) -> Result<String, String> {
    let root = plugin["readFromFolder"].as_str().or(plugin["installPath"].as_str()).unwrap_or_default();
    let path = Path::new(root).join(".mcp.json");
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let config: Value = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    let server = &config["mcpServers"]["relay"];
    let expand = |v: &Value| v.as_str().unwrap_or_default().replace("${CLAUDE_PLUGIN_ROOT}", root);
    let args = server["args"].as_array().into_iter().flatten().map(expand).filter(|arg| arg != "channel");
    let mut command = Command::new(expand(&server["command"]));
    let Said { ok, out, err } = run(command.args(args).arg("--which").env("CLAUDE_PLUGIN_ROOT", root))?;
    match ok {
        true => Ok(out.trim().to_owned()),
        false => Err(err.trim().replace('\n', " ")),
    }
}

/// The user's settings for Claude Code.
fn settings() -> Option<PathBuf> {
    config_dir().map(|dir| dir.join("settings.json"))
}

/// Whether sessions may use our tools without a dialog; `None` where the settings can't be read.
pub fn allowed() -> Option<bool> {
    let settings: Value = serde_json::from_str(&fs::read_to_string(settings()?).ok()?).ok()?;
    Some(settings["permissions"]["allow"].as_array().is_some_and(|rules| rules.iter().any(|r| r == RULE)))
}

/// Changes the settings by `change`, which is given their text; the file is replaced at once, with the mode it had.
fn edit(change: impl Fn(&str) -> Option<String>) -> Result<PathBuf, String> {
    let path = settings().ok_or("HOME is not set")?;
    let by_hand =
        |why: &str| format!("{why}: edit {RULE} in permissions.allow of {} by hand", path.display());
    let file = fs::canonicalize(&path).unwrap_or_else(|_| path.clone()); // which may be a link
    let mode = fs::metadata(&file).map_or(0o600, |m| m.permissions().mode() & 0o7777);
    let old = match fs::read_to_string(&file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => "{}\n".to_owned(),
        text => text.map_err(|e| by_hand(&e.to_string()))?,
    };
    let new = change(&old).ok_or_else(|| by_hand("the settings are not JSON, or of an odd shape"))?;
    replace(&file, &new, mode).map_err(|e| by_hand(&e.to_string()))?;
    Ok(path)
}

fn replace(file: &Path, text: &str, mode: u32) -> io::Result<()> {
    let dir = file.parent().ok_or(io::ErrorKind::NotFound)?;
    fs::create_dir_all(dir)?;
    let new = dir.join(format!(".settings.json.relay-{}", std::process::id()));
    let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = open
        .write_all(text.as_bytes())
        .and_then(|()| fs::set_permissions(&new, Permissions::from_mode(mode)))
        .and_then(|()| open.sync_all())
        .and_then(|()| fs::rename(&new, file));
    written.inspect_err(|_| drop(fs::remove_file(&new)))
}

// The settings are edited as text, so that nothing else in them changes, not even their layout. Where a text might have
// to be changed is only guessed at; of the guesses the one counts that, parsed, is what is wanted.

fn pick(mut guesses: impl Iterator<Item = String>, wanted: &Value) -> Option<String> {
    guesses.find(|guess| serde_json::from_str::<Value>(guess).is_ok_and(|value| value == *wanted))
}

/// Where `"key": [` (or `{`) begins and ends.
fn openings(text: &str, key: &str, open: char) -> Vec<(usize, usize)> {
    let key = format!("\"{key}\"");
    let begun = |(at, key): (usize, &str)| {
        let rest = text[at + key.len()..].trim_start().strip_prefix(':')?.trim_start().strip_prefix(open)?;
        Some((at, text.len() - rest.len()))
    };
    text.match_indices(&key).filter_map(begun).collect()
}

/// `text` with `new` as the first thing after the bracket that ends at `at`, set off as the present one is.
fn insert(text: &str, at: usize, new: &str) -> String {
    let (before, after) = text.split_at(at);
    let first = after.trim_start();
    match first.starts_with([']', '}']) {
        true => format!("{before}{new}{first}"),
        false => {
            let gap = &after[..after.len() - first.len()];
            format!("{before}{gap}{new},{}{first}", if gap.is_empty() { " " } else { gap })
        }
    }
}

/// `text` without what is from `from` to `to`, and without its comma.
fn cut(text: &str, from: usize, to: usize) -> String {
    let (before, after) = (&text[..from], text[to..].trim_start());
    match (after.strip_prefix(','), before.trim_end().strip_suffix(',')) {
        (Some(after), _) => format!("{before}{}", after.trim_start()),
        (None, Some(before)) => format!("{before}{}", &text[to..]),
        (None, None) => format!("{}{after}", before.trim_end()),
    }
}

fn allow_in(text: &str) -> Option<String> {
    let mut wanted: Value = serde_json::from_str(text).ok()?;
    let permissions = wanted.as_object_mut()?.entry("permissions").or_insert(json!({}));
    let rules = permissions.as_object_mut()?.entry("allow").or_insert(json!([]));
    rules.as_array_mut()?.insert(0, RULE.into());
    let rule = format!("\"{RULE}\"");
    let list = openings(text, "allow", '[').into_iter().map(|(_, at)| insert(text, at, &rule));
    let map = openings(text, "permissions", '{')
        .into_iter()
        .map(|(_, at)| insert(text, at, &format!("\"allow\": [{rule}]")));
    let root =
        text.find('{').map(|at| insert(text, at + 1, &format!("\"permissions\": {{\"allow\": [{rule}]}}")));
    pick(list.chain(map).chain(root), &wanted)
}

/// Takes the rule out, and what is empty without it.
fn disallow_in(text: &str) -> Option<String> {
    let mut wanted: Value = serde_json::from_str(text).ok()?;
    let (mut text, rule) = (text.to_owned(), format!("\"{RULE}\""));
    let place =
        |wanted: &Value| wanted.pointer("/permissions/allow")?.as_array()?.iter().position(|r| r == RULE);
    while let Some(at) = place(&wanted) {
        wanted.pointer_mut("/permissions/allow")?.as_array_mut()?.remove(at);
        text = pick(text.match_indices(&rule).map(|(at, _)| cut(&text, at, at + rule.len())), &wanted)?;
    }
    for (parent, key, open, close) in [("/permissions", "allow", '[', ']'), ("", "permissions", '{', '}')] {
        let parent = wanted.pointer_mut(parent)?.as_object_mut()?;
        if parent.get(key).is_some_and(|v| *v == json!([]) || *v == json!({})) {
            parent.remove(key);
            let empty = openings(&text, key, open).into_iter().filter_map(|(from, at)| {
                let rest = text[at..].trim_start().strip_prefix(close)?;
                Some(cut(&text, from, text.len() - rest.len()))
            });
            text = pick(empty, &wanted)?;
        }
    }
    Some(text)
}
