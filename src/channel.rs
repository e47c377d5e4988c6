//! A session's channel: the MCP server that Claude Code starts. It turns tool calls into requests to the hub and the hub's
//! parcels into pushes, and it never lets the client wait for the hub.

mod identity;
mod inbox;
pub mod tools;

use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::os::unix::process::parent_id;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::client::{Client, Event};
use crate::datadir::DataDir;
use crate::fence;
use crate::link::{self, FromHub, unreachable};
use crate::mcp::{self, Id, Incoming};
use crate::session::{self, Surroundings};
use crate::texts::{Limit, Texts, json_cost};
use crate::threads::{PARSER, SMALL, spawn};
use crate::token::Tokens;
use crate::wire::{Answer, Fault, Parcel, Path, PeerKind, ToHub, Who};
use identity::Identity;

/// How often the session's own file and the parent process are checked: for `/rename`, interrupted turns and orphans.
const CHECK: Duration = Duration::from_secs(1);

/// The most that the result of a tool call carries of messages, in UTF-16 units as JSON escapes them. Claude Code replaces a
/// result of over about 50,000 by a short preview (measured).
const MAX_RESULT: usize = 45_000;

/// What a channel receives, from all sides.
enum Received {
    Client(Incoming),
    /// The end of stdin.
    ClientGone,
    Hub(FromHub),
    /// The session's inbox took the push of this id, or why not.
    Inbox(String, Option<String>),
    Signal,
}

/// See the module.
struct Channel {
    client: Client,
    session: Surroundings,
    texts: Texts,
    /// Tool calls by the request that each waits for.
    calls: HashMap<u64, Id>,
    /// Stdin has ended: what is open is answered, and then the channel leaves.
    ending: bool,
    inbox: Sender<Parcel>,
}

/// `relay channel`: serves the session on stdin and stdout until stdin closes, its parent is gone, or a signal comes.
pub fn run(dir: DataDir) -> ExitCode {
    // Before the first connection, which may change the working directory.
    let session = Surroundings::new();
    let (received, all) = bounded(256);
    let client = received.clone();
    let reading = spawn("stdin", PARSER, move || read_stdin(&client));
    crate::logging::init(&dir.logs(), "channel", true);
    let prepared = dir.prepare();
    let (at, hub) = (dir.clone(), received.clone());
    let keeping =
        spawn("hub", PARSER, move || link::keep(at, |message| hub.send(Received::Hub(message)).is_ok()));
    let signals = received.clone();
    let watching = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]).and_then(|mut all| {
        spawn("signals", SMALL, move || drop(all.forever().next().map(|_| signals.send(Received::Signal))))
    });
    if let Err(e) = watching {
        log::warn!(error:% = e; "no_signals");
    }
    if let Err(e) = reading.and(keeping) {
        log::error!(error:% = e; "no_thread");
        return ExitCode::FAILURE;
    }
    let kept_at = dir.sessions().join(&session.key);
    let opened = Tokens::new().and_then(|mut tokens| {
        let (identity, file) = Identity::open(&kept_at, &mut tokens)?;
        Ok((tokens, identity, file))
    });
    let (tokens, identity, _locked) = match opened {
        Ok(opened) => opened,
        Err(e) => {
            log::error!(error:% = e; "no_random_numbers");
            return ExitCode::FAILURE;
        }
    };
    let away = prepared.err().unwrap_or_else(|| "the hub is not reached yet; try again".to_owned());
    let (inbox, to_inbox) = unbounded();
    let done = move |push, error| received.send(Received::Inbox(push, error)).is_ok();
    let texts = || Texts::new(&dir, session.key.clone());
    inbox::serve(&session, texts(), to_inbox, done);
    log::debug!(key = session.key; "channel_start");
    let client = Client::new(tokens, who(&session, identity), unreachable(away));
    let texts = texts();
    let mut channel = Channel { client, session, texts, calls: HashMap::new(), ending: false, inbox };
    identity::sweep(&dir.sessions(), session::is_alive);
    channel.serve(&all);
    ExitCode::SUCCESS
}

fn who(session: &Surroundings, Identity { peer, secret }: Identity) -> Who {
    Who {
        name: session.default_name(),
        exact: false,
        kind: PeerKind::Session,
        peer,
        secret,
        cwd: session.cwd(),
        repo: session.git.repo.clone(),
        branch: session.git.branch.clone(),
        pid: session.pid,
        claude: Some(session.key.clone()),
        session: session.id(),
        paths: session.paths.clone(),
        listens: true,
        held: session.is_held,
        fresh: true,
    }
}

/// Hands the client's messages on, and the end of stdin, which is the channel's.
fn read_stdin(received: &Sender<Received>) {
    let mut input = BufReader::new(io::stdin());
    while let Ok(Some(messages)) = mcp::read(&mut input) {
        for incoming in messages {
            if received.send(Received::Client(incoming)).is_err() {
                return;
            }
        }
    }
    let _ = received.send(Received::ClientGone); // fails only when the channel leaves
}

impl Channel {
    fn serve(&mut self, received: &Receiver<Received>) {
        let mut check = Instant::now() + CHECK;
        loop {
            let until = self.client.deadline().map_or(check, |at| at.min(check));
            let served = match received.recv_deadline(until) {
                Ok(Received::Client(incoming)) => self.answer_client(incoming),
                Ok(Received::Hub(message)) => {
                    let events = self.client.handle(message);
                    self.take_events(events)
                }
                Ok(Received::Inbox(push, error)) => {
                    self.pushed(&push, Path::Inbox, error);
                    Ok(())
                }
                Ok(Received::Signal) => return self.leave("a signal"),
                Ok(Received::ClientGone) => {
                    self.ending = true;
                    Ok(())
                }
                Err(RecvTimeoutError::Disconnected) => return self.leave("stdin closed"),
                Err(RecvTimeoutError::Timeout) => Ok(()),
            };
            let now = Instant::now();
            let late = self.client.expire(now);
            if served.and_then(|()| self.take_events(late)).is_err() {
                return self.leave("stdout closed");
            }
            if self.ending && self.calls.is_empty() {
                return self.leave("stdin closed");
            }
            if now >= check {
                check = now + CHECK;
                if parent_id() != self.session.pid {
                    log::info!("parent_gone");
                    return self.leave("its parent is gone");
                }
                self.check_session();
            }
        }
    }

    fn leave(&mut self, why: &str) {
        self.client.leave();
        log::debug!(why = why; "channel_close");
    }

    fn answer_client(&mut self, incoming: Incoming) -> io::Result<()> {
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
        let new_id = |prefix: &str| self.client.new_id(prefix);
        match call.tool().map(|tool| tool.and_then(|tool| tool.request(new_id))) {
            None => {
                let why =
                    format!("there is no tool \"{}\"; tools/list names the five", fence::label(&call.name));
                print(&mcp::error(&id, mcp::INVALID_PARAMS, &why))
            }
            Some(Err(fault)) => print_result(&id, &Err(fault), Vec::new()),
            Some(Ok(request)) => {
                let number = self.client.request(|number| with_id(request, number));
                self.calls.insert(number, id);
                Ok(())
            }
        }
    }

    fn take_events(&mut self, events: Vec<Event>) -> io::Result<()> {
        for event in events {
            match event {
                Event::Registered { name } => self.registered(&name),
                Event::Refused(fault) => log::warn!(code = fault.code.name(); "refused"),
                Event::Lost(fault) => log::info!(code = fault.code.name(); "hub_lost"),
                Event::Ended { id, result, waiting, .. } => self.ended(id, &result, waiting)?,
                Event::Push(parcel) => self.push(parcel)?,
                Event::Over { ask_id, .. } => self.texts.remove_question(&ask_id),
                Event::State { .. } => {}
            }
        }
        Ok(())
    }

    fn registered(&mut self, name: &str) {
        let paths: Vec<&str> = self.session.paths.iter().map(|p| p.name()).collect();
        log::info!(name = name, paths = paths.join(" "); "register_ack");
        let file = &self.session.file;
        if file.status.is_some() {
            let (activity, age_ms) = (file.status, file.status_age());
            self.client.send(&ToHub::Activity { activity, age_ms, branch: None, paths: None });
        }
    }

    /// A request has ended: so does the tool call that waits for it, which carries what waited for the session.
    fn ended(&mut self, id: u64, result: &Result<Answer, Fault>, waiting: Vec<Parcel>) -> io::Result<()> {
        let Some(call) = self.calls.remove(&id) else {
            for parcel in waiting {
                let error = Some("no tool call waits for this answer".to_owned());
                self.client.pushed(&parcel.push, error);
            }
            return Ok(());
        };
        if let Ok(Answer::Replied { ask_id, .. }) = result {
            self.texts.remove_question(ask_id);
        }
        let (mut new, known): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|p| self.client.remember(&p.push));
        self.texts.fit(&mut new, &Limit { most: MAX_RESULT, cost: json_cost, form: fence::text });
        print_result(&call, result, new.iter().map(fence::text).collect())?;
        known.into_iter().for_each(|parcel| self.client.report_again(parcel.push));
        new.iter().for_each(|parcel| self.client.pushed(&parcel.push, None));
        Ok(())
    }

    /// Gets a text into the session, by the path that the hub chose.
    fn push(&mut self, parcel: Parcel) -> io::Result<()> {
        match parcel.path {
            Path::Channel => {
                print(&mcp::channel_message(&fence::body(&parcel), fence::channel_meta(&parcel)))?;
                self.pushed(&parcel.push, parcel.path, None);
            }
            Path::Inbox => drop(self.inbox.send(parcel)), // its thread lives as long as we do
            Path::Tool => {
                self.pushed(&parcel.push, parcel.path, Some("no tool call can carry it".to_owned()))
            }
            Path::Hook | Path::Socket => {
                let error = Some(format!("a channel has no path {}", parcel.path.name()));
                self.pushed(&parcel.push, parcel.path, error);
            }
        }
        Ok(())
    }

    fn pushed(&mut self, push: &str, path: Path, error: Option<String>) {
        if let Some(error) = &error {
            log::warn!(path = path.name(), error = error.as_str(); "push_failed");
        }
        self.client.pushed(push, error);
    }

    /// Tells the hub what changed about the session: its name, whether it is in a turn, its branch, its inbox.
    fn check_session(&mut self) {
        let file = &self.session.file;
        let before = (file.name.clone(), (file.status, file.status_at));
        let git = self.session.look_at_git();
        let branch = (git.branch != self.session.git.branch).then(|| git.branch.clone().unwrap_or_default());
        self.session.git = git;
        self.session.file.changed();
        let file = &self.session.file;
        let status = file.status.filter(|_| before.1 != (file.status, file.status_at));
        let age_ms = file.status_age();
        let paths = self.session.find_paths();
        let rerouted = paths != self.session.paths;
        self.session.paths.clone_from(&paths);
        let who = &mut self.client.who;
        (who.paths, who.branch) = (paths.clone(), self.session.git.branch.clone());
        if !self.client.is_registered() {
            return;
        }
        if status.is_some() || branch.is_some() || rerouted {
            let paths = rerouted.then_some(paths);
            self.client.send(&ToHub::Activity { activity: status, age_ms, branch, paths });
        }
        let id = self.session.id();
        if id != self.client.who.session
            && let Some(session) = id
        {
            self.client.who.session = Some(session.clone());
            self.client.send(&ToHub::Session { session });
        }
        if let Some(name) = self.session.file.name.clone()
            && before.0.as_ref() != Some(&name)
        {
            self.client.request(|id| ToHub::Rename { id, name, exact: false });
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
