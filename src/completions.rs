//! `relay completions`: what a shell needs to complete commands, options and the names of peers.

use std::process::ExitCode;

use crate::cli::{Args, Command, Opt, commands};
use crate::shell::{Outcome, bad};
use crate::term::out;

/// Prints the names of all peers, without starting a hub; in any shell.
const PEERS: &str = "$(relay peers 2>/dev/null | tail -n +2 | cut -d\" \" -f1)";

/// `relay completions`.
pub fn completions(args: &Args) -> Outcome {
    let shell = match args.words.first().map(String::as_str) {
        Some("bash") => bash,
        Some("zsh") => zsh,
        Some("fish") => fish,
        _ => return bad("which shell? bash, zsh or fish"),
    };
    out(&shell(&commands()));
    Ok(ExitCode::SUCCESS)
}

/// The values of an option, or the words of a command, where they are known.
fn choices(of: &str) -> String {
    match of.split(' ').next() {
        Some("PEER") => PEERS.to_owned(),
        Some(words) if words.contains('|') => words.replace('|', " "),
        _ => String::new(),
    }
}

/// `about`, fit to stand between the quotes and brackets of any shell.
fn plain(about: &str) -> String {
    about.replace('\'', "’").replace(['[', ']', ':', '`'], " ")
}

fn each<T>(of: &[T], with: impl Fn(&T) -> String) -> String {
    of.iter().map(with).collect()
}

fn bash(commands: &[Command]) -> String {
    let names = each(commands, |c| format!("{} ", c.name));
    let cases = each(commands, |c| {
        let options = each(&c.options, |o| format!("--{} ", o.name));
        format!("        {}) words='{options}--data-dir --help '\"{}\" ;;\n", c.name, choices(c.words))
    });
    let value = |o: &Opt| match choices(o.value).as_str() {
        "" => String::new(),
        values => format!("        --{}) words=\"{values}\" ;;\n", o.name),
    };
    let values = each(commands, |c| each(&c.options, value));
    format!(
        r#"# bash completion for relay
_relay() {{
    local words="{names}--help --version"
    [ "$COMP_CWORD" -gt 1 ] && case ${{COMP_WORDS[1]}} in
{cases}    esac
    case $3 in
{values}    esac
    COMPREPLY=($(compgen -W "$words" -- "$2"))
}}
complete -o default -F _relay relay
"#
    )
}

fn zsh(commands: &[Command]) -> String {
    let names = each(commands, |c| format!("        '{}:{}'\n", c.name, plain(c.about)));
    let value = |o: &Opt| match o.value {
        "" => String::new(),
        value => format!(":{value}:({})", choices(value)),
    };
    let cases = each(commands, |c| {
        let options = each(&c.options, |o| format!(" '--{}[{}]{}'", o.name, plain(o.about), value(o)));
        format!("        {}) _arguments{options} \":word:({})\" ;;\n", c.name, choices(c.words))
    });
    format!(
        r#"#compdef relay
_relay() {{
    local -a commands=(
{names}    )
    if (( CURRENT == 2 )); then _describe command commands; return; fi
    shift words; (( CURRENT-- ))
    case $words[1] in
{cases}    esac
}}
if [ "$funcstack[1]" = _relay ]; then _relay "$@"; else compdef _relay relay; fi
"#
    )
}

fn fish(commands: &[Command]) -> String {
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
