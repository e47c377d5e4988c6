//! The installed copy: the marketplace with our plugin and this program, completions and the man page, in the user's data
//! directory. The plugin's files are part of the program, so no checkout is needed to install them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::claude::{MARKETPLACE, read_json};
use super::completions::{BASH, FISH, ZSH};
use super::settings::replace;
use crate::link::own_executable;
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

/// Copies the marketplace and this program to the user's data directory, in place of an earlier version, and returns where.
///
/// # Errors
/// A file can't be read or written; the message names it.
pub fn install() -> Result<PathBuf, String> {
    let dir = data_home()?.join(MARKETPLACE);
    if is_checkout(&dir) {
        return Err(format!(
            "{} is a checkout, and the copy would replace it; move it elsewhere",
            dir.display()
        ));
    }
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
    let moved = match fs::rename(&dir, &old) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => fs::rename(&new, &dir),
    };
    moved.map_err(|e| format!("cannot replace {}: {e}", dir.display()))?;
    let _ = fs::remove_dir_all(&old); // there was none, or the next setup removes it
    Ok(dir)
}

/// Whether a directory in the place of the copy is a checkout of somebody who works there.
fn is_checkout(dir: &Path) -> bool {
    dir.join(".git").exists()
}

fn write(file: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    replace(file, bytes, mode).map_err(|e| format!("cannot write {}: {e}", file.display()))
}

/// Completions and the man page: where they belong, and what is in them.
fn extras() -> Result<[(PathBuf, &'static str); 4], String> {
    let data = data_home()?;
    Ok([
        (data.join("bash-completion/completions/relay"), BASH),
        (data.join("zsh/site-functions/_relay"), ZSH),
        (data.join("fish/vendor_completions.d/relay.fish"), FISH),
        (data.join("man/man1/relay.1"), MAN_PAGE),
    ])
}

/// Installs completions and the man page, and returns the directory that holds them.
///
/// # Errors
/// A file can't be written, or is not ours; the message names it.
pub fn install_extras() -> Result<PathBuf, String> {
    for (path, content) in extras()? {
        if path.exists() && !is_version_of(&path, content) {
            return Err(format!("{} exists and was not made by relay", path.display()));
        }
        write(&path, content.as_bytes(), 0o644)?;
    }
    data_home()
}

/// Whether a file begins with the same line as `content`: one that another version of us has written.
fn is_version_of(path: &Path, content: &str) -> bool {
    let first_line = content.lines().next();
    fs::read_to_string(path).is_ok_and(|text| text.lines().next() == first_line)
}

/// Removes the installed copy, completions and the man page, as far as they are there.
///
/// # Errors
/// A file can't be removed; the message names it.
pub fn remove() -> Result<(), String> {
    let cannot = |path: &Path, e: io::Error| format!("cannot remove {}: {e}", path.display());
    for (path, _) in extras()?.iter().filter(|(path, content)| is_version_of(path, content)) {
        fs::remove_file(path).map_err(|e| cannot(path, e))?;
    }
    let dir = data_home()?.join(MARKETPLACE);
    let manifest = read_json(&dir.join(MANIFEST)).unwrap_or_default();
    match manifest["name"] == MARKETPLACE && !is_checkout(&dir) {
        true => fs::remove_dir_all(&dir).map_err(|e| cannot(&dir, e)),
        false => Ok(()),
    }
}
