//! A session's channel: the MCP server that Claude Code starts. It turns tool calls into requests to the hub, and
//! parcels of the hub into pushes. The handshake never waits for the hub.

mod calls;
mod forms;
mod identity;
mod inbox;
mod resources;
mod surroundings;
pub mod tools;
mod waits;

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
use crate::process;
use crate::texts::{self, Texts};
use crate::threads::{PARSER, SMALL, spawn};
use crate::token::Tokens;
use crate::wire::{Activity, Parcel, Path, ToClient, ToHub, Who};
use calls::Call;
use forms::OpenForm;
use identity::Identity;
use surroundings::Surroundings;
use waits::Waits;

/// How often the session's own file and the parent process are checked: for `/rename`, interrupted turns and orphans.
const CHECK: Duration = Duration::from_secs(1);

/// How long a channel may take to exit after a signal: it could wait forever for a client that does not read its stdout.
const LEAVE: Duration = Duration::from_secs(2);

/// A message to the channel's main loop.
enum Received {
    Client(Incoming),
    /// The end of stdin.
    ClientGone,
    Hub(FromHub),
    /// The outcome of an inbox push: its identifier, and the error if it failed.
    Inbox(String, Option<String>),
    Signal,
}

/// See the module.
struct Channel {
    client: Client,
    session: Surroundings,
    texts: Texts,
    /// The program at the other end of stdin.
    program: mcp::Client,
    /// Requests by that to the hub that each waits for.
    calls: HashMap<u64, Call>,
    waits: Waits,
    /// Whether the client has asked for the resources, and whether they have changed since.
    lists_resources: bool,
    resources_changed: bool,
    /// Whether stdin has ended: the channel exits after it has answered the open calls.
    ending: bool,
    /// Whether the client's process was stopped at the last check.
    is_stopped: bool,
    inbox: Sender<Parcel>,
    /// The forms that are open in front of its user.
    forms: Vec<OpenForm>,
}

/// `relay channel`: serves the session on stdin and stdout until stdin closes, its parent is gone, or a signal comes.
pub fn run(dir: &DataDir) -> ExitCode {
    // Before the first connection, which may change the working directory.
    let session = Surroundings::new();
    crate::logging::init(&dir.logs(), "channel", true);
    match serve(dir, session) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::error!(error:% = e; "channel_failed");
            ExitCode::FAILURE
        }
    }
}

fn serve(dir: &DataDir, mut session: Surroundings) -> io::Result<()> {
    let (received, all) = bounded(256);
    let prepared = dir.prepare();
    listen(&received)?;
    let Ok(Some(Introduction { program, forms, first })) = meet(&all, &session) else { return Ok(()) };
    if program != mcp::Client::ClaudeCode {
        // Another client may run all its sessions under one process.
        session.key = process::key(std::process::id());
    }
    let (at, hub) = (dir.clone(), received.clone());
    spawn("hub", PARSER, move || link::keep(at, |message| hub.send(Received::Hub(message)).is_ok()))?;
    let mut tokens = Tokens::new()?;
    let (identity, _locked) = Identity::open(&dir.sessions().join(&session.key), &mut tokens)?;
    let away = prepared.err().unwrap_or_else(|| "the hub has not been reached yet; retry".to_owned());
    let (inbox, to_inbox) = unbounded();
    let done = move |push, error| received.send(Received::Inbox(push, error)).is_ok();
    inbox::serve(&session, Texts::new(dir, session.key.clone()), to_inbox, done);
    log::debug!(key = session.key; "channel_start");
    let mut channel = Channel {
        client: Client::new(tokens, who(&session, identity), unreachable(away)),
        texts: Texts::new(dir, session.key.clone()),
        session,
        program,
        calls: HashMap::new(),
        waits: Waits::default(),
        lists_resources: false,
        resources_changed: false,
        ending: false,
        is_stopped: false,
        inbox,
        forms: Vec::new(),
    };
    let is_claude = program == mcp::Client::ClaudeCode;
    channel.client.who.forms = forms && is_claude && channel.session.find_person();
    channel.client.who.paths = channel.paths();
    channel.client.who.session = channel.conversation();
    sweep(dir);
    if first.is_none_or(|first| channel.answer_client(first).is_ok()) {
        channel.serve(&all);
    }
    Ok(())
}

/// Removes what earlier sessions left. Long texts are the hub's task where one can run.
fn sweep(dir: &DataDir) {
    identity::sweep(&dir.sessions(), process::is_alive);
    if dir.elsewhere().is_some() {
        texts::sweep(&texts::directory(dir), process::is_alive);
    }
}

/// What is known when the client has introduced itself.
struct Introduction {
    program: mcp::Client,
    /// Whether it can show forms.
    forms: bool,
    /// What a client that does not introduce itself wants instead.
    first: Option<Incoming>,
}

/// Waits until the client has introduced itself: who the session is to the hub depends on it. `None` if the channel is to leave
/// before.
fn meet(received: &Receiver<Received>, session: &Surroundings) -> io::Result<Option<Introduction>> {
    loop {
        let incoming = match received.recv_timeout(CHECK) {
            Ok(Received::Client(incoming)) => incoming,
            Err(RecvTimeoutError::Timeout) if parent_id() == session.pid => continue,
            _ => return Ok(None),
        };
        match incoming {
            Incoming::Request { id, method, params } => match method.as_str() {
                "initialize" => {
                    let (program, forms) = introduce(&id, &params, |program| is_pushable(program, session))?;
                    return Ok(Some(Introduction { program, forms, first: None }));
                }
                "tools/call" | "tools/list" => {
                    let first = Some(Incoming::Request { id, method, params });
                    return Ok(Some(Introduction { program: mcp::Client::Other, forms: false, first }));
                }
                other => print(&answer_other(&id, other))?,
            },
            Incoming::Broken(answer) => print(&answer)?,
            Incoming::Response { .. } | Incoming::Notification { .. } => {}
        }
    }
}

/// Answers `initialize`, and returns the client that has sent it.
fn introduce(
    id: &Id,
    params: &str,
    is_pushable: impl FnOnce(mcp::Client) -> bool,
) -> io::Result<(mcp::Client, bool)> {
    let client: mcp::Initialize = mcp::params(params).unwrap_or_default();
    let program = client.client();
    print(&mcp::result(id, client.answer(is_pushable(program))))?;
    Ok((program, client.shows_forms()))
}

/// The answer to a request that needs neither the session nor the hub.
fn answer_other(id: &Id, method: &str) -> String {
    match method {
        "ping" => mcp::result(id, json!({})),
        _ => mcp::error(id, mcp::METHOD_NOT_FOUND, "this server has no such method"),
    }
}

/// Whether messages reach the model by themselves.
fn is_pushable(program: mcp::Client, session: &Surroundings) -> bool {
    program.can_be_pushed_to() || session.is_way_forced()
}

/// Starts the threads that read stdin and wait for signals.
fn listen(received: &Sender<Received>) -> io::Result<()> {
    let (client, signals) = (received.clone(), received.clone());
    let watching = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]).and_then(|mut all| {
        spawn("signals", SMALL, move || {
            if all.forever().next().is_some() {
                let _ = signals.try_send(Received::Signal); // a full queue: see below
                std::thread::sleep(LEAVE);
                std::process::exit(1); // the client does not read what it asked for
            }
        })
    });
    if let Err(e) = watching {
        log::warn!(error:% = e; "no_signals");
    }
    spawn("stdin", PARSER, move || read_stdin(&client))
}

fn who(session: &Surroundings, Identity { peer, secret }: Identity) -> Who {
    Who {
        name: session.default_name(),
        peer,
        secret,
        cwd: session.cwd(),
        repo: session.git.repo.clone(),
        branch: session.git.branch.clone(),
        pid: session.pid,
        claude: Some(session.key.clone()),
        listens: true,
        held: session.is_held,
        forms: false,
        person_off: surroundings::is_set("RELAY_PERSON", "off"),
        consent: surroundings::consent(),
        open_forms: Vec::new(),
        fresh: true,
        ..Who::default()
    }
}

/// Forwards the client's messages and the end of stdin.
fn read_stdin(received: &Sender<Received>) {
    let mut input = BufReader::new(io::stdin());
    while let Ok(Some(messages)) = mcp::read(&mut input) {
        for incoming in messages {
            if received.send(Received::Client(incoming)).is_err() {
                return;
            }
        }
    }
    let _ = received.send(Received::ClientGone); // fails only when the channel exits
}

impl Channel {
    fn serve(&mut self, received: &Receiver<Received>) {
        let mut check = Instant::now() + CHECK;
        loop {
            let until =
                self.client.deadline().into_iter().chain(self.waits.deadline()).fold(check, Instant::min);
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
            if served.and_then(|()| self.take_events(late)).and_then(|()| self.end_waits(now)).is_err() {
                return self.leave("stdout closed");
            }
            if self.ending && self.calls.is_empty() && !self.waits.is_open() {
                return self.leave("stdin closed");
            }
            if now >= check {
                check = now + CHECK;
                if parent_id() != self.session.pid {
                    log::info!("parent_gone");
                    return self.leave("its parent is gone");
                }
                self.check_session();
                if std::mem::take(&mut self.resources_changed) && self.tell_resources_changed().is_err() {
                    return self.leave("stdout closed");
                }
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
            Incoming::Notification { method, params } if method == "notifications/cancelled" => {
                self.cancel(&params);
                Ok(())
            }
            Incoming::Response { id: Some(id), result } => {
                self.form_answered(&id, result.as_deref());
                Ok(())
            }
            Incoming::Response { .. } | Incoming::Notification { .. } => Ok(()),
            Incoming::Request { id, method, params } => self.answer_request(id, &method, &params),
        }
    }

    fn answer_request(&mut self, id: Id, method: &str, params: &str) -> io::Result<()> {
        match method {
            "initialize" => introduce(&id, params, |_| self.is_pushable()).map(drop),
            "tools/list" => {
                self.session.listed.get_or_insert_with(Instant::now);
                print(&mcp::result(&id, tools::list(self.is_pushable())))
            }
            "tools/call" => self.call(id, params),
            "resources/list" => self.list_resources(id),
            "resources/templates/list" => print(&mcp::result(&id, resources::templates())),
            "resources/read" => {
                self.read_resource(id, params);
                Ok(())
            }
            "prompts/list" => print(&mcp::result(&id, resources::prompts())),
            "prompts/get" => {
                let prompt = mcp::params(params).and_then(|prompt: resources::Prompt| prompt.messages());
                print(&prompt.map_or_else(
                    |why| mcp::error(&id, mcp::INVALID_PARAMS, &why),
                    |messages| mcp::result(&id, messages),
                ))
            }
            other => print(&answer_other(&id, other)),
        }
    }

    /// Claude Code's id of the conversation. Another client that runs inside of a session has that session's in its environment.
    fn conversation(&self) -> Option<String> {
        self.session.id().filter(|_| self.program == mcp::Client::ClaudeCode)
    }

    fn is_pushable(&self) -> bool {
        is_pushable(self.program, &self.session)
    }

    /// The paths to this session, the preferred one first. A client that can't be pushed to has one only while `relay_wait` waits.
    fn paths(&self) -> Vec<Path> {
        match self.waits.is_open() {
            _ if self.is_pushable() => self.session.find_paths(),
            true => vec![Path::Tool],
            false => Vec::new(),
        }
    }

    /// Reports the paths to the hub, if they have changed.
    fn update_paths(&mut self) {
        let paths = self.paths();
        if paths != self.client.who.paths {
            self.client.who.paths.clone_from(&paths);
            if self.client.is_registered() {
                let paths = Some(paths);
                self.client.send(&ToHub::Activity { activity: None, age_ms: None, branch: None, paths });
            }
        }
    }

    fn take_events(&mut self, events: Vec<Event>) -> io::Result<()> {
        for event in events {
            match event {
                Event::Registered { name } => self.registered(&name),
                Event::Refused(fault) => log::warn!(code = fault.code.name(); "refused"),
                Event::Lost(fault) => log::info!(code = fault.code.name(); "hub_disconnect"),
                Event::Ended { id, result, waiting, .. } => self.ended(id, &result, waiting)?,
                Event::Push(parcel) => self.push(parcel)?,
                Event::Told(ToClient::RosterChanged) => self.resources_changed = true,
                Event::Told(ToClient::Over { ask_id, .. }) => {
                    self.texts.remove_question(&ask_id);
                    self.close_forms(&ask_id)?;
                }
                Event::Told(_) => {}
            }
        }
        Ok(())
    }

    fn registered(&mut self, name: &str) {
        let paths: Vec<&str> = self.client.who.paths.iter().map(|p| p.name()).collect();
        log::info!(name = name, paths = paths.join(" "); "register_ack");
        if self.lists_resources {
            self.resources_changed = true; // meanwhile they may have
        }
        let file = &self.session.file;
        if file.status.is_some() {
            let (activity, age_ms) = (file.status, file.status_age());
            self.client.send(&ToHub::Activity { activity, age_ms, branch: None, paths: None });
        }
    }

    /// Pushes a text into the session by the path that the hub chose.
    fn push(&mut self, parcel: Parcel) -> io::Result<()> {
        match parcel.path {
            Path::Channel => {
                print(&mcp::channel_message(&fence::body(&parcel), fence::channel_meta(&parcel)))?;
                self.pushed(&parcel.push, parcel.path, None);
            }
            Path::Form => self.open_form(parcel)?,
            Path::Inbox => drop(self.inbox.send(parcel)), // the thread runs as long as the channel
            Path::Tool if self.waits.is_open() => self.waits.arrive(parcel, Instant::now()),
            Path::Tool => self.give_back(vec![parcel], "no tool call can carry it"),
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

    /// Reports changes of the session to the hub: name, activity, branch, paths.
    fn check_session(&mut self) {
        let file = &self.session.file;
        let before = (file.name.clone(), (file.status, file.status_at));
        let git = self.session.look_at_git();
        let branch = (git.branch != self.session.git.branch).then(|| git.branch.clone().unwrap_or_default());
        self.session.git = git;
        self.session.file.changed();
        let file = &self.session.file;
        let mut status = file.status.filter(|_| before.1 != (file.status, file.status_at));
        let mut age_ms = file.status_age();
        let was_stopped = std::mem::replace(&mut self.is_stopped, process::is_stopped(self.session.pid));
        if self.is_stopped != was_stopped {
            // Reports of hooks since the last check take precedence.
            (status, age_ms) = match self.is_stopped {
                true => (Some(Activity::Stopped), Some(0)),
                false => (file.status.or(Some(Activity::Unknown)), Some(CHECK.as_millis() as u64)),
            };
        }
        self.client.who.branch.clone_from(&self.session.git.branch);
        self.update_paths();
        if !self.client.is_registered() {
            return;
        }
        if status.is_some() || branch.is_some() {
            self.client.send(&ToHub::Activity { activity: status, age_ms, branch, paths: None });
        }
        let id = self.conversation();
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

/// Prints one message as one line with one write.
fn print(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()
}
