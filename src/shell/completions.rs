//! `relay completions`: what a shell needs to complete commands, options and the names of peers.

use std::process::ExitCode;

use super::args::{Args, Command, Opt, commands};
use super::terminal::out;
use super::{Outcome, bad};

/// Prints the names of all peers, without starting a hub; in any shell.
const PEERS: &str = "$(relay peers 2>/dev/null | tail -n +2 | cut -d\" \" -f1)";

/// `relay completions`.
pub fn completions(args: &Args) -> Outcome {
    let commands = commands();
    out(&match args.words.first().map(String::as_str) {
        Some("bash") => script(&commands, BASH),
        Some("zsh") => script(&commands, ZSH),
        Some("fish") => fish(&commands),
        _ => return bad("which shell? bash, zsh or fish"),
    });
    Ok(ExitCode::SUCCESS)
}

/// What goes before and after what is the same in bash and zsh: where they say which word is completed, and what they do
/// with the choices. Where there are none, both complete files.
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

/// The values of an option, or the words of a command, where they are known.
fn choices(of: &str) -> String {
    match of.split(' ').next() {
        Some("PEER") => PEERS.to_owned(),
        Some(words) if words.contains('|') => words.replace('|', " "),
        _ => String::new(),
    }
}

fn each<T>(of: &[T], with: impl Fn(&T) -> String) -> String {
    of.iter().map(with).collect()
}

fn script(commands: &[Command], [begin, end]: [&str; 2]) -> String {
    let names = each(commands, |c| format!("{} ", c.name));
    let cases = each(commands, |c| {
        let options = each(&c.options, |o| format!("--{} ", o.name));
        format!("        {}) choices=\"{options}--data-dir --help {}\" ;;\n", c.name, choices(c.words))
    });
    let value = |o: &Opt| match o.value {
        "" => String::new(),
        value => format!("        --{}) choices=\"{}\" ;;\n", o.name, choices(value)),
    };
    let values = each(commands, |c| each(&c.options, value));
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
    let plain = |about: &str| about.replace('\'', "’");
    let lines = each(commands, |c| {
        let (name, about, words) = (c.name, plain(c.about), choices(c.words));
        let seen = format!("complete -c relay -n '__fish_seen_subcommand_from {name}'");
        let options = each(&c.options, |o| {
            let value = match (o.value, choices(o.value).as_str()) {
                ("", _) => String::new(),
                (_, "") => " -r".to_owned(),
                (_, values) => format!(" -x -a '{values}'"),
            };
            format!("{seen} -l {} -d '{}'{value}\n", o.name, plain(o.about))
        });
        format!(
            "complete -c relay -n __fish_use_subcommand -a {name} -d '{about}'\n{options}{seen} -a '{words}'\n"
        )
    });
    format!("# fish completion for relay\ncomplete -c relay -f\n{lines}")
}
