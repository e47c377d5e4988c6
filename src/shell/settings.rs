//! Claude Code's settings: what they say about us, and what `relay setup` writes into them.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_json::value::RawValue;

use super::claude::{MAX_READ, PLUGIN, SERVER, read_json};
use crate::datadir::{config_dir, settings_files};
use crate::repository::{path_var, read_limited};

/// The rule that lets sessions use our tools without a dialog and without the classifier of auto mode.
pub const RULE: &str = "mcp__plugin_relay_relay__*";
/// The prefix of the names of our tools in a session, and so of rules for single tools.
const TOOLS: &str = "mcp__plugin_relay_relay";

/// The settings files that apply in a directory with their contents, the one with the highest precedence first.
pub struct Settings(Vec<(PathBuf, Value)>);

impl Settings {
    /// Reads the settings that apply in `cwd`. A file that is missing or is not JSON is left out.
    pub fn read(cwd: &Path) -> Settings {
        Settings(settings_files(cwd).filter_map(|path| Some((path.clone(), read_json(&path)?))).collect())
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

    /// Whether these settings disable our plugin.
    pub fn disables_plugin(&self) -> bool {
        self.first(|value| value["enabledPlugins"].get(PLUGIN))
            .is_some_and(|(is_enabled, _)| *is_enabled == false)
    }
}

/// Whether the user has disabled our server in the project `cwd` (`/mcp` in a session does), by Claude Code's state file.
pub fn is_server_disabled(cwd: &str) -> bool {
    let dir = path_var("CLAUDE_CONFIG_DIR").or_else(std::env::home_dir).unwrap_or_default();
    let state: Value = read_json(&dir.join(".claude.json")).unwrap_or_default();
    let disabled = state["projects"][cwd]["disabledMcpServers"].as_array();
    disabled.into_iter().flatten().any(|server| server == SERVER)
}

fn user_file() -> Result<PathBuf, String> {
    Ok(config_dir().ok_or("HOME is not set")?.join("settings.json"))
}

/// What `relay setup` can write into the user's settings: a value, or an element of a list.
pub struct Entry {
    path: [&'static str; 2],
    value: &'static str,
    is_listed: bool,
}

/// The allow rule for our tools.
pub const ALLOW: Entry = Entry { path: ["permissions", "allow"], value: RULE, is_listed: true };
/// Peers may not ask the user, by the environment of sessions.
pub const NO_PERSON: Entry = Entry { path: ["env", "RELAY_PERSON"], value: "off", is_listed: false };

impl Entry {
    /// Whether the user's settings have the entry.
    pub fn is_set(&self) -> bool {
        user_file().ok().and_then(|path| read_json(&path)).is_some_and(|settings| self.is_in(&settings))
    }

    fn is_in(&self, settings: &Value) -> bool {
        let there = &settings[self.path[0]][self.path[1]];
        there == self.value || there.as_array().is_some_and(|list| list.contains(&self.value.into()))
    }

    /// Adds the entry to the user's settings, or removes it. The file keeps its mode, and a link stays a link.
    ///
    /// # Errors
    /// The file can't be read, understood or written.
    pub fn set(&self, is_wanted: bool) -> Result<(), String> {
        let path = user_file()?;
        let name = path.display().to_string();
        let set = self.set_in(&fs::canonicalize(&path).unwrap_or(path), is_wanted);
        set.map_err(|e| format!("cannot edit {name}: {e}; edit permissions.allow and env by hand"))
    }

    fn set_in(&self, file: &Path, is_wanted: bool) -> io::Result<()> {
        let text = match read_limited(file, MAX_READ) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            read => String::from_utf8(read?).map_err(io::Error::other)?,
        };
        let text = if text.trim().is_empty() { "{}" } else { &text };
        if self.is_in(&serde_json::from_str(text)?) == is_wanted {
            return Ok(());
        }
        let edited = edit(Some(text), &self.path, "", &|old| self.change(old, is_wanted))?;
        let edited = edited.unwrap_or_else(|| "{}".to_owned());
        replace(file, format!("{edited}\n").as_bytes(), 0o600)
    }

    /// The value at the path of the entry with or without the entry; `None` if that leaves nothing.
    fn change(&self, old: Option<&str>, is_wanted: bool) -> serde_json::Result<Option<String>> {
        let new = is_wanted.then(|| Value::from(self.value));
        if !self.is_listed {
            return Ok(new.map(|value| value.to_string()));
        }
        let mut list: Vec<Value> = old.map_or(Ok(Vec::new()), serde_json::from_str)?;
        list.retain(|value| value != self.value);
        list.extend(new);
        // One per line, as Claude Code writes them.
        let lines = list.iter().map(|value| format!("\n      {value}")).collect::<Vec<_>>().join(",");
        Ok((!list.is_empty()).then(|| format!("[{lines}\n    ]")))
    }
}

/// A JSON object in which the value at `path` is what `change` makes of it; `None` if that leaves nothing. The other members
/// keep their order and their text.
fn edit(
    object: Option<&str>,
    path: &[&str],
    indent: &str,
    change: &dyn Fn(Option<&str>) -> serde_json::Result<Option<String>>,
) -> serde_json::Result<Option<String>> {
    let [key, below @ ..] = path else { return change(object) };
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(object.unwrap_or("{}"))?;
    let mut members: Vec<_> = members.iter().map(|(name, value)| (name.as_str(), value.get())).collect();
    members.sort_by_key(|(_, value)| value.as_ptr()); // as in the text
    let at = members.iter().position(|(name, _)| name == key).unwrap_or(members.len());
    let old = members.get(at).map(|(_, value)| *value);
    let new = edit(old, below, &format!("{indent}  "), change)?;
    members.splice(at..(at + 1).min(members.len()), new.as_deref().map(|new| (*key, new)));
    let lines = members.iter().map(|(name, value)| format!("\n{indent}  {}: {value}", Value::from(*name)));
    let lines = lines.collect::<Vec<_>>().join(",");
    Ok((!lines.is_empty()).then(|| format!("{{{lines}\n{indent}}}")))
}

/// Writes `bytes` to `file` so that a reader sees the old content or the new. A new file gets `mode`.
///
/// # Errors
/// The directory or the file can't be written.
pub fn replace(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mode = fs::metadata(file).map_or(mode, |meta| meta.permissions().mode() & 0o7777);
    fs::create_dir_all(file.parent().unwrap_or(file))?;
    let new = file.with_extension(format!("relay-{}", std::process::id()));
    let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let written = open
        .write_all(bytes)
        .and_then(|()| open.set_permissions(Permissions::from_mode(mode)))
        .and_then(|()| open.sync_all())
        .and_then(|()| fs::rename(&new, file));
    written.inspect_err(|_| drop(fs::remove_file(&new)))
}
