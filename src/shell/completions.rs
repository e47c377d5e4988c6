//! `relay completions`: scripts that complete commands, options and the names of peers in a shell. They ask this program what
//! may come next on a command line.

use super::args::{Args, commands};
use super::peers::roster;
use super::terminal::out;
use super::{Outcome, usage_error};
use crate::datadir::DataDir;
use crate::name;

// Where nothing is to be completed, bash and zsh complete the names of files.
pub const BASH: &str = r#"# bash completion for relay
_relay() {
    COMPREPLY=($(compgen -W "$(relay completions bash -- "${COMP_WORDS[@]:0:COMP_CWORD}" 2>/dev/null)" -- "$2"))
}
complete -o default -F _relay relay
"#;
pub const ZSH: &str = r#"#compdef relay
_relay() {
    local choices=($(relay completions zsh -- "${(@)words[1,CURRENT-1]}" 2>/dev/null))
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
    out(&next_words(dir, line).into_iter().map(|word| word + "\n").collect::<String>())
}

/// The words that may follow on a command line after `relay` and these.
fn next_words(dir: &DataDir, line: &[String]) -> Vec<String> {
    let commands = commands();
    let Some((name, rest)) = line.split_first() else {
        let names = commands.iter().map(|command| command.name);
        return names.chain(["--help", "--version"]).map(str::to_owned).collect();
    };
    let Some(command) = commands.into_iter().find(|command| command.name == name) else { return Vec::new() };
    let last = rest.last().and_then(|word| word.strip_prefix("--"));
    let value = command.options().find(|(name, _)| last == Some(name)).map_or("", |(_, value)| value);
    if !value.is_empty() || last == Some("data-dir") {
        return values(dir, value); // of no file: the shell completes their names
    }
    let options = command.options().map(|(name, _)| name).chain(["data-dir", "help"]);
    options.map(|option| format!("--{option}")).chain(values(dir, command.arguments)).collect()
}

/// The values of an argument, if they are known. No hub is started.
fn values(dir: &DataDir, argument: &str) -> Vec<String> {
    match argument.split(' ').next().unwrap_or_default() {
        "PEER" => {
            let roster = roster(dir).unwrap_or_default();
            // Bash expands the words: a hub elsewhere, such as a linked one, must not run commands here.
            roster.peers.into_iter().map(|peer| peer.name).filter(|name| name::is_valid(name)).collect()
        }
        words if words.contains('|') => words.split('|').map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
