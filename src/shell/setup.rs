//! `relay setup`: installs, upgrades and removes the plugin with Claude Code's own commands.

use std::io::{self, IsTerminal};

use super::args::Args;
use super::claude::{
    CHANNEL_FLAG, INSTALL_CLAUDE, MARKETPLACE, PLUGIN, abbreviate_home, claude, marketplace, plugin,
};
use super::settings::{ALLOW, NO_PERSON};
use super::terminal::{err, out};
use super::{Failure, Outcome, package, usage_error};
use crate::fence::clean;

/// Why the user should allow our tools.
pub const WHY_ALLOW: &str = "In auto mode, the default of Claude Code since 2.1.332, every call of a relay tool without an \
    allow rule first costs a classifier request of about 147 KB, which can refuse the call. In other modes a dialog asks on \
    the first use in each project.";

const ALLOWED: &str = "sessions may use the relay tools without a dialog, by a rule in your settings";
const FORBIDDEN: &str = "sessions may not ask you by a form: RELAY_PERSON is off in your settings";
const MAY_ASK: &str = "\
    \nSessions can ask not only other sessions but also you, by a form in the terminal of an idle session.\n\
    May they? [Y/n] ";

/// Runs `relay setup`.
pub fn setup(args: &Args) -> Outcome {
    if args.has("allow") && args.has("no-allow") {
        return usage_error("--allow and --no-allow exclude each other");
    }
    if args.has("remove") { remove() } else { install(args) }
}

fn install(args: &Args) -> Result<(), Failure> {
    let version = claude(&["--version"]).map_err(|why| format!("{why}; {INSTALL_CLAUDE}"))?;
    step("Claude Code", &version)?;
    install_plugin()?;
    permit(args)?;
    let dir = abbreviate_home(package::install_extras()?);
    step(
        "shell",
        &format!("completions and man page are below {dir} (for zsh, add zsh/site-functions to fpath)"),
    )?;
    out(&format!(
        "\nEvery session that starts from now on is a peer; in a running session type /reload-plugins. Then run\n\
         \x20   relay peers\n\
         or tell a session \"ask everyone what they're working on\". Optional, to receive messages by the path \"channel\":\n\
         \x20   claude {CHANNEL_FLAG}\n"
    ))
}

/// Makes Claude Code load the plugin from the installed copy, of this version. A marketplace that is no directory is left
/// to Claude Code, which updates it.
fn install_plugin() -> Result<(), Failure> {
    let known = marketplace()?;
    let is_broken = plugin()?.is_some_and(|plugin| !plugin.errors.is_empty());
    if known.as_ref().is_some_and(|known| known.source != "directory") && !is_broken {
        step("marketplace", "comes from the network; `claude plugin marketplace update` updates it")?;
    } else {
        let dir = package::install()?;
        step(
            "copy",
            &format!("relay {} and the plugin are in {}", env!("CARGO_PKG_VERSION"), abbreviate_home(&dir)),
        )?;
        if is_broken || known.as_ref().and_then(|known| known.path.as_ref()) != Some(&dir) {
            known.map(|_| claude(&["plugin", "marketplace", "remove", MARKETPLACE])).transpose()?;
            step("marketplace", &claude(&["plugin", "marketplace", "add", &dir.to_string_lossy()])?)?;
        }
    }
    step("plugin", &claude(&["plugin", "install", PLUGIN])?)?; // also enables it
    match plugin()?.is_some_and(|plugin| plugin.version != env!("CARGO_PKG_VERSION")) {
        true => step("plugin", &claude(&["plugin", "update", PLUGIN])?),
        false => Ok(()),
    }
}

/// Adds or removes the allow rule. Where neither is chosen yet, a user at a terminal is asked, and then also whether peers may
/// ask the user.
fn permit(args: &Args) -> Result<(), Failure> {
    let is_asked = !ALLOW.is_set() && !args.has("allow") && !args.has("no-allow");
    if is_asked {
        out(&format!("\n{WHY_ALLOW}\n"))?;
    }
    let is_refused = |question| is_asked && refuses(question);
    let is_allowed =
        !args.has("no-allow") && !is_refused("Allow the relay tools, in all projects of this user? [Y/n] ");
    ALLOW.set(is_allowed)?;
    step("permission", if is_allowed { ALLOWED } else { "no allow rule; `relay setup --allow` adds it" })?;
    if !NO_PERSON.is_set() && is_refused(MAY_ASK) {
        NO_PERSON.set(true)?;
    }
    step("person", if NO_PERSON.is_set() { FORBIDDEN } else { "sessions may ask you by a form" })
}

/// Asks the user, if one is there. An empty line is a yes, the end of the input is not.
fn refuses(question: &str) -> bool {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return false;
    }
    err(question);
    let mut answer = String::new();
    let _ = io::stdin().read_line(&mut answer); // an error is no answer
    answer.is_empty() || !matches!(answer.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes")
}

fn remove() -> Result<(), Failure> {
    if plugin()?.is_some() {
        step("plugin", &claude(&["plugin", "uninstall", PLUGIN])?)?;
    }
    if marketplace()?.is_some() {
        step("marketplace", &claude(&["plugin", "marketplace", "remove", MARKETPLACE])?)?;
    }
    ALLOW.set(false)?;
    NO_PERSON.set(false)?;
    step("settings", "without the allow rule and RELAY_PERSON")?;
    package::remove()?;
    step("copy", "removed, with completions and man page")
}

/// Prints the result of a step: the last line of what a program printed, without the progress before its check mark.
fn step(what: &str, result: &str) -> Result<(), Failure> {
    let line = result.lines().last().unwrap_or_default();
    out(&format!("{what:12} {}\n", clean(line.rsplit('✔').next().unwrap_or_default().trim_start())))
}
