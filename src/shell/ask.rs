//! `relay ask` and `relay broadcast`: answers on standard output, everything else on standard error.

use std::io::{IsTerminal, Read, stderr, stdin};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::{Args, exit_code};
use super::guest::{Guest, News};
use super::terminal::{self, ERASE, err, out};
use super::{Failure, Outcome, for_shell, print, usage_error};
use crate::client::Event;
use crate::datadir::DataDir;
use crate::span::span;
use crate::wire::{
    Answer, BroadcastRequest, Code, Fault, Kind, MAX_TEXT, MAX_TIMEOUT_MS, Parcel, PeerKind, Scope, State,
    ToClient, ToHub, fault,
};

/// How long after its timeout the hub may take to report the end of an ask.
const GRACE: Duration = Duration::from_secs(15);
/// How long a person may put a question off, which does not count towards the timeout.
const PUT_OFF: Duration = Duration::from_secs(600);
/// How often the time in the status line is updated.
const TICK: Duration = Duration::from_secs(1);

/// The `--json` output of an answer.
#[derive(Serialize)]
struct AnswerJson {
    ask_id: String,
    from: String,
    answer: String,
    thread: Option<String>,
    /// `person` if a person answered.
    by: Option<PeerKind>,
    /// Whether the answer came after the timeout.
    late: bool,
}

impl From<Parcel> for AnswerJson {
    fn from(Parcel { ask_id, from, text: answer, thread, by, late, .. }: Parcel) -> AnswerJson {
        AnswerJson { ask_id, from, answer, thread, by, late }
    }
}

/// The `--json` output of a broadcast.
#[derive(Serialize)]
struct BroadcastJson {
    broadcast_id: String,
    answers: Vec<AnswerJson>,
    failed: Vec<UnansweredJson>,
    /// `None` if at least one session answered.
    error: Option<Fault>,
}

#[derive(Serialize)]
struct UnansweredJson {
    ask_id: String,
    to: String,
    code: Code,
}

/// A connection that waits for answers and shows the progress.
struct Waiter {
    guest: Guest,
    /// What the status line says, without the time.
    progress: String,
    since: Instant,
    timeout: Duration,
}

impl Waiter {
    fn new(dir: &DataDir, args: &Args, timeout: Duration) -> Result<Waiter, Failure> {
        let guest = Guest::arrive(dir, checked_name(args.get("as"))?, false)?;
        let progress = "connecting to the hub".to_owned();
        Ok(Waiter { guest, progress, since: Instant::now(), timeout })
    }

    /// The next event, or [`News::Quiet`] when nothing has happened for a while. Meanwhile the status line is shown on
    /// standard error, if that is a terminal.
    fn next(&mut self) -> Result<News, Failure> {
        let waited = self.since.elapsed();
        let is_shown = terminal::is_ansi(&stderr());
        if is_shown {
            // Without wrapping (mode 7), so that erasing one line erases all of it.
            err(&format!("\x1b[?7l{}, {}\x1b[?7h", self.progress, span(waited.as_secs())));
        }
        let news = self.guest.next(TICK);
        if is_shown {
            err(ERASE);
        }
        match news? {
            News::Quiet if waited >= self.timeout + GRACE => {
                let why = "no answer in time, and the hub did not report the end of the ask";
                Err(fault(Code::Timeout, why).into())
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
    if args.has("person") {
        waiter.timeout += PUT_OFF;
    }
    waiter.guest.ask(to, &text, args.get("thread"), timeout, args.has("person"))?;
    let outcome = await_answer(&mut waiter, args, to);
    waiter.guest.leave();
    outcome
}

/// Waits for the end of the ask and prints the answer.
fn await_answer(waiter: &mut Waiter, args: &Args, to: &str) -> Outcome {
    let mut to = to.to_owned();
    waiter.progress = format!("{to}: {}", waiter.progress);
    loop {
        let progress = match waiter.next()? {
            News::Hub(Event::Ended { result: Ok(Answer::Asked { to: name, state, .. }), .. }) => {
                to = name;
                state.name().to_owned()
            }
            News::Hub(Event::Told(ToClient::State { detail: Some(detail), .. })) => detail,
            News::Hub(Event::Lost(_)) => "reconnecting to the hub".to_owned(),
            News::Hub(Event::Push(parcel)) => {
                if let Some(code) = parcel.code {
                    waiter.guest.client.seen(&parcel.push);
                    return Err(fault(code, parcel.text).into());
                }
                let push = parcel.push.clone();
                match args.has("json") {
                    true => print(&AnswerJson::from(parcel))?,
                    false => out(&format!("{}\n", terminal::peer_text(&parcel.text).trim_end_matches('\n')))?,
                }
                waiter.guest.client.seen(&push); // only now: an answer that could not be printed was not received
                return Ok(());
            }
            _ => continue,
        };
        waiter.progress = format!("{to}: {progress}");
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
    let (broadcast_id, timeout_ms) = (waiter.guest.client.new_id("bc_")?, timeout.as_millis() as u64);
    let mut result = BroadcastJson { broadcast_id, answers: Vec::new(), failed: Vec::new(), error: None };
    waiter.guest.client.request(|id| {
        let (broadcast_id, include_self, collect_ms) = (result.broadcast_id.clone(), false, None);
        let request =
            BroadcastRequest { id, broadcast_id, text, scope, include_self, collect_ms, timeout_ms };
        ToHub::Broadcast(request)
    });
    let mut outcome = collect(&mut waiter, args, &mut result);
    if args.has("json") {
        // Also with an error: the senders of the answers know that these were received.
        if let Err(Failure::Fault(fault)) = outcome {
            outcome = Err(Failure::Exit(exit_code(fault.code)));
            result.error = Some(for_shell(fault));
        }
        outcome = print(&result).and(outcome);
    }
    waiter.guest.leave();
    outcome
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
                    let why = "nobody is in that scope; `relay peers` lists all peers";
                    return Err(fault(Code::PeerNotFound, why).into());
                }
            }
            News::Hub(Event::Told(ToClient::State { ask_id, state: State::Ended, code, .. })) => {
                let to = asked.iter().find(|m| m.ask_id == ask_id).map_or("", |m| &m.to).to_owned();
                let code = code.unwrap_or(Code::Timeout);
                if !json {
                    err(&format!("relay: {}: no answer from {to}\n", code.name()));
                }
                result.failed.push(UnansweredJson { ask_id, to, code });
            }
            News::Hub(Event::Push(parcel)) if parcel.kind == Kind::Summary => {
                waiter.guest.client.seen(&parcel.push);
                return match result.answers.is_empty() {
                    true => Err(fault(Code::Timeout, "nobody answered").into()),
                    false => Ok(()),
                };
            }
            News::Hub(Event::Push(parcel)) if parcel.kind == Kind::Reply => {
                if !json {
                    out(&terminal::with_heading(&format!("{}:", parcel.from), &parcel.text))?;
                }
                waiter.guest.client.seen(&parcel.push);
                result.answers.push(parcel.into());
            }
            News::Hub(Event::Push(Parcel { code: Some(code), push, text, .. })) => {
                waiter.guest.client.seen(&push); // the hub's state was lost
                return Err(fault(code, text).into());
            }
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
        bytes.clear();
        // One byte more than the longest text and its newline, so that the hub refuses a longer one.
        let mut input = stdin().lock().take(MAX_TEXT as u64 + 2);
        let read = input.read_to_end(&mut bytes);
        read.or_else(|e| usage_error(format!("cannot read standard input: {e}")))?;
    }
    let text = String::from_utf8_lossy(&bytes);
    match text.trim().is_empty() {
        true => usage_error("missing TEXT; give it as an argument, or on standard input with '-'"),
        // Without its newlines at the end, a text that was cut there might be short enough.
        false if bytes.len() > MAX_TEXT + 1 => Ok(text.into_owned()),
        false => Ok(text.trim_end_matches(['\n', '\r']).to_owned()),
    }
}

/// The value of `--timeout`: seconds, or a number with `s`, `m` or `h`.
fn timeout(args: &Args, default: &str) -> Result<Duration, Failure> {
    let value = args.get("timeout").unwrap_or(default);
    let mut units = [('s', 1), ('m', 60), ('h', 3600)].into_iter();
    let known = units.find_map(|(unit, unit_s)| Some((value.strip_suffix(unit)?, unit_s)));
    let (number, unit_s) = known.unwrap_or((value, 1));
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_s)) {
        Some(s) if (1..=MAX_TIMEOUT_MS / 1000).contains(&s) => Ok(Duration::from_secs(s)),
        _ => usage_error(format!("invalid timeout '{value}': give 1s to 24h, for example 30s, 10m, 2h")),
    }
}
