//! The command line. `commands.txt` is the one table of all commands, options, exit codes and environment variables: the
//! parser, every `--help` and the completions are made from it, and a test compares the man page with it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::ExitCode;

use lexopt::prelude::*;

use super::Failure;
use super::terminal::out;
use crate::wire::{Code, fault};

/// `# TITLE` begins a section. `## COMMAND ARGUMENTS` begins a command: one line that says what it does, an empty line, and
/// the rest of its help text, in which a line that begins with two spaces and `--` is about an option.
const TABLE: &str = include_str!("commands.txt");

/// A command of `relay`.
pub struct Command {
    pub name: &'static str,
    /// The arguments besides the options, as the usage line shows them.
    pub arguments: &'static str,
    /// What the command does, in one line.
    pub summary: &'static str,
    /// The rest of the help text, options included.
    pub details: &'static str,
}

impl Command {
    /// The options: the name without `--`, and what the help text calls the value, which is empty for a flag. If that contains
    /// `|`, it lists all values.
    pub fn options(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let lines = self.details.lines().filter_map(|line| line.strip_prefix("  --"));
        lines.map(|line| split_word(line.split("  ").next().unwrap_or_default()))
    }
}

/// All commands, in the order of the table.
pub fn commands() -> Vec<Command> {
    let sections = TABLE.split("\n# ").flat_map(|section| section.split("\n## ").skip(1));
    sections.map(parse_command).collect()
}

fn parse_command(text: &'static str) -> Command {
    let (head, text) = text.split_once('\n').unwrap_or((text, ""));
    let (name, arguments) = split_word(head);
    let (summary, details) = text.split_once('\n').unwrap_or((text, ""));
    Command { name, arguments, summary, details: details.trim() }
}

/// The first word and the rest.
fn split_word(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

/// The exit code for an error code, from the table.
pub fn exit_code(code: Code) -> ExitCode {
    let name = format!("{}: ", code.name());
    let mut rows = TABLE.lines().map(|row| split_word(row.trim_start()));
    let row = rows.find(|(_, meaning)| meaning.trim_start().starts_with(&name));
    row.and_then(|(number, _)| number.parse::<u8>().ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// A parsed command line.
#[derive(Default)]
pub struct Args {
    pub command: &'static str,
    pub data_dir: Option<OsString>,
    pub words: Vec<String>,
    options: BTreeMap<&'static str, String>,
}

impl Args {
    /// The value of an option; the last one counts. A flag has an empty value.
    pub fn get(&self, option: &str) -> Option<&str> {
        self.options.get(option).map(String::as_str)
    }

    pub fn has(&self, option: &str) -> bool {
        self.options.contains_key(option)
    }
}

/// Parses a command line.
///
/// # Errors
/// A usage error, or [`Failure::Exit`] if help was printed.
pub fn parse(mut line: lexopt::Parser) -> Result<Args, Failure> {
    let (mut command, mut args) = (None::<Command>, Args::default());
    loop {
        let usage = |why: lexopt::Error| {
            let name = command.as_ref().map(|c| format!(" {}", c.name)).unwrap_or_default();
            Failure::Fault(fault(Code::BadArgs, format!("{why}; try 'relay{name} --help'")))
        };
        match line.next().map_err(usage)? {
            None => {
                args.command = command.as_ref().ok_or_else(|| usage("missing COMMAND".into()))?.name;
                return Ok(args);
            }
            Some(Short('h') | Long("help")) => return print(&command.as_ref().map_or_else(overview, help)),
            Some(Short('V') | Long("version")) => {
                return print(&format!("relay {}\n", env!("CARGO_PKG_VERSION")));
            }
            // For `relay doctor` and the launcher: which binary a launcher starts.
            Some(Long("which")) => {
                let path = std::env::current_exe().unwrap_or_default();
                return print(&format!("{} {}\n", env!("CARGO_PKG_VERSION"), path.display()));
            }
            Some(Long("data-dir")) => args.data_dir = Some(line.value().map_err(usage)?),
            Some(Long(long)) => {
                let known = command.as_ref().and_then(|c| c.options().find(|(name, _)| *name == long));
                let Some((name, value)) = known else { return Err(usage(Long(long).unexpected())) };
                let value = match value {
                    "" => String::new(),
                    _ => line.value().and_then(|v| v.string()).map_err(usage)?,
                };
                args.options.insert(name, value);
            }
            Some(short @ Short(_)) => return Err(usage(short.unexpected())),
            Some(Value(word)) => {
                let word = word.string().map_err(usage)?;
                match &command {
                    None => {
                        let unknown = || usage(format!("unknown command '{word}'").into());
                        command = Some(commands().into_iter().find(|c| c.name == word).ok_or_else(unknown)?);
                    }
                    Some(c) if c.arguments.contains("TEXT") => args.words.push(word),
                    Some(c) if !c.arguments.is_empty() && args.words.is_empty() => args.words.push(word),
                    Some(_) => return Err(usage(Value(word.into()).unexpected())),
                }
            }
        }
    }
}

/// Prints help and ends the parsing.
fn print(text: &str) -> Result<Args, Failure> {
    out(text)?;
    Err(Failure::Exit(ExitCode::SUCCESS))
}

/// The text of `relay --help`: the table without the options and details of single commands.
fn overview() -> String {
    let mut text = "Let the Claude Code sessions on this machine ask each other questions.\n\n\
        Usage: relay COMMAND [OPTIONS]\n"
        .to_owned();
    for section in TABLE.trim_start_matches("# ").split("\n# ") {
        let mut parts = section.split("\n## ");
        let (title, rest) = parts.next().and_then(|head| head.split_once('\n')).unwrap_or_default();
        text += &format!("\n{title}:\n{rest}");
        for Command { name, summary, .. } in parts.map(parse_command) {
            text += &format!("  {name:19} {summary}\n");
        }
    }
    text
}

/// The text of `relay COMMAND --help`.
fn help(command: &Command) -> String {
    let Command { name, arguments, summary, details } = command;
    let options = command.options().next().map_or("", |_| " [OPTIONS]");
    format!("{summary}\n\nUsage: {}\n\n{details}\n", format!("relay {name}{options} {arguments}").trim_end())
}
