//! `relay`: lets Claude Code sessions on one machine ask each other. This file turns arguments into commands.

#![forbid(unsafe_code)]

mod channel;
mod cli;
mod completions;
mod datadir;
mod demo;
mod doctor;
mod fence;
mod guest;
mod hook;
mod hub;
mod inbox;
mod join;
mod lines;
mod link;
mod log;
mod look;
mod mcp;
mod memory;
mod name;
#[cfg(test)]
mod props;
mod queue;
mod router;
mod session;
mod setup;
mod shell;
mod tail;
mod term;
mod token;
mod tools;
mod wire;

use std::process::ExitCode;

use cli::{Args, Usage, Wanted};
use datadir::DataDir;
use shell::Outcome;

fn main() -> ExitCode {
    let hook = std::env::args_os().nth(1).is_some_and(|command| command == "hook");
    let run = cli::parse(lexopt::Parser::from_env()).and_then(|wanted| match wanted {
        Wanted::Text(text) => {
            term::out(&text);
            Ok(ExitCode::SUCCESS)
        }
        Wanted::Run(args) => {
            let dir = DataDir::locate(args.data_dir.as_deref()).map_err(|why| Usage(None, why))?;
            Ok(run(&dir, &args).unwrap_or_else(|fault| shell::report(&args, &fault, None)))
        }
    });
    run.unwrap_or_else(|Usage(command, why)| {
        let at = command.map(|c| format!(" {c}")).unwrap_or_default();
        let why = fence::clean(&why); // it repeats what was typed
        term::err(&format!("relay{at}: {why}\nTry 'relay{at} --help'.\n"));
        // To Claude Code, a hook that exits 2 forbids what the user is about to do.
        if hook { ExitCode::SUCCESS } else { ExitCode::from(2) }
    })
}

fn run(dir: &DataDir, args: &Args) -> Outcome {
    match args.command {
        "channel" => Ok(channel::run(dir.clone())),
        "hub" if args.has("detach") => Ok(hub::detach(dir)),
        "hub" => Ok(hub::main(dir, args.has("announce"))),
        "hook" => Ok(hook::run(dir, args.has("wait"))),
        "peers" => shell::peers(dir, args),
        "ask" => shell::ask(dir, args),
        "broadcast" => shell::broadcast(dir, args),
        "join" => join::join(dir, args),
        "tail" => tail::tail(dir, args),
        "status" => look::status(dir, args),
        "stop" => look::stop(dir),
        "doctor" => doctor::doctor(dir, args),
        "setup" => setup::setup(args),
        "demo" => demo::demo(args),
        "completions" => completions::completions(args),
        other => shell::bad(format!("there is no command '{other}'")), // the table has it, this match has not
    }
}
