//! Claude Code's settings: what they say about us, and the allow rule that `relay setup` adds and removes.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::claude::{PLUGIN, SERVER, read_json};
use crate::datadir::config_dir;
use crate::repository::path_var;

/// The rule that lets sessions use our tools without a dialog and without the classifier of auto mode.
pub const RULE: &str = "mcp__plugin_relay_relay__*";
const QUOTED: &str = "\"mcp__plugin_relay_relay__*\"";
/// The list of allow rules.
const ALLOW: [&str; 2] = ["permissions", "allow"];
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
    let dir = path_var("CLAUDE_CONFIG_DIR").or_else(std::env::home_dir);
    dir.and_then(|dir| read_json(&dir.join(".claude.json")).ok()).unwrap_or_default()
}

/// Whether the user has disabled our server in the project `cwd` (`/mcp` in a session does).
pub fn is_server_disabled(state: &Value, cwd: &str) -> bool {
    let disabled = state["projects"][cwd]["disabledMcpServers"].as_array();
    disabled.into_iter().flatten().any(|server| server == SERVER)
}

fn user_file() -> Result<PathBuf, String> {
    Ok(config_dir().ok_or("HOME is not set")?.join("settings.json"))
}

/// Why the user's settings can't be parsed. Claude Code then enables no plugin.
pub fn parse_error() -> Option<String> {
    user_file().ok().filter(|path| path.exists()).and_then(|path| read_json(&path).err())
}

/// The user's settings; `null` if they can't be read.
fn user_settings() -> Value {
    user_file().and_then(|path| read_json(&path)).unwrap_or_default()
}

/// Whether the user's settings have the allow rule.
pub fn has_rule() -> bool {
    allows(&user_settings())
}

fn allows(settings: &Value) -> bool {
    settings["permissions"]["allow"].as_array().is_some_and(|rules| rules.contains(&RULE.into()))
}

/// Whether the user's settings keep peers from asking the user.
pub fn forbids_person() -> bool {
    forbids(&user_settings())
}

fn forbids(settings: &Value) -> bool {
    settings["env"][PERSON] == "off"
}

/// Adds the allow rule to the user's settings, or removes it. Otherwise as [`set_refusal`].
pub fn set_rule(is_wanted: bool) -> Result<String, String> {
    edit(if is_wanted { with_rule } else { without_rule }, |settings| allows(settings) == is_wanted)
}

/// Keeps peers from asking the user by the user's settings, or not, and returns the name of the file. It keeps its mode, and a
/// link stays a link.
///
/// # Errors
/// The file can't be read, understood or written.
pub fn set_refusal(is_wanted: bool) -> Result<String, String> {
    edit(if is_wanted { with_refusal } else { without_refusal }, |settings| forbids(settings) == is_wanted)
}

/// A file in which the change would not have its effect, since a key occurs twice for example, is left as it is.
fn edit(change: fn(&str) -> Option<String>, is_changed: impl Fn(&Value) -> bool) -> Result<String, String> {
    let path = user_file()?;
    let name = path.display().to_string();
    let file = fs::canonicalize(&path).unwrap_or(path);
    let edited = match fs::read_to_string(&file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok("{}\n".to_owned()),
        read => read,
    };
    let is_good = |new: &String| serde_json::from_str(new).is_ok_and(|settings| is_changed(&settings));
    let edited = edited.and_then(|old| match change(&old).filter(is_good) {
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
    let mode = fs::metadata(file).map_or(mode, |meta| meta.permissions().mode() & 0o7777);
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

// The settings are edited as text, so that nothing else in them changes, not even the layout. A value is found by parsing
// its surroundings: serde_json gives each `RawValue` as a part of the text.

/// The value at the end of `path`, as a part of `text`.
fn find<'a>(text: &'a str, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(text, |value, key| {
        let members: BTreeMap<String, &RawValue> = serde_json::from_str(value).ok()?;
        members.get(*key).map(|value| value.get())
    })
}

/// Where `part`, a part of `text`, begins.
fn offset(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

/// `text` with `new` at the beginning of the object or list at `path`, with the same whitespace as the first element there
/// has. Objects that are missing are added.
fn insert(text: &str, path: &[&str], new: &str) -> Option<String> {
    let Some(container) = find(text, path) else {
        let (key, parents) = path.split_last()?;
        return insert(text, parents, &format!("\"{key}\": {{{new}}}"));
    };
    let bracket = container.find(['{', '['])?;
    let (before, after) = text.split_at(offset(text, container) + bracket + 1);
    let first = after.trim_start();
    let gap = &after[..after.len() - first.len()];
    let text = match (first.starts_with([']', '}']), gap) {
        (true, _) => format!("{before}{new}{first}"),
        (false, "") => format!("{before}{new}, {first}"),
        (false, gap) => format!("{before}{gap}{new},{gap}{first}"),
    };
    // A list in the place of an object, for example.
    serde_json::from_str::<Value>(&text).is_ok().then_some(text)
}

/// `text` without the member at `path`, and without the objects that are empty then.
fn remove(text: &str, path: &[&str]) -> Option<String> {
    let (key, parents) = path.split_last()?;
    let value = find(text, path)?;
    let start = offset(text, value);
    let name = text[..start].trim_end().strip_suffix(':')?.trim_end();
    let before = name.strip_suffix(&format!("\"{key}\""))?;
    let text = join(before, &text[start + value.len()..]);
    match serde_json::from_str::<Value>(find(&text, parents)?).ok()? == json!({}) && !parents.is_empty() {
        true => remove(&text, parents),
        false => Some(text),
    }
}

/// The text before a removed member or element and that after it, without its comma.
fn join(before: &str, after: &str) -> String {
    match (after.trim_start().strip_prefix(','), before.trim_end().strip_suffix(',')) {
        (Some(after), _) => format!("{before}{}", after.trim_start()),
        (None, Some(before)) => format!("{before}{after}"),
        (None, None) => format!("{}{}", before.trim_end(), after.trim_start()),
    }
}

/// `text` with the rule.
fn with_rule(text: &str) -> Option<String> {
    match find(text, &ALLOW) {
        Some(_) => insert(text, &ALLOW, QUOTED),
        None => insert(text, &ALLOW[..1], &format!("\"allow\": [{QUOTED}]")),
    }
}

/// `text` without the rule, and without the list and the object that are empty then.
fn without_rule(text: &str) -> Option<String> {
    let rules: Vec<&RawValue> = serde_json::from_str(find(text, &ALLOW)?).ok()?;
    match rules.iter().find(|rule| rule.get() == QUOTED) {
        Some(rule) => {
            let (before, rest) = text.split_at(offset(text, rule.get()));
            without_rule(&join(before, &rest[QUOTED.len()..]))
        }
        None if rules.is_empty() => remove(text, &ALLOW),
        None => Some(text.to_owned()),
    }
}

/// `text` with `RELAY_PERSON` in the environment of sessions.
fn with_refusal(text: &str) -> Option<String> {
    insert(&without_refusal(text)?, &["env"], &format!("\"{PERSON}\": \"off\""))
}

/// `text` without it, and without the environment if that is empty then.
fn without_refusal(text: &str) -> Option<String> {
    let path = ["env", PERSON];
    if find(text, &path).is_some() { remove(text, &path) } else { Some(text.to_owned()) }
}
