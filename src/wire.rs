//! The wire protocol between the hub and everything that talks to it, version 1.
//!
//! Newline-delimited JSON over `hub.sock`: one object a line, at most [`MAX_LINE`] bytes, tagged by `type`. The first
//! line from a client is [`ToHub::Hello`]; the hub answers [`ToClient::Welcome`] or one [`ToClient::Error`] and closes.
//! A message with an `id` is a request and is answered exactly once, by `ok` or `error` with the same `id`; `id`s are
//! the client's own and need only be unique on its connection. Unknown fields are ignored, so that a newer client may
//! talk to an older hub of the same version.
//!
//! A whole exchange is shown in `docs/architecture.md`.

use serde::{Deserialize, Serialize};

/// The protocol version that this binary speaks.
pub const VERSION: u32 = 1;
/// The longest line either side accepts, in bytes, the newline included.
pub const MAX_LINE: usize = 1 << 20;
/// The longest question or answer, in bytes of UTF-8.
pub const MAX_TEXT: usize = 64 << 10;
/// The longest of the short strings (names, ids, directories, branches), in bytes.
pub const MAX_LABEL: usize = 4096;

/// What a client says to the hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToHub {
    /// The first line of every connection.
    Hello {
        /// The protocol version of the client.
        v: u32,
    },
    /// One thing that the client still holds from an earlier connection. Any number of them, all before `register`,
    /// which commits them together.
    Resume { held: Held },
    /// Become a peer. Answered by [`Answer::Registered`].
    Register { id: u64, who: Box<Who> },
    /// Who is there. Answered by [`Answer::Peers`]; open to connections that are not registered.
    Peers { id: u64 },
    /// Ask one peer. Answered by [`Answer::Asked`] as soon as the question is in the target's hands, or after a moment
    /// if that takes longer. Idempotent on `ask_id`.
    Ask {
        id: u64,
        /// Made by the asker, unguessable and never used again: see [`crate::token`].
        ask_id: String,
        /// The target's name, as a person would type it.
        to: String,
        text: String,
        /// Milliseconds until the ask ends in `timeout`.
        timeout_ms: u64,
    },
    /// Ask every peer in `scope` that listens. Answered by [`Answer::Broadcast`].
    Broadcast {
        id: u64,
        broadcast_id: String,
        text: String,
        scope: Scope,
        /// Milliseconds until the asks of those that have not answered end in `timeout`.
        timeout_ms: u64,
    },
    /// Answer an ask. Answered by [`Answer::Replied`] as soon as the answer is in the asker's hands, or after a moment
    /// if that takes longer. Idempotent on `ask_id`.
    Reply { id: u64, ask_id: String, text: String },
    /// Take another name. Answered by [`Answer::Renamed`].
    Rename {
        id: u64,
        name: String,
        /// Fail with `name_taken` where `false` would add a suffix.
        exact: bool,
    },
    /// The client did what a [`Parcel`] told it to. No answer.
    Pushed {
        /// The parcel's `push`.
        push: String,
        /// Why the path could not be used; `None` when the text was handed over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// These pushes were met in the conversation (`pushes`) or in the client's queue for it (`accepted`). No answer.
    Seen {
        pushes: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        accepted: Vec<String>,
    },
    /// What changed about the session that this connection registered. No answer. `None` leaves a field as it is.
    Activity {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        activity: Option<Activity>,
        /// How long ago `activity` began: what hooks told since then is newer.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        age_ms: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        branch: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        paths: Option<Vec<Path>>,
    },
    /// A hook of the Claude Code process `claude` fired. Answered by [`Answer::Hooked`]. Hooks do not register.
    Hook {
        id: u64,
        /// See [`crate::session::process_key`].
        claude: String,
        event: HookEvent,
        /// How long ago it fired, where that is known: hooks for which nobody waits may overtake one another.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        age_ms: Option<u64>,
    },
    /// This connection is the waiter of the Claude Code process `claude`: parcels for the `hook` path may be sent to it.
    /// Answered by [`Answer::Done`]; the hub closes the connection when another takes its place, or the session has ended.
    Wait { id: u64, claude: String },
    /// Send an [`Event`] for everything that happens from now on. Answered by [`Answer::Done`].
    Watch { id: u64 },
    /// What the hub is and holds. Answered by [`Answer::Status`].
    Status { id: u64 },
    /// Leave: flush the queues, remove the socket, exit. Answered by [`Answer::Done`].
    Stop { id: u64 },
    /// This peer will not come back; its asks and debts end now.
    Bye,
}

/// What the hub says to a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToClient {
    /// The hub has taken the connection.
    Welcome {
        v: u32,
        /// The hub's process.
        pid: u32,
        /// The hub's own version, for people.
        version: String,
    },
    /// A request succeeded.
    Ok {
        id: u64,
        answer: Answer,
        /// What could not be pushed by any path and is handed over with this answer (path `tool`).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        waiting: Vec<Parcel>,
    },
    /// A request failed, or (without `id`) the connection is about to be closed.
    Error {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        #[serde(flatten)]
        fault: Fault,
        /// As in `ok`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        waiting: Vec<Parcel>,
    },
    /// Another waiter has come, or the session has ended; the connection is closed.
    Dismissed,
    /// Hand this to the session, by the path it names, then say `pushed`.
    Push(Parcel),
    /// How far a parcel got. Goes to the asker for its questions, to whom replied for its answers, and to the recipient
    /// for what it was handed.
    State {
        kind: Kind,
        /// The ask's id, or the broadcast's for a summary.
        ask_id: String,
        state: State,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<Path>,
        /// How an ask of a broadcast failed; other failures are pushed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
    },
    /// Something happened, for those who watch.
    Event(Event),
}

/// Who registers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Who {
    /// The wanted name; the hub slugs it.
    pub name: String,
    /// Fail with `name_taken` where `false` would add a suffix.
    #[serde(default)]
    pub exact: bool,
    pub kind: PeerKind,
    /// The peer's public identity, made by the client and kept for as long as the session lives.
    pub peer: String,
    /// What proves that a later connection is the same session. Known to the client and the hub only.
    pub secret: String,
    /// Absolute.
    pub cwd: String,
    /// The repository that `cwd` is in: the absolute path of its common git directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The session's process: Claude Code for a session, the client itself for a person or a script.
    pub pid: u32,
    /// The Claude Code process that hooks will name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claude: Option<String>,
    /// The ways to reach this peer, the preferred one first.
    pub paths: Vec<Path>,
    /// Whether broadcasts go to this peer.
    pub listens: bool,
    /// Whether this process has just been started or is not the session's first: what its predecessor was told, it does
    /// not know.
    pub fresh: bool,
    /// Whether hooks were ever heard of in this session, as far as this process knows.
    #[serde(default)]
    pub hooked: bool,
}

/// What a client still holds when it comes back to a hub that may have forgotten it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Held {
    /// A question that it asked and that has not ended, or has timed out less than an hour ago.
    Asked {
        ask_id: String,
        /// The target: identity and name.
        peer: String,
        to: String,
        /// `None` when only the id survived.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
        state: State,
        age_ms: u64,
        /// Until the timeout; 0 when it has passed.
        left_ms: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        broadcast: Option<String>,
    },
    /// A request, for an ask or for a broadcast, that was not answered and is sent again after `register`. What came of
    /// it before is still wanted.
    Asking {
        /// The `ask_id` or `broadcast_id`.
        id: String,
        /// Until the timeout.
        left_ms: u64,
    },
    /// Something that was pushed to it: a question that it owes an answer to, or news that is not confirmed yet. Its text
    /// is empty where only the id survived.
    Given {
        parcel: Parcel,
        /// The asker's identity, for an ask.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peer: Option<String>,
        state: State,
        /// The identifiers of all pushes of it so far with their paths.
        pushes: Vec<(String, Path)>,
        age_ms: u64,
    },
    /// An answer that the asker is not known to have.
    Replied {
        ask_id: String,
        /// The asker: identity and name.
        peer: String,
        to: String,
        text: String,
    },
    /// How the ended asks of a broadcast that is still open went.
    Outcomes { broadcast_id: String, outcomes: Vec<Outcome> },
}

/// One ended ask of a broadcast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    pub ask_id: String,
    pub to: String,
    /// `None` when it was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
}

/// A text on its way into a session, and what the session is told about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parcel {
    /// The identifier of this push: unguessable, known to the hub, the pushing process and the client it went to.
    pub push: String,
    pub path: Path,
    pub kind: Kind,
    /// The ask's id; the broadcast's for a summary.
    pub ask_id: String,
    /// The name of the peer whose text this is; for `failed` the peer that was asked.
    pub from: String,
    /// The asker's identity, for an ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The directory of `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    pub text: String,
    /// For `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The broadcast that this belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<String>,
    /// A reply that came after its ask had timed out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    /// Whether the hub expects a receipt: the pushing process keeps the parcel until it is told that it was seen.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub receipt: bool,
}

/// What a request brought.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The name that the peer now has.
    Registered {
        name: String,
    },
    Peers(Roster),
    Asked {
        ask_id: String,
        to: String,
        /// The target's identity.
        peer: String,
        state: State,
    },
    Broadcast {
        broadcast_id: String,
        asks: Vec<Member>,
    },
    Replied {
        ask_id: String,
        to: String,
        state: State,
    },
    Renamed {
        name: String,
    },
    Hooked {
        /// How many pushes to the session lack a receipt: unless 0, the hook looks for them in the transcript.
        unconfirmed: usize,
    },
    Status(Status),
    Done,
}

/// One ask of a broadcast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub ask_id: String,
    pub to: String,
    /// The target's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
}

/// Who is there, as one connection sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Roster {
    /// The asking peer itself; `None` for a connection that has not registered.
    #[serde(rename = "self", default, skip_serializing_if = "Option::is_none")]
    pub me: Option<Me>,
    pub peers: Vec<PeerLine>,
    pub asks: Vec<AskLine>,
    pub owed: Vec<DebtLine>,
}

/// The asking peer in its own roster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Me {
    pub name: String,
    pub cwd: String,
    /// The path that the next push will take; `None` when every path is dead.
    pub push: Option<Path>,
}

/// Another peer in the roster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerLine {
    pub name: String,
    pub kind: PeerKind,
    pub cwd: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    pub pid: u32,
    pub activity: Activity,
    /// The path that the next push will take; `None` when every path is dead.
    pub push: Option<Path>,
    /// Whether the client ever confirmed a push to this peer.
    pub confirmed: bool,
    /// Seconds since it registered.
    pub connected_s: u64,
}

/// An open ask of the asking peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AskLine {
    pub ask_id: String,
    pub to: String,
    pub state: State,
    pub age_s: u64,
    /// The same for people: when, by which path, and what it waits for.
    pub detail: String,
}

/// An ask that the asking peer owes an answer to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DebtLine {
    pub ask_id: String,
    pub from: String,
    pub age_s: u64,
}

/// The hub about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub pid: u32,
    pub version: String,
    pub protocol: u32,
    pub uptime_s: u64,
    pub peers: usize,
    pub open_asks: usize,
    /// Parcels that are on their way or not confirmed.
    pub undelivered: usize,
    pub connections: usize,
}

/// Something that happened, for `relay tail`. Only the fields that apply are there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970, UTC.
    pub ts_ms: u64,
    pub event: What,
    /// The peer that did it or whose text it is; for `renamed` the old name.
    pub from: String,
    /// Whom it was for; for `renamed` the new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask_id: Option<String>,
    /// For `state`: of what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Path>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// For `refused`: which limit, and what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Joined,
    Left,
    Renamed,
    Ask,
    Reply,
    Failed,
    Summary,
    /// A parcel got further.
    State,
    /// A path into a session did not confirm and is not used again.
    DeadPath,
    /// A limit was met.
    Refused,
}

/// What a parcel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Ask,
    Reply,
    Failed,
    Summary,
}

/// How far a parcel got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The hub has it.
    Queued,
    /// It was handed to the session.
    Pushed,
    /// The client itself confirmed that it is in the session's conversation.
    Seen,
    /// The ask was answered.
    Replied,
    /// The ask ended without an answer, or nobody waits for the parcel any more.
    Ended,
}

/// A way to get text into a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// `notifications/claude/channel` from the session's channel.
    Channel,
    /// The inbox socket of the Claude Code process.
    Inbox,
    /// The waiting hook that wakes an idle session.
    Hook,
    /// With the result of the session's next tool call: where every other path failed.
    Tool,
    /// The peer's own connection: a person or a script.
    Socket,
}

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// No hook told.
    Unknown,
    Idle,
    Busy,
    /// At a permission dialog.
    Waiting,
}

/// What is behind a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerKind {
    Session,
    Person,
    Script,
}

/// Which hook of Claude Code fired, as far as the hub needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookEvent {
    /// `SessionStart`, also after `/clear`: idle.
    Start,
    /// `UserPromptSubmit`: busy.
    Prompt,
    /// `PostToolUse`: busy again if a dialog was open.
    Tool,
    /// `PermissionRequest`: waiting for the user.
    Permission,
    /// `Stop`: idle.
    Stop,
    /// `SessionEnd`, but not that of `/clear`: the session will not come back.
    End,
}

/// How far a broadcast reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Machine,
    Repo,
    Directory,
}

/// Why something failed: the error codes of the tools and the shell alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    PeerNotFound,
    PeerGone,
    Timeout,
    NameTaken,
    NotRegistered,
    AlreadyRegistered,
    UnknownAsk,
    BadMsg,
    HubUnreachable,
    BadArgs,
    ProtocolMismatch,
    Overloaded,
}

/// An error as it is told: the code, and what happened and what to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub code: Code,
    pub message: String,
}

impl Path {
    /// The path as it is written everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Path::Channel => "channel",
            Path::Inbox => "inbox",
            Path::Hook => "hook",
            Path::Tool => "tool",
            Path::Socket => "socket",
        }
    }
}

impl Code {
    /// The code as it is written everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Code::PeerNotFound => "peer_not_found",
            Code::PeerGone => "peer_gone",
            Code::Timeout => "timeout",
            Code::NameTaken => "name_taken",
            Code::NotRegistered => "not_registered",
            Code::AlreadyRegistered => "already_registered",
            Code::UnknownAsk => "unknown_ask",
            Code::BadMsg => "bad_msg",
            Code::HubUnreachable => "hub_unreachable",
            Code::BadArgs => "bad_args",
            Code::ProtocolMismatch => "protocol_mismatch",
            Code::Overloaded => "overloaded",
        }
    }
}
