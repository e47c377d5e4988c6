//! A session's channel: the MCP server that Claude Code starts. It turns tool calls into requests to the hub, and
//! parcels of the hub into pushes. The handshake never waits for the hub.

mod calls;
mod forms;
mod identity;
mod inbox;
mod resources;
mod surroundings;
pub mod tools;

use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::client::{Client, Event};
use crate::connection::{self, FromHub};
use crate::datadir::DataDir;
use crate::fence;
use crate::mcp::{self, Id, Incoming};
use crate::process;
use crate::texts::{self, Texts};
use crate::threads::{PARSER, SMALL, spawn};
use crate::token::Tokens;
use crate::wire::{Activity, Changes, Parcel, Path, ToClient, ToHub};
use calls::{Call, Wait};
use identity::Identity;
use surroundings::{SessionFile, Surroundings};

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

/// The state of a session's channel.
struct Channel {
    client: Client,
    session: Surroundings,
    /// The session's file as the hub knows it.
    reported: SessionFile,
    texts: Texts,
    /// The name with which the program at the other end of stdin introduced itself.
    program: String,
    /// The open calls, by the id of the request to the hub that each waits for.
    calls: HashMap<u64, Call>,
    /// The open call of `relay_wait`.
    wait: Option<Wait>,
    /// Texts of the path `tool` that no result has carried yet.
    arrived: Vec<Parcel>,
    /// Whether the client has asked for the resources, and whether they have changed since.
    lists_resources: bool,
    resources_changed: bool,
    /// Whether stdin has ended, or nobody reads stdout: the channel exits after it has answered the open calls.
    ending: bool,
    /// Whether the client's process was stopped at the last check.
    is_stopped: bool,
    inbox: Sender<(PathBuf, Parcel)>,
    /// The forms that are open in front of its user. The id of a form's request is the push.
    forms: Vec<Parcel>,
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
    let _ = dir.prepare(); // without a usable directory there is no hub, and the calls say why
    listen(&received)?;
    let Some((id, method, params)) = first_request(&all, session.pid)? else { return Ok(()) };
    let client: mcp::Initialize = mcp::params(&params).unwrap_or_default();
    let program = client.client().to_owned();
    let is_claude = program == mcp::CLAUDE_CODE;
    if !is_claude {
        // Another client may run all its sessions under one process.
        session.key = process::key(std::process::id());
    }
    let (at, hub) = (dir.clone(), received.clone());
    spawn("hub", PARSER, move || connection::keep(at, |message| hub.send(Received::Hub(message)).is_ok()))?;
    let mut tokens = Tokens::new()?;
    let (identity, _locked) = Identity::open(&dir.sessions().join(&session.key), &mut tokens)?;
    let (inbox, to_inbox) = unbounded();
    let done = move |push, error| received.send(Received::Inbox(push, error)).is_ok();
    inbox::serve(Texts::new(dir, session.key.clone()), to_inbox, done)?;
    log::debug!(key = session.key; "channel_start");
    let mut channel = Channel {
        client: Client::new(tokens, session.who(identity)),
        texts: Texts::new(dir, session.key.clone()),
        reported: session.file.clone(),
        session,
        program,
        calls: HashMap::new(),
        wait: None,
        arrived: Vec::new(),
        lists_resources: false,
        resources_changed: false,
        ending: false,
        is_stopped: false,
        inbox,
        forms: Vec::new(),
    };
    channel.client.who.forms = client.shows_forms() && is_claude && channel.session.find_person();
    channel.client.who.paths = channel.paths();
    channel.client.who.session = channel.conversation();
    channel.answer_request(id, &method, &params);
    // Files of sessions that have ended.
    process::sweep(&dir.sessions(), Duration::MAX);
    texts::sweep(dir);
    let why = channel.serve(&all);
    channel.client.leave();
    log::debug!(why = why; "channel_close");
    Ok(())
}

/// The first request that depends on who the client is, with its method and parameters: `initialize`, or the tools for a client
/// that does not introduce itself. Other requests are answered here. `None` if the channel has to exit first, also because its
/// `parent` is gone.
fn first_request(received: &Receiver<Received>, parent: u32) -> io::Result<Option<(Id, String, String)>> {
    loop {
        let incoming = match received.recv_timeout(CHECK) {
            Ok(Received::Client(incoming)) => incoming,
            Err(RecvTimeoutError::Timeout) if parent_id() == parent => continue,
            _ => return Ok(None),
        };
        match incoming {
            Incoming::Request { id, method, params } => match method.as_str() {
                "initialize" | "tools/call" | "tools/list" => return Ok(Some((id, method, params))),
                other => print(&answer_other(&id, other))?,
            },
            Incoming::Broken(answer) => print(&answer)?,
            Incoming::Response { .. } | Incoming::Notification { .. } => {}
        }
    }
}

/// The answer to a request that needs neither the session nor the hub.
fn answer_other(id: &Id, method: &str) -> String {
    match method {
        "ping" => mcp::result(id, json!({})),
        _ => mcp::error(id, mcp::METHOD_NOT_FOUND, "this server has no such method"),
    }
}

/// Starts the threads that read stdin and wait for signals.
fn listen(received: &Sender<Received>) -> io::Result<()> {
    let (client, signals) = (received.clone(), received.clone());
    let mut all = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    spawn("signals", SMALL, move || {
        if all.forever().next().is_some() {
            let _ = signals.try_send(Received::Signal); // if the queue is full, the process exits below
            std::thread::sleep(LEAVE);
            std::process::exit(1); // the client does not read what it asked for
        }
    })?;
    spawn("stdin", PARSER, move || {
        let mut input = BufReader::new(io::stdin());
        while let Ok(Some(incoming)) = mcp::read(&mut input) {
            if client.send(Received::Client(incoming)).is_err() {
                return; // the channel exits
            }
        }
        let _ = client.send(Received::ClientGone);
    })
}

impl Channel {
    /// Serves until the session ends, and returns why.
    fn serve(&mut self, received: &Receiver<Received>) -> &'static str {
        let mut check = Instant::now() + CHECK;
        loop {
            let until = self.client.deadline().map_or(check, |deadline| deadline.min(check));
            match received.recv_deadline(until) {
                Ok(Received::Client(incoming)) => self.answer_client(incoming),
                Ok(Received::Hub(message)) => {
                    self.client.who.open_forms = self.forms.iter().map(|form| form.ask_id.clone()).collect();
                    let events = self.client.handle(message);
                    self.take_events(events);
                }
                Ok(Received::Inbox(push, error)) => self.pushed(&push, error),
                Ok(Received::Signal) => return "a signal",
                Ok(Received::ClientGone) => self.ending = true,
                Err(_) => {} // a deadline has passed
            }
            let now = Instant::now();
            let late = self.client.expire(now);
            self.take_events(late);
            if self.ending {
                self.end_wait();
                if self.calls.is_empty() {
                    return "stdin or stdout closed";
                }
            }
            if now >= check {
                check = now + CHECK;
                if parent_id() != self.session.pid {
                    log::info!("parent_gone");
                    return "its parent is gone";
                }
                self.check_session();
                self.check_wait(now);
                if std::mem::take(&mut self.resources_changed) {
                    self.print(&mcp::notification("notifications/resources/list_changed", json!({})));
                }
            }
        }
    }

    fn answer_client(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Broken(answer) => drop(self.print(&answer)),
            Incoming::Notification { method, params } if method == "notifications/cancelled" => {
                self.cancel(&params);
            }
            Incoming::Notification { .. } => {}
            Incoming::Response { id, result } => self.form_answered(&id, result.as_deref()),
            Incoming::Request { id, method, params } => self.answer_request(id, &method, &params),
        }
    }

    fn answer_request(&mut self, id: Id, method: &str, params: &str) {
        let answer = match method {
            "initialize" => {
                let client: mcp::Initialize = mcp::params(params).unwrap_or_default();
                mcp::result(&id, client.answer(self.is_pushable()))
            }
            "tools/list" => {
                self.session.listed.get_or_insert_with(Instant::now);
                mcp::result(&id, tools::list(self.is_pushable()))
            }
            "tools/call" => return self.call(id, params),
            "resources/list" => return self.list_resources(id),
            "resources/read" => {
                let params: Value = mcp::params(params).unwrap_or_default();
                let uri = params["uri"].as_str().unwrap_or_default().to_owned();
                return self.ask_hub(|id| ToHub::Peers { id }, Call::Resources(id, Some(uri)));
            }
            "prompts/list" => mcp::result(&id, resources::prompts()),
            "prompts/get" => match mcp::params(params).and_then(|params| resources::prompt(&params)) {
                Ok(messages) => mcp::result(&id, messages),
                Err(why) => return self.refuse(&id, &why),
            },
            other => answer_other(&id, other),
        };
        self.print(&answer);
    }

    fn is_claude(&self) -> bool {
        self.program == mcp::CLAUDE_CODE
    }

    /// Claude Code's id of the conversation. Another client that was started from a session inherits that session's id.
    fn conversation(&self) -> Option<String> {
        self.session.id().filter(|_| self.is_claude())
    }

    /// Whether messages reach the model by themselves.
    fn is_pushable(&self) -> bool {
        self.is_claude() || self.session.only.is_some()
    }

    /// The paths to this session, the preferred one first.
    fn paths(&self) -> Vec<Path> {
        if self.is_pushable() { self.session.find_paths() } else { Vec::new() }
    }

    fn take_events(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Registered { name } => self.registered(&name),
                Event::Refused(fault) => log::warn!(code = fault.code.name(); "refused"),
                Event::Lost(fault) => log::info!(code = fault.code.name(); "hub_disconnect"),
                Event::Ended { id, result, .. } => self.ended(id, &result),
                Event::Push(parcel) => self.push(parcel),
                Event::Told(ToClient::RosterChanged) => self.resources_changed = true,
                Event::Told(ToClient::Over { ask_id, .. }) => {
                    self.texts.remove_question(&ask_id);
                    self.close_forms(&ask_id);
                }
                Event::Told(_) => {}
            }
        }
        if self.calls.is_empty() {
            let left = std::mem::take(&mut self.arrived);
            self.give_back(left, "no tool call can carry it");
        }
    }

    fn registered(&mut self, name: &str) {
        let paths: Vec<&str> = self.client.who.paths.iter().map(|p| p.name()).collect();
        log::info!(name = name, paths = paths.join(" "); "register_ack");
        self.resources_changed = self.lists_resources; // they may have changed meanwhile
        self.reported.status = None;
        self.check_session();
    }

    /// Pushes a text into the session by the path that the hub chose.
    fn push(&mut self, parcel: Parcel) {
        let (push, path) = (parcel.push.clone(), parcel.path);
        let error = match (path, self.session.inbox()) {
            (Path::Form, _) => return self.open_form(parcel),
            (Path::Tool, _) => return self.arrived.push(parcel),
            (Path::Inbox, Some(socket)) => return drop(self.inbox.send((socket, parcel))), // its thread runs as long as the channel
            (Path::Channel, _) => {
                let params = json!({"content": fence::body(&parcel), "meta": fence::channel_meta(&parcel)});
                (!self.print(&mcp::notification("notifications/claude/channel", params)))
                    .then(|| "nobody reads stdout".to_owned())
            }
            _ => Some(format!("this session has no path {}", path.name())),
        };
        self.pushed(&push, error);
    }

    fn pushed(&mut self, push: &str, error: Option<String>) {
        if let Some(error) = &error {
            log::warn!(error = error.as_str(); "push_failed");
        }
        self.client.pushed(push, error);
    }

    /// Reports changes of the session to the hub: name, activity, branch, conversation, paths.
    fn check_session(&mut self) {
        if self.client.is_connected() && !self.client.is_registered() {
            return; // what has changed since the registration was sent is compared when the hub has answered
        }
        self.session.refresh();
        let (file, git) = (self.session.file.clone(), self.session.git());
        let session = self.conversation().or_else(|| self.client.who.session.clone());
        let branch = (git.branch != self.client.who.branch).then(|| git.branch.clone().unwrap_or_default());
        let is_new_session = session != self.client.who.session;
        let now_by = self.paths();
        let paths = (now_by != self.client.who.paths).then(|| now_by.clone());
        let who = &mut self.client.who;
        (who.branch, who.session, who.paths) = (git.branch, session.clone(), now_by);
        if !self.client.is_registered() {
            return;
        }
        let was_stopped = std::mem::replace(&mut self.is_stopped, process::is_stopped(self.session.pid));
        let is_new = (file.status, file.status_at) != (self.reported.status, self.reported.status_at);
        let (activity, age_ms) = match (was_stopped, self.is_stopped) {
            // Reports of hooks since the last check take precedence.
            (false, true) => (Some(Activity::Stopped), Some(0)),
            (true, false) => (file.status.or(Some(Activity::Unknown)), Some(CHECK.as_millis() as u64)),
            _ => (file.status.filter(|_| is_new), file.status_age()),
        };
        let session = session.filter(|_| is_new_session);
        if activity.is_some() || branch.is_some() || paths.is_some() || session.is_some() {
            self.client.send(&ToHub::Activity(Changes { activity, age_ms, branch, paths, session }));
        }
        if let Some(name) = file.name.clone().filter(|_| file.name != self.reported.name) {
            self.client.request(|id| ToHub::Rename { id, name, exact: false });
        }
        self.reported = file;
    }

    /// Prints one message, and returns whether that was possible. If not, the channel ends.
    fn print(&mut self, line: &str) -> bool {
        let printed = print(line);
        self.ending |= printed.is_err();
        printed.is_ok()
    }
}

/// Prints one message as one line with one write.
fn print(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes())?;
    out.flush()
}
