//! `relay peers`, `ask` and `broadcast`: the answers on stdout, all else on stderr, and an exit code that tells.

use std::collections::HashMap;
use std::io::{IsTerminal, Read, stdin};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::{self, Args};
use crate::datadir::DataDir;
use crate::guest::{Guest, News};
use crate::json;
use crate::link::{Link, Start};
use crate::router::{MAX_TIMEOUT, fault};
use crate::term::{self, StatusLine, err, out, said};
use crate::wire::{Answer, Code, Fault, Kind, MAX_TEXT, Path, PeerKind, Roster, Scope, State, ToHub};

/// How long after an ask's time the hub may take to say so.
const SLACK: Duration = Duration::from_secs(15);
/// How often the time in the status line moves on.
const TICK: Duration = Duration::from_secs(1);

/// What a command comes to; an error is told by [`report`].
pub type Outcome = Result<ExitCode, Fault>;

/// Tells of an error, in the way the caller wants it, and gives its exit code.
pub fn report(args: &Args, fault: &Fault, ask_id: Option<&str>) -> ExitCode {
    // The hub's words are for a session, which has tools.
    let message = fault.message.replace("relay_peers", "`relay peers`").replace("this session", "this peer");
    if args.has("json") {
        let mut value = json!({"error": {"code": fault.code.name(), "message": message}});
        if let Some(id) = ask_id {
            value["ask_id"] = id.into();
        }
        print(&value);
    } else {
        let code = fault.code.name();
        let message = message.strip_prefix(code).and_then(|m| m.strip_prefix(": ")).unwrap_or(&message);
        err(&format!("relay: {code}: {}\n", crate::fence::clean(message)));
    }
    cli::exit(fault.code)
}

/// One JSON value on stdout; `false` when nobody reads it.
pub fn print(value: &Value) -> bool {
    out(&format!("{value}\n"))
}

/// `relay peers`.
pub fn peers(dir: &DataDir, args: &Args) -> Outcome {
    let roster = match Link::open(dir, Start::No).and_then(|mut link| link.call(|id| ToHub::Peers { id })) {
        Ok(Answer::Peers(roster)) => roster,
        Err(fault) if fault.code != Code::HubUnreachable || is_there(dir) => return Err(fault),
        _ => Roster { me: None, peers: Vec::new(), asks: Vec::new(), owed: Vec::new() },
    };
    match args.has("json") {
        true => print(&json::fields(&roster).into()),
        false => out(&table(&roster)),
    };
    Ok(ExitCode::SUCCESS)
}

/// Whether a hub takes connections, whatever it does with them.
pub fn is_there(dir: &DataDir) -> bool {
    dir.connect().is_ok()
}

/// Who is there, for people.
pub fn table(roster: &Roster) -> String {
    if roster.peers.is_empty() {
        return "Nobody else is here.\n".to_owned();
    }
    let mut rows = vec![["NAME", "KIND", "STATE", "PUSH", "SINCE", "DIRECTORY"].map(str::to_owned)];
    for peer in &roster.peers {
        let push = peer.push.map_or("none", |p| p.name()).to_owned();
        let doubt = if peer.kind == PeerKind::Session && !peer.confirmed { "!" } else { "" };
        let branch = peer.branch.as_ref().map(|b| format!(" ({b})")).unwrap_or_default();
        rows.push([
            peer.name.clone(),
            peer.kind.name().to_owned(),
            peer.activity.name().replace("unknown", "-"),
            format!("{push}{doubt}"),
            span(peer.connected_s),
            format!("{}{branch}", peer.cwd),
        ]);
    }
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A time span as people read it.
pub fn span(seconds: u64) -> String {
    match seconds {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

/// `relay ask`.
pub fn ask(dir: &DataDir, args: &Args) -> Outcome {
    let Some((to, words)) = args.words.split_first() else {
        return bad("whom to ask? `relay peers` lists who is there");
    };
    let text = text(words)?;
    let timeout = duration(args, "10m")?;
    let mut guest = Guest::arrive(dir, args.get("as"), false, false)?;
    let ask_id = guest.ask(to, &text, timeout)?;
    let outcome = await_answer(&mut guest, args, to, timeout);
    let code = outcome.unwrap_or_else(|fault| report(args, &fault, Some(&ask_id)));
    guest.leave();
    Ok(code)
}

/// Waits for the one end that the ask has.
fn await_answer(guest: &mut Guest, args: &Args, to: &str, timeout: Duration) -> Outcome {
    let (mut to, mut far, asked) = (to.to_owned(), "looking for the hub".to_owned(), Instant::now());
    let mut line = StatusLine::new();
    while asked.elapsed() < timeout + SLACK {
        line.show(&format!("{to}: {far}, {}", span(asked.elapsed().as_secs())));
        match guest.next(TICK)? {
            News::Named(_) => far = "asking".to_owned(),
            News::Answer(Answer::Asked { to: name, state, .. }) => (to, far) = (name, reached(state, None)),
            News::State { kind: Kind::Ask, state, path, .. } => far = reached(state, path),
            News::Lost => far = "the hub is gone; looking for another".to_owned(),
            News::Refused(_, fault) => return Err(fault),
            News::Signal(signal) => return Ok(interrupted(signal)),
            News::Parcel(parcel) => {
                line.clear();
                if let Some(code) = parcel.code {
                    guest.confirm(&parcel);
                    return Err(fault(code, parcel.text));
                }
                let alive = if args.has("json") {
                    let mut value = json!({"ask_id": parcel.ask_id, "to": to, "from": parcel.from, "answer": parcel.text});
                    if parcel.late {
                        value["late"] = true.into();
                    }
                    print(&value)
                } else {
                    out(&format!("{}\n", term::theirs(&parcel.text).trim_end_matches('\n')))
                };
                if !alive {
                    return Ok(ExitCode::FAILURE); // and the answer is not confirmed
                }
                guest.confirm(&parcel);
                return Ok(ExitCode::SUCCESS);
            }
            _ => {}
        }
    }
    Err(fault(Code::Timeout, "the time is up, and the hub does not say how the ask ended"))
}

/// How far a question got, for the status line.
fn reached(state: State, path: Option<Path>) -> String {
    let by = path.filter(|p| *p != Path::Socket).map(|p| format!(" by {}", p.name())).unwrap_or_default();
    format!("{}{by}", state.name())
}

/// The exit code of a process that left because of a signal.
pub fn interrupted(signal: i32) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
}

/// A broadcast on its way.
#[derive(Default)]
struct Tally {
    /// Names by `ask_id`.
    to: HashMap<String, String>,
    answers: Vec<Value>,
    failed: Vec<Value>,
}

/// `relay broadcast`.
pub fn broadcast(dir: &DataDir, args: &Args) -> Outcome {
    let scope = match args.get("scope").unwrap_or("machine") {
        "machine" => Scope::Machine,
        "repo" => Scope::Repo,
        "directory" => Scope::Directory,
        other => return bad(format!("there is no scope '{other}'; use machine, repo or directory")),
    };
    let text = text(&args.words)?;
    let timeout = duration(args, "5m")?;
    let mut guest = Guest::arrive(dir, args.get("as"), false, false)?;
    let id = guest.broadcast(&text, scope, timeout)?;
    let mut tally = Tally::default();
    let outcome = gather(&mut guest, args, timeout, &mut tally);
    let Tally { to, answers, failed } = tally;
    let ended = match (answers.is_empty(), to.is_empty()) {
        (false, _) => ExitCode::SUCCESS,
        (true, true) => cli::exit(Code::PeerNotFound),
        (true, false) => cli::exit(Code::Timeout),
    };
    let code = match &outcome {
        Ok(code) => code.unwrap_or(ended),
        Err(fault) => cli::exit(fault.code),
    };
    if args.has("json") {
        // What came is told however it ended: its senders know that it was received.
        let mut value = json!({"broadcast_id": id, "answers": answers, "failed": failed});
        if let Err(fault) = &outcome {
            value["error"] = json::fields(fault).into();
        }
        print(&value);
    } else if let Err(fault) = &outcome {
        report(args, fault, None);
    } else if to.is_empty() {
        err("relay: peer_not_found: nobody is there to ask\n");
    }
    guest.leave();
    Ok(code)
}

/// Takes the answers as they come; `None` when the broadcast is closed.
fn gather(
    guest: &mut Guest,
    args: &Args,
    timeout: Duration,
    tally: &mut Tally,
) -> Result<Option<ExitCode>, Fault> {
    let (mut line, asked) = (StatusLine::new(), Instant::now());
    while asked.elapsed() < timeout + SLACK {
        let (all, done) = (tally.to.len(), tally.answers.len() + tally.failed.len());
        line.show(&format!("{done} of {all} are in, {}", span(asked.elapsed().as_secs())));
        match guest.next(TICK)? {
            News::Answer(Answer::Broadcast { asks, .. }) => {
                tally.to.extend(asks.into_iter().map(|m| (m.ask_id, m.to)));
                if tally.to.is_empty() {
                    return Ok(None);
                }
            }
            News::State { kind: Kind::Ask, ask_id, state: State::Ended, code: Some(code), .. } => {
                let to = tally.to.get(&ask_id).cloned().unwrap_or_default();
                line.clear();
                if !args.has("json") {
                    err(&format!("relay: {}: no answer from {to}\n", code.name()));
                }
                tally.failed.push(json!({"ask_id": ask_id, "to": to, "code": code.name()}));
            }
            News::Parcel(parcel) => {
                line.clear();
                if parcel.kind == Kind::Reply {
                    if !args.has("json") && !out(&said(&format!("{}:", parcel.from), &parcel.text)) {
                        return Ok(Some(ExitCode::FAILURE));
                    }
                    tally
                        .answers
                        .push(json!({"ask_id": parcel.ask_id, "from": parcel.from, "answer": parcel.text}));
                }
                guest.confirm(&parcel);
                if parcel.kind == Kind::Summary {
                    return Ok(None);
                }
            }
            News::Refused(_, fault) => return Err(fault),
            News::Signal(signal) => return Ok(Some(interrupted(signal))),
            _ => {}
        }
    }
    Err(fault(Code::Timeout, "the time is up, and the hub does not say how the broadcast ended"))
}

/// What is to be said: the words, or stdin for `-` and where nothing is said and stdin is no terminal.
fn text(words: &[String]) -> Result<String, Fault> {
    let text = match words {
        [dash] if dash == "-" => read_all()?,
        [] if !stdin().is_terminal() => read_all()?,
        words => words.join(" "),
    };
    let text = text.trim_end_matches(['\n', '\r']);
    match text.trim().is_empty() {
        true => bad("the text is empty; give it as an argument, or on stdin with `-`"),
        false => Ok(text.to_owned()),
    }
}

fn read_all() -> Result<String, Fault> {
    let mut bytes = Vec::new();
    if let Err(e) = stdin().lock().take(MAX_TEXT as u64 + 2).read_to_end(&mut bytes) {
        return bad(format!("cannot read stdin: {e}"));
    }
    if bytes.len() > MAX_TEXT + 1 {
        return bad("the text is over 64 KiB, which is the limit; name a file to read instead");
    }
    String::from_utf8(bytes).or_else(|_| bad("the text on stdin is not UTF-8"))
}

/// `--timeout`: seconds, or a number with `s`, `m` or `h`.
fn duration(args: &Args, default: &str) -> Result<Duration, Fault> {
    let given = args.get("timeout").unwrap_or(default);
    let (number, unit) = match given.find(|c: char| !c.is_ascii_digit()).map(|at| given.split_at(at)) {
        None | Some((_, "s")) => (given.trim_end_matches('s'), 1000),
        Some((number, "m")) => (number, 60_000),
        Some((number, "h")) => (number, 3_600_000),
        Some(_) => ("", 0),
    };
    let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    match ms.filter(|ms| (1..=MAX_TIMEOUT).contains(ms)) {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => bad(format!("'{given}' is no time from 1 second to 1 day; write 30s, 10m or 2h")),
    }
}

pub fn bad<T>(why: impl Into<String>) -> Result<T, Fault> {
    Err(fault(Code::BadArgs, why))
}
