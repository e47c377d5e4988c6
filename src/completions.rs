//! `relay completions`: what a shell needs to complete commands, options and the names of peers.

use std::process::ExitCode;

use crate::cli::{Args, Command, Opt, commands};
use crate::shell::{Outcome, bad};
use crate::term::out;

/// Prints the names of all peers, without starting a hub.
const PEERS: &str = "relay peers 2>/dev/null | sed -n '2,$s/ .*//p'";

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

/// The values of an option, or the words of a command, where the table lists them all.
fn choices(of: &str) -> Option<String> {
    (of.contains('|') && !of.contains(' ')).then(|| of.replace('|', " "))
}

/// `about`, fit to stand between the quotes and brackets of any shell.
fn plain(about: &str) -> String {
    about.replace('\'', "’").replace(['[', ']', ':'], " ")
}

fn each<T>(of: &[T], with: impl Fn(&T) -> String) -> String {
    of.iter().map(with).collect()
}

fn bash(commands: &[Command]) -> String {
    let cases = each(commands, |c| {
        let options = each(&c.options, |o| format!("--{} ", o.name));
        let peers = if c.words.starts_with("PEER") { format!("$({PEERS})") } else { String::new() };
        let words = choices(c.words).unwrap_or(peers);
        format!("        {}) words=\"{options}--data-dir --help {words}\" ;;\n", c.name)
    });
    let value = |o: &Opt| {
        o.value.and_then(choices).map(|values| format!("        --{}) words=\"{values}\" ;;\n", o.name))
    };
    let values = each(commands, |c| each(&c.options, |o| value(o).unwrap_or_default()));
    let names = each(commands, |c| format!("{} ", c.name));
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
    let option = |o: &Opt| {
        let value =
            o.value.map(|v| choices(v).map_or(format!(":{v}: "), |values| format!(":{}:({values})", o.name)));
        format!(" '--{}[{}]{}'", o.name, plain(o.about), value.unwrap_or_default())
    };
    let cases = each(commands, |c| {
        let peers = if c.words.starts_with("PEER") { " ':peer:_relay_peers' '*:text: '" } else { "" };
        let words = choices(c.words).map_or(peers.to_owned(), |words| format!(" ':word:({words})'"));
        let options = each(&c.options, option);
        format!(
            "        {}) _arguments{options}{words} '--data-dir[the data directory]:DIR:_files -/' ;;\n",
            c.name
        )
    });
    format!(
        r#"#compdef relay
_relay_peers() {{ compadd -- $({PEERS}) }}
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
        let seen = format!("complete -c relay -n '__fish_seen_subcommand_from {}'", c.name);
        let options = each(&c.options, |o| {
            let value =
                o.value.map(|v| choices(v).map_or(" -r".to_owned(), |values| format!(" -x -a '{values}'")));
            format!("{seen} -l {} -d '{}'{}\n", o.name, plain(o.about), value.unwrap_or_default())
        });
        let peers = c.words.starts_with("PEER").then(|| format!("({})", PEERS.replace('\'', "\\'")));
        let words = choices(c.words).or(peers).map(|words| format!("{seen} -a '{words}'\n"));
        let name =
            format!("complete -c relay -n __fish_use_subcommand -a {} -d '{}'\n", c.name, plain(c.about));
        name + &options + &words.unwrap_or_default()
    });
    format!("# fish completion for relay\ncomplete -c relay -f\n{lines}")
}
