//! `relay join`: a person as a peer. What is asked appears as it comes, and answers are typed.

use std::collections::HashMap;
use std::process::ExitCode;
use std::time::Duration;

use crate::cli::Args;
use crate::datadir::DataDir;
use crate::guest::{Guest, News};
use crate::shell::{Outcome, interrupted, table};
use crate::term::{Typing, paint, said};
use crate::wire::{Answer, Code, Fault, Kind, Parcel, State, ToHub};

/// How long an ask that is typed waits for its answer.
const TIMEOUT: Duration = Duration::from_secs(600);
/// Nothing is due while nothing happens.
const PATIENCE: Duration = Duration::from_secs(3600);
const HELP: &str = "\
TEXT          answers the oldest question; a line that ends in \\ goes on in the next
#2 TEXT       answers question 2
@NAME TEXT    asks NAME
/peers        who is there
/help  /quit  this; leave (or Ctrl-D)";

/// A question to us.
struct Question {
    ask_id: String,
    from: String,
    /// Whether a plain line may answer it. One that is being answered, or whose time is up, takes only its number.
    waits: bool,
}

/// Somebody who joined.
struct Joined {
    guest: Guest,
    typing: Typing,
    /// By number, from 1; `None` once answered.
    questions: Vec<Option<Question>>,
    /// Whom we asked, by `ask_id`.
    asked: HashMap<String, String>,
    /// The lines so far of what goes on in the next.
    begun: String,
}

/// `relay join`.
pub fn join(dir: &DataDir, args: &Args) -> Outcome {
    let guest = Guest::arrive(dir, args.words.first().map(String::as_str), true, true)?;
    let (typing, begun) = (Typing::new(), String::new());
    let mut me = Joined { guest, typing, questions: Vec::new(), asked: HashMap::new(), begun };
    let outcome = me.run();
    let Joined { guest, typing, .. } = me;
    drop(typing); // the terminal is as it was before anything else is said
    guest.leave();
    outcome
}

impl Joined {
    fn run(&mut self) -> Outcome {
        let mut leaving = false;
        while !(leaving && self.asked.is_empty() && !self.guest.is_waiting()) {
            let alive = match self.guest.next(PATIENCE)? {
                News::Signal(signal) => return Ok(interrupted(signal)),
                News::Typed(bytes) if bytes.is_empty() => {
                    leaving = true; // a script still waits for the answers to what it asked
                    true
                }
                News::Typed(bytes) => {
                    for line in self.typing.feed(&bytes) {
                        if line.is_none_or(|line| !self.typed(&line)) {
                            return Ok(ExitCode::SUCCESS);
                        }
                    }
                    true
                }
                News::Parcel(parcel) => self.parcel(&parcel),
                other => self.heard(other),
            };
            if !alive {
                return Ok(ExitCode::FAILURE);
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Something that is no parcel and was not typed; `false` when nobody reads our output.
    fn heard(&mut self, news: News) -> bool {
        let note = match news {
            News::Named(name) => format!("You are {name}. /help tells what to type."),
            News::Lost => "The hub went away; looking for another.".to_owned(),
            News::Answer(Answer::Peers(roster)) => return self.typing.print(&table(&roster)),
            News::Answer(Answer::Asked { ask_id, to, state, .. }) => {
                let note = format!("{to}: {}", state.name());
                if self.asked.contains_key(&ask_id) {
                    self.asked.insert(ask_id, to);
                }
                note
            }
            News::Answer(Answer::Replied { ask_id, to, state }) => {
                self.settle(&ask_id, false);
                let early = "gets your answer as soon as it can take it";
                format!("{to} {}.", if state == State::Queued { early } else { "has your answer" })
            }
            News::Refused(request, Fault { code, message }) => {
                match request {
                    ToHub::Ask { ask_id, .. } => drop(self.asked.remove(&ask_id)),
                    ToHub::Reply { ask_id, .. } => {
                        self.settle(&ask_id, !matches!(code, Code::PeerGone | Code::UnknownAsk));
                    }
                    _ => {}
                }
                message.replace("relay_peers", "/peers")
            }
            News::State { kind: Kind::Ask, ask_id, state, code, .. } => match self.asked.get(&ask_id) {
                Some(to) => format!("{to}: {}", state.name()),
                None if state == State::Ended => return self.ended(&ask_id, code),
                None => return true,
            },
            _ => return true,
        };
        self.typing.note(&note);
        true
    }

    /// An answer of ours was taken or refused; where it may be tried `again`, the question waits once more.
    fn settle(&mut self, ask_id: &str, again: bool) {
        let question = self.questions.iter_mut().find(|q| q.as_ref().is_some_and(|q| q.ask_id == ask_id));
        match question {
            Some(Some(question)) if again => question.waits = true,
            Some(question) => *question = None,
            None => {}
        }
    }

    /// A question to us has ended, and not by our answer.
    fn ended(&mut self, ask_id: &str, code: Option<Code>) -> bool {
        let number = self.questions.iter().position(|q| q.as_ref().is_some_and(|q| q.ask_id == ask_id));
        let Some((at, question)) = number.and_then(|at| Some((at, self.questions[at].as_mut()?))) else {
            return true;
        };
        question.waits = false;
        let (number, from) = (at + 1, &question.from);
        let note = match code {
            Some(Code::Timeout) => {
                format!("The time for #{number} is up; #{number} TEXT still reaches {from}.")
            }
            _ => format!("{from} does not wait for #{number} any more."),
        };
        if code != Some(Code::Timeout) {
            self.questions[at] = None;
        }
        self.typing.note(&note);
        true
    }

    fn parcel(&mut self, parcel: &Parcel) -> bool {
        let from = &parcel.from;
        let who = match parcel.kind {
            Kind::Ask => {
                self.questions.push(Some(Question {
                    ask_id: parcel.ask_id.clone(),
                    from: from.clone(),
                    waits: true,
                }));
                format!("#{} {from} asks:", self.questions.len())
            }
            Kind::Reply if parcel.late => format!("{from} answers (late):"),
            Kind::Reply => format!("{from} answers:"),
            Kind::Failed | Kind::Summary => format!("{from}:"),
        };
        if parcel.kind != Kind::Ask && !parcel.late {
            self.asked.remove(&parcel.ask_id);
        }
        let alive = self.typing.print(&said(&who, &parcel.text));
        if alive {
            self.guest.confirm(parcel);
        }
        alive
    }

    /// A line was typed; `false` if it says to leave.
    fn typed(&mut self, line: &str) -> bool {
        if let Some(part) = line.strip_suffix('\\') {
            self.begun += &format!("{part}\n");
            return true;
        }
        let line = std::mem::take(&mut self.begun) + line.trim_end_matches('\r');
        let (first, rest) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
        match first {
            "" => {}
            "/quit" => return false,
            "/peers" => self.guest.peers(),
            "/help" => self.typing.note(HELP),
            _ if first.starts_with('/') => {
                self.typing.note(&format!("There is no {first}; /help tells what there is."))
            }
            _ if first.starts_with('@') => self.ask(&first[1..], rest),
            _ if first.starts_with('#') => self.answer(&first[1..], rest),
            _ => match self.questions.iter().position(|q| q.as_ref().is_some_and(|q| q.waits)) {
                Some(at) => self.answer(&(at + 1).to_string(), line.trim()),
                None => self.typing.note("Nobody waits for an answer; @NAME TEXT asks, /help tells more."),
            },
        }
        true
    }

    fn ask(&mut self, to: &str, text: &str) {
        match self.guest.ask(to, text, TIMEOUT) {
            Ok(id) => drop(self.asked.insert(id, to.to_owned())),
            Err(fault) => self.typing.note(&fault.message),
        }
    }

    fn answer(&mut self, number: &str, text: &str) {
        let at = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
        let question = at.and_then(|at| self.questions.get_mut(at));
        match question {
            _ if text.is_empty() => self.typing.note("What is the answer? #2 TEXT answers question 2."),
            Some(Some(question)) => {
                question.waits = false;
                self.guest.reply(&question.ask_id, text);
            }
            _ => self
                .typing
                .note(&format!("No question {} waits for an answer.", paint("1", &format!("#{number}")))),
        }
    }
}
