//! `relay ask` and `relay broadcast`: answers on standard output, everything else on standard error.

use std::io::{self, IsTerminal, Read, stderr, stdin};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::Args;
use super::guest::{Guest, News};
use super::terminal::{self, ERASE, err, out};
use super::{ErrorJson, Failure, Outcome, print, report, usage_error};
use crate::client::Event;
use crate::datadir::DataDir;
use crate::span::span;
use crate::wire::{
    Answer, Code, Kind, MAX_TEXT, MAX_TIMEOUT_MS, Parcel, Path, PeerKind, Scope, State, ToClient, fault,
};

/// How long after its timeout the hub may take to report the end of an ask.
const GRACE: Duration = Duration::from_secs(15);
/// How long a person may put a question off, which does not count towards the timeout.
const PUT_OFF: Duration = Duration::from_secs(600);
/// How often the time in the status line is updated.
const TICK: Duration = Duration::from_secs(1);

/// The `--json` output of an ask that was answered.
#[derive(Serialize)]
struct AnswerJson<'a> {
    ask_id: &'a str,
    /// The name under which the hub delivered the ask.
    to: &'a str,
    from: &'a str,
    answer: &'a str,
    thread: Option<&'a str>,
    /// `person` if a person answered; left out if not.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<PeerKind>,
    /// Whether the answer came after the timeout; left out if not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    late: bool,
}

/// The `--json` output of an ask that failed.
#[derive(Serialize)]
struct AskFailureJson<'a> {
    ask_id: &'a str,
    error: ErrorJson,
}

/// The `--json` output of a broadcast.
#[derive(Default, Serialize)]
struct BroadcastJson {
    broadcast_id: String,
    answers: Vec<BroadcastAnswerJson>,
    failed: Vec<BroadcastFailureJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorJson>,
}

#[derive(Serialize)]
struct BroadcastAnswerJson {
    ask_id: String,
    from: String,
    answer: String,
}

#[derive(Serialize)]
struct BroadcastFailureJson {
    ask_id: String,
    to: String,
    code: &'static str,
}

/// A connection that waits for answers and shows the progress.
struct Waiter {
    guest: Guest,
    /// What the status line says, without the time. It is shown on standard error if that is a terminal.
    progress: String,
    /// The status line that is on the screen; empty for none.
    shown: String,
    since: Instant,
    timeout: Duration,
}

impl Waiter {
    fn new(dir: &DataDir, args: &Args, timeout: Duration) -> Result<Waiter, Failure> {
        let guest = Guest::arrive(dir, checked_name(args.get("as"))?, false)?;
        let progress = "connecting to the hub".to_owned();
        Ok(Waiter { guest, progress, shown: String::new(), since: Instant::now(), timeout })
    }

    /// The next event, or [`News::Quiet`] when nothing has happened for a while.
    fn next(&mut self) -> Result<News, Failure> {
        let waited = self.since.elapsed();
        let line = format!("{}, {}", self.progress, span(waited.as_secs()));
        if terminal::is_ansi(&stderr()) && self.shown != line {
            // Without wrapping (mode 7), so that erasing one line erases all of it.
            err(&format!("{ERASE}\x1b[?7l{line}\x1b[?7h"));
            self.shown = line;
        }
        let news = self.guest.next(TICK);
        if matches!(news, Ok(News::Quiet)) && waited < self.timeout + GRACE {
            return Ok(News::Quiet);
        }
        if !std::mem::take(&mut self.shown).is_empty() {
            err(ERASE);
        }
        match news? {
            News::Quiet => {
                Err(fault(Code::Timeout, "no answer in time, and the hub did not report the end of the ask")
                    .into())
            }
            News::Hub(Event::Ended { result: Err(fault), .. }) => Err(fault.into()),
            news => Ok(news),
        }
    }
}

/// Runs `relay ask`.
pub fn ask(dir: &DataDir, args: &Args) -> Outcome {
    let Some((to, words)) = args.words.split_first() else {
        return usage_error("missing PEER; run `relay peers` to see who is available");
    };
    let (text, timeout) = (text(words)?, timeout(args, "10m")?);
    let mut waiter = Waiter::new(dir, args, timeout)?;
    let person = args.has("person");
    if person {
        waiter.timeout += PUT_OFF;
    }
    let ask_id = waiter.guest.ask(to, &text, args.get("thread"), timeout, person)?;
    let code = match await_answer(&mut waiter, args, to) {
        Ok(code) => code,
        Err(failure) => report(args, failure, |error| AskFailureJson { ask_id: &ask_id, error }),
    };
    waiter.guest.leave();
    Ok(code)
}

/// Waits for the end of the ask and prints the answer.
fn await_answer(waiter: &mut Waiter, args: &Args, to: &str) -> Outcome {
    let mut to = to.to_owned();
    waiter.progress = format!("{to}: {}", waiter.progress);
    loop {
        let progress = match waiter.next()? {
            News::Hub(Event::Registered { .. }) => "sending the question".to_owned(),
            News::Hub(Event::Ended { result: Ok(Answer::Asked { to: name, state, .. }), .. }) => {
                to = name;
                state.name().to_owned()
            }
            News::Hub(Event::Told(ToClient::State { detail: Some(detail), .. })) => detail,
            News::Hub(Event::Told(ToClient::State { state, path, .. })) => {
                let path = path.filter(|path| *path != Path::Socket);
                state.name().to_owned() + &path.map(|path| format!(" by {}", path.name())).unwrap_or_default()
            }
            News::Hub(Event::Lost(_)) => "reconnecting to the hub".to_owned(),
            News::Signal(code) => return Ok(code),
            News::Hub(Event::Push(parcel)) => {
                if let Some(code) = parcel.code {
                    waiter.guest.client.seen(&parcel.push);
                    return Err(fault(code, parcel.text).into());
                }
                print_answer(args, &to, &parcel)?;
                waiter.guest.client.seen(&parcel.push); // only now: an answer that could not be printed was not received
                return Ok(ExitCode::SUCCESS);
            }
            _ => continue,
        };
        waiter.progress = format!("{to}: {progress}");
    }
}

fn print_answer(args: &Args, to: &str, parcel: &Parcel) -> Result<(), Failure> {
    let Parcel { ask_id, from, text, by, late, .. } = parcel;
    let thread = parcel.thread.as_deref();
    match args.has("json") {
        true => print(&AnswerJson { ask_id, to, from, answer: text, thread, by: *by, late: *late }),
        false => out(&format!("{}\n", terminal::peer_text(text).trim_end_matches('\n'))),
    }
}

/// Runs `relay broadcast`.
pub fn broadcast(dir: &DataDir, args: &Args) -> Outcome {
    let scope = args.get("scope").unwrap_or("machine");
    let Ok(scope) = serde_json::from_value::<Scope>(scope.into()) else {
        return usage_error(format!("unknown scope '{scope}': give machine, repo or directory"));
    };
    let (text, timeout) = (text(&args.words)?, timeout(args, "5m")?);
    let mut waiter = Waiter::new(dir, args, timeout)?;
    let broadcast_id = waiter.guest.broadcast(&text, scope, timeout)?;
    let mut result = BroadcastJson { broadcast_id, ..BroadcastJson::default() };
    // Answers are printed however the broadcast ended: their senders know that they were received.
    let code = match collect(&mut waiter, args, &mut result) {
        Err(failure) => report(args, failure, |error| BroadcastJson { error: Some(error), ..result }),
        Ok(code) if args.has("json") => match print(&result) {
            Err(failure) => report(args, failure, |error| error),
            Ok(()) => code,
        },
        Ok(code) => code,
    };
    waiter.guest.leave();
    Ok(code)
}

/// Receives answers until the broadcast ends.
fn collect(waiter: &mut Waiter, args: &Args, result: &mut BroadcastJson) -> Outcome {
    let (json, mut asked) = (args.has("json"), Vec::new());
    loop {
        let ended = result.answers.len() + result.failed.len();
        waiter.progress = format!("{ended} of {} answers", asked.len());
        match waiter.next()? {
            News::Hub(Event::Ended { result: Ok(Answer::Broadcast { asks, .. }), .. }) => {
                asked = asks;
                if asked.is_empty() {
                    return Err(fault(Code::PeerNotFound, "there is nobody to ask").into());
                }
            }
            News::Hub(Event::Told(ToClient::State { ask_id, state: State::Ended, code, .. })) => {
                let to = asked.iter().find(|m| m.ask_id == ask_id).map_or("", |m| &m.to).to_owned();
                let code = code.unwrap_or(Code::Timeout).name();
                if !json {
                    err(&format!("relay: {code}: no answer from {to}\n"));
                }
                result.failed.push(BroadcastFailureJson { ask_id, to, code });
            }
            News::Hub(Event::Push(parcel)) if parcel.kind == Kind::Summary => {
                waiter.guest.client.seen(&parcel.push);
                return match result.answers.is_empty() {
                    true => Err(fault(Code::Timeout, "nobody answered").into()),
                    false => Ok(ExitCode::SUCCESS),
                };
            }
            News::Hub(Event::Push(parcel)) if parcel.kind == Kind::Reply => {
                if !json {
                    out(&terminal::with_heading(&format!("{}:", parcel.from), &parcel.text))?;
                }
                waiter.guest.client.seen(&parcel.push);
                let Parcel { ask_id, from, text: answer, .. } = parcel;
                result.answers.push(BroadcastAnswerJson { ask_id, from, answer });
            }
            News::Signal(code) => return Ok(code),
            _ => {}
        }
    }
}

/// A name from the command line. The hub replaces what can't be in a name, so a name without a letter or digit would
/// become another one.
pub fn checked_name(name: Option<&str>) -> Result<Option<&str>, Failure> {
    match name {
        Some(name) if !name.contains(char::is_alphanumeric) => {
            usage_error(format!("invalid name '{name}': give a name with at least one letter or digit"))
        }
        name => Ok(name),
    }
}

/// The text to send: the words, or standard input for `-` and where there are no words and no terminal.
fn text(words: &[String]) -> Result<String, Failure> {
    let mut bytes = words.join(" ").into_bytes();
    if words == ["-"] || words.is_empty() && !stdin().is_terminal() {
        bytes = read_stdin().or_else(|e| usage_error(format!("cannot read standard input: {e}")))?;
    }
    if bytes.len() > MAX_TEXT + 1 {
        let limit = MAX_TEXT / 1024;
        return usage_error(format!(
            "the text exceeds {limit} KiB; put it in a file and name the file instead"
        ));
    }
    let text = String::from_utf8(bytes).or_else(|_| usage_error("standard input is not UTF-8"))?;
    match text.trim().is_empty() {
        true => usage_error("missing TEXT; give it as an argument, or on standard input with '-'"),
        false => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
    }
}

/// Reads one byte more than the longest text and its newline, so that a longer one is noticed.
fn read_stdin() -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stdin().lock().take(MAX_TEXT as u64 + 2).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The value of `--timeout`: seconds, or a number with `s`, `m` or `h`.
fn timeout(args: &Args, default: &str) -> Result<Duration, Failure> {
    let value = args.get("timeout").unwrap_or(default);
    let (number, unit_ms) = match value.split_at(value.trim_end_matches(char::is_alphabetic).len()) {
        (number, "" | "s") => (number, 1000),
        (number, "m") => (number, 60_000),
        (number, "h") => (number, 3_600_000),
        _ => ("", 0),
    };
    let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_ms));
    match ms.filter(|ms| (1..=MAX_TIMEOUT_MS).contains(ms)) {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => usage_error(format!("invalid timeout '{value}': give 1s to 24h, for example 30s, 10m, 2h")),
    }
}
