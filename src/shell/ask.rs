//! `relay peers`, `ask` and `broadcast`: the answers on stdout, all else on stderr, and an exit code that tells.

use std::io::{IsTerminal, Read, stderr, stdin};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::args::Args;
use super::guest::{Guest, News};
use super::terminal::{self, ERASE, err, out, said};
use super::{Outcome, bad, no_hub, open, print, report};
use crate::datadir::DataDir;
use crate::span::span;
use crate::wire::{
    Answer, Code, Fault, Kind, MAX_TEXT, MAX_TIMEOUT_MS, Parcel, Path, PeerKind, Roster, Scope, State, ToHub,
    fault,
};

/// How long after an ask's time the hub may take to say so.
const SLACK: Duration = Duration::from_secs(15);
/// How often the time in the status line moves on.
const TICK: Duration = Duration::from_secs(1);

/// `relay peers`.
pub fn peers(dir: &DataDir, args: &Args) -> Outcome {
    let roster = match open(dir).and_then(|mut link| link.call(|id| ToHub::Peers { id })) {
        Ok(Answer::Peers(roster)) => roster,
        Err(fault) if !no_hub(dir, &fault) => return Err(fault),
        _ => {
            if !args.has("json") {
                err("No hub runs, so nobody is here: the first session starts one.\n");
                return Ok(ExitCode::SUCCESS);
            }
            Roster { me: None, peers: Vec::new(), asks: Vec::new(), owed: Vec::new() }
        }
    };
    match args.has("json") {
        true => print(&json!(roster)),
        false => out(&table(&roster)),
    };
    Ok(ExitCode::SUCCESS)
}

/// Who is there, for people.
pub fn table(roster: &Roster) -> String {
    if roster.peers.is_empty() {
        return "Nobody else is here.\n".to_owned();
    }
    let mut rows = vec![["NAME", "KIND", "STATE", "PUSH", "SINCE", "DIRECTORY"].map(str::to_owned)];
    rows.extend(roster.peers.iter().map(|peer| {
        let doubt = if peer.kind == PeerKind::Session && !peer.confirmed { "!" } else { "" };
        let branch = peer.branch.as_ref().map(|b| format!(" ({b})")).unwrap_or_default();
        [
            peer.name.clone(),
            peer.kind.name().to_owned(),
            peer.activity.name().replace("unknown", "-"),
            peer.push.map_or("none", |p| p.name()).to_owned() + doubt,
            span(peer.connected_s),
            peer.cwd.clone() + &branch,
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(width);
    let line = |[name, kind, state, push, since, at]: &[String; 6]| {
        format!("{name:a$}  {kind:b$}  {state:c$}  {push:d$}  {since:e$}  {at}\n")
    };
    rows.iter().map(line).collect()
}

/// Somebody who waits for answers.
struct Waiting {
    guest: Guest,
    /// What is told of how far things are, in a line on stderr that comes and goes, where that is a terminal.
    far: String,
    shown: String,
    since: Instant,
    timeout: Duration,
}

impl Waiting {
    fn new(dir: &DataDir, args: &Args, timeout: Duration) -> Result<Waiting, Fault> {
        let guest = Guest::arrive(dir, args.get("as"), false)?;
        let far = "looking for the hub".to_owned();
        Ok(Waiting { guest, far, shown: String::new(), since: Instant::now(), timeout })
    }

    /// The next thing that happens, or that time goes by.
    fn next(&mut self) -> Result<News, Fault> {
        let waited = self.since.elapsed();
        let line = format!("{}, {}", self.far, span(waited.as_secs()));
        if terminal::erases(&stderr()) && self.shown != line {
            // Without wrapping (mode 7), so that erasing one line erases all of it.
            err(&format!("{ERASE}\x1b[?7l{line}\x1b[?7h"));
            self.shown = line;
        }
        let news = self.guest.next(TICK);
        if matches!(news, Ok(News::Quiet)) && waited < self.timeout + SLACK {
            return news;
        }
        if !std::mem::take(&mut self.shown).is_empty() {
            err(ERASE);
        }
        match news? {
            News::Quiet => {
                Err(fault(Code::Timeout, "the time is up, and the hub does not say how the ask ended"))
            }
            News::Refused(_, fault) => Err(fault),
            news => Ok(news),
        }
    }
}

/// `relay ask`.
pub fn ask(dir: &DataDir, args: &Args) -> Outcome {
    let Some((to, words)) = args.words.split_first() else {
        return bad("whom to ask? `relay peers` lists who is there");
    };
    let (text, timeout) = (text(words)?, duration(args, "10m")?);
    let mut me = Waiting::new(dir, args, timeout)?;
    let ask_id = me.guest.ask(to, &text, timeout)?;
    let outcome = answer(&mut me, args, to);
    let code = outcome.unwrap_or_else(|fault| report(args, &fault, json!({"ask_id": ask_id})));
    me.guest.leave();
    Ok(code)
}

/// Waits for the one end that an ask has.
fn answer(me: &mut Waiting, args: &Args, to: &str) -> Outcome {
    let mut to = to.to_owned();
    me.far = format!("{to}: {}", me.far);
    loop {
        let far = match me.next()? {
            News::Named(_) => "asking".to_owned(),
            News::Answer(Answer::Asked { to: name, state, .. }) => {
                to = name;
                state.name().to_owned()
            }
            News::State { detail: Some(detail), .. } => detail,
            News::State { state, path, .. } => {
                let path = path.filter(|p| *p != Path::Socket);
                state.name().to_owned() + &path.map(|p| format!(" by {}", p.name())).unwrap_or_default()
            }
            News::Lost => "the hub is gone; looking for another".to_owned(),
            News::Signal(code) => return Ok(code),
            News::Parcel(parcel) => {
                if let Some(code) = parcel.code {
                    me.guest.confirm(&parcel);
                    return Err(fault(code, parcel.text));
                }
                let mut value =
                    json!({"ask_id": parcel.ask_id, "to": to, "from": parcel.from, "answer": parcel.text});
                if parcel.late {
                    value["late"] = true.into();
                }
                let read = match args.has("json") {
                    true => print(&value),
                    false => out(&format!("{}\n", terminal::theirs(&parcel.text).trim_end_matches('\n'))),
                };
                if !read {
                    return Ok(ExitCode::FAILURE); // and the answer is not confirmed
                }
                me.guest.confirm(&parcel);
                return Ok(ExitCode::SUCCESS);
            }
            _ => continue,
        };
        me.far = format!("{to}: {far}");
    }
}

/// `relay broadcast`.
pub fn broadcast(dir: &DataDir, args: &Args) -> Outcome {
    let scope = match args.get("scope").unwrap_or("machine") {
        "machine" => Scope::Machine,
        "repo" => Scope::Repo,
        "directory" => Scope::Directory,
        other => return bad(format!("there is no scope '{other}'; use machine, repo or directory")),
    };
    let (text, timeout) = (text(&args.words)?, duration(args, "5m")?);
    let mut me = Waiting::new(dir, args, timeout)?;
    let id = me.guest.broadcast(&text, scope, timeout)?;
    let (mut answers, mut failed) = (Vec::new(), Vec::new());
    let outcome = gather(&mut me, args, &mut answers, &mut failed);
    // What came is told however it ended: its senders know that it was received.
    let value = json!({"broadcast_id": id, "answers": answers, "failed": failed});
    let code = match outcome {
        Err(fault) => report(args, &fault, value),
        Ok(code) => {
            if args.has("json") {
                print(&value);
            }
            code
        }
    };
    me.guest.leave();
    Ok(code)
}

/// Takes the answers as they come, until the broadcast is closed.
fn gather(me: &mut Waiting, args: &Args, answers: &mut Vec<Value>, failed: &mut Vec<Value>) -> Outcome {
    let (json, mut asked) = (args.has("json"), Vec::new());
    loop {
        me.far = format!("{} of {} are in", answers.len() + failed.len(), asked.len());
        match me.next()? {
            News::Answer(Answer::Broadcast { asks, .. }) => {
                asked = asks;
                if asked.is_empty() {
                    return Err(fault(Code::PeerNotFound, "nobody is there to ask"));
                }
            }
            News::State { ask_id, state: State::Ended, code, .. } => {
                let to = asked.iter().find(|m| m.ask_id == ask_id).map_or("", |m| &m.to);
                let code = code.unwrap_or(Code::Timeout).name();
                if !json {
                    err(&format!("relay: {code}: no answer from {to}\n"));
                }
                failed.push(json!({"ask_id": ask_id, "to": to, "code": code}));
            }
            News::Parcel(parcel) if parcel.kind == Kind::Summary => {
                me.guest.confirm(&parcel);
                return match answers.is_empty() {
                    true => Err(fault(Code::Timeout, "nobody answered")),
                    false => Ok(ExitCode::SUCCESS),
                };
            }
            News::Parcel(parcel) if parcel.kind == Kind::Reply => {
                if !json && !out(&said(&format!("{}:", parcel.from), &parcel.text)) {
                    return Ok(ExitCode::FAILURE);
                }
                me.guest.confirm(&parcel);
                let Parcel { ask_id, from, text, .. } = parcel;
                answers.push(json!({"ask_id": ask_id, "from": from, "answer": text}));
            }
            News::Signal(code) => return Ok(code),
            _ => {}
        }
    }
}

/// What is to be said: the words, or stdin for `-` and where nothing is said and stdin is no terminal.
fn text(words: &[String]) -> Result<String, Fault> {
    let mut bytes = words.join(" ").into_bytes();
    if words == ["-"] || words.is_empty() && !stdin().is_terminal() {
        bytes.clear();
        if let Err(e) = stdin().lock().take(MAX_TEXT as u64 + 2).read_to_end(&mut bytes) {
            return bad(format!("cannot read stdin: {e}"));
        }
    }
    if bytes.len() > MAX_TEXT + 1 {
        return bad("the text is over 512 KiB, which is the limit; name a file to read instead");
    }
    let text = String::from_utf8(bytes).or_else(|_| bad("the text on stdin is not UTF-8"))?;
    match text.trim().is_empty() {
        true => bad("the text is empty; give it as an argument, or on stdin with `-`"),
        false => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
    }
}

/// `--timeout`: seconds, or a number with `s`, `m` or `h`.
fn duration(args: &Args, default: &str) -> Result<Duration, Fault> {
    let given = args.get("timeout").unwrap_or(default);
    let (number, unit) = match given.split_at(given.trim_end_matches(char::is_alphabetic).len()) {
        (number, "" | "s") => (number, 1000),
        (number, "m") => (number, 60_000),
        (number, "h") => (number, 3_600_000),
        _ => ("", 0),
    };
    let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    match ms.filter(|ms| (1..=MAX_TIMEOUT_MS).contains(ms)) {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => bad(format!("'{given}' is no time from 1 second to 1 day; write 30s, 10m or 2h")),
    }
}
