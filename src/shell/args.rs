//! The command line. One text, `commands.txt`, is the table of all commands, options, exit codes and environment variables:
//! from it come the parser, every `--help` and the completions, and a test holds the man page to it.

use std::ffi::OsString;
use std::process::ExitCode;

use lexopt::prelude::*;

use super::terminal::{err, out};
use crate::fence::clean;
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
    pub more: &'static str,
}

/// An option of a command.
pub struct Opt {
    /// Without the `--`.
    pub name: &'static str,
    /// What its value is called; empty for a flag. With `|` in it, these are all values.
    pub value: &'static str,
    pub about: &'static str,
}

/// All commands, in the order of the table.
pub fn commands() -> Vec<Command> {
    let parts = TABLE.split("\n# ").flat_map(|part| part.split("\n## ").skip(1));
    parts.map(command).collect()
}

fn command(text: &'static str) -> Command {
    let (head, more) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let (name, words) = pair(lines.next().unwrap_or_default());
    let about = lines.next().unwrap_or_default();
    let options = lines.map(|line| {
        let (left, about) = line.split_once("  ").unwrap_or((line, ""));
        let (name, value) = pair(left.trim_start_matches('-'));
        Opt { name, value, about: about.trim_start() }
    });
    Command { name, words, about, options: options.collect(), more: more.trim_end() }
}

/// The first word, and the rest.
pub fn pair(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

/// The exit code for an error code.
pub fn exit(code: Code) -> ExitCode {
    let name = format!("{}: ", code.name());
    let mut rows = TABLE.lines().map(|row| pair(row.trim_start()));
    let row = rows.find(|(_, when)| when.trim_start().starts_with(&name));
    row.and_then(|(number, _)| number.parse::<u8>().ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// A command line that can be followed.
#[derive(Default)]
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
/// What to exit with, when all that it asks for has been told: help, or what is wrong with it.
pub fn parse(mut line: lexopt::Parser) -> Result<Args, ExitCode> {
    let (mut command, mut args, mut helps) = (None::<Command>, Args::default(), false);
    loop {
        let wrong = |why: lexopt::Error| usage(command.as_ref(), &why.to_string());
        let version = env!("CARGO_PKG_VERSION");
        match line.next().map_err(wrong)? {
            None if helps => return told(&command.as_ref().map_or_else(overview, help)),
            None => break,
            Some(Short('h') | Long("help")) => return told(&command.as_ref().map_or_else(overview, help)),
            Some(Short('V') | Long("version")) => return told(&format!("relay {version}\n")),
            // For the doctor: which binary a launcher comes to.
            Some(Long("which")) => {
                let path = std::env::current_exe().unwrap_or_default();
                return told(&format!("{version} {}\n", path.display()));
            }
            Some(Long("data-dir")) => args.data_dir = Some(line.value().map_err(wrong)?),
            Some(Long(long)) => {
                let known = command.as_ref().and_then(|c| c.options.iter().find(|o| o.name == long));
                let Some(Opt { name, value, .. }) = known else {
                    return Err(unknown_option(command.as_ref(), &format!("--{long}")));
                };
                let value = match *value {
                    "" => String::new(),
                    _ => line.value().and_then(|v| v.string()).map_err(wrong)?,
                };
                args.options.push((name, value));
            }
            Some(Short(c)) => return Err(unknown_option(command.as_ref(), &format!("-{c}"))),
            Some(Value(word)) => {
                let word = word.string().map_err(wrong)?;
                match &command {
                    None if word == "help" => helps = true,
                    None => command = Some(find(&word)?),
                    Some(c) if c.words.contains("TEXT") || !c.words.is_empty() && args.words.is_empty() => {
                        args.words.push(word);
                    }
                    Some(c) => return Err(usage(Some(c), &format!("'{word}' is one argument too many"))),
                }
            }
        }
    }
    args.command = command.ok_or_else(|| usage(None, "a command is missing"))?.name;
    Ok(args)
}

fn told<T>(text: &str) -> Result<T, ExitCode> {
    out(text);
    Err(ExitCode::SUCCESS)
}

/// Tells what is wrong with a command line.
pub fn usage(command: Option<&Command>, why: &str) -> ExitCode {
    let at = command.map(|c| format!(" {}", c.name)).unwrap_or_default();
    err(&format!("relay{at}: {}\nTry 'relay{at} --help'.\n", clean(why))); // it repeats what was typed
    // To Claude Code, a hook that exits 2 forbids what the user is about to do.
    if at == " hook" { ExitCode::SUCCESS } else { exit(Code::BadArgs) }
}

fn find(name: &str) -> Result<Command, ExitCode> {
    let mut commands = commands();
    if let Some(at) = commands.iter().position(|c| c.name == name) {
        return Ok(commands.swap_remove(at));
    }
    let hint = did_you_mean(name, "relay ", commands.iter().map(|c| c.name));
    Err(usage(None, &format!("there is no command '{name}'{hint}")))
}

fn unknown_option(command: Option<&Command>, option: &str) -> ExitCode {
    let known = command.into_iter().flat_map(|c| &c.options).map(|o| o.name);
    let mut hint = did_you_mean(option, "--", known.chain(["help", "version", "data-dir"]));
    if hint.is_empty() && command.is_some_and(|c| c.words.contains("TEXT")) {
        hint = "; write `--` before a text that begins with a dash".to_owned();
    }
    usage(command, &format!("there is no option '{option}'{hint}"))
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
    for part in TABLE.trim_start_matches("# ").split("\n# ") {
        let mut sections = part.split("\n## ");
        let (title, rest) = sections.next().and_then(|head| head.split_once('\n')).unwrap_or_default();
        text += &format!("\n{title}:\n{rest}");
        for Command { name, about, .. } in sections.map(command) {
            text += &format!("  {name:19} {about}\n");
        }
    }
    text
}

/// `relay COMMAND --help`.
fn help(Command { name, words, about, options, more }: &Command) -> String {
    let (mut usage, mut list) = (format!("relay {name}"), String::new());
    for Opt { name, value, about } in options {
        let option = format!("--{name} {value}");
        usage += &format!(" [{}]", option.trim_end());
        list += &format!("  {option:19} {about}\n");
    }
    let title = if list.is_empty() { "" } else { "\nOptions:\n" };
    format!("{name}: {about}\n\nUsage: {}\n{title}{list}\n{more}\n", format!("{usage} {words}").trim_end())
}
