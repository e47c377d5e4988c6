//! `relay tail`: the hub's events as they happen.

use super::args::Args;
use super::terminal::{err, first_line, paint};
use super::{Outcome, open, short_id, show};
use crate::connection::{no_hub, unreachable};
use crate::datadir::DataDir;
use crate::fence::{clean, label};
use crate::wire::{Code, Event, Kind, Path, PeerKind, State, ToClient, ToHub, What};

/// The most columns of a message's text.
const TEXT_COLUMNS: usize = 100;

/// Runs `relay tail`. It ends when its output is closed, and with the hub.
pub fn tail(dir: &DataDir, args: &Args) -> Outcome {
    let mut hub = open(dir)?.ok_or_else(|| no_hub(dir))?;
    hub.call(|id| ToHub::Watch { id })?;
    err("relay: watching for events; Ctrl-C ends it\n");
    while let Ok(Some(message)) = hub.receive(None) {
        let ToClient::Event(event) = message else { continue };
        show(args, &event, describe)?;
    }
    Err(unreachable("the hub has stopped; run `relay tail` again").into())
}

/// An event in one line: the time, who, the words of its JSON, ids, and the first line of its text.
fn describe(event: &Event) -> String {
    let (mut from, mut to) = (label(&event.from), event.to.as_deref().map(label));
    match (event.event, event.kind, &mut to) {
        (What::Failed | What::Note, _, Some(to)) => std::mem::swap(&mut from, to), // the asked peer came first; the arrow is the ask's
        (_, Some(Kind::Failed | Kind::Summary | Kind::Notice), _) => from = "hub".to_owned(),
        _ => {}
    }
    let names = to.map_or_else(|| from.clone(), |to| format!("{from} → {to}"));
    let words = [
        event.state.is_none().then_some(event.event.name()),
        event.kind.map(Kind::name),
        event.state.map(State::name),
        event.path.map(Path::name),
        event.code.map(Code::name),
        event.by.map(PeerKind::name),
    ];
    let ids = [&event.ask_id, &event.thread].into_iter().flatten();
    let ids: String = ids.map(|id| format!("  {}", short_id(&label(id)))).collect();
    let text = first_line(&clean(event.text.as_deref().unwrap_or_default()), TEXT_COLUMNS);
    let words = words.into_iter().flatten().collect::<Vec<_>>().join(" ");
    let line = format!("{}  {words}{}  {text}", paint("1", &names), paint("2", &ids));
    format!("{} {}\n", time_of_day(event.ts_ms), line.trim_end())
}

/// `ts_ms`, in milliseconds since 1970 (UTC), as a time of day: `14:03:05Z`.
fn time_of_day(ts_ms: u64) -> String {
    let s = ts_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}Z", s / 3600, s / 60 % 60, s % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_and_a_failure_have_the_arrow_of_their_ask() {
        for event in [What::Note, What::Failed] {
            let (from, to) = ("asked".to_owned(), Some("asker".to_owned()));
            let line = describe(&Event { event, from, to, ..Event::default() });
            assert!(line.contains("asker → asked"), "{line}");
        }
    }
}
