//! Claude Code's settings: what they say about us, and the allow rule that `relay setup` adds and removes.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::claude::{PLUGIN, SERVER, read_json};
use crate::datadir::config_dir;

/// The rule that lets sessions use our tools without a dialog and without the classifier of auto mode.
pub const RULE: &str = "mcp__plugin_relay_relay__*";
const QUOTED: &str = "\"mcp__plugin_relay_relay__*\"";
/// The variable by which users say that peers may not ask them.
const PERSON: &str = "RELAY_PERSON";
/// The prefix of the names of our tools in a session, and so of rules for single tools.
const TOOLS: &str = "mcp__plugin_relay_relay";

/// The settings files that apply in a directory with their contents, the one with the highest precedence first.
pub struct Settings(Vec<(PathBuf, Value)>);

impl Settings {
    /// Reads the settings that apply in `cwd`: managed, local, project, user. A file that is missing or is not JSON is left out.
    pub fn read(cwd: &Path) -> Settings {
        let managed = match cfg!(target_os = "macos") {
            true => "/Library/Application Support/ClaudeCode/managed-settings.json",
            false => "/etc/claude-code/managed-settings.json",
        };
        let project = cwd.join(".claude");
        let paths = [
            Some(PathBuf::from(managed)),
            Some(project.join("settings.local.json")),
            Some(project.join("settings.json")),
            user_file().ok(),
        ];
        let read = |path: PathBuf| read_json(&path).ok().map(|value| (path, value));
        Settings(paths.into_iter().flatten().filter_map(read).collect())
    }

    /// What `find` finds in the first file that has it, and that file.
    fn first<'a, T>(&'a self, find: impl Fn(&'a Value) -> Option<T>) -> Option<(T, &'a Path)> {
        self.0.iter().find_map(|(path, value)| Some((find(value)?, path.as_path())))
    }

    /// The first rule of the lists `permissions.<list>` that `is_wanted`, and the file that has it.
    fn rule(&self, list: &str, is_wanted: impl Fn(&str) -> bool) -> Option<(&str, &Path)> {
        self.first(|value| {
            let mut rules = value["permissions"][list].as_array()?.iter().filter_map(Value::as_str);
            rules.find(|rule| *rule == "mcp__*" || is_wanted(rule))
        })
    }

    /// The rule that denies one of our tools, and its file.
    pub fn denial(&self) -> Option<(&str, &Path)> {
        self.rule("deny", |rule| rule.starts_with(TOOLS))
    }

    /// Whether a rule allows all our tools.
    pub fn is_allowed(&self) -> bool {
        self.rule("allow", |rule| rule == RULE || rule == TOOLS).is_some()
    }

    /// The permission mode in which sessions start, if a file sets one.
    pub fn mode(&self) -> Option<&str> {
        Some(self.first(|value| value["permissions"]["defaultMode"].as_str())?.0)
    }

    /// The file that disables all hooks.
    pub fn disables_hooks(&self) -> Option<&Path> {
        Some(self.first(|value| (value["disableAllHooks"] == true).then_some(()))?.1)
    }

    /// The file that disables our plugin in this directory.
    pub fn disables_plugin(&self) -> Option<&Path> {
        let (is_enabled, path) = self.first(|value| value["enabledPlugins"].get(PLUGIN))?;
        (*is_enabled == false).then_some(path)
    }
}

/// Claude Code's state file `.claude.json`, which lists MCP servers; `null` if it can't be read.
pub fn state() -> Value {
    let is_set = std::env::var_os("CLAUDE_CONFIG_DIR").is_some_and(|dir| !dir.is_empty());
    let dir = if is_set { config_dir() } else { std::env::home_dir() };
    dir.and_then(|dir| read_json(&dir.join(".claude.json")).ok()).unwrap_or_default()
}

/// Whether the user has disabled our server in the project `cwd` (`/mcp` in a session does).
pub fn is_server_disabled(state: &Value, cwd: &str) -> bool {
    let disabled = state["projects"][cwd]["disabledMcpServers"].as_array();
    disabled.into_iter().flatten().any(|server| server == SERVER)
}

/// The names of the MCP servers besides the plugin's that start a relay in the project `cwd`: each makes a second channel.
pub fn other_servers(state: &Value, cwd: &Path) -> Vec<String> {
    let project = read_json(&cwd.join(".mcp.json")).unwrap_or_default();
    let tables = [
        &state["mcpServers"],
        &state["projects"][&*cwd.to_string_lossy()]["mcpServers"],
        &project["mcpServers"],
    ];
    let servers = tables.into_iter().filter_map(Value::as_object).flatten();
    let starts_relay = |server: &Value| {
        let words =
            std::iter::once(&server["command"]).chain(server["args"].as_array().into_iter().flatten());
        let words: Vec<&str> = words.filter_map(Value::as_str).collect();
        let is_relay = |word: &&str| matches!(word.rsplit('/').next(), Some("relay" | "relay-launcher"));
        words.iter().any(is_relay) && words.contains(&"channel")
    };
    servers.filter(|(_, server)| starts_relay(server)).map(|(name, _)| name.clone()).collect()
}

fn user_file() -> Result<PathBuf, String> {
    Ok(config_dir().ok_or("HOME is not set")?.join("settings.json"))
}

/// Why the user's settings can't be parsed. Claude Code then enables no plugin.
pub fn parse_error() -> Option<String> {
    user_file().ok().filter(|path| path.exists()).and_then(|path| read_json(&path).err())
}

/// Whether the user's settings have the allow rule.
pub fn has_rule() -> bool {
    user_file().and_then(|path| read_json(&path)).is_ok_and(|settings| position(&settings).is_some())
}

/// Whether the user's settings keep peers from asking the user.
pub fn forbids_person() -> bool {
    let settings = user_file().and_then(|path| read_json(&path)).unwrap_or_default();
    settings["env"][PERSON] == "off"
}

/// The position of the rule in the list of allow rules.
fn position(settings: &Value) -> Option<usize> {
    let rules = settings.pointer("/permissions/allow")?.as_array()?;
    rules.iter().position(|rule| rule == RULE)
}

/// Changes the user's settings, by [`with_rule`] for example, and returns the name of the file. It keeps its mode, and a link
/// stays a link.
///
/// # Errors
/// The file can't be read, understood or written.
pub fn edit(change: fn(&str) -> Option<String>) -> Result<String, String> {
    let path = user_file()?;
    let name = path.display().to_string();
    let file = fs::canonicalize(&path).unwrap_or(path);
    let edited = match fs::read_to_string(&file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok("{}\n".to_owned()),
        read => read,
    };
    let edited = edited.and_then(|old| match change(&old) {
        Some(new) => replace(&file, new.as_bytes(), 0o600),
        None => Err(io::Error::other("the file is not JSON or has an unexpected structure")),
    });
    edited.map_err(|e| format!("cannot edit {name}: {e}; edit permissions.allow and env by hand"))?;
    Ok(name)
}

/// Writes `bytes` to `file` so that a reader sees the old content or the new. A new file gets `mode`.
///
/// # Errors
/// The directory or the file can't be written.
pub fn replace(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mode = fs::metadata(file).map_or(mode, |meta| meta.permissions().mode() & 0o7777 | mode & 0o111);
    fs::create_dir_all(file.parent().unwrap_or(file))?;
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".relay-{}", std::process::id()));
    let new = PathBuf::from(name);
    let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = open
        .write_all(bytes)
        .and_then(|()| open.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| open.sync_all())
        .and_then(|()| fs::rename(&new, file));
    written.inspect_err(|_| drop(fs::remove_file(&new)))
}

// The settings are edited as text, so that nothing else in them changes, not even the layout. Where the text must change is
// a guess: every candidate is parsed, and the first one that has the wanted value is taken.

fn parse(text: &str) -> Option<Value> {
    serde_json::from_slice(text.as_bytes()).ok()
}

fn pick(mut candidates: impl Iterator<Item = String>, wanted: &Value) -> Option<String> {
    candidates.find(|candidate| parse(candidate).as_ref() == Some(wanted))
}

/// `text` with the rule.
pub fn with_rule(text: &str) -> Option<String> {
    let mut wanted = parse(text)?;
    let new = match (wanted.get("permissions"), wanted.pointer("/permissions/allow")) {
        (_, Some(_)) => QUOTED.to_owned(),
        (Some(_), None) => format!("\"allow\": [{QUOTED}]"),
        (None, None) => format!("\"permissions\": {{\"allow\": [{QUOTED}]}}"),
    };
    let permissions = wanted.as_object_mut()?.entry("permissions").or_insert(json!({}));
    let rules = permissions.as_object_mut()?.entry("allow").or_insert(json!([]));
    rules.as_array_mut()?.insert(0, RULE.into());
    insert(text, &new, &wanted)
}

/// `text` with `RELAY_PERSON` in the environment of sessions.
pub fn with_refusal(text: &str) -> Option<String> {
    let text = &without_refusal(text)?;
    let mut wanted = parse(text)?;
    let new = format!("\"{PERSON}\": \"off\"");
    let new = if wanted.get("env").is_some() { new } else { format!("\"env\": {{{new}}}") };
    let env = wanted.as_object_mut()?.entry("env").or_insert(json!({}));
    env.as_object_mut()?.insert(PERSON.to_owned(), "off".into());
    insert(text, &new, &wanted)
}

/// `text` without it, and without the environment if that is empty then.
pub fn without_refusal(text: &str) -> Option<String> {
    let (mut text, mut wanted) = (text.to_owned(), parse(text)?);
    if let Some(env) = wanted.get_mut("env").and_then(Value::as_object_mut)
        && env.remove(PERSON).is_some()
    {
        let is_empty = env.is_empty();
        let name = &text[text.find(&format!("\"{PERSON}\""))?..];
        let value = name.match_indices('"').nth(2)?.0; // after the quotes of the name
        text = cut(&text, &name[..=value], '"', &wanted)?;
        if is_empty {
            wanted.as_object_mut()?.remove("env");
            text = cut(&text, "\"env\"", '}', &wanted)?;
        }
    }
    Some(text)
}

/// `text` with the member or element `new` somewhere, so that it means `wanted`.
fn insert(text: &str, new: &str, wanted: &Value) -> Option<String> {
    // After some opening bracket, with the same whitespace as the first element there has.
    let candidates = text.match_indices(['{', '[']).map(|(at, _)| {
        let (before, after) = text.split_at(at + 1);
        let first = after.trim_start();
        let gap = &after[..after.len() - first.len()];
        match (first.starts_with([']', '}']), gap) {
            (true, _) => format!("{before}{new}{first}"),
            (false, "") => format!("{before}{new}, {first}"),
            (false, gap) => format!("{before}{gap}{new},{gap}{first}"),
        }
    });
    pick(candidates, wanted)
}

/// `text` without the rule, and without the list and the object that are empty then.
pub fn without_rule(text: &str) -> Option<String> {
    let (mut text, mut wanted) = (text.to_owned(), parse(text)?);
    while let Some(at) = position(&wanted) {
        wanted.pointer_mut("/permissions/allow")?.as_array_mut()?.remove(at);
        text = cut(&text, QUOTED.trim_end_matches('"'), '"', &wanted)?;
    }
    for (parent, key, end) in [("/permissions", "allow", ']'), ("", "permissions", '}')] {
        let parent = wanted.pointer_mut(parent)?.as_object_mut()?;
        if parent.get(key).is_some_and(|v| *v == json!([]) || *v == json!({})) {
            parent.remove(key);
            text = cut(&text, &format!("\"{key}\""), end, &wanted)?;
        }
    }
    Some(text)
}

/// `text` without a part that begins with `begin` and ends with the next `end`, and without the comma of that part.
fn cut(text: &str, begin: &str, end: char, wanted: &Value) -> Option<String> {
    let candidates = text.match_indices(begin).filter_map(|(at, _)| {
        let (before, rest) = (&text[..at], &text[at + begin.len()..]);
        let rest = &rest[rest.find(end)? + 1..];
        Some(match (rest.trim_start().strip_prefix(','), before.trim_end().strip_suffix(',')) {
            (Some(after), _) => format!("{before}{}", after.trim_start()),
            (None, Some(before)) => format!("{before}{rest}"),
            (None, None) => format!("{}{}", before.trim_end(), rest.trim_start()),
        })
    });
    pick(candidates, wanted)
}
