//! `relay join`: a person as a peer. Questions appear as they arrive, and answers are typed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::args::{self, Args};
use super::ask::checked_name;
use super::console::{BELL, Console};
use super::guest::{Guest, News};
use super::peers::{peer_table, roster};
use super::terminal::with_heading;
use super::{Outcome, describe};
use crate::client::Event;
use crate::datadir::DataDir;
use crate::wire::{Answer, AskRequest, Code, Kind, Parcel, State, ToClient, ToHub, fault};

/// The timeout of a question that is typed, in milliseconds.
const TIMEOUT_MS: u64 = 600_000;
/// How long to wait for an event; afterwards the wait begins again.
const PATIENCE: Duration = Duration::from_secs(3600);
const COMMANDS: [&str; 3] = ["/help", "/peers", "/quit"];

/// A question to us.
struct Question {
    ask_id: String,
    /// Whether a line without a number may answer it: not once it was answered, nor after its end.
    is_open: bool,
}

/// A person or a script that has joined.
struct Member<'a> {
    dir: &'a DataDir,
    /// First: it restores the terminal before the guest leaves.
    console: Console,
    guest: Guest,
    /// Question number n is at n - 1.
    questions: Vec<Question>,
    /// Our open asks by id, with the name of who was asked.
    asked: BTreeMap<String, String>,
}

/// Runs `relay join`.
pub fn join(dir: &DataDir, args: &Args) -> Outcome {
    let guest = Guest::arrive(dir, checked_name(args.words.first().map(String::as_str))?, true)?;
    let (console, questions, asked) = (Console::open()?, Vec::new(), BTreeMap::new());
    Member { dir, console, guest, questions, asked }.run()
}

impl Member<'_> {
    fn run(&mut self) -> Outcome {
        let mut is_leaving = false;
        // At the end of its input a script still waits for the answers to its questions.
        while !(is_leaving && self.asked.is_empty() && self.guest.client.is_idle()) {
            match self.guest.next(PATIENCE)? {
                News::Typed(bytes) if bytes.is_empty() => is_leaving = true,
                News::Typed(bytes) => {
                    for line in self.console.feed(&bytes, || candidates(self.dir))? {
                        match line.trim() {
                            "/quit" => return Ok(()),
                            line => self.handle_line(line)?,
                        }
                    }
                }
                News::Hub(events) => events.into_iter().try_for_each(|event| self.handle_event(event))?,
            }
        }
        Ok(())
    }

    /// Handles an event of the connection to the hub.
    fn handle_event(&mut self, event: Event) -> Outcome {
        let note = match event {
            Event::Push(parcel) => return self.show_parcel(&parcel),
            Event::Registered { name } => format!("You are {name}. Type /help for help."),
            Event::Lost(_) => "Lost the hub; reconnecting.".to_owned(),
            Event::Ended { result: Ok(Answer::Asked { ask_id, to, state, .. }), .. } => {
                let note = format!("{to}: {}", state.name());
                if state < State::Replied {
                    self.asked.insert(ask_id, to);
                }
                note
            }
            Event::Ended { result: Ok(Answer::Replied { to, state, .. }), .. } => {
                format!("Your answer to {to}: {}", state.name())
            }
            Event::Ended { request, result: Err(fault), .. } => {
                if let ToHub::Reply { ask_id, .. } = request
                    && let Some(question) = self.questions.iter_mut().find(|q| q.ask_id == ask_id)
                {
                    question.is_open = !matches!(fault.code, Code::PeerGone | Code::UnknownAsk);
                }
                describe(fault)
            }
            Event::Told(ToClient::State { ask_id, state, note, detail, .. }) => {
                let asked = self.asked.get(&ask_id).filter(|_| state < State::Replied);
                let Some(to) = asked else { return Ok(()) };
                format!("{to}: {}", note.and(detail).as_deref().unwrap_or(state.name()))
            }
            Event::Told(ToClient::Over { ask_id, code }) => {
                let mut questions = self.questions.iter_mut().zip(1..);
                let Some((question, n)) = questions.find(|(q, _)| q.ask_id == ask_id && q.is_open) else {
                    return Ok(());
                };
                question.is_open = false;
                format!("Question #{n} is over: {}", code.name())
            }
            _ => return Ok(()),
        };
        self.console.note(&note)
    }

    /// Prints a parcel and confirms it. One that can't be printed is not confirmed.
    fn show_parcel(&mut self, parcel: &Parcel) -> Outcome {
        let Parcel { ask_id, from, text, .. } = parcel;
        self.asked.remove(ask_id); // the end of one of ours, or a question
        if let Some(code) = parcel.code {
            self.console.note(&describe(fault(code, text.as_str())))?;
        } else {
            let mut heading = format!("{from} answers:");
            if parcel.kind == Kind::Ask {
                self.questions.push(Question { ask_id: ask_id.clone(), is_open: true });
                heading = format!("#{} {from} asks:", self.questions.len());
            }
            let bell = if self.console.is_terminal() { BELL } else { "" };
            self.console.print(&format!("{bell}{}", with_heading(&heading, text)))?;
        }
        self.guest.client.seen(&parcel.push);
        Ok(())
    }

    /// Handles a line that was typed.
    fn handle_line(&mut self, line: &str) -> Outcome {
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (first, first.chars().next()) {
            (_, None) => Ok(()),
            ("/peers", _) => match roster(self.dir) {
                Ok(roster) => self.console.print(&peer_table(&roster)),
                Err(fault) => self.console.note(&describe(fault)),
            },
            ("/help", _) => {
                let join = args::commands().into_iter().find(|command| command.name == "join");
                self.console.note(join.map_or("", |command| command.details))
            }
            (_, Some('/')) => self.console.note(&format!("Unknown command {first}. Type /help for help.")),
            (_, Some('@')) => {
                let (to, text) = (first[1..].to_owned(), rest.to_owned());
                Ok(self.guest.ask(AskRequest {
                    to,
                    text,
                    timeout_ms: TIMEOUT_MS,
                    ..AskRequest::default()
                })?)
            }
            (_, Some('#')) => self.answer(first[1..].parse().unwrap_or(0), rest),
            _ => match self.questions.iter().position(|question| question.is_open) {
                Some(at) => self.answer(at + 1, line),
                None => self
                    .console
                    .note("No question waits for an answer. @NAME TEXT asks one; type /help for help."),
            },
        }
    }

    /// Answers a question. Whether that is still possible is for the hub to say.
    fn answer(&mut self, number: usize, text: &str) -> Outcome {
        let question = number.checked_sub(1).and_then(|at| self.questions.get_mut(at));
        match question {
            _ if text.is_empty() => self.console.note("Missing TEXT: #2 TEXT answers question 2."),
            Some(question) => {
                question.is_open = false;
                let (ask_id, text) = (question.ask_id.clone(), text.to_owned());
                self.guest.client.request(|id| ToHub::Reply { id, ask_id, text });
                Ok(())
            }
            None => self.console.note(&format!("There is no question #{number}.")),
        }
    }
}

/// What Tab completes at the beginning of a line.
fn candidates(dir: &DataDir) -> Vec<String> {
    let peers = roster(dir).unwrap_or_default().peers;
    let names = peers.into_iter().map(|peer| format!("@{}", peer.name));
    names.chain(COMMANDS.map(str::to_owned)).collect()
}
