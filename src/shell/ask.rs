//! `relay ask` and `relay broadcast`: answers on standard output, everything else on standard error.

use std::io::{IsTerminal, Read, stderr, stdin};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::args::{Args, exit_code};
use super::guest::{Guest, News};
use super::terminal::{self, ERASE, err, out};
use super::{Failure, Outcome, for_shell, print, show, usage_error};
use crate::client::Event;
use crate::datadir::DataDir;
use crate::span::span;
use crate::wire::{
    Answer, AskRequest, BroadcastRequest, Code, Fault, Kind, MAX_TEXT, MAX_TIMEOUT_MS, Parcel, PeerKind,
    Scope, State, ToClient, ToHub, fault,
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
#[derive(Default, Serialize)]
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
    since: Instant,
    /// How long to wait for the hub to report the end.
    limit: Duration,
}

impl Waiter {
    fn new(dir: &DataDir, args: &Args, timeout_ms: u64) -> Result<Waiter, Failure> {
        let guest = Guest::arrive(dir, checked_name(args.get("as"))?, false)?;
        let put_off = if args.has("person") { PUT_OFF } else { Duration::ZERO };
        let limit = Duration::from_millis(timeout_ms) + put_off + GRACE;
        Ok(Waiter { guest, since: Instant::now(), limit })
    }

    /// The next events; a failure is an error. Meanwhile the progress is shown on standard error, if that is a terminal.
    fn next(&mut self, progress: &str) -> Result<Vec<Event>, Failure> {
        let (is_shown, waited) = (terminal::is_ansi(&stderr()), self.since.elapsed());
        if is_shown {
            // Without wrapping (mode 7), so that erasing one line erases all of it.
            err(&format!("\x1b[?7l{progress}, {}\x1b[?7h", span(waited.as_secs())));
        }
        let news = self.guest.next(TICK);
        if is_shown {
            err(ERASE);
        }
        let News::Hub(events) = news? else { return Ok(Vec::new()) };
        for event in &events {
            match event {
                Event::Ended { result: Err(fault), .. } => return Err(fault.clone().into()),
                Event::Push(Parcel { code: Some(code), push, text, .. }) => {
                    self.guest.client.seen(push);
                    return Err(fault(*code, text).into());
                }
                _ => {}
            }
        }
        if events.is_empty() && waited >= self.limit {
            let why = "no answer in time, and the hub did not report the end of the ask";
            return Err(fault(Code::Timeout, why).into());
        }
        Ok(events)
    }
}

/// Runs `relay ask`.
pub fn ask(dir: &DataDir, args: &Args) -> Outcome {
    let Some((to, words)) = args.words.split_first() else {
        return usage_error("missing PEER; run `relay peers` to see who is available");
    };
    let (text, timeout_ms) = (text(words)?, timeout_ms(args, "10m")?);
    let mut waiter = Waiter::new(dir, args, timeout_ms)?;
    let (thread, person) = (args.get("thread").map(str::to_owned), args.has("person"));
    let request = AskRequest { to: to.clone(), text, timeout_ms, thread, person, ..AskRequest::default() };
    waiter.guest.ask(request)?;
    let mut progress = "connecting to the hub".to_owned();
    loop {
        for event in waiter.next(&format!("{to}: {progress}"))? {
            progress = match event {
                Event::Ended { result: Ok(Answer::Asked { state, .. }), .. } => state.name().to_owned(),
                Event::Told(ToClient::State { detail: Some(detail), .. }) => detail,
                Event::Lost(_) => "reconnecting to the hub".to_owned(),
                Event::Push(parcel) => {
                    let push = parcel.push.clone();
                    let text = |json: &AnswerJson| {
                        terminal::peer_text(&json.answer).trim_end_matches('\n').to_owned() + "\n"
                    };
                    show(args, &parcel.into(), text)?;
                    waiter.guest.client.seen(&push); // only now: an answer that could not be printed was not received
                    return Ok(());
                }
                _ => continue,
            };
        }
    }
}

/// Runs `relay broadcast`.
pub fn broadcast(dir: &DataDir, args: &Args) -> Outcome {
    let scope = args.get("scope").unwrap_or("machine");
    let Ok(scope) = serde_json::from_value::<Scope>(scope.into()) else {
        return usage_error(format!("unknown scope '{scope}': give machine, repo or directory"));
    };
    let (text, timeout_ms) = (text(&args.words)?, timeout_ms(args, "5m")?);
    let mut waiter = Waiter::new(dir, args, timeout_ms)?;
    let broadcast_id = waiter.guest.client.new_id("bc_")?;
    let mut result = BroadcastJson { broadcast_id: broadcast_id.clone(), ..BroadcastJson::default() };
    let (include_self, collect_ms) = (false, None);
    waiter.guest.client.request(|id| {
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
    outcome
}

/// Receives answers until the broadcast ends.
fn collect(waiter: &mut Waiter, args: &Args, result: &mut BroadcastJson) -> Outcome {
    let mut asked = Vec::new();
    loop {
        let ended = result.answers.len() + result.failed.len();
        for event in waiter.next(&format!("{ended} of {} answers", asked.len()))? {
            match event {
                Event::Ended { result: Ok(Answer::Broadcast { asks, .. }), .. } if asks.is_empty() => {
                    let why = "nobody is in that scope; `relay peers` lists all peers";
                    return Err(fault(Code::PeerNotFound, why).into());
                }
                Event::Ended { result: Ok(Answer::Broadcast { asks, .. }), .. } => asked = asks,
                Event::Told(ToClient::State { ask_id, state: State::Ended, code, .. }) => {
                    let to = asked.iter().find(|m| m.ask_id == ask_id).map_or("", |m| &m.to).to_owned();
                    let code = code.unwrap_or(Code::Timeout);
                    if !args.has("json") {
                        err(&format!("relay: {}: no answer from {to}\n", code.name()));
                    }
                    result.failed.push(UnansweredJson { ask_id, to, code });
                }
                Event::Push(parcel) if parcel.kind == Kind::Summary => {
                    waiter.guest.client.seen(&parcel.push);
                    return match result.answers.is_empty() {
                        true => Err(fault(Code::Timeout, "nobody answered").into()),
                        false => Ok(()),
                    };
                }
                Event::Push(parcel) => {
                    if !args.has("json") {
                        out(&terminal::with_heading(&format!("{}:", parcel.from), &parcel.text))?;
                    }
                    waiter.guest.client.seen(&parcel.push);
                    result.answers.push(parcel.into());
                }
                _ => {}
            }
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
    let mut text = words.join(" ");
    if words == ["-"] || words.is_empty() && !stdin().is_terminal() {
        // One byte more than the longest text and its newline, so that the hub refuses a longer one.
        let (mut input, mut bytes) = (stdin().lock().take(MAX_TEXT as u64 + 2), Vec::new());
        let read = input.read_to_end(&mut bytes);
        read.or_else(|e| usage_error(format!("cannot read standard input: {e}")))?;
        text = String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes)).into_owned();
    }
    match text.trim().is_empty() {
        true => usage_error("missing TEXT; give it as an argument, or on standard input with '-'"),
        false => Ok(text),
    }
}

/// The value of `--timeout` in milliseconds: seconds, or a number with `s`, `m` or `h`.
fn timeout_ms(args: &Args, default: &str) -> Result<u64, Failure> {
    let value = args.get("timeout").unwrap_or(default);
    let mut units = [('s', 1), ('m', 60), ('h', 3600)].into_iter();
    let known = units.find_map(|(unit, unit_s)| Some((value.strip_suffix(unit)?, unit_s)));
    let (number, unit_s) = known.unwrap_or((value, 1));
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_s)) {
        Some(s) if (1..=MAX_TIMEOUT_MS / 1000).contains(&s) => Ok(s * 1000),
        _ => usage_error(format!("invalid timeout '{value}': give 1s to 24h, for example 30s, 10m, 2h")),
    }
}
