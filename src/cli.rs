//! The command line. One text, `commands.txt`, is the table of all commands, options, exit codes and environment variables:
//! from it come the parser, every `--help` and the completions, and a test holds the man page to it.

use std::ffi::OsString;
use std::process::ExitCode;

use lexopt::prelude::*;

use crate::name;
use crate::wire::Code;

/// `# TITLE` begins a part. `## COMMAND WORDS` begins a command: a line on what it is for, a line for each option, an empty
/// line, and all else that its help says.
const TABLE: &str = include_str!("commands.txt");

/// A command of `relay`.
pub struct Command {
    pub name: &'static str,
    /// What may follow, besides options.
    pub words: &'static str,
    pub about: &'static str,
    pub options: Vec<Opt>,
    more: &'static str,
}

/// An option of a command.
pub struct Opt {
    /// Without the `--`.
    pub name: &'static str,
    /// What its value is called; `None` for a flag. With `|` in it, these are all values.
    pub value: Option<&'static str>,
    pub about: &'static str,
}

/// All commands, in the order of the table.
pub fn commands() -> Vec<Command> {
    let parts = TABLE.split("\n# ").flat_map(|part| part.split("\n## ").skip(1));
    parts
        .map(|text| {
            let (head, more) = text.split_once("\n\n").unwrap_or((text, ""));
            let mut lines = head.lines();
            let title = lines.next().unwrap_or_default();
            let (name, words) = title.split_once(' ').unwrap_or((title, ""));
            let about = lines.next().unwrap_or_default();
            Command { name, words, about, options: lines.filter_map(option).collect(), more: more.trim_end() }
        })
        .collect()
}

fn option(line: &'static str) -> Option<Opt> {
    let (left, about) = line.strip_prefix("--")?.split_once("  ")?;
    let (name, value) = left.split_once(' ').map_or((left, None), |(name, value)| (name, Some(value)));
    Some(Opt { name, value, about: about.trim_start() })
}

/// The exit code for an error code.
pub fn exit(code: Code) -> ExitCode {
    let name = format!(" {}: ", code.name());
    let row = TABLE.lines().find(|row| row.contains(&name));
    let number = row.and_then(|row| row.split_whitespace().next()?.parse::<u8>().ok());
    number.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// A command line that can't be followed, and for which command.
pub struct Usage(pub Option<&'static str>, pub String);

/// What a command line asks for.
pub enum Wanted {
    /// To be told this.
    Text(String),
    Run(Args),
}

/// A command line that can be followed.
pub struct Args {
    pub command: &'static str,
    pub data_dir: Option<OsString>,
    pub words: Vec<String>,
    options: Vec<(&'static str, String)>,
}

impl Args {
    /// The option's value; the last one counts. A flag's is empty.
    pub fn get(&self, option: &str) -> Option<&str> {
        self.options.iter().rev().find(|(name, _)| *name == option).map(|(_, value)| value.as_str())
    }

    pub fn has(&self, option: &str) -> bool {
        self.get(option).is_some()
    }
}

/// Follows a command line by the table.
///
/// # Errors
/// What is wrong with it, with a hint.
pub fn parse(mut line: lexopt::Parser) -> Result<Wanted, Usage> {
    let mut command: Option<Command> = None;
    let (mut data_dir, mut words, mut options) = (None, Vec::new(), Vec::new());
    let version = env!("CARGO_PKG_VERSION");
    loop {
        let at = command.as_ref().map(|c| c.name);
        let wrong = |e: lexopt::Error| Usage(at, e.to_string());
        match line.next().map_err(wrong)? {
            None => break,
            Some(Short('h') | Long("help")) => {
                return Ok(Wanted::Text(command.as_ref().map_or_else(overview, help)));
            }
            Some(Short('V') | Long("version")) => return Ok(Wanted::Text(format!("relay {version}\n"))),
            // For the doctor: which binary a launcher comes to.
            Some(Long("which")) => {
                let path = std::env::current_exe().unwrap_or_default();
                return Ok(Wanted::Text(format!("{version} {}\n", path.display())));
            }
            Some(Long("data-dir")) => data_dir = Some(line.value().map_err(wrong)?),
            Some(Long(long)) => {
                let known = command.as_ref().and_then(|c| c.options.iter().find(|o| o.name == long));
                let Some(option) = known else { return Err(unknown_option(command.as_ref(), long)) };
                let value = option.value.map(|_| line.value().and_then(|v| v.string()).map_err(wrong));
                options.push((option.name, value.transpose()?.unwrap_or_default()));
            }
            Some(Short(c)) => return Err(Usage(at, format!("there is no option '-{c}'"))),
            Some(Value(word)) => {
                let word = word.string().map_err(wrong)?;
                match &command {
                    None => command = Some(find(&word)?),
                    Some(c) if c.words.contains("TEXT") || !c.words.is_empty() && words.is_empty() => {
                        words.push(word)
                    }
                    Some(_) => return Err(Usage(at, format!("'{word}' is one argument too many"))),
                }
            }
        }
    }
    let command = command.ok_or_else(|| Usage(None, "a command is missing".into()))?.name;
    Ok(Wanted::Run(Args { command, data_dir, words, options }))
}

fn find(name: &str) -> Result<Command, Usage> {
    let mut commands = commands();
    if let Some(at) = commands.iter().position(|c| c.name == name) {
        return Ok(commands.swap_remove(at));
    }
    let hint = did_you_mean(name, "relay ", commands.iter().map(|c| c.name));
    Err(Usage(None, format!("there is no command '{name}'{hint}")))
}

fn unknown_option(command: Option<&Command>, long: &str) -> Usage {
    let known = command.into_iter().flat_map(|c| &c.options).map(|o| o.name);
    let mut hint = did_you_mean(long, "--", known.chain(["help", "version", "data-dir"]));
    if hint.is_empty() && command.is_some_and(|c| c.words.contains("TEXT")) {
        hint = "; write `--` before a text that begins with a dash".to_owned();
    }
    Usage(command.map(|c| c.name), format!("there is no option '--{long}'{hint}"))
}

fn did_you_mean(wanted: &str, prefix: &str, names: impl Iterator<Item = &'static str>) -> String {
    let near = name::nearest(wanted, names);
    near.first().map(|n| format!("; did you mean '{prefix}{n}'?")).unwrap_or_default()
}

/// `relay --help`: the table without what only concerns one command.
fn overview() -> String {
    let mut text = "Let Claude Code sessions on this machine ask each other.\n\n\
        Usage: relay COMMAND [OPTION...]    (relay COMMAND --help tells more)\n"
        .to_owned();
    let (mut lines, mut inside) = (TABLE.lines(), false);
    while let Some(line) = lines.next() {
        if let Some(command) = line.strip_prefix("## ") {
            inside = true;
            let name = command.split(' ').next().unwrap_or_default();
            text += &format!("  {name:19} {}\n", lines.next().unwrap_or_default());
        } else if let Some(title) = line.strip_prefix("# ") {
            inside = false;
            text += &format!("\n{title}:\n");
        } else if !inside && !line.is_empty() {
            text += &format!("{line}\n");
        }
    }
    text
}

/// `relay COMMAND --help`.
fn help(command: &Command) -> String {
    let (mut usage, mut options) = (format!("relay {}", command.name), String::new());
    for Opt { name, value, about } in &command.options {
        let option = format!("--{name} {}", value.unwrap_or_default());
        usage += &format!(" [{}]", option.trim_end());
        options += &format!("  {option:19} {about}\n");
    }
    let usage = format!("{usage} {}", command.words);
    let options = if options.is_empty() { options } else { format!("\nOptions:\n{options}") };
    format!(
        "{}: {}\n\nUsage: {}\n{options}\n{}\n",
        command.name,
        command.about,
        usage.trim_end(),
        command.more
    )
}
