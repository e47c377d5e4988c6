//! `relay completions`: scripts that complete commands, options and the names of peers in a shell.

use std::process::ExitCode;

use super::args::{Args, Command, Opt, commands};
use super::terminal::out;
use super::{Outcome, usage_error};

/// A shell expression for the names of all peers. It starts no hub.
const PEER_NAMES: &str = "$(relay peers 2>/dev/null | tail -n +2 | cut -d\" \" -f1)";

/// Runs `relay completions`.
pub fn completions(args: &Args) -> Outcome {
    match args.words.first().and_then(|shell| script_for(shell)) {
        Some(script) => out(&script)?,
        None => return usage_error("missing or unknown shell: give bash, zsh or fish"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The completion script for a shell; `None` for an unknown shell.
pub fn script_for(shell: &str) -> Option<String> {
    let commands = commands();
    match shell {
        "bash" => Some(script(&commands, BASH)),
        "zsh" => Some(script(&commands, ZSH)),
        "fish" => Some(fish(&commands)),
        _ => None,
    }
}

/// The parts of the bash and zsh scripts before and after the common part: how the shell names the word to complete, and
/// how it takes the candidates. Without candidates both complete file names.
const BASH: [&str; 2] = [
    r#"# bash completion for relay
_relay() {
    local nth=$COMP_CWORD command=${COMP_WORDS[1]} before=$3"#,
    r#"    COMPREPLY=($(compgen -W "$choices" -- "$2"))
}
complete -o default -F _relay relay"#,
];
const ZSH: [&str; 2] = [
    r#"#compdef relay
_relay() {
    local nth=$((CURRENT - 1)) command=$words[2] before=$words[CURRENT-1]"#,
    r#"    compadd -- ${=choices} || _files
}
if [ "$funcstack[1]" = _relay ]; then _relay "$@"; else compdef _relay relay; fi"#,
];

/// The candidates for an argument or the value of an option, if they are known.
fn candidates(argument: &str) -> String {
    match argument.split(' ').next() {
        Some("PEER") => PEER_NAMES.to_owned(),
        Some(words) if words.contains('|') => words.replace('|', " "),
        _ => String::new(),
    }
}

fn concat<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect()
}

fn script(commands: &[Command], [begin, end]: [&str; 2]) -> String {
    let names = concat(commands, |c| format!("{} ", c.name));
    let cases = concat(commands, |c| {
        let options = concat(&c.options, |o| format!("--{} ", o.name));
        format!("        {}) choices=\"{options}--data-dir --help {}\" ;;\n", c.name, candidates(c.arguments))
    });
    let value = |o: &Opt| match o.value {
        "" => String::new(),
        value => format!("        --{}) choices=\"{}\" ;;\n", o.name, candidates(value)),
    };
    let values = concat(commands, |c| concat(&c.options, value));
    format!(
        r#"{begin}
    local choices="{names}--help --version"
    [ "$nth" = 1 ] || case $command in
{cases}    esac
    case $before in
        --data-dir) choices="" ;;
{values}    esac
{end}
"#
    )
}

fn fish(commands: &[Command]) -> String {
    let unquoted = |text: &str| text.replace('\'', "’");
    let lines = concat(commands, |c| {
        let (name, summary, arguments) = (c.name, unquoted(c.summary), candidates(c.arguments));
        let seen = format!("complete -c relay -n '__fish_seen_subcommand_from {name}'");
        let options = concat(&c.options, |o| {
            let value = match (o.value, candidates(o.value).as_str()) {
                ("", _) => String::new(),
                (_, "") => " -r".to_owned(),
                (_, values) => format!(" -x -a '{values}'"),
            };
            format!("{seen} -l {} -d '{}'{value}\n", o.name, unquoted(o.summary))
        });
        format!(
            "complete -c relay -n __fish_use_subcommand -a {name} -d '{summary}'\n{options}{seen} -a '{arguments}'\n"
        )
    });
    format!("# fish completion for relay\ncomplete -c relay -f\n{lines}")
}
