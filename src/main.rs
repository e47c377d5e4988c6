//! `relay`: lets Claude Code sessions on one machine ask each other. This file turns arguments into commands.

#![forbid(unsafe_code)]

mod channel;
mod cli;
mod completions;
mod datadir;
mod demo;
mod diary;
mod doctor;
mod fence;
mod guest;
mod hook;
mod hub;
mod inbox;
mod join;
mod journal;
mod json;
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
mod term;
mod token;
mod tools;
mod wire;
mod writer;

use std::process::ExitCode;

use serde_json::Value;

use cli::Args;
use datadir::DataDir;
use shell::Outcome;

fn main() -> ExitCode {
    // A hook that exits with 2, the code of a usage error, blocks the user's prompt. Only the waiter may, to wake the session.
    let is_hook = std::env::args_os().nth(1).is_some_and(|command| command == "hook");
    let failed = |code| if is_hook { ExitCode::SUCCESS } else { code };
    let args = match cli::parse(lexopt::Parser::from_env()) {
        Ok(args) => args,
        Err(code) => return failed(code),
    };
    match DataDir::locate(args.data_dir.as_deref()) {
        Ok(dir) => run(&dir, &args).unwrap_or_else(|fault| failed(shell::report(&args, &fault, Value::Null))),
        Err(why) => failed(cli::usage(None, &why)),
    }
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
        "tail" => look::tail(dir, args),
        "status" => look::status(dir, args),
        "stop" => look::stop(dir),
        "doctor" => doctor::doctor(dir, args),
        "setup" => setup::setup(args),
        "demo" => demo::demo(args),
        "completions" => completions::completions(args),
        other => shell::bad(format!("there is no command '{other}'")), // the table has it, and we have not
    }
}
