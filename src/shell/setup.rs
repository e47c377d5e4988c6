//! `relay setup`: installs, upgrades and removes the plugin with Claude Code's own commands.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::ExitCode;

use super::args::Args;
use super::claude::{
    CHANNEL_FLAG, MARKETPLACE, PLUGIN, abbreviate_home, claude, marketplace, plugin, started_program,
};
use super::settings::RULE;
use super::terminal::{err, out};
use super::{Failure, Outcome, package, settings, usage_error};
use crate::fence::clean;

/// Why the user should allow our tools.
pub const AUTO_MODE: &str = "In auto mode, the default of Claude Code since 2.1.332, every call of a relay tool without an \
    allow rule first costs a classifier request of about 147 KB, which can refuse the call.";

/// Runs `relay setup`.
pub fn setup(args: &Args) -> Outcome {
    if args.has("allow") && args.has("no-allow") {
        return usage_error("--allow and --no-allow exclude each other");
    }
    if args.has("remove") { remove() } else { install(args) }?;
    Ok(ExitCode::SUCCESS)
}

fn install(args: &Args) -> Result<(), Failure> {
    step("Claude Code", &claude(&["--version"])?)?;
    install_plugin()?;
    let installed = plugin()?
        .ok_or_else(|| format!("`claude plugin list` does not list {PLUGIN} after its installation"))?;
    let program = match started_program(&installed) {
        Ok(program) => format!("sessions start relay {program}"),
        Err(why) => format!("NOT STARTED by the plugin: {why}; see `relay doctor`"),
    };
    step("program", &program)?;
    permit(args)?;
    let mut extras = match package::install_extras() {
        Ok(dir) => format!("installed below {}", shown(&dir)),
        Err(why) => why,
    };
    if std::env::var("SHELL").is_ok_and(|shell| shell.ends_with("zsh")) {
        extras += "; add its zsh/site-functions to fpath";
    }
    step("shell", &format!("completions and man page: {extras}"))?;
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
    let (known, old) = (marketplace()?, plugin()?);
    let is_broken = old.as_ref().is_some_and(|plugin| !plugin.errors.is_empty());
    if let (Some(known), false) = (&known, is_broken)
        && !known.source.is_empty()
        && known.source != "directory"
    {
        let source =
            format!("comes from a {} source; `claude plugin marketplace update` updates it", known.source);
        step("marketplace", &source)?;
    } else {
        let dir = package::install()?;
        step("copy", &format!("relay {} and the plugin are in {}", env!("CARGO_PKG_VERSION"), shown(&dir)))?;
        let is_current =
            !is_broken && known.as_ref().is_some_and(|known| known.path.as_deref() == Some(&dir));
        if known.is_some() && !is_current {
            step("marketplace", &claude(&["plugin", "marketplace", "remove", MARKETPLACE])?)?;
        }
        let added = match is_current {
            true => "already known to Claude Code".to_owned(),
            false => claude(&["plugin", "marketplace", "add", &dir.to_string_lossy()])?,
        };
        step("marketplace", &added)?;
    }
    let Some(present) = plugin()? else {
        return step("plugin", &claude(&["plugin", "install", PLUGIN])?);
    };
    if present.version != env!("CARGO_PKG_VERSION") {
        step("plugin", &claude(&["plugin", "update", PLUGIN])?)?;
    }
    match present.enabled {
        true => step("plugin", "installed and enabled"),
        false => step("plugin", &claude(&["plugin", "enable", PLUGIN])?),
    }
}

/// Adds or removes the allow rule.
fn permit(args: &Args) -> Result<(), Failure> {
    let has_rule = settings::has_rule();
    let wants_rule = !args.has("no-allow") && (has_rule || args.has("allow") || confirm()?);
    let done = match (wants_rule, has_rule) {
        (true, true) => format!("{RULE} is already allowed"),
        (true, false) => {
            format!("added {RULE} to permissions.allow in {}", settings::edit(settings::with_rule)?)
        }
        (false, true) => {
            format!("removed {RULE} from permissions.allow in {}", settings::edit(settings::without_rule)?)
        }
        (false, false) => "no allow rule; `relay setup --allow` adds it".to_owned(),
    };
    step("permission", &done)
}

/// Explains the allow rule, and asks for it if there is somebody to ask. The default is yes.
fn confirm() -> Result<bool, Failure> {
    let reason = AUTO_MODE.replace(" first costs", "\nfirst costs");
    out(&format!("\n{reason}\nIn other modes a dialog asks on the first use in each project.\n"))?;
    let mut answer = String::new();
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        err("Allow the relay tools, in all projects of this user? [Y/n] ");
        if !io::stdin().read_line(&mut answer).is_ok_and(|length| length > 0) {
            return Ok(false); // the end of the input is no consent
        }
    }
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "" | "y" | "yes"))
}

fn remove() -> Result<(), Failure> {
    const ABSENT: &str = "was not installed";
    let absent = || Ok(ABSENT.to_owned());
    let plugin = plugin()?.map_or_else(absent, |_| claude(&["plugin", "uninstall", PLUGIN]))?;
    step("plugin", &plugin)?;
    let known = marketplace()?;
    let removed = known.map_or_else(absent, |_| claude(&["plugin", "marketplace", "remove", MARKETPLACE]))?;
    step("marketplace", &removed)?;
    let rule = match settings::has_rule() {
        true => {
            format!("removed {RULE} from permissions.allow in {}", settings::edit(settings::without_rule)?)
        }
        false => ABSENT.to_owned(),
    };
    step("permission", &rule)?;
    let copy = if package::remove()? { "removed, with completions and man page" } else { ABSENT };
    step("copy", copy)
}

/// Prints the result of a step: the last line of what a program printed, without the progress before its check mark.
fn step(what: &str, result: &str) -> Result<(), Failure> {
    let line = result.lines().last().unwrap_or_default();
    out(&format!("{what:12} {}\n", clean(line.rsplit('✔').next().unwrap_or_default().trim_start())))
}

fn shown(path: &Path) -> String {
    abbreviate_home(&path.to_string_lossy())
}
