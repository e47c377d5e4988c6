//! `relay`: lets Claude Code sessions on one machine ask each other. This file turns arguments into commands.

#![forbid(unsafe_code)]

mod channel;
mod client;
mod datadir;
mod fence;
mod hook;
mod hub;
mod lines;
mod link;
mod logging;
mod mcp;
mod name;
mod session;
mod shell;
mod span;
mod token;
mod wire;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use datadir::DataDir;
use shell::args::{self, Args};
use shell::{Outcome, ask, completions, demo, doctor, join, setup, status, tail};

fn main() -> ExitCode {
    // A hook that exits with 2, the code of a usage error, blocks the user's prompt. Only the waiter may, to wake the session.
    let is_hook = std::env::args_os().nth(1).is_some_and(|command| command == "hook");
    let failed = |code| if is_hook { ExitCode::SUCCESS } else { code };
    let line = match args::parse(lexopt::Parser::from_env()) {
        Ok(line) => line,
        Err(code) => return failed(code),
    };
    let code = match DataDir::locate(line.data_dir.as_deref()) {
        Ok(dir) => run(&dir, &line).unwrap_or_else(|fault| failed(shell::report(&line, &fault, Value::Null))),
        Err(why) => failed(args::usage(None, &why)),
    };
    log::logger().flush(); // the last readable lines may still wait for their thread
    code
}

fn replay(args: &Args) -> Outcome {
    let Some(file) = args.words.first().map(Path::new) else {
        return shell::bad("missing FILE; give the path of a hub.journal");
    };
    let mut out = io::stdout().lock();
    let done = if args.has("redact") { hub::redact(file, &mut out) } else { hub::replay(file, &mut out) };
    shell::ended("replay", done.map_err(|e| format!("cannot replay {}: {e}", file.display())))
}

fn run(dir: &DataDir, args: &Args) -> Outcome {
    match args.command {
        "channel" => Ok(channel::run(dir.clone())),
        "hub" if args.has("detach") => Ok(hub::detach(dir)),
        "hub" => Ok(hub::main(dir, args.has("announce"))),
        "hook" => Ok(hook::run(dir, args.has("wait"))),
        "peers" => ask::peers(dir, args),
        "ask" => ask::ask(dir, args),
        "broadcast" => ask::broadcast(dir, args),
        "join" => join::join(dir, args),
        "tail" => tail::tail(dir, args),
        "status" => status::status(dir, args),
        "stop" => status::stop(dir),
        "replay" => replay(args),
        "doctor" => doctor::doctor(dir, args),
        "setup" => setup::setup(args),
        "demo" => demo::demo(args),
        "completions" => completions::completions(args),
        other => shell::bad(format!("there is no command '{other}'")), // the table has it, and we have not
    }
}
