//! The wire protocol between the hub and everything that talks to it, version 2.
//!
//! Newline-delimited JSON over `hub.sock` or `peers.sock`: one message per line, at most [`MAX_LINE`] bytes, as `{"NAME":{FIELDS}}`.
//! The first line from a client is [`ToHub::Hello`]; the hub answers [`ToClient::Welcome`], or one [`ToClient::Error`]
//! and closes the connection. A message with an `id` is a request and gets exactly one answer, `ok` or `error` with the
//! same `id`; the client chooses its ids, which need only be unique on the connection. Unknown fields are ignored, so
//! that a newer client can talk to an older hub of the same version; a field that occurs twice is refused.
//!
//! `docs/architecture.md` shows a complete exchange.

mod report;
mod words;

use serde::{Deserialize, Serialize};

pub use report::*;
pub use words::*;

/// The protocol version that this binary speaks.
pub const VERSION: u32 = 2;
/// The longest line that either side accepts, in bytes, the newline included: a text of [`MAX_TEXT`] bytes with every byte
/// escaped, and its envelope.
pub const MAX_LINE: usize = 4 << 20;
/// The longest question or answer, in bytes of UTF-8.
pub const MAX_TEXT: usize = 512 << 10;
/// The longest of the short strings (names, ids, directories, branches), in bytes.
pub const MAX_LABEL: usize = 4096;
/// The longest thread id, in bytes.
pub const MAX_THREAD: usize = 128;
/// The longest timeout of an ask, in milliseconds: one day.
pub const MAX_TIMEOUT_MS: u64 = 86_400_000;

/// A message from a client to the hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToHub {
    /// The first line of every connection.
    Hello {
        /// The protocol version of the client.
        v: u32,
    },
    /// Register as a peer, or register again after a lost connection. Answered by [`Answer::Registered`].
    Register {
        id: u64,
        who: Box<Who>,
        /// Asks and broadcasts that are open to this client. The hub ends those that it does not know with `hub_unreachable`.
        #[serde(default)]
        lost: Vec<String>,
    },
    /// List the peers. Answered by [`Answer::Peers`]; allowed before registration.
    Peers { id: u64 },
    /// Send one [`ToClient::RosterChanged`] the next time that a peer joins, leaves or takes another name. No answer.
    WatchRoster,
    /// List open asks and the asks that ended last. Answered by [`Answer::Asks`]; allowed before registration.
    Asks { id: u64 },
    /// Ask one peer. Answered by [`Answer::Asked`] when the question was handed over, or after 0.5 s at
    /// the latest. Idempotent on `ask_id`.
    Ask(AskRequest),
    /// A form that a [`Parcel`] with the path `form` opened is closed. Answered by [`Answer::Replied`] if an
    /// answer counts, else by [`Answer::Done`], also if its ask has ended meanwhile. Idempotent.
    FormClosed {
        id: u64,
        /// The parcel's `push`.
        push: String,
        ask_id: String,
        end: FormEnd,
    },
    /// Ask every peer in `scope` that receives broadcasts. Answered by [`Answer::Broadcast`]. Idempotent on
    /// `broadcast_id`.
    Broadcast(BroadcastRequest),
    /// Answer an ask. Answered by [`Answer::Replied`] when the answer was handed over, or after 0.5 s at
    /// the latest. Idempotent on `ask_id` and `text`.
    Reply { id: u64, ask_id: String, text: String },
    /// Withdraw an ask or a broadcast by its id: its answer is no longer wanted. Answered by [`Answer::Done`], also if
    /// the hub has no such ask.
    Withdraw { id: u64, ask_id: String },
    /// Rename this peer. Answered by [`Answer::Renamed`].
    Rename {
        id: u64,
        name: String,
        /// If the name is taken, fail with `name_taken` instead of adding a suffix.
        exact: bool,
    },
    /// The client made the push that a [`Parcel`] asked for. No answer.
    Pushed {
        /// The parcel's `push`.
        push: String,
        /// Why the path could not be used; `None` when the text was handed over.
        error: Option<String>,
    },
    /// Receipts for pushes to this peer, or to the session of this waiter. No answer.
    Seen { receipts: Vec<Receipt> },
    /// Changed properties of the session that this connection registered. No answer.
    Activity(Changes),
    /// A hook of the Claude Code process `claude` fired. Answered by [`Answer::Hooked`]. Hooks do not register.
    Hook(HookReport),
    /// This connection is the waiter of the Claude Code process `claude`: parcels for the `hook` path may be sent to
    /// it. Answered by [`Answer::Done`]; the hub closes the connection when the waiter is not needed.
    Wait {
        id: u64,
        claude: String,
        /// Identifies the waiter's process. A waiter that reconnects has not printed anything: it would have exited.
        process: String,
    },
    /// Send an [`Event`] for everything that happens from now on. Answered by [`Answer::Done`].
    Watch { id: u64 },
    /// Describe the hub. Answered by [`Answer::Status`].
    Status { id: u64 },
    /// Stop the hub: flush the backlogs, remove the socket, exit. Answered by [`Answer::Done`].
    Stop { id: u64 },
    /// This peer leaves for good; its open asks, and the asks to it, end now.
    Bye,
}

/// The request to ask one peer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AskRequest {
    pub id: u64,
    /// Created by the asker; unguessable and used once: see [`crate::token`].
    pub ask_id: String,
    /// The target's name, as a person would type it.
    pub to: String,
    pub text: String,
    /// Milliseconds until the ask ends with `timeout`.
    pub timeout_ms: u64,
    /// The conversation that this ask belongs to. If it is missing, the hub starts a new one.
    pub thread: Option<String>,
    /// Whether the question is for the person in front of the session, and not for its model.
    #[serde(default)]
    pub person: bool,
}

/// The request to ask every peer in a scope.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BroadcastRequest {
    pub id: u64,
    pub broadcast_id: String,
    pub text: String,
    pub scope: Scope,
    /// Whether the asker receives the question too.
    #[serde(default)]
    pub include_self: bool,
    /// Deliver the answers together, when the last one has arrived or after this many milliseconds. `None`: deliver
    /// each answer when it arrives.
    pub collect_ms: Option<u64>,
    /// Milliseconds until the unanswered asks end with `timeout`.
    pub timeout_ms: u64,
}

/// What has changed in a session; `None` means unchanged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Changes {
    pub activity: Option<Activity>,
    /// Milliseconds since `activity` began. A hook that fired later takes precedence.
    pub age_ms: Option<u64>,
    pub branch: Option<String>,
    pub paths: Option<Vec<Path>>,
    /// The conversation with which its process goes on: see [`Who::session`].
    pub session: Option<String>,
}

/// The report of a hook.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HookReport {
    pub id: u64,
    /// See [`crate::process::process_key`].
    pub claude: String,
    pub event: HookEvent,
    /// Identifies the turn, for `prompt` and `stop`.
    pub turn: Option<String>,
    /// For `permission` and `denied`: the ask whose answer needs permission.
    pub ask_id: Option<String>,
    /// For `denied` and `failed`: the reason.
    pub reason: Option<String>,
    /// Milliseconds since the hook fired, if known: asynchronous hooks may overtake each other.
    pub age_ms: Option<u64>,
    /// Receipts for pushes to the session, in its prompt or its transcript.
    #[serde(default)]
    pub receipts: Vec<Receipt>,
}

/// A message from the hub to a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "nearly every message is of the large kind")]
pub enum ToClient {
    /// The hub accepts the connection.
    Welcome {
        v: u32,
        /// The hub's process.
        pid: u32,
        /// The epoch of the hub's state. If it differs from the client's last one, the hub has lost the client's asks.
        epoch: String,
    },
    /// A request succeeded.
    Ok { id: u64, answer: Answer },
    /// A request failed, or (without `id`) the hub is about to close the connection.
    Error { id: Option<u64>, code: Code, message: String },
    /// The waiter is not needed; the hub closes the connection.
    Dismissed,
    /// Push this to the session by the path that it names, then send `pushed`. With the path `tool` it precedes the answer to a
    /// request: the result of a tool call is to carry it.
    Push(Parcel),
    /// The state of an ask or broadcast of this peer. Its end is also delivered as a push, except for the failures
    /// within a broadcast, which its summary reports. When that push was made, the state comes again, with its path.
    State {
        /// The ask's id, or the broadcast's.
        ask_id: String,
        state: State,
        path: Option<Path>,
        /// The error, if it failed.
        code: Option<Code>,
        /// Why an answer is unlikely, although the ask is open.
        note: Option<Note>,
        /// A description for people, while the ask is open.
        detail: Option<String>,
    },
    /// An ask to this peer has ended without its answer. After `timeout` a late answer still counts.
    Over { ask_id: String, code: Code },
    /// A peer joined, left or took another name: see [`ToHub::WatchRoster`].
    RosterChanged,
    /// An event, for connections that watch.
    Event(Event),
}

impl ToClient {
    /// The answer to a request that failed, or the last message before the hub closes a connection.
    pub fn error(id: Option<u64>, Fault { code, message }: Fault) -> ToClient {
        ToClient::Error { id, code, message }
    }
}

/// The identifier of a push, and how far it is proven to have come.
pub type Receipt = (String, Proof);

/// A peer's description of itself at registration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Who {
    /// The wanted name; the hub makes a valid one of it. A peer that comes back keeps the name that the hub knows.
    pub name: String,
    /// If the name is taken, fail with `name_taken` instead of adding a suffix.
    pub exact: bool,
    pub kind: PeerKind,
    /// The peer's public identity, created by the client and kept while the session runs.
    pub peer: String,
    /// Proves that a later connection belongs to the same peer. Only the client and the hub know it.
    pub secret: String,
    /// Absolute.
    pub cwd: String,
    /// The repository that `cwd` is in: the absolute path of its common git directory.
    pub repo: Option<String>,
    pub branch: Option<String>,
    /// The session's process: Claude Code for a session, the client itself for a person or a script.
    pub pid: u32,
    /// The Claude Code process that hooks will name.
    pub claude: Option<String>,
    /// The id of the conversation in Claude Code, which another process may continue.
    pub session: Option<String>,
    /// The paths to this peer, the preferred one first.
    pub paths: Vec<Path>,
    /// Whether this peer receives broadcasts.
    pub listens: bool,
    /// The host name of the machine or container that the peer runs on. The hub keeps it if it differs from its own.
    pub host: Option<String>,
    /// Whether the peer is connected through `peers.sock`. Set by the hub.
    pub remote: bool,
    /// Whether the user's settings hold what comes by inbox until the user accepts it.
    pub held: bool,
    /// Whether its client can show a form to the person in front of it.
    pub forms: bool,
    /// Whether that person does not want to be asked by peers.
    pub person_off: bool,
    /// Whose questions need that person's consent.
    pub consent: Option<Consent>,
    /// The asks whose forms are open. The hub sends [`ToClient::Over`] for each ask that it does not know as open.
    pub open_forms: Vec<String>,
    /// Whether this is the first registration of this process: it does not know the pushes of an earlier process of the
    /// session.
    pub fresh: bool,
}

impl Who {
    /// Whether paths of both are on the same machine or in the same container. What a remote peer says of its host counts
    /// among remote ones only.
    pub fn is_at(&self, other: &Who) -> bool {
        (self.remote, &self.host) == (other.remote, &other.host)
    }
}

#[cfg(test)]
impl Who {
    /// A session in `/` without paths, for tests to begin with.
    pub fn sample(name: &str) -> Who {
        let name = name.to_owned();
        let (peer, secret, cwd) = (name.clone(), name.clone(), "/".to_owned());
        Who { name, peer, secret, cwd, pid: 1, listens: true, fresh: true, ..Who::default() }
    }
}

/// A text to deliver to a session, with its header fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Parcel {
    /// The identifier of this push: unguessable, known to the hub, the pushing process and the client that it went to.
    pub push: String,
    pub path: Path,
    pub kind: Kind,
    /// The ask's id; the broadcast's for a summary.
    pub ask_id: String,
    /// The name of the sender; for `failed` the peer that was asked, if it is known.
    pub from: String,
    /// The kind of the sender.
    pub from_kind: Option<PeerKind>,
    /// For a reply that a person gave: `person`.
    pub by: Option<PeerKind>,
    /// For a reply, and for the answers to a broadcast: the beginning of the question.
    pub about: Option<String>,
    /// The directory of `from`.
    pub cwd: Option<String>,
    pub text: String,
    /// Tells that `text` is only the first part, and where the rest is. Not on the wire: the process that pushes it cuts it
    /// as its path needs.
    #[serde(skip)]
    pub cut: Option<String>,
    /// For `failed`.
    pub code: Option<Code>,
    /// The broadcast that this belongs to.
    pub broadcast: Option<String>,
    /// The conversation that this belongs to.
    pub thread: Option<String>,
    /// A reply that came after its ask had timed out.
    pub late: bool,
    /// Whether an earlier push of this text may have arrived.
    pub again: bool,
}

/// How a form was closed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FormEnd {
    /// The person answered the question.
    Answered { text: String },
    /// The person lets the peer ask.
    Allowed {
        /// Whether that holds for all its further questions.
        always: bool,
    },
    /// The person does not want to answer, or does not let the peer ask.
    Declined,
    /// The person closed the form without a decision.
    PutOff,
    /// The client could not show the form.
    Failed,
}

/// The result of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The peer is registered.
    Registered {
        /// The peer's name.
        name: String,
        /// Its open asks and broadcasts.
        open: Vec<String>,
    },
    Peers(Roster),
    Asks(AskList),
    Asked {
        ask_id: String,
        /// The target's name.
        to: String,
        state: State,
        /// The conversation that the ask belongs to.
        thread: String,
    },
    Broadcast {
        broadcast_id: String,
        asks: Vec<Member>,
    },
    Replied {
        ask_id: String,
        /// The asker's name.
        to: String,
        state: State,
    },
    Renamed {
        name: String,
    },
    Hooked {
        /// How many pushes to the session lack a receipt: unless 0, the hook looks for them in the transcript, and reports again.
        unconfirmed: usize,
        /// For `stop`: the asks that the session has seen and not answered, of which the hook reminds the model.
        #[serde(default)]
        remind: Vec<ListedAsk>,
    },
    Status(Status),
    Done,
}

/// An error: code, what happened, what to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub code: Code,
    pub message: String,
}

/// Creates a [`Fault`].
pub fn fault(code: Code, message: impl Into<String>) -> Fault {
    Fault { code, message: message.into() }
}

/// The same as the result of a request.
///
/// # Errors
/// Always.
pub fn refused<T>(code: Code, message: impl Into<String>) -> Result<T, Fault> {
    Err(fault(code, message))
}

/// Appends `message` as one line.
pub fn write_line(line: &mut Vec<u8>, message: &impl Serialize) {
    serde_json::to_writer(&mut *line, message)
        .expect("invariant: messages have string keys, and writing to memory does not fail");
    line.push(b'\n');
}
