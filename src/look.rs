//! `relay status`, `stop` and `tail`: the hub, and what goes through it.

use std::fs;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::cli::Args;
use crate::datadir::DataDir;
use crate::fence::{clean, label};
use crate::json;
use crate::link::{Link, Start, is_absent, unreachable};
use crate::router::span;
use crate::shell::{Outcome, first_line, print};
use crate::term::{err, out, paint};
use crate::wire::{Answer, Code, Event, Fault, Status, ToClient, ToHub, What};

/// How long a hub may take to leave.
const LEAVING: Duration = Duration::from_secs(10);

/// How often a new hub is looked for.
const LOOK: Duration = Duration::from_millis(250);

/// `relay status`.
pub fn status(dir: &DataDir, args: &Args) -> Outcome {
    let status = ask_status(&mut open(dir)?)?;
    if args.has("json") {
        let mut value = json::fields(&status);
        value.insert("data_dir".to_owned(), json!(dir.path().to_string_lossy()));
        print(&value.into());
        return Ok(ExitCode::SUCCESS);
    }
    let Status { pid, version, protocol, uptime_s, peers, open_asks, undelivered, connections } = status;
    let (up, at) = (span(uptime_s), dir.path().display());
    out(&format!(
        "hub {version} (protocol {protocol}), process {pid}, up for {up}\n\
         {}, {}, {} on the way, {}\n\
         in {at}\n",
        count(peers, "peer"),
        count(open_asks, "open ask"),
        count(undelivered, "text"),
        count(connections, "connection"),
    ));
    Ok(ExitCode::SUCCESS)
}

/// A link to the hub that runs.
///
/// # Errors
/// None does, or, what goes before that, none could.
pub fn open(dir: &DataDir) -> Result<Link, Fault> {
    Link::open(dir, Start::No).map_err(|fault| match dir.look() {
        Err(why) if fault.code == Code::HubUnreachable => unreachable(why),
        _ => fault,
    })
}

/// The hub about itself.
///
/// # Errors
/// The hub is gone.
pub fn ask_status(link: &mut Link) -> Result<Status, Fault> {
    match link.call(|id| ToHub::Status { id })? {
        Answer::Status(status) => Ok(status),
        _ => Err(unreachable("the hub answered something else")),
    }
}

/// Whether what keeps us from the hub is just that there is none: one could be started.
pub fn no_hub(dir: &DataDir, fault: &Fault) -> bool {
    let absent = || dir.connect().is_err_and(|e| is_absent(&e)) && dir.look().is_ok();
    fault.code == Code::HubUnreachable && absent()
}

/// `1 peer`, `2 peers`.
pub fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// `relay stop`: returns when the hub is gone.
pub fn stop(dir: &DataDir) -> Outcome {
    out(&match stop_hub(dir) {
        Ok(Status { pid, peers: 0, .. }) => format!("The hub (process {pid}) has left.\n"),
        Ok(Status { pid, peers, .. }) => format!(
            "The hub (process {pid}) has left. Its peers ({peers}) start a new one at once; what was under way goes on.\n"
        ),
        Err(fault) if no_hub(dir, &fault) => "No hub runs.\n".to_owned(),
        Err(fault) if fault.code == Code::ProtocolMismatch => {
            // One of any version leaves when its socket is gone.
            fs::remove_file(dir.socket_path()).map_err(|e| unreachable(format!("cannot stop it: {e}")))?;
            wait_until_gone(dir)?;
            "The hub, which spoke another version, has left.\n".to_owned()
        }
        Err(fault) => return Err(fault),
    });
    Ok(ExitCode::SUCCESS)
}

/// Stops the hub and waits until it is gone; what it said of itself.
///
/// # Errors
/// There is none, it can't be spoken with, or it does not leave.
pub fn stop_hub(dir: &DataDir) -> Result<Status, Fault> {
    let mut link = open(dir)?;
    let status = ask_status(&mut link)?;
    link.call(|id| ToHub::Stop { id })?;
    let until = Instant::now() + LEAVING;
    while link.hear(Some(until)).is_some() {} // it removes its socket, and then hangs up
    wait_until_gone(dir)?;
    Ok(status)
}

/// Waits until a hub that has no socket any more is gone: nobody has the lock, or the next has a socket.
fn wait_until_gone(dir: &DataDir) -> Result<(), Fault> {
    let until = Instant::now() + LEAVING;
    while fs::symlink_metadata(dir.socket_path()).is_err() && !matches!(dir.lock(), Ok(Some(_))) {
        if Instant::now() >= until {
            return Err(unreachable("the hub does not leave; look for `relay hub` with ps and kill it"));
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// `relay tail`. Ends when nobody reads it any more; a hub that leaves is waited for.
pub fn tail(dir: &DataDir, args: &Args) -> Outcome {
    let mut link = open(dir)?;
    loop {
        if link.call(|id| ToHub::Watch { id }).is_ok() {
            err("relay: watching (Ctrl-C ends it)\n");
        }
        while let Some(message) = link.hear(None) {
            let ToClient::Event(event) = message else { continue };
            let alive =
                if args.has("json") { print(&json::fields(&event).into()) } else { out(&line(&event)) };
            if !alive {
                return Ok(ExitCode::SUCCESS);
            }
        }
        err("relay: the hub has left; waiting for the next\n");
        link = loop {
            thread::sleep(LOOK);
            if let Ok(link) = Link::open(dir, Start::No) {
                break link;
            }
        };
    }
}

/// An event, in one line.
fn line(event: &Event) -> String {
    let s = event.ts_ms / 1000 % 86_400;
    let (from, to) = (label(&event.from), label(event.to.as_deref().unwrap_or_default()));
    let route = if to.is_empty() { from.clone() } else { format!("{from} → {to}") };
    let text = first_line(&clean(event.text.as_deref().unwrap_or_default()), 100);
    let path = event.path.map_or("", |p| p.name());
    let code = event.code.map_or("", |c| c.name());
    let what = match event.event {
        What::Joined => format!("{from}  joined"),
        What::Left => format!("{from}  left"),
        What::Renamed => format!("{from}  is now {to}"),
        What::Ask | What::Reply => format!("{}  {}  {text}", paint("1", &route), event.event.name()),
        What::Summary => format!("{route}  summary  {text}"),
        What::Failed => paint("31", &format!("{route}  failed  {code}")),
        What::State => {
            let (kind, state) = (event.kind.map_or("", |k| k.name()), event.state.map_or("", |s| s.name()));
            let by = if path.is_empty() { "" } else { " by " };
            paint("2", &format!("{route}  {kind} {state}{by}{path}"))
        }
        What::DeadPath => paint("31", &format!("{from}  {path} does not confirm and is not used again")),
        What::Refused => paint("31", &format!("{from}  refused  {code}")),
    };
    format!("{:02}:{:02}:{:02} {what}\n", s / 3600, s / 60 % 60, s % 60)
}
