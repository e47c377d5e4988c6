//! `relay`: lets Claude Code sessions on one machine ask each other. This file turns arguments into commands.

#![forbid(unsafe_code)]

mod channel;
mod datadir;
mod diary;
mod fence;
mod guest;
mod hook;
mod hub;
mod inbox;
mod journal;
mod json;
mod lines;
mod link;
mod log;
mod mcp;
mod memory;
mod name;
#[cfg(test)]
mod props;
mod queue;
mod router;
mod session;
mod shell;
mod token;
mod tools;
mod wire;
mod writer;

use std::process::ExitCode;

use datadir::DataDir;
use shell::args::{self, Args};
use shell::{
    FailureJson, Outcome, ask, completions, demo, doctor, join, peers, report, setup, status, tail,
    usage_error,
};

fn main() -> ExitCode {
    let args = match args::parse(lexopt::Parser::from_env()) {
        Ok(args) => args,
        Err(code) => return code,
    };
    match DataDir::locate(args.data_dir.as_deref()) {
        Ok(dir) => match run(&dir, &args) {
            Ok(code) => code,
            Err(failure) => report(&args, failure, |error| FailureJson { error }),
        },
        Err(why) => args::usage_error(None, &why),
    }
}

fn run(dir: &DataDir, args: &Args) -> Outcome {
    match args.command {
        "channel" => Ok(channel::run(dir.clone())),
        "hub" if args.has("detach") => Ok(hub::detach(dir)),
        "hub" => Ok(hub::main(dir, args.has("announce"))),
        "hook" => Ok(hook::run(dir, args.has("wait"))),
        "peers" => peers::peers(dir, args),
        "ask" => ask::ask(dir, args),
        "broadcast" => ask::broadcast(dir, args),
        "join" => join::join(dir, args),
        "tail" => tail::tail(dir, args),
        "status" => status::status(dir, args),
        "stop" => status::stop(dir),
        "doctor" => doctor::doctor(dir, args),
        "setup" => setup::setup(args),
        "demo" => demo::demo(args),
        "completions" => completions::completions(args),
        other => usage_error(format!("unknown command '{other}'")), // in the table, but not here
    }
}
