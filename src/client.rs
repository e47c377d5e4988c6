//! A person or a script as a peer: registers, asks, answers, and comes back by itself when the hub is lost.

use std::io::{IsTerminal, Read, stderr, stdin};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::datadir::DataDir;
use crate::link::{self, FromHub, Mouth, unreachable};
use crate::memory::{Memory, Take};
use crate::session;
use crate::token::Tokens;
use crate::wire::{Answer, Code, Fault, Kind, Parcel, Path, PeerKind, Scope, State, ToClient, ToHub, Who};

/// The request by which a guest registers.
const REGISTER: u64 = 0;
/// How long after the loss of a hub a peer may be missing because it is not back yet.
const RETURN: Duration = Duration::from_secs(5);
/// How long such a peer is left alone before it is asked for again.
const RETRY: Duration = Duration::from_millis(200);

/// See the module.
pub struct Guest {
    tokens: Tokens,
    memory: Memory,
    who: Who,
    heard: Receiver<Heard>,
    mouth: Option<Mouth>,
    registered: bool,
    /// Requests that have no answer; each is sent again on a new connection.
    open: Vec<(u64, ToHub)>,
    next_id: u64,
    /// Until when a peer that is not found may still come back, if the hub was lost.
    returning: Option<Instant>,
    /// A peer was not found, and is asked for again.
    retry: bool,
}

/// What a guest hears.
pub enum News {
    /// It is registered under this name.
    Named(String),
    /// Its request brought this.
    Answer(Answer),
    /// Its request failed.
    Refused(ToHub, Fault),
    /// A question, an answer, a failure or a summary; to be confirmed by [`Guest::confirm`].
    Parcel(Parcel),
    /// How far a text got.
    State { kind: Kind, ask_id: String, state: State, path: Option<Path>, code: Option<Code> },
    /// The hub went away; another is being looked for.
    Lost,
    /// Bytes from stdin; empty at its end.
    Typed(Vec<u8>),
    /// A signal says to leave, with this exit code.
    Signal(ExitCode),
    /// Nothing happened for the time given.
    Quiet,
}

/// What its threads hear.
enum Heard {
    Hub(FromHub),
    Typed(Vec<u8>),
    Signal(i32),
}

impl Guest {
    /// Someone new at the hub of `dir`, which is started if need be. With a `name` only that one will do. One that
    /// `joins` can be asked, and hears what is typed.
    ///
    /// # Errors
    /// What keeps this process from being a peer.
    pub fn arrive(dir: &DataDir, name: Option<&str>, joins: bool) -> Result<Guest, Fault> {
        let cannot = |e: std::io::Error| unreachable(format!("this process cannot be a peer: {e}"));
        let mut tokens = Tokens::new().map_err(cannot)?;
        let memory = Memory::new(&mut tokens).map_err(cannot)?;
        // Before the first connection, which may change the working directory.
        let cwd = std::env::current_dir().map_err(cannot)?;
        let git = session::git(&cwd);
        let person = stdin().is_terminal() && stderr().is_terminal();
        let user = std::env::var("USER").ok().filter(|user| !user.is_empty());
        let who = Who {
            name: name.map(str::to_owned).or(user).unwrap_or_else(|| "shell".to_owned()),
            exact: name.is_some(),
            kind: if person { PeerKind::Person } else { PeerKind::Script },
            peer: memory.peer.clone(),
            secret: memory.secret.clone(),
            cwd: cwd.to_string_lossy().into_owned(),
            repo: git.repo,
            branch: git.branch,
            pid: std::process::id(),
            claude: None,
            paths: vec![Path::Socket],
            listens: joins,
            fresh: true,
            hooked: false,
        };
        let (news, heard) = bounded(64);
        let (dir, hub) = (dir.clone(), news.clone());
        thread::spawn(move || link::keep(dir, |message| hub.send(Heard::Hub(message)).is_ok()));
        if joins {
            let typed = news.clone();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                loop {
                    let n = stdin().lock().read(&mut buffer).unwrap_or(0);
                    let typed = typed.send(Heard::Typed(buffer[..n].to_vec()));
                    if n == 0 || typed.is_err() {
                        return;
                    }
                }
            });
        }
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(cannot)?;
        thread::spawn(move || signals.forever().all(|s| news.send(Heard::Signal(s)).is_ok()));
        Ok(Guest {
            tokens,
            memory,
            who,
            heard,
            mouth: None,
            registered: false,
            open: Vec::new(),
            next_id: REGISTER,
            returning: None,
            retry: false,
        })
    }

    /// Asks, now or as soon as the hub is there. The ask's id is returned at once.
    ///
    /// # Errors
    /// There are no random numbers to be had.
    pub fn ask(&mut self, to: &str, text: &str, timeout: Duration) -> Result<String, Fault> {
        let (ask_id, timeout_ms) = (self.id("ask_")?, timeout.as_millis() as u64);
        let (id, to, text) = (ask_id.clone(), to.to_owned(), text.to_owned());
        self.request(|n| ToHub::Ask { id: n, ask_id: id, to, text, timeout_ms });
        Ok(ask_id)
    }

    /// Asks everyone in `scope`. The broadcast's id is returned at once.
    ///
    /// # Errors
    /// There are no random numbers to be had.
    pub fn broadcast(&mut self, text: &str, scope: Scope, timeout: Duration) -> Result<String, Fault> {
        let (all, timeout_ms) = (self.id("bc_")?, timeout.as_millis() as u64);
        let (broadcast_id, text) = (all.clone(), text.to_owned());
        self.request(|id| ToHub::Broadcast { id, broadcast_id, text, scope, timeout_ms });
        Ok(all)
    }

    /// An id for what is asked now.
    fn id(&mut self, prefix: &str) -> Result<String, Fault> {
        self.tokens.id(prefix).map_err(|e| unreachable(format!("cannot read /dev/urandom: {e}")))
    }

    /// Answers.
    pub fn reply(&mut self, ask_id: &str, text: &str) {
        let (ask_id, text) = (ask_id.to_owned(), text.to_owned());
        self.request(|id| ToHub::Reply { id, ask_id, text });
    }

    /// Asks who is there.
    pub fn peers(&mut self) {
        self.request(|id| ToHub::Peers { id });
    }

    /// Whether a request has no answer yet.
    pub fn is_waiting(&self) -> bool {
        !self.open.is_empty()
    }

    fn request(&mut self, make: impl FnOnce(u64) -> ToHub) {
        self.next_id += 1;
        let request = make(self.next_id);
        self.memory.requested(&request);
        if self.registered {
            self.say(&request);
        }
        self.open.push((self.next_id, request));
    }

    /// What can't be said now is said again on the next connection.
    fn say(&self, message: &ToHub) {
        if let Some(mouth) = &self.mouth {
            let _ = mouth.say(message); // see above
        }
    }

    /// The parcel has been shown: its sender may know.
    pub fn confirm(&mut self, parcel: &Parcel) {
        self.say(&ToHub::Seen { pushes: vec![parcel.push.clone()], accepted: Vec::new() });
        self.memory.done(parcel, true);
        self.memory.told(parcel.kind, &parcel.ask_id, State::Seen, None);
    }

    /// Leaves for good: what is open is withdrawn. Returns when the hub has heard it.
    pub fn leave(mut self) {
        let until = Instant::now() + Duration::from_secs(1);
        if self.mouth.take().is_some_and(|mouth| mouth.say(&ToHub::Bye).is_ok()) {
            while !matches!(self.heard.recv_deadline(until), Ok(Heard::Hub(FromHub::Down(_))) | Err(_)) {}
        }
    }

    /// The next thing that happens, or [`News::Quiet`] after `patience`.
    ///
    /// # Errors
    /// No hub can be had, or it won't have us.
    pub fn next(&mut self, patience: Duration) -> Result<News, Fault> {
        let until = Instant::now() + patience;
        loop {
            let wake = if self.retry { until.min(Instant::now() + RETRY) } else { until };
            let news = match self.heard.recv_deadline(wake) {
                Ok(Heard::Typed(bytes)) => Some(News::Typed(bytes)),
                Ok(Heard::Signal(signal)) => {
                    Some(News::Signal(ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))))
                }
                Ok(Heard::Hub(FromHub::Said(message))) => self.said(*message)?,
                Ok(Heard::Hub(FromHub::Up(mouth))) => {
                    (self.mouth, self.registered) = (Some(mouth), false);
                    for held in self.memory.held() {
                        self.say(&ToHub::Resume { held });
                    }
                    self.say(&ToHub::Register { id: REGISTER, who: Box::new(self.who.clone()) });
                    None
                }
                Ok(Heard::Hub(FromHub::Down(why))) => {
                    self.mouth.take().ok_or(why)?;
                    Some(News::Lost)
                }
                Err(_) => {
                    if std::mem::take(&mut self.retry) {
                        self.say_open();
                    }
                    (Instant::now() >= until).then_some(News::Quiet)
                }
            };
            if let Some(news) = news {
                return Ok(news);
            }
        }
    }

    fn said(&mut self, message: ToClient) -> Result<Option<News>, Fault> {
        Ok(match message {
            ToClient::Ok { id: REGISTER, answer: Answer::Registered { name }, .. } => {
                self.returning = (!self.who.fresh).then(|| Instant::now() + RETURN);
                (self.registered, self.who.exact, self.who.fresh) = (true, false, false);
                self.who.name.clone_from(&name);
                self.say_open();
                Some(News::Named(name))
            }
            ToClient::Ok { id, answer, .. } => self.answered(id, Ok(answer)),
            ToClient::Error { id: None | Some(REGISTER), code, message, .. } => {
                return Err(Fault { code, message });
            }
            ToClient::Error { id: Some(id), code, message, .. } => {
                self.answered(id, Err(Fault { code, message }))
            }
            ToClient::Push(parcel) if self.memory.take(&parcel) == Take::Push => Some(News::Parcel(parcel)),
            ToClient::Push(parcel) => {
                self.confirm(&parcel); // the hub did not hear it the first time
                None
            }
            ToClient::State { kind, ask_id, state, path, code } => {
                self.memory.told(kind, &ask_id, state, code);
                Some(News::State { kind, ask_id, state, path, code })
            }
            _ => None,
        })
    }

    fn say_open(&self) {
        self.open.iter().for_each(|(_, request)| self.say(request));
    }

    /// A request has its answer.
    fn answered(&mut self, id: u64, reply: Result<Answer, Fault>) -> Option<News> {
        let absent = matches!(&reply, Err(fault) if fault.code == Code::PeerNotFound);
        if absent && self.returning.is_some_and(|until| Instant::now() < until) {
            self.retry = true; // it lost the same hub, and may be back at once
            return None;
        }
        let at = self.open.iter().position(|(open, _)| *open == id)?;
        let (_, request) = self.open.remove(at);
        self.memory.answered(&request, &reply);
        Some(match reply {
            Ok(answer) => News::Answer(answer),
            Err(fault) => News::Refused(request, fault),
        })
    }
}
