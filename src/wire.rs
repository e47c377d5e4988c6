//! The wire protocol between the hub and everything that talks to it, version 2.
//!
//! Newline-delimited JSON over `hub.sock`: one message per line, at most [`MAX_LINE`] bytes, as `{"NAME":{FIELDS}}`. The
//! first line from a client is [`ToHub::Hello`]; the hub answers [`ToClient::Welcome`], or one [`ToClient::Error`] and
//! closes the connection. A message with an `id` is a request and gets exactly one answer, `ok` or `error` with the same
//! `id`; the client chooses its ids, which need only be unique on the connection. Unknown fields are ignored, so that a
//! newer client can talk to an older hub of the same version; a field that stands twice is refused.
//!
//! `docs/architecture.md` shows a whole exchange.

use serde::{Deserialize, Serialize};

/// The protocol version that this binary speaks.
pub const VERSION: u32 = 2;
/// The longest line that either side accepts, in bytes, the newline included: a text of [`MAX_TEXT`] bytes with every byte
/// escaped, and its envelope.
pub const MAX_LINE: usize = 4 << 20;
/// The longest question or answer, in bytes of UTF-8.
pub const MAX_TEXT: usize = 512 << 10;
/// The longest of the short strings (names, ids, directories, branches), in bytes.
pub const MAX_LABEL: usize = 4096;
/// The longest that an ask may stay open, in milliseconds: one day.
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
    /// Become a peer, or come back as one. Answered by [`Answer::Registered`].
    Register {
        id: u64,
        who: Box<Who>,
        /// Asks that this client had open in an earlier epoch: the hub ends each in `hub_unreachable`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lost: Vec<LostAsk>,
    },
    /// List the peers. Answered by [`Answer::Peers`]; open to connections that have not registered.
    Peers { id: u64 },
    /// Send one [`ToClient::RosterChanged`] the next time that a peer joins, leaves or takes another name. No answer.
    WatchRoster,
    /// List open asks and the asks that ended last. Answered by [`Answer::Asks`]; open to connections that have not
    /// registered.
    Asks { id: u64 },
    /// Ask one peer. Answered by [`Answer::Asked`] when the question was handed over, or after a moment if that takes
    /// longer. Idempotent on `ask_id`.
    Ask {
        id: u64,
        /// Made by the asker, unguessable and never used again: see [`crate::token`].
        ask_id: String,
        /// The target's name, as a person would type it.
        to: String,
        text: String,
        /// Milliseconds until the ask ends in `timeout`.
        timeout_ms: u64,
        /// The conversation that this belongs to; the hub makes one where it is missing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        thread: Option<String>,
    },
    /// Ask every peer in `scope` that listens. Answered by [`Answer::Broadcast`]. Idempotent on `broadcast_id`.
    Broadcast {
        id: u64,
        broadcast_id: String,
        text: String,
        scope: Scope,
        /// Whether the asker is asked as well.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        include_self: bool,
        /// Hand the answers over together: when the last is in, or after so many milliseconds what is in by then. Without
        /// it each answer is handed over as it comes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        collect_ms: Option<u64>,
        /// Milliseconds until the asks of those that have not answered end in `timeout`.
        timeout_ms: u64,
    },
    /// Answer an ask. Answered by [`Answer::Replied`] when the answer was handed over, or after a moment if that takes
    /// longer. Idempotent on `ask_id` and `text`.
    Reply { id: u64, ask_id: String, text: String },
    /// Take back an ask or a broadcast by its id: nobody waits for it any more. Answered by [`Answer::Done`], also when the
    /// hub knows no such ask.
    Withdraw { id: u64, ask_id: String },
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
    /// What a process found out about pushes to its session. No answer.
    Seen(Receipts),
    /// What changed about the session that this connection registered. No answer. `None` leaves a field as it is.
    Activity {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        activity: Option<Activity>,
        /// Milliseconds since `activity` began: hooks that fired later know better.
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
        /// Identifies the turn, for `prompt` and `stop`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        turn: Option<String>,
        /// For `permission` and `denied`: the ask whose answer is concerned.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ask_id: Option<String>,
        /// For `denied` and `failed`: why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Milliseconds since it fired, where that is known: asynchronous hooks may overtake each other.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        age_ms: Option<u64>,
    },
    /// This connection is the waiter of the Claude Code process `claude`: parcels for the `hook` path may be sent to it.
    /// Answered by [`Answer::Done`]; the hub closes the connection when the waiter is not needed (any more).
    Wait {
        id: u64,
        claude: String,
        /// Names the waiter's process. A waiter that comes back has printed nothing: it would have exited.
        process: String,
    },
    /// Send an [`Event`] for everything that happens from now on. Answered by [`Answer::Done`].
    Watch { id: u64 },
    /// Describe the hub. Answered by [`Answer::Status`].
    Status { id: u64 },
    /// Leave: flush the queues, remove the socket, exit. Answered by [`Answer::Done`].
    Stop { id: u64 },
    /// This peer will not come back; its asks and debts end now.
    Bye,
}

/// A message from the hub to a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "nearly every message is of the large kind")]
pub enum ToClient {
    /// The hub has taken the connection.
    Welcome {
        v: u32,
        /// The hub's process.
        pid: u32,
        /// The hub's own version, for people.
        version: String,
        /// The life of the hub's state. A client that finds another epoch than before knows that its past is gone.
        epoch: String,
    },
    /// A request succeeded.
    Ok {
        id: u64,
        answer: Answer,
        /// What could not be pushed by any path and is handed over with this answer (path `tool`).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        waiting: Vec<Parcel>,
    },
    /// A request failed, or (without `id`) the hub is about to close the connection.
    Error {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
        code: Code,
        message: String,
        /// As in `ok`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        waiting: Vec<Parcel>,
    },
    /// The waiter is not needed (any more); the hub closes the connection.
    Dismissed,
    /// Hand this to the session, by the path that it names, then send `pushed`.
    Push(Parcel),
    /// How far an ask or a broadcast of this peer got. The news of its end arrives as a push of its own, except for the
    /// failures of a broadcast's asks, which the summary reports.
    State {
        /// The ask's id, or the broadcast's.
        ask_id: String,
        state: State,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<Path>,
        /// How it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
        /// Why no answer may come, though the ask is still open.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<Note>,
        /// The same for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// An ask to this peer has ended without its answer. After `timeout` a late answer still counts.
    Over { ask_id: String, code: Code },
    /// A peer joined, left or took another name: see [`ToHub::WatchRoster`].
    RosterChanged,
    /// Something happened, for connections that watch.
    Event(Event),
}

/// How far pushes got, each by its identifier.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Receipts {
    /// The Claude Code process that this is about, where the connection has no peer of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claude: Option<String>,
    /// In the conversation: the model has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seen: Vec<String>,
    /// In the result of a tool call, which proves something only for the path `tool`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub in_tool_result: Vec<String>,
    /// In the client's queue.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub queued: Vec<String>,
    /// In a prompt on its way to the model. Another hook may still refuse it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prompted: Vec<String>,
    /// Refused by another hook: the model does not get them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
}

impl Receipts {
    pub fn is_empty(&self) -> bool {
        let Receipts { claude: _, seen, in_tool_result, queued, prompted, refused } = self;
        [seen, in_tool_result, queued, prompted, refused].iter().all(|pushes| pushes.is_empty())
    }
}

/// What a peer says about itself when it registers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Who {
    /// The wanted name; the hub slugs it. A peer that comes back keeps the name that the hub knows.
    pub name: String,
    /// Fail with `name_taken` where `false` would add a suffix.
    #[serde(default)]
    pub exact: bool,
    pub kind: PeerKind,
    /// The peer's public identity, made by the client and kept for as long as the session lives.
    pub peer: String,
    /// Proves that a later connection is the same session. Known to the client and the hub only.
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
    /// Whether the user's settings hold what comes by inbox until the user accepts it.
    #[serde(default)]
    pub held: bool,
    /// Whether this process has not registered before: it does not know what an earlier process of the session was sent.
    pub fresh: bool,
}

/// An ask or a broadcast whose state was lost with its hub.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LostAsk {
    /// The ask's id, or the broadcast's.
    pub ask_id: String,
    /// Who was asked.
    pub to: String,
}

/// A text on its way into a session, and what the session is told about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parcel {
    /// The identifier of this push: unguessable, known to the hub, the pushing process and the client that it went to.
    pub push: String,
    pub path: Path,
    pub kind: Kind,
    /// The ask's id; the broadcast's for a summary.
    pub ask_id: String,
    /// The name of the peer whose text this is; for `failed` the peer that was asked.
    pub from: String,
    /// What `from` is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_kind: Option<PeerKind>,
    /// For a reply: the beginning of the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
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
    /// The conversation that this belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// A reply that came after its ask had timed out.
    #[serde(default)]
    pub late: bool,
}

/// The result of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The peer is registered.
    Registered {
        /// The name that it now has.
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
        /// How many pushes to the session lack a receipt: unless 0, the hook looks for them in the transcript.
        unconfirmed: usize,
        /// For `stop`: the asks that this turn has seen and not answered; the hook reminds the model of them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        remind: Vec<DebtLine>,
    },
    Status(Status),
    Done,
}

/// One ask of a broadcast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub ask_id: String,
    pub to: String,
}

/// The peers, as one connection sees them.
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
    /// Seconds since it last did.
    pub confirmed_s: Option<u64>,
    /// Seconds since the peer registered.
    pub connected_s: u64,
}

/// An open ask of the asking peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AskLine {
    pub ask_id: String,
    pub to: String,
    pub state: State,
    /// Why no answer may come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Note>,
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

/// The open asks of all peers, and the asks that ended last, newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AskList {
    pub open: Vec<OpenAsk>,
    pub ended: Vec<EndedAsk>,
}

/// An open ask.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OpenAsk {
    pub ask_id: String,
    pub from: String,
    pub to: String,
    pub state: State,
    /// Why no answer may come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Note>,
    pub age_s: u64,
    /// Seconds until the timeout.
    pub left_s: u64,
    pub thread: String,
    /// As in [`AskLine`].
    pub detail: String,
}

/// An ask that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndedAsk {
    pub ask_id: String,
    pub from: String,
    pub to: String,
    /// `None` when it was answered.
    pub code: Option<Code>,
    /// Seconds since the end.
    pub ended_s: u64,
}

/// The hub about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub pid: u32,
    pub version: String,
    pub protocol: u32,
    /// Seconds since this hub process started.
    pub uptime_s: u64,
    pub epoch: String,
    pub peers: usize,
    pub open_asks: usize,
    /// Texts that are on their way or not confirmed.
    pub undelivered: usize,
    pub connections: usize,
    pub journal: JournalStatus,
}

/// Whether the hub's state would survive its death.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Bytes in the file; 0 where there is none.
    pub bytes: u64,
    /// Why there is no journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off: Option<String>,
}

/// Something that happened, for `relay tail`. Only the fields that apply are there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970, UTC.
    pub ts_ms: u64,
    pub event: What,
    /// The peer that did it or whose text it is; for `renamed` the old name.
    pub from: String,
    /// The recipient; for `renamed` the new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
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

/// An error: the code, what happened, and what to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fault {
    pub code: Code,
    pub message: String,
}

/// Makes a [`Fault`].
pub fn fault(code: Code, message: impl Into<String>) -> Fault {
    Fault { code, message: message.into() }
}

/// Declares enums whose variants are words on the wire, and gives the words to the program as well.
macro_rules! words {
    ($($(#[$about:meta])* pub enum $name:ident { $($(#[$note:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$note])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// The word on the wire.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }
    )*};
}

words! {
    /// What happened.
    pub enum What {
        Joined = "joined",
        Left = "left",
        Renamed = "renamed",
        Ask = "ask",
        Reply = "reply",
        Failed = "failed",
        Summary = "summary",
        /// A text got further.
        State = "state",
        /// A path into a session did not confirm and is not used again.
        DeadPath = "dead_path",
        /// A limit was met.
        Refused = "refused",
    }

    /// What a parcel is.
    pub enum Kind {
        Ask = "ask",
        Reply = "reply",
        Failed = "failed",
        Summary = "summary",
        /// The relay's own words about an open ask.
        Notice = "notice",
    }

    /// How far a text or an ask got.
    pub enum State {
        /// The hub has it.
        Queued = "queued",
        /// It was handed to the session.
        Pushed = "pushed",
        /// The client itself confirmed that it is in the session's conversation.
        Seen = "seen",
        /// The ask was answered.
        Replied = "replied",
        /// The ask ended without an answer.
        Ended = "ended",
    }

    /// A way to get text into a session.
    pub enum Path {
        /// `notifications/claude/channel` from the session's channel.
        Channel = "channel",
        /// The inbox socket of the Claude Code process.
        Inbox = "inbox",
        /// The waiting hook that wakes an idle session.
        Hook = "hook",
        /// With the result of the session's next tool call: where every other path failed.
        Tool = "tool",
        /// The peer's own connection: a person or a script.
        Socket = "socket",
    }

    /// What a session is doing.
    pub enum Activity {
        /// No hook told.
        Unknown = "unknown",
        Idle = "idle",
        Busy = "busy",
        /// At a permission dialog.
        Waiting = "waiting",
        /// Idle behind a screen of its own, such as `/model`, which holds messages back until it closes.
        Screen = "screen",
    }

    /// What is behind a peer.
    pub enum PeerKind {
        Session = "session",
        Person = "person",
        Script = "script",
    }

    /// Why something failed: the error codes of the tools and the shell alike.
    pub enum Code {
        PeerNotFound = "peer_not_found",
        PeerGone = "peer_gone",
        Timeout = "timeout",
        NameTaken = "name_taken",
        NotRegistered = "not_registered",
        AlreadyRegistered = "already_registered",
        UnknownAsk = "unknown_ask",
        BadMsg = "bad_msg",
        HubUnreachable = "hub_unreachable",
        BadArgs = "bad_args",
        ProtocolMismatch = "protocol_mismatch",
        Overloaded = "overloaded",
    }
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
    /// `PermissionDenied`: the classifier of auto mode refused a tool call; still busy.
    Denied,
    /// `StopFailure`: idle, after an error of the model's server.
    Failed,
    /// `Stop`: idle, unless another hook makes the turn go on.
    Stop,
    /// The same, after another hook has made the turn go on.
    StopAgain,
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

/// Why an ask that was seen may not be answered. The ask is still open: an answer counts until the timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Note {
    /// The question is in the conversation of an idle session, and no turn has begun.
    NoTurn,
    /// The turn ended without an answer, also after a reminder.
    Unanswered,
    /// The user, the permission mode or the client's classifier refused the answer.
    Declined,
    /// The turn ended in an error of the model's server.
    TurnFailed,
}

/// Appends `message` as one line.
pub fn write_line(line: &mut Vec<u8>, message: &impl Serialize) {
    serde_json::to_writer(&mut *line, message)
        .expect("invariant: messages have string keys, and writing to memory does not fail");
    line.push(b'\n');
}
