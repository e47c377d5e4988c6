//! `relay`: lets Claude Code sessions on one machine ask each other. This file turns arguments into commands.

#![forbid(unsafe_code)]

mod channel;
mod client;
mod connection;
mod datadir;
mod fence;
mod hook;
mod hub;
mod lines;
mod logging;
mod mcp;
mod name;
mod process;
#[cfg(test)]
mod props;
mod repository;
mod shell;
mod span;
mod texts;
mod threads;
mod token;
mod width;
mod wire;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use datadir::DataDir;
use shell::args::{self, Args};
use shell::terminal::out;
use shell::{
    Failure, Outcome, ask, asks, completions, demo, doctor, join, link, peers, report, setup, status, tail,
    usage_error,
};

fn main() -> ExitCode {
    // A hook that exits with 2, the code of a usage error, blocks the user's prompt. Only the waiter may, to wake the session.
    let is_hook = std::env::args_os().nth(1).is_some_and(|command| command == "hook");
    let failed = |code| if is_hook { ExitCode::SUCCESS } else { code };
    let args = match args::parse(lexopt::Parser::from_env()) {
        Ok(args) => args,
        Err(failure) => return failed(report(&Args::default(), failure)),
    };
    let dir = DataDir::locate(args.data_dir.as_deref()).or_else(usage_error);
    let code = match dir.and_then(|dir| run(&dir, &args)) {
        Ok(code) => code,
        Err(failure) => failed(report(&args, failure)),
    };
    log::logger().flush(); // the last readable lines may still wait for their thread
    code
}

fn replay(args: &Args) -> Outcome {
    let Some(file) = args.words.first().map(Path::new) else {
        return usage_error("missing FILE; give the path of a hub.journal");
    };
    let mut out = io::stdout().lock();
    let done = if args.has("redact") { hub::redact(file, &mut out) } else { hub::replay(file, &mut out) };
    Ok(done.map_err(|e| io::Error::new(e.kind(), format!("cannot replay {}: {e}", file.display())))?)
}

fn run(dir: &DataDir, args: &Args) -> Result<ExitCode, Failure> {
    match args.command {
        "channel" => return Ok(channel::run(dir)),
        "hub" if args.has("detach") => out(&connection::start_hub(dir)?)?,
        "hub" => hub::main(dir, args.has("announce"))?,
        "hook" => return Ok(hook::run(dir, args.has("wait"))),
        "peers" => peers::peers(dir, args)?,
        "ask" => ask::ask(dir, args)?,
        "asks" => asks::asks(dir, args)?,
        "statusline" => asks::statusline(dir)?,
        "broadcast" => ask::broadcast(dir, args)?,
        "join" => join::join(dir, args)?,
        "tail" => tail::tail(dir, args)?,
        "status" => status::status(dir, args)?,
        "stop" => status::stop(dir)?,
        "link" => link::link(dir, args)?,
        "unlink" => link::unlink(dir, args)?,
        "linked" => link::far_end::linked(dir, args)?,
        "replay" => replay(args)?,
        "doctor" => doctor::doctor(dir, args)?,
        "setup" => setup::setup(args)?,
        "demo" => demo::demo(args)?,
        "completions" => completions::completions(dir, args)?,
        other => usage_error(format!("unknown command '{other}'"))?, // in the table, but not here
    }
    Ok(ExitCode::SUCCESS)
}
