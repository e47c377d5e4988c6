//! `relay completions`: scripts that complete commands, options and the names of peers in a shell. They ask this program what
//! may come next on a command line.

use super::args::{Args, commands};
use super::peers::roster;
use super::terminal::out;
use super::{Outcome, usage_error};
use crate::datadir::DataDir;

// Where nothing is to be completed, bash and zsh complete the names of files.
pub const BASH: &str = r#"# bash completion for relay
_relay() {
    COMPREPLY=($(compgen -W "$(relay completions bash -- "${COMP_WORDS[@]:0:COMP_CWORD}" 2>/dev/null | cut -f 1)" -- "$2"))
}
complete -o default -F _relay relay
"#;
pub const ZSH: &str = r#"#compdef relay
_relay() {
    local choices=($(relay completions zsh -- "${(@)words[1,CURRENT-1]}" 2>/dev/null | cut -f 1))
    compadd -- $choices || _files
}
if [ "$funcstack[1]" = _relay ]; then _relay "$@"; else compdef _relay relay; fi
"#;
pub const FISH: &str = r#"# fish completion for relay
complete -c relay -f -a '(relay completions fish -- (commandline -opc) 2>/dev/null)'
"#;

/// Runs `relay completions`.
pub fn completions(dir: &DataDir, args: &Args) -> Outcome {
    let script = match args.words.first().map(String::as_str) {
        Some("bash") => BASH,
        Some("zsh") => ZSH,
        Some("fish") => FISH,
        _ => return usage_error("missing or unknown shell: give bash, zsh or fish"),
    };
    let Some(line) = args.words.get(2..) else { return out(script) };
    let words = next_words(dir, line).into_iter();
    out(&words.map(|(word, summary)| format!("{word}\t{summary}\n")).collect::<String>())
}

/// The words that may follow on a command line after `relay` and these, each with what it is.
fn next_words(dir: &DataDir, line: &[String]) -> Vec<(String, &'static str)> {
    let commands = commands();
    let Some((name, rest)) = line.split_first() else {
        let names = commands.iter().map(|command| (command.name.to_owned(), command.summary));
        return names.chain(options_of_all(["--help", "--version"])).collect();
    };
    let Some(command) = commands.into_iter().find(|command| command.name == name) else { return Vec::new() };
    let last = rest.last().and_then(|word| word.strip_prefix("--"));
    let needs_value = command.options.iter().find(|o| last == Some(o.name) && !o.value.is_empty());
    if let Some(option) = needs_value {
        return values(dir, option.value);
    } else if last == Some("data-dir") {
        return Vec::new(); // the shell completes the name of the directory
    }
    let options = command.options.iter().map(|option| (format!("--{}", option.name), option.summary));
    options.chain(options_of_all(["--data-dir", "--help"])).chain(values(dir, command.arguments)).collect()
}

/// Options that are not in the list of a command.
fn options_of_all(names: [&str; 2]) -> impl Iterator<Item = (String, &'static str)> {
    names.map(|name| (name.to_owned(), "see relay --help")).into_iter()
}

/// The values of an argument, if they are known. No hub is started.
fn values(dir: &DataDir, argument: &str) -> Vec<(String, &'static str)> {
    let first = argument.split(' ').next().unwrap_or_default();
    let names = match first {
        "PEER" => {
            let roster = roster(dir).ok().flatten().unwrap_or_default();
            roster.peers.into_iter().map(|peer| peer.name).collect()
        }
        words if words.contains('|') => words.split('|').map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    names.into_iter().map(|name| (name, "")).collect()
}
