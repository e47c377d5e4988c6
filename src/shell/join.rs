//! `relay join`: a person as a peer. What is asked appears as it comes, and answers are typed.

use std::process::ExitCode;
use std::time::Duration;

use super::args::{self, Args};
use super::ask::table;
use super::guest::{Guest, News};
use super::terminal::{Typing, err, said};
use super::{Outcome, message};
use crate::datadir::DataDir;
use crate::fence::clean;
use crate::wire::{Answer, Code, Kind, Parcel, State, ToHub};

/// How long an ask that is typed waits for its answer.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Nothing is due while nothing happens.
const PATIENCE: Duration = Duration::from_secs(3600);
/// A question to us.
struct Question {
    /// Empty once it is over.
    ask_id: String,
    from: String,
    /// Whether a plain line may answer it. One that is being answered, or whose time is up, takes only its number.
    waits: bool,
}

/// Somebody who joined.
struct Joined {
    guest: Guest,
    typing: Typing,
    /// By number, from 1.
    questions: Vec<Question>,
    /// The asks of ours that are open, and whom we asked.
    asked: Vec<(String, String)>,
    /// The lines so far of what goes on in the next.
    begun: String,
    /// How the last ask of ours that failed did so, for a script.
    failed: Option<Code>,
}

/// `relay join`.
pub fn join(dir: &DataDir, args: &Args) -> Outcome {
    let guest = Guest::arrive(dir, args.words.first().map(String::as_str), true)?;
    let (questions, asked, begun, failed) = Default::default();
    let mut me = Joined { guest, typing: Typing::new(), questions, asked, begun, failed };
    let outcome = me.run();
    drop(me.typing); // the terminal is as it was before anything else is said
    me.guest.leave();
    outcome
}

impl Joined {
    fn run(&mut self) -> Outcome {
        let mut leaving = false;
        while !(leaving && self.asked.is_empty() && !self.guest.is_waiting()) {
            match self.guest.next(PATIENCE)? {
                News::Signal(code) => return Ok(code),
                // A script still waits for the answers to what it asked.
                News::Typed(bytes) if bytes.is_empty() => leaving = true,
                News::Typed(bytes) => {
                    for line in self.typing.feed(&bytes) {
                        if line.is_none_or(|line| !self.typed(&line)) {
                            return Ok(self.end());
                        }
                    }
                }
                News::Parcel(parcel) if !self.parcel(&parcel) => return Ok(ExitCode::FAILURE), // nobody reads us
                News::Parcel(_) => {}
                other => {
                    if let Some(note) = self.heard(other) {
                        self.typing.note(&note);
                    }
                }
            }
        }
        Ok(self.end())
    }

    fn end(&self) -> ExitCode {
        self.failed.map_or(ExitCode::SUCCESS, args::exit)
    }

    /// An ask of ours failed: what there is to say of it. A script is also told by the exit code.
    fn fails(&mut self, code: Code, why: &str) -> String {
        if self.typing.is_editing() {
            return message(code, why, "/peers");
        }
        self.failed = Some(code);
        format!("relay: {}: {}", code.name(), clean(&message(code, why, "/peers")))
    }

    /// What there is to say of something that is no parcel and was not typed.
    fn heard(&mut self, news: News) -> Option<String> {
        Some(match news {
            News::Named(name) => format!("You are {name}. /help tells what to type."),
            News::Lost => "The hub went away; looking for another.".to_owned(),
            News::Answer(Answer::Peers(roster)) => {
                self.typing.print(&table(&roster));
                return None;
            }
            News::Answer(Answer::Asked { ask_id, to, state, .. }) => {
                let note = format!("{to}: {}", state.name());
                self.asked
                    .iter_mut()
                    .filter(|(id, _)| *id == ask_id)
                    .for_each(|(_, name)| name.clone_from(&to));
                note
            }
            News::Answer(Answer::Replied { ask_id, to, state }) => {
                if let Some((_, question)) = self.question(&ask_id) {
                    question.ask_id.clear();
                }
                match state {
                    State::Queued => format!("{to} gets your answer as soon as it can take it."),
                    _ => format!("{to} has your answer."),
                }
            }
            News::Refused(request, fault) => {
                if let ToHub::Ask { ask_id, .. } = &request {
                    self.asked.retain(|(id, _)| id != ask_id);
                    return Some(self.fails(fault.code, &fault.message));
                }
                if let ToHub::Reply { ask_id, .. } = &request
                    && let Some((_, question)) = self.question(ask_id)
                {
                    question.waits = !matches!(fault.code, Code::PeerGone | Code::UnknownAsk);
                    if !question.waits {
                        question.ask_id.clear();
                    }
                }
                message(fault.code, &fault.message, "/peers")
            }
            News::State { ask_id, state, .. } => {
                let (_, to) = self.asked.iter().find(|(id, _)| *id == ask_id)?;
                format!("{to}: {}", state.name())
            }
            News::Over { ask_id, code } => {
                let (n, question) = self.question(&ask_id)?;
                question.waits = false;
                let from = &question.from;
                if code == Code::Timeout {
                    return Some(format!("The time for #{n} is up; #{n} TEXT may still reach {from}."));
                }
                question.ask_id.clear();
                format!("{from} does not wait for #{n} any more.")
            }
            _ => return None,
        })
    }

    /// An open question, with its number.
    fn question(&mut self, ask_id: &str) -> Option<(usize, &mut Question)> {
        let at = self.questions.iter().position(|q| q.ask_id == ask_id)?;
        Some((at + 1, &mut self.questions[at]))
    }

    /// Shows a parcel; `false` when nobody reads our output.
    fn parcel(&mut self, parcel: &Parcel) -> bool {
        let Parcel { ask_id, from, text, .. } = parcel;
        if let (Some(code), false) = (parcel.code, self.typing.is_editing()) {
            self.asked.retain(|(id, _)| id != ask_id);
            err(&format!("{}\n", self.fails(code, text)));
            self.guest.confirm(parcel);
            return true;
        }
        let who = match parcel.kind {
            Kind::Ask => {
                self.questions.push(Question { ask_id: ask_id.clone(), from: from.clone(), waits: true });
                format!("#{} {from} asks:", self.questions.len())
            }
            Kind::Reply if parcel.late => format!("{from} answers (late):"),
            Kind::Reply => format!("{from} answers:"),
            Kind::Failed | Kind::Summary | Kind::Notice => format!("{from}:"),
        };
        self.asked.retain(|(id, _)| parcel.late || id != ask_id);
        let read = self.typing.print(&said(&who, text));
        if read {
            self.guest.confirm(parcel);
        }
        read
    }

    /// A line was typed; `false` if it says to leave.
    fn typed(&mut self, line: &str) -> bool {
        if let Some(part) = line.strip_suffix('\\') {
            self.begun += &format!("{part}\n");
            return true;
        }
        let line = std::mem::take(&mut self.begun) + line;
        let line = line.trim();
        let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (first, first.chars().next()) {
            ("", _) => {}
            ("/quit", _) => return false,
            ("/peers", _) => self.guest.peers(),
            ("/help", _) => {
                let this = args::commands().into_iter().find(|c| c.name == "join");
                self.typing.note(this.map_or("", |c| c.more));
            }
            (_, Some('/')) => self.typing.note(&format!("There is no {first}; /help tells what there is.")),
            (_, Some('@')) => match self.guest.ask(&first[1..], rest, TIMEOUT) {
                Ok(id) => self.asked.push((id, first[1..].to_owned())),
                Err(fault) => {
                    let note = self.fails(fault.code, &fault.message);
                    self.typing.note(&note);
                }
            },
            (_, Some('#')) => self.answer(first[1..].parse().unwrap_or(0), rest),
            _ => match self.questions.iter().position(|q| q.waits) {
                Some(at) => self.answer(at + 1, line),
                None => self.typing.note("Nobody waits for an answer; @NAME TEXT asks, /help tells more."),
            },
        }
        true
    }

    fn answer(&mut self, number: usize, text: &str) {
        let question = number.checked_sub(1).and_then(|at| self.questions.get_mut(at));
        match question.filter(|q| !q.ask_id.is_empty()) {
            _ if text.is_empty() => self.typing.note("What is the answer? #2 TEXT answers question 2."),
            Some(question) => {
                question.waits = false;
                self.guest.reply(&question.ask_id, text);
            }
            None => self.typing.note(&format!("No question #{number} waits for an answer.")),
        }
    }
}
