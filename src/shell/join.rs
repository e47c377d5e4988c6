//! `relay join`: a person as a peer. Questions appear as they arrive, and answers are typed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::args::{self, Args};
use super::ask::checked_name;
use super::console::{BELL, Console};
use super::editor::Input;
use super::guest::{Guest, News};
use super::peers::peer_table;
use super::terminal::with_heading;
use super::{Failure, Outcome, message};
use crate::client::Event;
use crate::datadir::DataDir;
use crate::fence::clean;
use crate::wire::{Answer, AskRequest, Code, Kind, Parcel, State, ToClient, ToHub};

/// The timeout of a question that is typed.
const TIMEOUT: Duration = Duration::from_secs(600);
/// How long to wait for an event; afterwards the wait begins again.
const PATIENCE: Duration = Duration::from_secs(3600);
const COMMANDS: [&str; 3] = ["/help", "/peers", "/quit"];

/// A question to us.
struct Question {
    /// Empty once the question can't be answered any more.
    ask_id: String,
    from: String,
    /// Whether a line without a number may answer it: not while it is being answered, nor after its timeout.
    is_next: bool,
}

/// A person or a script that has joined.
struct Member {
    guest: Guest,
    console: Console,
    /// Question number n is at n - 1.
    questions: Vec<Question>,
    /// Our open asks by id, with the name of the asked peer.
    asked: BTreeMap<String, String>,
    /// The lines that ended in a backslash, for the line that they continue.
    continued: String,
    /// Whether the next list of peers is for a completion, and not to be printed.
    is_completing: bool,
    /// The error of our last ask that failed, for the exit code of a script.
    failed: Option<Code>,
}

/// Runs `relay join`.
pub fn join(dir: &DataDir, args: &Args) -> Outcome {
    let guest = Guest::arrive(dir, checked_name(args.words.first().map(String::as_str))?, true)?;
    let (questions, asked, continued, is_completing, failed) = Default::default();
    let console = Console::open()?;
    let mut member = Member { guest, console, questions, asked, continued, is_completing, failed };
    let outcome = member.run();
    drop(member.console); // restores the terminal before anything else is printed
    member.guest.leave();
    outcome
}

impl Member {
    fn run(&mut self) -> Outcome {
        let mut is_leaving = false;
        // At the end of its input a script still waits for the answers to its questions.
        while !(is_leaving && self.asked.is_empty() && !self.guest.client.is_waiting()) {
            match self.guest.next(PATIENCE)? {
                News::Typed(bytes) => {
                    self.console.feed(&bytes);
                    while let Some(input) = self.console.next()? {
                        match input {
                            Input::Line(line) if !self.handle_line(&line)? => return self.outcome(),
                            Input::End if self.console.is_terminal() => return self.outcome(),
                            Input::End => {
                                is_leaving = true;
                                break;
                            }
                            Input::Complete => self.complete()?,
                            Input::Line(_) => {}
                        }
                    }
                }
                News::Hub(event) => self.handle_event(event)?,
                News::Quiet => {}
            }
        }
        self.outcome()
    }

    fn outcome(&self) -> Outcome {
        self.failed.map_or(Ok(()), |code| Err(Failure::Exit(args::exit_code(code))))
    }

    /// Completes a command, or a name; for that the hub is asked for the peers.
    fn complete(&mut self) -> Result<(), Failure> {
        if !self.console.word().is_some_and(|word| word.starts_with('@')) {
            return self.console.complete(COMMANDS.map(str::to_owned));
        }
        self.is_completing = true;
        self.request_peers();
        Ok(())
    }

    fn request_peers(&mut self) {
        self.guest.client.request(|id| ToHub::Peers { id });
    }

    /// Records that an ask of ours failed, and returns the message. A script also reports it by its exit code.
    fn record_failure(&mut self, code: Code, why: &str) -> String {
        let why = message(code, why, "/peers");
        if self.console.is_terminal() {
            return why;
        }
        self.failed = Some(code);
        format!("relay: {}: {}", code.name(), clean(&why))
    }

    /// Handles an event that was not typed.
    fn handle_event(&mut self, event: Event) -> Result<(), Failure> {
        let note = match event {
            Event::Push(parcel) => return self.show_parcel(&parcel),
            Event::Ended { result: Ok(Answer::Peers(roster)), .. } => {
                return match std::mem::take(&mut self.is_completing) {
                    true => self.console.complete(roster.peers.iter().map(|peer| format!("@{}", peer.name))),
                    false => self.console.print(&peer_table(&roster)),
                };
            }
            Event::Registered { name } => format!("You are {name}. Type /help for help."),
            Event::Lost(_) => "Lost the hub; reconnecting.".to_owned(),
            Event::Ended { result: Ok(Answer::Asked { ask_id, to, state, .. }), .. } => {
                self.asked.entry(ask_id).and_modify(|name| name.clone_from(&to));
                format!("{to}: {}", state.name())
            }
            Event::Ended { result: Ok(Answer::Replied { ask_id, to, state }), .. } => {
                if let Some((_, question)) = self.question(&ask_id) {
                    question.ask_id.clear();
                }
                match state {
                    State::Queued => format!("{to} will receive your answer as soon as it can be reached."),
                    _ => format!("{to} has received your answer."),
                }
            }
            Event::Ended { request, result: Err(fault), .. } => {
                self.handle_refusal(&request, fault.code, &fault.message)
            }
            Event::Told(ToClient::State { ask_id, state, note, detail, .. }) => {
                let asked = self.asked.get(&ask_id).filter(|_| state < State::Replied);
                let Some(to) = asked else { return Ok(()) };
                format!("{to}: {}", note.and(detail).as_deref().unwrap_or(state.name()))
            }
            Event::Told(ToClient::Over { ask_id, code }) => {
                let Some((n, question)) = self.question(&ask_id) else { return Ok(()) };
                question.is_next = false;
                if code != Code::Timeout {
                    question.ask_id.clear();
                }
                let from = &question.from;
                match code {
                    Code::Timeout => {
                        format!("Question #{n} has timed out; #{n} TEXT may still reach {from}.")
                    }
                    _ => format!("{from} no longer waits for an answer to #{n}."),
                }
            }
            _ => return Ok(()),
        };
        self.console.note(&note)
    }

    fn handle_refusal(&mut self, request: &ToHub, code: Code, why: &str) -> String {
        match request {
            ToHub::Ask(AskRequest { ask_id, .. }) => {
                self.asked.remove(ask_id);
                return self.record_failure(code, why);
            }
            ToHub::Reply { ask_id, .. } => {
                if let Some((_, question)) = self.question(ask_id) {
                    question.is_next = !matches!(code, Code::PeerGone | Code::UnknownAsk);
                    if !question.is_next {
                        question.ask_id.clear();
                    }
                }
            }
            _ => {}
        }
        message(code, why, "/peers")
    }

    /// An open question, with its number.
    fn question(&mut self, ask_id: &str) -> Option<(usize, &mut Question)> {
        let at = self.questions.iter().position(|question| question.ask_id == ask_id)?;
        Some((at + 1, &mut self.questions[at]))
    }

    /// Prints a parcel and confirms it. One that can't be printed is not confirmed.
    fn show_parcel(&mut self, parcel: &Parcel) -> Result<(), Failure> {
        let Parcel { ask_id, from, text, .. } = parcel;
        if !parcel.late {
            self.asked.remove(ask_id);
        }
        if let Some(code) = parcel.code {
            let note = self.record_failure(code, text);
            self.console.note(&note)?;
        } else {
            let heading = match parcel.kind {
                Kind::Ask => {
                    let question = Question { ask_id: ask_id.clone(), from: from.clone(), is_next: true };
                    self.questions.push(question);
                    format!("#{} {from} asks:", self.questions.len())
                }
                Kind::Reply if parcel.late => format!("{from} answers (late):"),
                Kind::Reply => format!("{from} answers:"),
                Kind::Failed | Kind::Summary | Kind::Notice | Kind::Consent => format!("{from}:"),
            };
            let bell = if self.console.is_terminal() { BELL } else { "" };
            self.console.print(&format!("{bell}{}", with_heading(&heading, text)))?;
        }
        self.guest.client.seen(&parcel.push);
        Ok(())
    }

    /// Handles a line; returns `false` if it says to leave.
    fn handle_line(&mut self, line: &str) -> Result<bool, Failure> {
        if let Some(part) = line.strip_suffix('\\') {
            self.continued += &format!("{part}\n");
            return Ok(true);
        }
        let line = std::mem::take(&mut self.continued) + line;
        let line = line.trim();
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (first, first.chars().next()) {
            ("", _) => {}
            ("/quit", _) => return Ok(false),
            ("/peers", _) => self.request_peers(),
            ("/help", _) => {
                let join = args::commands().into_iter().find(|command| command.name == "join");
                self.console.note(join.map_or("", |command| command.details))?;
            }
            (_, Some('/')) => self.console.note(&format!("Unknown command {first}. Type /help for help."))?,
            (_, Some('@')) => match self.guest.ask(&first[1..], rest, None, TIMEOUT, false) {
                Ok(id) => drop(self.asked.insert(id, first[1..].to_owned())),
                Err(fault) => {
                    let note = self.record_failure(fault.code, &fault.message);
                    self.console.note(&note)?;
                }
            },
            (_, Some('#')) => self.answer(first[1..].parse().unwrap_or(0), rest)?,
            _ => match self.questions.iter().position(|question| question.is_next) {
                Some(at) => self.answer(at + 1, line)?,
                None => {
                    let note = "No question waits for an answer. @NAME TEXT asks one; type /help for help.";
                    self.console.note(note)?;
                }
            },
        }
        Ok(true)
    }

    fn answer(&mut self, number: usize, text: &str) -> Result<(), Failure> {
        let question = number.checked_sub(1).and_then(|at| self.questions.get_mut(at));
        match question.filter(|question| !question.ask_id.is_empty()) {
            _ if text.is_empty() => self.console.note("Missing TEXT: #2 TEXT answers question 2."),
            Some(question) => {
                question.is_next = false;
                let (ask_id, text) = (question.ask_id.clone(), text.to_owned());
                self.guest.client.request(|id| ToHub::Reply { id, ask_id, text });
                Ok(())
            }
            None => self.console.note(&format!("There is no open question #{number}.")),
        }
    }
}
