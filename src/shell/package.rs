//! The installed copy: the marketplace with our plugin and this program, completions and the man page, in the user's data
//! directory. The plugin's files are part of the program, so no checkout is needed to install them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::claude::MARKETPLACE;
use super::completions::{BASH, FISH, ZSH};
use super::settings::replace;
use crate::connection::own_executable;
use crate::repository::path_var;

/// All files of the marketplace besides the program: path, mode, content. A test compares an installed copy with the checkout.
const FILES: &[(&str, u32, &str)] = &[
    (MANIFEST, 0o644, include_str!("../../.claude-plugin/marketplace.json")),
    ("plugin/.claude-plugin/plugin.json", 0o644, include_str!("../../plugin/.claude-plugin/plugin.json")),
    ("plugin/.mcp.json", 0o644, include_str!("../../plugin/.mcp.json")),
    ("plugin/hooks/hooks.json", 0o644, include_str!("../../plugin/hooks/hooks.json")),
    ("plugin/.codex-plugin/mcp.json", 0o644, include_str!("../../plugin/.codex-plugin/mcp.json")),
    ("plugin/.codex-plugin/plugin.json", 0o644, include_str!("../../plugin/.codex-plugin/plugin.json")),
    ("plugin/commands/ask.md", 0o644, include_str!("../../plugin/commands/ask.md")),
    ("plugin/commands/asks.md", 0o644, include_str!("../../plugin/commands/asks.md")),
    ("plugin/commands/broadcast.md", 0o644, include_str!("../../plugin/commands/broadcast.md")),
    ("plugin/commands/peers.md", 0o644, include_str!("../../plugin/commands/peers.md")),
    ("plugin/commands/relay-rename.md", 0o644, include_str!("../../plugin/commands/relay-rename.md")),
    ("plugin/bin/relay-launcher", 0o755, include_str!("../../plugin/bin/relay-launcher")),
    ("LICENSE", 0o644, include_str!("../../LICENSE")),
];
const MANIFEST: &str = ".claude-plugin/marketplace.json";
const MAN_PAGE: &str = include_str!("../../docs/relay.1");

/// `${XDG_DATA_HOME:-~/.local/share}`.
///
/// # Errors
/// Neither that nor `HOME` is set.
fn data_home() -> Result<PathBuf, String> {
    let home = || Some(path_var("HOME")?.join(".local/share"));
    let set = path_var("XDG_DATA_HOME").filter(|path| path.is_absolute());
    set.or_else(home).ok_or_else(|| "HOME is not set".to_owned())
}

/// The directory of the installed copy.
///
/// # Errors
/// Somebody else's directory is in its place, such as a checkout of somebody who works there: it must not be replaced or removed.
fn copy() -> Result<PathBuf, String> {
    let dir = data_home()?.join(MARKETPLACE);
    match dir.exists() && (dir.join(".git").exists() || !dir.join(MANIFEST).exists()) {
        true => Err(format!("{} was not made by relay; move it elsewhere", dir.display())),
        false => Ok(dir),
    }
}

/// Copies the marketplace and this program to the user's data directory, in place of an earlier version, and returns where.
///
/// # Errors
/// A file can't be read or written; the message names it.
pub fn install() -> Result<PathBuf, String> {
    let dir = copy()?;
    let [new, old] = ["new", "old"].map(|which| dir.with_extension(which));
    // A setup that was interrupted may have left them.
    [&new, &old].into_iter().for_each(|left| drop(fs::remove_dir_all(left)));
    for (path, mode, content) in FILES {
        write(&new.join(path), content.as_bytes(), *mode)?;
    }
    let from = own_executable();
    let bytes = fs::read(&from).map_err(|e| format!("cannot read {}: {e}", from.display()))?;
    // Where the launcher looks for it on this system.
    let os = std::env::consts::OS.replace("macos", "darwin");
    let processor = std::env::consts::ARCH.replace("aarch64", "arm64");
    write(&new.join(format!("plugin/bin/{os}-{processor}/relay")), &bytes, 0o755)?;
    // Running sessions start their hooks from the copy, so it must not be away for as long as its removal takes.
    let _ = fs::rename(&dir, &old); // there may be none; another error shows at the next step
    fs::rename(&new, &dir).map_err(|e| format!("cannot replace {}: {e}", dir.display()))?;
    let _ = fs::remove_dir_all(&old); // there was none, or the next setup removes it
    Ok(dir)
}

fn write(file: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    replace(file, bytes, mode).map_err(|e| format!("cannot write {}: {e}", file.display()))
}

/// Completions and the man page: where they belong, and what is in them. Another program's files are left out.
fn extras() -> Result<impl Iterator<Item = (PathBuf, &'static str)>, String> {
    let data = data_home()?;
    let files = [
        (data.join("bash-completion/completions/relay"), BASH),
        (data.join("zsh/site-functions/_relay"), ZSH),
        (data.join("fish/vendor_completions.d/relay.fish"), FISH),
        (data.join("man/man1/relay.1"), MAN_PAGE),
    ];
    // Every version of ours begins with the same line.
    Ok(files.into_iter().filter(|(path, content)| match fs::read_to_string(path) {
        Ok(text) => text.lines().next() == content.lines().next(),
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    }))
}

/// Installs completions and the man page, and returns the directory that holds them.
///
/// # Errors
/// A file can't be written; the message names it.
pub fn install_extras() -> Result<PathBuf, String> {
    for (path, content) in extras()? {
        write(&path, content.as_bytes(), 0o644)?;
    }
    data_home()
}

/// Removes the installed copy, completions and the man page, as far as they are there.
///
/// # Errors
/// A file can't be removed; the message names it.
pub fn remove() -> Result<(), String> {
    let cannot = |path: &Path, e: io::Error| format!("cannot remove {}: {e}", path.display());
    for (path, _) in extras()?.filter(|(path, _)| path.exists()) {
        fs::remove_file(&path).map_err(|e| cannot(&path, e))?;
    }
    match copy()? {
        dir if dir.exists() => fs::remove_dir_all(&dir).map_err(|e| cannot(&dir, e)),
        _ => Ok(()),
    }
}
