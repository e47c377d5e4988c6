//! A session's channel: the MCP server that Claude Code starts. It turns tool calls into requests to the hub and the hub's
//! parcels into pushes, and it never lets the client wait for the hub.

use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::datadir::DataDir;
use crate::link::{self, FromHub, Mouth, unreachable};
use crate::log::{Level, Log};
use crate::mcp::{self, Id, Incoming};
use crate::memory::{Memory, Take};
use crate::router::fault;
use crate::session::{self, Surroundings};
use crate::token::Tokens;
use crate::tools;
use crate::wire::{Answer, Code, Fault, Kind, Parcel, Path, PeerKind, State, ToClient, ToHub, Who};
use crate::{diary, fence, inbox};

/// How long a tool call waits for a hub that is away.
const AWAY: Duration = Duration::from_secs(5);
/// How long it waits for a hub that has the request.
const ANSWER: Duration = Duration::from_secs(10);
/// How long after a hub was lost a request that needs the others to be there waits for their return to the next one.
const RETURN: Duration = Duration::from_millis(500);
/// How often the session's own file is looked at, for `/rename` and interrupted turns.
const LOOK: Duration = Duration::from_secs(1);

/// What a channel hears, from all sides.
enum Heard {
    Client(Incoming),
    /// The end of stdin.
    ClientGone,
    Hub(FromHub),
    /// The session's inbox has taken the parcel, or why not.
    Inbox(Parcel, Option<String>),
    Signal,
}

/// A request to the hub that is not answered yet.
struct Pending {
    /// The tool call that waits for it; `None` for a request of our own.
    call: Option<Id>,
    request: ToHub,
    /// Whether the hub that we are registered with has it.
    sent: bool,
    /// Whether it is kept back until the other peers are taken to be back at a new hub.
    waits: bool,
    /// What is answered unless something better comes in time.
    fallback: Option<Answer>,
    until: Instant,
}

/// See the module.
struct Channel {
    log: Arc<Log>,
    tokens: Tokens,
    memory: Memory,
    session: Surroundings,
    mouth: Option<Mouth>,
    registered: bool,
    /// Whether this process has registered before.
    known: bool,
    /// From when on the other peers are taken to be back at a new hub.
    complete: Instant,
    /// Why there is no hub.
    away: Fault,
    next_id: u64,
    pending: HashMap<u64, Pending>,
    /// Stdin has ended: what is still open is answered, and then the channel leaves.
    ending: bool,
    inbox: Sender<Parcel>,
}

/// `relay channel`: serves the session on stdin and stdout until stdin closes or a signal comes.
pub fn run(dir: DataDir) -> ExitCode {
    let (heard, all) = bounded(256);
    let client = heard.clone();
    thread::spawn(move || read_stdin(&client));
    let log = Arc::new(Log::open(&dir.logs(), "channel"));
    crate::log::log_panics(&log);
    let prepared = dir.prepare();
    let (at, hub) = (dir.clone(), heard.clone());
    thread::spawn(move || link::keep(at, |message| hub.send(Heard::Hub(message)).is_ok()));
    let signals = heard.clone();
    let watching = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]).map(|mut all| {
        thread::spawn(move || all.forever().next().map(|_| signals.send(Heard::Signal).is_ok()));
    });
    let session = Surroundings::new();
    let kept_at = dir.sessions().join(&session.key);
    let opened = Tokens::new().and_then(|mut tokens| {
        let memory = Memory::open(&kept_at, &mut tokens)?;
        Ok((tokens, memory))
    });
    let (tokens, memory) = match opened {
        Ok(opened) => opened,
        Err(e) => {
            let _ = writeln!(io::stderr(), "relay: cannot read /dev/urandom: {e}"); // nobody may be there to read it
            return ExitCode::FAILURE;
        }
    };
    let (inbox, to_inbox) = unbounded();
    let mut channel = Channel {
        log,
        tokens,
        memory,
        session,
        mouth: None,
        registered: false,
        known: false,
        complete: Instant::now(),
        away: unreachable(prepared.err().unwrap_or_else(|| "the hub is not reached yet; try again".into())),
        next_id: 0,
        pending: HashMap::new(),
        ending: false,
        inbox,
    };
    inbox::serve(&channel.session, to_inbox, move |parcel, error| {
        heard.send(Heard::Inbox(parcel, error)).is_ok()
    });
    if watching.is_err() {
        channel.log.event(Level::Warn, "no_signals", &[]);
    }
    diary::sweep(&dir.sessions(), session::is_alive);
    channel.serve(&all);
    ExitCode::SUCCESS
}

/// Hands the client's messages on, and the end of stdin, which is the channel's.
fn read_stdin(heard: &Sender<Heard>) {
    let mut input = BufReader::new(io::stdin());
    while let Ok(Some(messages)) = mcp::read(&mut input) {
        for incoming in messages {
            if heard.send(Heard::Client(incoming)).is_err() {
                return;
            }
        }
    }
    let _ = heard.send(Heard::ClientGone); // fails only when the channel leaves
}

impl Channel {
    fn serve(&mut self, heard: &Receiver<Heard>) {
        let mut look = Instant::now() + LOOK;
        loop {
            let rest = self.send_pending();
            let until =
                self.pending.values().map(|p| p.until).chain(rest).min().map_or(look, |t| t.min(look));
            let served = match heard.recv_deadline(until) {
                Ok(Heard::Client(incoming)) => self.hear_client(incoming),
                Ok(Heard::Hub(message)) => self.hear_hub(message),
                Ok(Heard::Inbox(parcel, error)) => {
                    self.pushed(&parcel, error);
                    Ok(())
                }
                Ok(Heard::Signal) => return self.leave("a signal"),
                Ok(Heard::ClientGone) => {
                    self.ending = true;
                    Ok(())
                }
                Err(RecvTimeoutError::Disconnected) => return self.leave("stdin closed"),
                Err(RecvTimeoutError::Timeout) => Ok(()),
            };
            if served.is_err() {
                return self.leave("stdout closed");
            }
            let now = Instant::now();
            if self.expire(now).is_err() {
                return self.leave("stdout closed");
            }
            if self.ending && self.pending.values().all(|p| p.call.is_none()) {
                return self.leave("stdin closed");
            }
            if now >= look {
                look = now + LOOK;
                self.look();
            }
        }
    }

    fn leave(&mut self, why: &str) {
        if let Some(mouth) = &self.mouth
            && self.registered
        {
            let _ = mouth.say(&ToHub::Bye); // a hub that is gone needs no goodbye
        }
        if !self.memory.hooked {
            self.memory.forget();
        }
        self.log.event(Level::Debug, "channel_left", &[("why", json!(why))]);
    }

    fn hear_client(&mut self, incoming: Incoming) -> io::Result<()> {
        match incoming {
            Incoming::Broken(answer) => print(&answer),
            Incoming::Response | Incoming::Notification { .. } => Ok(()),
            Incoming::Request { id, method, params } => match method.as_str() {
                "initialize" => {
                    let client: mcp::Initialize = mcp::params(&params).unwrap_or_default();
                    print(&mcp::result(&id, client.answer()))
                }
                "ping" => print(&mcp::result(&id, json!({}))),
                "tools/list" => {
                    self.session.listed.get_or_insert_with(Instant::now);
                    print(&mcp::result(&id, tools::list()))
                }
                "tools/call" => self.call(id, &params),
                _ => print(&mcp::error(&id, mcp::METHOD_NOT_FOUND, "this server has no such method")),
            },
        }
    }

    fn call(&mut self, id: Id, params: &str) -> io::Result<()> {
        let call: tools::Call = match mcp::params(params) {
            Ok(call) => call,
            Err(why) => {
                return print(&mcp::error(&id, mcp::INVALID_PARAMS, &format!("not a tool call: {why}")));
            }
        };
        let new_id = |prefix: &str| {
            let id = self.tokens.id(prefix);
            id.map_err(|e| unreachable(format!("there are no random numbers: {e}")))
        };
        match call.tool().map(|tool| tool.and_then(|tool| tool.request(new_id))) {
            None => {
                let why =
                    format!("there is no tool \"{}\"; tools/list names the five", fence::label(&call.name));
                print(&mcp::error(&id, mcp::INVALID_PARAMS, &why))
            }
            Some(Err(fault)) => print_result(&id, &Err(fault), Vec::new()),
            Some(Ok(request)) => {
                self.ask_hub(Some(id), request);
                Ok(())
            }
        }
    }

    /// Files a request, which is sent as soon as the hub can answer it.
    fn ask_hub(&mut self, call: Option<Id>, request: ToHub) {
        self.memory.requested(&request);
        self.next_id += 1;
        let id = self.next_id;
        let request = with_id(request, id);
        let patience = if self.registered { ANSWER } else { AWAY };
        let waits = matches!(request, ToHub::Peers { .. } | ToHub::Broadcast { .. });
        let until = Instant::now() + patience;
        self.pending.insert(id, Pending { call, request, sent: false, waits, fallback: None, until });
    }

    /// Sends what the hub does not have, in order, and says when the rest is due.
    fn send_pending(&mut self) -> Option<Instant> {
        let complete = self.complete <= Instant::now();
        let mut unsent: Vec<u64> = self.pending.iter().filter(|(_, p)| !p.sent).map(|(id, _)| *id).collect();
        if unsent.is_empty() || !self.registered {
            return None;
        }
        unsent.sort_unstable();
        for id in unsent {
            let Some(pending) = self.pending.get_mut(&id) else { continue };
            if complete || !pending.waits {
                pending.sent = true;
                let request = pending.request.clone();
                self.say(&request);
            }
        }
        (!complete).then_some(self.complete)
    }

    /// What can't be sent is sent again by the next registration, for the connection is lost then.
    fn say(&mut self, message: &ToHub) {
        if let Some(mouth) = &self.mouth
            && mouth.say(message).is_err()
        {
            mouth.hang_up();
        }
    }

    fn expire(&mut self, now: Instant) -> io::Result<()> {
        let late: Vec<u64> = self.pending.iter().filter(|(_, p)| p.until <= now).map(|(id, _)| *id).collect();
        let (late, known): (Vec<_>, Vec<_>) =
            late.into_iter().partition(|id| self.pending.get(id).is_some_and(|p| p.fallback.is_none()));
        for id in known {
            let fallback = self.pending.get_mut(&id).and_then(|p| p.fallback.take());
            // Once only: hubs may die faster than their peers come back, and an answer must not wait for that to end.
            fallback.map_or(Ok(()), |answer| self.finish(id, Ok(answer), Vec::new()))?;
        }
        if late.is_empty() {
            return Ok(());
        }
        let fault = if self.registered {
            unreachable("the hub does not answer; see `relay doctor`")
        } else {
            self.away.clone()
        };
        if self.registered
            && let Some(mouth) = &self.mouth
        {
            mouth.hang_up(); // and look for another
        }
        late.into_iter().try_for_each(|id| self.answered(id, Err(fault.clone()), Vec::new()))
    }

    fn hear_hub(&mut self, message: FromHub) -> io::Result<()> {
        match message {
            FromHub::Up(mouth) => {
                self.mouth = Some(mouth);
                self.register();
                Ok(())
            }
            FromHub::Down(fault) => {
                self.log.event(Level::Info, "hub_lost", &[("code", json!(fault.code.name()))]);
                (self.mouth, self.registered) = (None, false);
                let until = Instant::now() + AWAY;
                self.pending.values_mut().for_each(|p| (p.sent, p.until) = (false, p.until.min(until)));
                self.away = fault;
                Ok(())
            }
            FromHub::Said(message) => match *message {
                ToClient::Ok { id: 0, answer: Answer::Registered { name }, .. } => {
                    self.welcome(&name);
                    Ok(())
                }
                ToClient::Ok { id, answer, waiting } => self.answered(id, Ok(answer), waiting),
                ToClient::Error { id: Some(id), code, message, waiting } if id != 0 => {
                    self.answered(id, Err(Fault { code, message }), waiting)
                }
                ToClient::Error { code, message, .. } => {
                    self.log.event(Level::Warn, "refused", &[("code", json!(code.name()))]);
                    self.away = Fault { code, message };
                    Ok(())
                }
                ToClient::Push(parcel) => {
                    self.settle(&parcel)?;
                    self.push(parcel)
                }
                ToClient::State { kind, ask_id, state, code, .. } => {
                    self.memory.told(kind, &ask_id, state, code);
                    if kind == Kind::Reply { self.reply_told(&ask_id, state, code) } else { Ok(()) }
                }
                ToClient::Welcome { .. } | ToClient::Dismissed | ToClient::Event(_) => Ok(()),
            },
        }
    }

    fn register(&mut self) {
        for held in self.memory.held() {
            self.say(&ToHub::Resume { held });
        }
        let session = &self.session;
        let who = Who {
            name: self.memory.name.clone().unwrap_or_else(|| session.default_name()),
            exact: false,
            kind: PeerKind::Session,
            peer: self.memory.peer.clone(),
            secret: self.memory.secret.clone(),
            cwd: session.cwd.clone(),
            repo: session.git.repo.clone(),
            branch: session.git.branch.clone(),
            pid: session.pid,
            claude: Some(session.key.clone()),
            paths: session.paths.clone(),
            listens: true,
            fresh: !self.known || self.memory.inherited,
            hooked: self.memory.hooked,
        };
        self.say(&ToHub::Register { id: 0, who: Box::new(who) });
    }

    /// The hub knows us: what was asked of it meanwhile may go out.
    fn welcome(&mut self, name: &str) {
        if std::mem::replace(&mut self.known, true) || self.memory.inherited {
            self.complete = Instant::now() + RETURN;
        }
        self.registered = true;
        self.memory.named(name);
        self.log.event(
            Level::Info,
            "registered",
            &[
                ("name", json!(name)),
                ("paths", json!(self.session.paths.iter().map(|p| p.name()).collect::<Vec<_>>())),
            ],
        );
        let file = &self.session.file;
        if file.status.is_some() {
            let (activity, age_ms) = (file.status, file.status_age());
            self.say(&ToHub::Activity { activity, age_ms, branch: None, paths: None });
        }
        let until = Instant::now() + ANSWER;
        self.pending.values_mut().filter(|p| p.fallback.is_none()).for_each(|p| p.until = until);
    }

    /// A request has ended: so does the tool call that waits for it.
    fn answered(&mut self, id: u64, reply: Result<Answer, Fault>, waiting: Vec<Parcel>) -> io::Result<()> {
        let absent = matches!(&reply, Err(f) if matches!(f.code, Code::PeerNotFound | Code::UnknownAsk));
        if absent && waiting.is_empty() && self.complete > Instant::now() {
            // Whom it asks, or whose ask it answers, may only not be back yet.
            let pending = self.pending.get_mut(&id);
            return Ok(pending.map_or((), |p| (p.sent, p.waits) = (false, true)));
        }
        if let Ok(answer @ Answer::Replied { state: State::Queued, .. }) = &reply
            && waiting.is_empty()
            && self.complete + RETURN > Instant::now()
            && let Some(pending) = self.pending.get_mut(&id)
        {
            // Its asker may only not be back yet. Until it is, the answer is nowhere but in this process and in the hub.
            if pending.fallback.replace(answer.clone()).is_none() {
                pending.until = self.complete + RETURN;
            }
            let request = pending.request.clone();
            self.memory.answered(&request, &reply);
            return Ok(());
        }
        self.finish(id, reply, waiting)
    }

    fn finish(&mut self, id: u64, reply: Result<Answer, Fault>, waiting: Vec<Parcel>) -> io::Result<()> {
        let pending = self.pending.remove(&id);
        if let Some(pending) = &pending {
            self.memory.answered(&pending.request, &reply);
        }
        let Some(call) = pending.and_then(|p| p.call) else {
            for parcel in waiting {
                let error = Some("no tool call waits for this answer".to_owned());
                self.say(&ToHub::Pushed { push: parcel.push, error });
            }
            return Ok(());
        };
        let (mut messages, mut done) = (Vec::new(), Vec::new());
        for parcel in &waiting {
            match self.memory.take(parcel) {
                Take::Push => {
                    messages.push(fence::text(parcel));
                    done.push(parcel);
                }
                Take::UnderWay => {}
                Take::Known => done.push(parcel),
            }
        }
        print_result(&call, &reply, messages)?;
        for parcel in done {
            self.pushed(parcel, None);
        }
        Ok(())
    }

    /// The hub says how far an answer got of which it has only said that it has it.
    fn reply_told(&mut self, ask_id: &str, state: State, code: Option<Code>) -> io::Result<()> {
        let is_it =
            |p: &Pending| matches!(&p.fallback, Some(Answer::Replied { ask_id: id, .. }) if id == ask_id);
        let Some((id, pending)) = self.pending.iter_mut().find(|(_, p)| is_it(p)) else { return Ok(()) };
        let (id, fallback) = (*id, pending.fallback.take());
        let reply = match fallback {
            Some(Answer::Replied { ask_id, to, .. }) if state < State::Ended => {
                Ok(Answer::Replied { ask_id, to, state })
            }
            _ => Err(fault(code.unwrap_or(Code::PeerGone), "nobody waits for this answer any more")),
        };
        self.answered(id, reply, Vec::new())
    }

    /// The end of an ask is here before the answer to its request, which a hub that died owes us. Sent again, the request
    /// would begin it anew at a hub that knows nothing of it.
    fn settle(&mut self, parcel: &Parcel) -> io::Result<()> {
        let state = match parcel.kind {
            Kind::Reply => State::Replied,
            Kind::Failed => State::Ended,
            _ => return Ok(()),
        };
        let begins =
            |p: &Pending| matches!(&p.request, ToHub::Ask { ask_id, .. } if *ask_id == parcel.ask_id);
        let Some(id) = self.pending.iter().find(|(_, p)| begins(p)).map(|(id, _)| *id) else { return Ok(()) };
        let (ask_id, to, peer) = (parcel.ask_id.clone(), parcel.from.clone(), String::new());
        self.answered(id, Ok(Answer::Asked { ask_id, to, peer, state }), Vec::new())
    }

    /// Gets a text into the session, by the path that the hub says.
    fn push(&mut self, parcel: Parcel) -> io::Result<()> {
        match self.memory.take(&parcel) {
            Take::Push => {}
            Take::UnderWay => return Ok(()),
            Take::Known => {
                // From before the hub died.
                self.say(&ToHub::Seen { pushes: vec![parcel.push], accepted: Vec::new() });
                return Ok(());
            }
        }
        match parcel.path {
            Path::Channel => {
                print(&mcp::channel_message(&fence::body(&parcel), fence::fields(&parcel)))?;
                self.pushed(&parcel, None);
            }
            Path::Inbox => drop(self.inbox.send(parcel)), // its thread lives as long as we do
            // The session's waiter has pushed it, and lives no longer: it is for us to remember.
            Path::Hook => self.pushed(&parcel, None),
            other => self.pushed(&parcel, Some(format!("a channel has no path {}", other.name()))),
        }
        Ok(())
    }

    fn pushed(&mut self, parcel: &Parcel, error: Option<String>) {
        if let Some(error) = &error {
            let fields = [("path", json!(parcel.path.name())), ("error", json!(error))];
            self.log.event(Level::Warn, "push_failed", &fields);
        }
        for push in self.memory.done(parcel, error.is_none()) {
            self.say(&ToHub::Pushed { push, error: error.clone() });
        }
    }

    /// What changed about the session: its name, whether it is in a turn, its branch, its inbox.
    fn look(&mut self) {
        let file = &self.session.file;
        let before = (file.name.clone(), (file.status, file.status_at));
        let git = session::git(self.session.cwd.as_ref());
        let branch = (git.branch != self.session.git.branch).then(|| git.branch.clone().unwrap_or_default());
        self.session.git = git;
        self.session.file.changed();
        let file = &self.session.file;
        let status = file.status.filter(|_| before.1 != (file.status, file.status_at));
        let age_ms = file.status_age();
        let paths = self.session.find_paths();
        let rerouted = paths != self.session.paths;
        self.session.paths.clone_from(&paths);
        if !self.registered {
            return;
        }
        if status.is_some() || branch.is_some() || rerouted {
            let paths = rerouted.then_some(paths);
            self.say(&ToHub::Activity { activity: status, age_ms, branch, paths });
        }
        if let Some(name) = self.session.file.name.clone()
            && before.0.as_ref() != Some(&name)
        {
            self.ask_hub(None, ToHub::Rename { id: 0, name, exact: false });
        }
    }
}

fn with_id(mut request: ToHub, new: u64) -> ToHub {
    match &mut request {
        ToHub::Peers { id }
        | ToHub::Ask { id, .. }
        | ToHub::Reply { id, .. }
        | ToHub::Broadcast { id, .. }
        | ToHub::Rename { id, .. } => *id = new,
        _ => {}
    }
    request
}

/// The result of a tool call, and with it what waited for the session.
fn print_result(call: &Id, reply: &Result<Answer, Fault>, mut messages: Vec<String>) -> io::Result<()> {
    let (text, mut structured) = match reply {
        Ok(answer) => tools::render(answer).unwrap_or_default(),
        Err(fault) => tools::render_fault(fault),
    };
    let mut texts = vec![text];
    if !messages.is_empty() {
        // Of a result that is no error Claude Code shows the model the structured form alone.
        structured["messages"] = json!(messages);
        texts.append(&mut messages);
    }
    print(&mcp::result(call, mcp::tool_result(&texts, structured, reply.is_err())))
}

/// One message, one line, one write.
fn print(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()
}
