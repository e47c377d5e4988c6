//! `relay tail`: the hub's events as they happen.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::args::Args;
use super::terminal::{err, first_line, out, paint};
use super::{Outcome, open, print, short_id};
use crate::datadir::DataDir;
use crate::fence::{clean, label};
use crate::link::{Link, Start, no_hub};
use crate::wire::{Code, Event, Kind, ToClient, ToHub, What};

/// How often to look for the next hub.
const RETRY: Duration = Duration::from_millis(250);
/// The most columns of a message's text.
const TEXT_COLUMNS: usize = 100;

/// Runs `relay tail`. It ends when its output is closed, and survives the end of a hub.
pub fn tail(dir: &DataDir, args: &Args) -> Outcome {
    let mut link = open(dir)?.ok_or_else(|| no_hub(dir))?;
    let offset = utc_offset().unwrap_or((0, "Z".to_owned()));
    loop {
        match link.call(|id| ToHub::Watch { id }) {
            Ok(_) => err("relay: watching for events; Ctrl-C ends it\n"),
            Err(fault) if fault.code == Code::HubUnreachable => {} // the next hub may come
            Err(fault) => return Err(fault.into()),
        }
        while let Ok(Some(message)) = link.receive(None) {
            let ToClient::Event(event) = message else { continue };
            match args.has("json") {
                true => print(&event)?,
                false => out(&format!("{} {}\n", time_of_day(event.ts_ms, &offset), describe(&event)))?,
            }
        }
        err("relay: the hub has stopped; waiting for the next one\n");
        link = loop {
            thread::sleep(RETRY);
            if let Ok(link) = Link::open(dir, Start::No) {
                break link;
            }
        };
    }
}

/// An event, without its time, in one line.
fn describe(event: &Event) -> String {
    let (from, to) = (label(&event.from), label(event.to.as_deref().unwrap_or_default()));
    let path = event.path.map_or("", |path| path.name());
    let code = event.code.map_or("", |code| code.name());
    let ids = [&event.ask_id, &event.thread].into_iter().flatten();
    let id: String = ids.map(|id| paint("2", &format!("  {}", short_id(&label(id))))).collect();
    match event.event {
        What::Joined => format!("{from}  joined"),
        What::Left => format!("{from}  left"),
        What::Renamed => format!("{from}  is now {to}"),
        What::Ask | What::Reply => {
            let text = first_line(&clean(event.text.as_deref().unwrap_or_default()), TEXT_COLUMNS);
            let by = event.by.map(|by| format!(" by {}", by.name())).unwrap_or_default();
            format!("{}  {}{by}{id}  {text}", paint("1", &format!("{from} → {to}")), event.event.name())
        }
        What::Summary => format!("hub → {to}  summary{id}"),
        // The hub names the asked peer first. The arrow is that of the ask.
        What::Failed => paint("31", &format!("{to} → {from}  failed: {code}")) + &id,
        What::State => {
            let (kind, state) = (event.kind.map_or("", |k| k.name()), event.state.map_or("", |s| s.name()));
            let is_hubs_own = matches!(event.kind, Some(Kind::Failed | Kind::Summary | Kind::Notice));
            let from = if is_hubs_own { "hub" } else { &from };
            let by = if path.is_empty() { "" } else { " by " };
            paint("2", &format!("{from} → {to}  {kind} {state}{by}{path}")) + &id
        }
        What::Note => {
            let words = clean(event.text.as_deref().unwrap_or_default());
            paint("2", &format!("{from} → {to}  ask {words}")) + &id
        }
        What::DeadPath => paint("31", &format!("{from}  path {path} did not confirm and is no longer used")),
        What::Refused => paint("31", &format!("{from}  request refused: {code}")),
    }
}

/// `ts_ms`, in milliseconds since 1970 (UTC), as a time of day with its UTC offset: `14:03:05+02:00`.
fn time_of_day(ts_ms: u64, (offset_s, suffix): &(i64, String)) -> String {
    let s = (ts_ms / 1000).saturating_add_signed(*offset_s) % 86_400;
    format!("{:02}:{:02}:{:02}{suffix}", s / 3600, s / 60 % 60, s % 60)
}

/// The present offset of local time to UTC, in seconds and as text. The standard library does not know time zones.
fn utc_offset() -> Option<(i64, String)> {
    let run = Command::new("date").arg("+%z").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    parse_offset(String::from_utf8_lossy(&run.stdout).trim())
}

/// Parses `+0200`.
fn parse_offset(text: &str) -> Option<(i64, String)> {
    let number: i64 = text.parse().ok()?; // with its sign
    let (hours, minutes) = (number / 100, number % 100);
    Some((hours * 3600 + minutes * 60, format!("{}:{}", text.get(..3)?, text.get(3..)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utc_offset_is_parsed_and_anything_else_is_refused() {
        assert_eq!(parse_offset("+0530"), Some((19_800, "+05:30".to_owned())));
        assert_eq!(parse_offset("-0330"), Some((-12_600, "-03:30".to_owned())));
        for odd in ["", "+5", "+05:30", "+ab00", "+0５", "+-123", "UTC"] {
            assert_eq!(parse_offset(odd), None, "{odd}");
        }
    }
}
