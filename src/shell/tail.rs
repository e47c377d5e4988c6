//! `relay tail`: what goes through the hub.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use super::args::Args;
use super::terminal::{err, out, paint};
use super::{Outcome, first_line, open, print};
use crate::datadir::DataDir;
use crate::fence::{clean, label};
use crate::link::{Link, Start};
use crate::wire::{Event, ToClient, ToHub, What};

/// How often a new hub is looked for.
const LOOK: Duration = Duration::from_millis(250);

/// `relay tail`. Ends when nobody reads it any more; a hub that leaves is waited for.
pub fn tail(dir: &DataDir, args: &Args) -> Outcome {
    let mut link = open(dir)?;
    loop {
        if link.call(|id| ToHub::Watch { id }).is_ok() {
            err("relay: watching (Ctrl-C ends it)\n");
        }
        while let Some(message) = link.receive(None) {
            let ToClient::Event(event) = message else { continue };
            let alive = if args.has("json") { print(&serde_json::json!(event)) } else { out(&line(&event)) };
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
