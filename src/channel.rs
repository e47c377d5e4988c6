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
use std::fs::File;
use std::io::{self, BufReader, Write};
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use serde_json::{Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::client::{Client, Event};
use crate::connection::{self, FromHub};
use crate::datadir::DataDir;
use crate::fence;
use crate::mcp::{self, Id, Incoming, Initialize};
use crate::process;
use crate::texts::{self, Texts};
use crate::threads::{PARSER, SMALL, spawn};
use crate::token::Tokens;
use crate::wire::{Activity, Changes, Parcel, Path, ToClient, ToHub, Who};
use calls::Call;
use identity::Identity;
use surroundings::Surroundings;

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
    /// The session as the hub knows it, with the time of its status in its file.
    reported: (Changes, Option<u64>),
    /// The name in the session's file as the hub knows it.
    named: Option<String>,
    texts: Texts,
    /// How the program at the other end of stdin introduced itself.
    program: Initialize,
    /// The locked identity file.
    identity: Option<File>,
    /// The open calls, by the id of the request to the hub that each waits for.
    calls: HashMap<u64, Call>,
    /// The open call of `relay_wait`, and when its time is up.
    wait: Option<(Id, Instant)>,
    /// Texts of the path `tool` that no result has carried yet.
    arrived: Vec<Parcel>,
    /// Whether the resources have changed since the client asked for them.
    resources_changed: bool,
    /// Whether stdin has ended, or nobody reads stdout: the channel exits after it has answered the open calls.
    ending: bool,
    /// To the thread that pushes by inbox: the socket, the identifier of the push, and the text.
    inbox: Sender<(PathBuf, String, String)>,
    /// The forms that are open in front of its user. The id of a form's request is the push.
    forms: Vec<Parcel>,
}

/// `relay channel`: serves the session on stdin and stdout until stdin closes, its parent is gone, or a signal comes.
pub fn run(dir: &DataDir) -> ExitCode {
    // Before the first connection, which may change the working directory.
    let session = Surroundings::new();
    crate::logging::init(&dir.logs(), "channel", true);
    match serve(dir, session) {
        Ok(why) => {
            log::debug!(why = why; "channel_close");
            ExitCode::SUCCESS
        }
        Err(e) => {
            log::error!(error:% = e; "channel_failed");
            ExitCode::FAILURE
        }
    }
}

/// Serves until the session ends, and returns why.
fn serve(dir: &DataDir, session: Surroundings) -> io::Result<&'static str> {
    let (received, all) = bounded(256);
    let _ = dir.prepare(); // without a usable directory there is no hub, and the calls say why
    listen(&received)?;
    let (inbox, texts) = unbounded();
    inbox::serve(texts, received.clone())?;
    let mut channel = Channel {
        client: Client::new(Tokens::new()?, Who::default()),
        reported: Default::default(),
        named: session.file.name.clone(),
        texts: Texts::new(dir, session.key.clone()),
        session,
        program: Initialize::default(),
        identity: None,
        calls: HashMap::new(),
        wait: None,
        arrived: Vec::new(),
        resources_changed: false,
        ending: false,
        inbox,
        forms: Vec::new(),
    };
    let why = channel.serve(dir, &received, &all)?;
    channel.client.leave();
    Ok(why)
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
    /// Takes the session's identity and connects to the hub, on the first request that depends on who the client is: `initialize`,
    /// or the tools for a client that does not introduce itself.
    fn begin(&mut self, dir: &DataDir, received: &Sender<Received>, incoming: &Incoming) -> io::Result<()> {
        let Incoming::Request { method, params, .. } = incoming else { return Ok(()) };
        let has_begun = !self.client.who.peer.is_empty();
        if has_begun || !matches!(method.as_str(), "initialize" | "tools/call" | "tools/list") {
            return Ok(());
        }
        let (at, hub) = (dir.clone(), received.clone());
        spawn("hub", PARSER, move || {
            connection::keep(at, |message| hub.send(Received::Hub(message)).is_ok())
        })?;
        self.program = mcp::params(params).unwrap_or_default();
        if !self.is_claude() {
            // Another client may run all its sessions under one process.
            self.session.key = process::key(std::process::id());
        }
        let key = self.session.key.clone();
        log::debug!(key = key; "channel_start");
        let (identity, file) = Identity::open(&dir.sessions().join(&key), &mut Tokens::new()?)?;
        self.identity = file;
        self.texts = Texts::new(dir, key);
        let forms = self.program.shows_forms() && self.is_claude() && self.session.find_person();
        let (paths, session) = (self.paths(), self.conversation());
        self.client.who = Who { forms, paths, session, ..self.session.who(identity) };
        // Files of sessions that have ended. In a container, whose hub is elsewhere, nobody else removes its texts.
        process::sweep(&dir.sessions(), Duration::MAX);
        texts::sweep(dir);
        Ok(())
    }

    fn serve(
        &mut self,
        dir: &DataDir,
        received: &Sender<Received>,
        all: &Receiver<Received>,
    ) -> io::Result<&'static str> {
        let mut check = Instant::now() + CHECK;
        loop {
            let until = self.client.deadline().map_or(check, |deadline| deadline.min(check));
            match all.recv_deadline(until) {
                Ok(Received::Client(incoming)) => {
                    self.begin(dir, received, &incoming)?;
                    self.answer_client(incoming);
                }
                Ok(Received::Hub(message)) => {
                    self.client.who.open_forms = self.forms.iter().map(|form| form.ask_id.clone()).collect();
                    let events = self.client.handle(message);
                    self.take_events(events);
                }
                Ok(Received::Inbox(push, error)) => self.pushed(&push, error),
                Ok(Received::Signal) => return Ok("a signal"),
                Ok(Received::ClientGone) => self.ending = true,
                Err(_) => {} // a deadline has passed
            }
            let now = Instant::now();
            let late = self.client.expire(now);
            self.take_events(late);
            if self.ending {
                self.end_wait(None);
                if self.calls.is_empty() {
                    return Ok("stdin or stdout closed");
                }
            }
            if now >= check {
                check = now + CHECK;
                if parent_id() != self.session.pid {
                    log::info!("parent_gone");
                    return Ok("its parent is gone");
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
            // Only `relay_wait` takes long enough to matter.
            Incoming::Notification { cancels } => {
                drop(self.wait.take_if(|wait| cancels.as_ref() == Some(&wait.0)))
            }
            Incoming::Response { id, result } => self.form_answered(&id, result.as_deref()),
            Incoming::Request { id, method, params } => self.answer_request(id, &method, &params),
        }
    }

    fn answer_request(&mut self, id: Id, method: &str, params: &str) {
        let answer = match method {
            "initialize" => {
                let client: Initialize = mcp::params(params).unwrap_or_default();
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
            "ping" => mcp::result(&id, json!({})),
            _ => mcp::error(&id, mcp::METHOD_NOT_FOUND, "this server has no such method"),
        };
        self.print(&answer);
    }

    fn is_claude(&self) -> bool {
        self.program.client() == mcp::CLAUDE_CODE
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
        self.resources_changed = true;
        self.reported = (self.report(None), None);
        self.check_session();
    }

    /// The session as it is registered.
    fn report(&self, activity: Option<Activity>) -> Changes {
        let Who { branch, paths, session, .. } = self.client.who.clone();
        let branch = Some(branch.unwrap_or_default());
        Changes { activity, age_ms: None, branch, paths: Some(paths), session }
    }

    /// Pushes a text into the session by the path that the hub chose.
    fn push(&mut self, parcel: Parcel) {
        let (push, path) = (parcel.push.clone(), parcel.path);
        let error = match (path, self.session.inbox()) {
            (Path::Form, _) => return self.open_form(parcel),
            (Path::Tool, _) => return self.arrived.push(parcel),
            (Path::Inbox, Some(socket)) => {
                let text = self.texts.fit(&parcel, inbox::MAX_TEXT, fence::inbox_text);
                return drop(self.inbox.send((socket, push, text))); // its thread runs as long as the channel
            }
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
        let (branch, paths) = (self.session.git().branch, self.paths());
        let session = self.conversation().or_else(|| self.client.who.session.take());
        let who = &mut self.client.who;
        (who.branch, who.paths, who.session) = (branch, paths, session);
        if !self.client.is_registered() {
            return;
        }
        let file = &self.session.file;
        let was_stopped = self.reported.0.activity == Some(Activity::Stopped);
        let (activity, age_ms) = match (was_stopped, process::is_stopped(self.session.pid)) {
            (_, true) => (Some(Activity::Stopped), Some(0)),
            // Reports of hooks since the last check take precedence.
            (true, false) => (file.status.or(Some(Activity::Unknown)), Some(CHECK.as_millis() as u64)),
            (false, false) => (file.status, file.status_age()),
        };
        let (name, status_at) = (file.name.clone(), file.status_at);
        let report = self.report(activity);
        if (&report, status_at) != (&self.reported.0, self.reported.1) {
            let session = report.session.clone().filter(|_| report.session != self.reported.0.session);
            self.client.send(&ToHub::Activity(Changes { age_ms, session, ..report.clone() }));
            self.reported = (report, status_at);
        }
        if let Some(name) = name.clone().filter(|_| name != self.named) {
            self.client.request(|id| ToHub::Rename { id, name, exact: false });
        }
        self.named = name;
    }

    /// Prints one message as one line with one write, and returns whether that was possible. If not, the channel ends.
    fn print(&mut self, line: &str) -> bool {
        let mut out = io::stdout().lock();
        let printed = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
        self.ending |= printed.is_err();
        printed.is_ok()
    }
}
