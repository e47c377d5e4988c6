//! `relay link` and `relay unlink`: an OpenSSH connection that forwards the `hub.sock` of another machine to this machine's
//! `peers.sock`. OpenSSH does all authentication and encryption. The same connection runs `relay linked` there, which
//! puts the forwarded socket in its place and takes it away when the connection ends.
//!
//! A link has a file in `links/`, locked by the process that keeps it.

pub mod far_end;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use super::args::Args;
use super::program::Program;
use super::terminal::{err, out, table};
use super::{Failure, Outcome, usage_error};
use crate::connection::Connection;
use crate::datadir::{DataDir, make_private};
use crate::fence::{clean, label};
use crate::repository::{is_locked, lock, read};
use far_end::{FORWARDED, Remote, TAKEN};

/// How long the other machine may take to answer one command.
const ANSWER: Duration = Duration::from_secs(30);
/// How often a link sends a line, by which the other end knows that the link is alive, and starts the local hub if none runs.
const BEAT: Duration = Duration::from_secs(10);
/// The pause before the next attempt. It doubles with each attempt, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the other machine runs: the program that `relay setup` or cargo installed, whatever the login shell.
const PROGRAM: &str = r#"sh -c 'at="${XDG_DATA_HOME:-$HOME/.local/share}/claude-relay/plugin/bin/relay-launcher"; [ -x "$at" ] && exec "$at" "$@"; PATH="$PATH:$HOME/.cargo/bin:$HOME/.local/bin:/usr/local/bin:/opt/homebrew/bin" exec relay "$@"' relay linked"#;
/// `-T`: no terminal. The rest is the user's configuration.
const OPTIONS: [&str; 9] = [
    "-T",
    "-oBatchMode=yes",
    "-oConnectTimeout=15",
    "-oServerAliveInterval=10",
    "-oServerAliveCountMax=3",
    "-oExitOnForwardFailure=yes",
    "-oStreamLocalBindUnlink=yes",
    // Another connection of the user's would keep the forwarding when this one ends.
    "-oControlMaster=no",
    "-oControlPath=none",
];

fn directory(dir: &DataDir) -> PathBuf {
    dir.path().join("links")
}

/// Runs `relay link`: keeps the link until this process is ended. If it never comes up, that is an error.
pub fn link(dir: &DataDir, args: &Args) -> Outcome {
    let Some(host) = args.words.first() else {
        return out(&table(["HOST", "PROCESS"], links(dir).into_iter().map(<[String; 2]>::from)));
    };
    check_host(host)?;
    dir.prepare()?;
    let cannot = |e: io::Error| format!("cannot use {}: {e}", directory(dir).display());
    make_private(&directory(dir)).map_err(cannot)?;
    let Some(file) = lock(&directory(dir).join(host)).map_err(cannot)? else {
        return Err(format!("{host} is linked already; see `relay link`").into());
    };
    let process = std::process::id().to_string();
    file.set_len(0).and_then(|()| (&file).write_all(process.as_bytes())).map_err(cannot)?;
    keep(dir, host)
}

/// Checks that ssh takes `host` for a host, and that it can be the name of a file in `links/`.
fn check_host(host: &str) -> Result<(), Failure> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@._:%-".contains(c);
    match !host.is_empty() && host.chars().all(plain) && !host.starts_with(['-', '.']) {
        true => Ok(()),
        false => usage_error(format!("invalid host \"{}\": give it as for ssh", clean(host))),
    }
}

/// The links: each host with its process. A file that nobody has locked belongs to a link that has ended.
fn links(dir: &DataDir) -> BTreeMap<String, String> {
    let files = fs::read_dir(directory(dir)).into_iter().flatten().flatten();
    let links = files.filter(|file| is_locked(&file.path()));
    let host = |file: &fs::DirEntry| file.file_name().to_string_lossy().into_owned();
    links.map(|file| (host(&file), read(file.path()).unwrap_or_default())).collect()
}

/// Runs `relay unlink`: ends the process of a link.
pub fn unlink(dir: &DataDir, args: &Args) -> Outcome {
    let Some(host) = args.words.first() else {
        return usage_error("missing HOST; `relay link` lists the links");
    };
    let Some(pid) = links(dir).remove(host) else {
        return usage_error(format!("\"{}\" is not linked; `relay link` lists the links", clean(host)));
    };
    match Command::new("kill").arg(&pid).status()?.success() {
        true => out(&format!("{host} is no longer linked.\n")),
        false => Err(format!("cannot end the link to {host}: end its process {pid}").into()),
    }
}

/// Connects, and again whenever the connection is lost, after a pause. Returns if the first attempt fails.
fn keep(dir: &DataDir, host: &str) -> Outcome {
    let mut pause = None;
    loop {
        let Err(why) = connect(dir, host, &mut pause);
        let Some(now) = pause else { return Err(why.into()) };
        err(&format!("relay link: {host}: {why}; trying again in {} s\n", now.as_secs()));
        thread::sleep(now);
        pause = Some((now * 2).min(LONGEST_PAUSE));
    }
}

/// Holds one connection until it is lost. Sets the pause before the next attempt once the link is up.
fn connect(dir: &DataDir, host: &str, pause: &mut Option<Duration>) -> Result<Infallible, String> {
    let epoch = local_hub(dir)?;
    let mut probe = start(host, &[], "")?;
    let remote: Remote = probe.find(ANSWER, |line| serde_json::from_slice(line).ok()).map_err(lost)?;
    if remote.epoch.is_some_and(|other| other == epoch) {
        return Err(format!("{host} has the same data directory: its sessions use this hub"));
    }
    let forward = format!("{}/{FORWARDED}:{}", remote.data_dir, dir.peers_socket().display());
    if forward.matches(':').count() > 1 || forward.contains(['\\', '%', '$']) {
        let shown = label(&forward); // the other machine has chosen a part of it
        return Err(format!("ssh cannot forward {shown}: choose directories without : \\ % $"));
    }
    let mut ssh = start(host, &["-R", &forward], "--take")?;
    ssh.find(ANSWER, |line| (line == TAKEN.as_bytes()).then_some(())).map_err(lost)?;
    let _ = out(&format!("Linked {host}: its sessions are peers of the hub here.\n")); // it is up also if nobody reads that
    *pause = Some(PAUSE);
    loop {
        local_hub(dir)?;
        let _ = (&*ssh.stream).write_all(b"\n"); // an error also ends the lines, which are read next
        match ssh.find(BEAT, |_| None) {
            Err(e) if e.kind() == ErrorKind::TimedOut => {}
            ended => ended.map_err(lost)?,
        }
    }
}

/// The epoch of this machine's hub, which is started if none runs.
fn local_hub(dir: &DataDir) -> Result<String, String> {
    let hub = Connection::open(dir).map_err(|fault| fault.message)?;
    match dir.is_own_hub() {
        true => Ok(hub.epoch),
        false => Err("the hub runs elsewhere: link from the machine where it runs".to_owned()),
    }
}

/// Starts `relay linked` with an option on `host`. Its errors, and those of ssh, are printed here.
fn start(host: &str, forward: &[&str], option: &str) -> Result<Program, String> {
    let mut command = Command::new("ssh");
    command.args(OPTIONS).args(forward).args(["--", host]).arg(format!("{PROGRAM} {option}"));
    Program::start(&mut command).map_err(|e| format!("cannot start ssh: {e}"))
}

/// Why a line did not come.
fn lost(e: io::Error) -> String {
    match e.kind() {
        ErrorKind::TimedOut => format!("no answer within {} s", ANSWER.as_secs()),
        _ => "the connection has ended; `relay link --help` tells what it needs".to_owned(),
    }
}
