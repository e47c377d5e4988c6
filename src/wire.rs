//! The wire protocol between the hub and everything that talks to it, version 1.
//!
//! Newline-delimited JSON over `hub.sock`: one object a line, at most [`MAX_LINE`] bytes, tagged by `type`. The first
//! line from a client is [`ToHub::Hello`]; the hub answers [`ToClient::Welcome`] or one [`ToClient::Error`] and closes.
//! A message with an `id` is a request and is answered exactly once, by `ok` or `error` with the same `id`; `id`s are
//! the client's own and need only be unique on its connection. Unknown fields are ignored, so that a newer client may
//! talk to an older hub of the same version.
//!
//! A whole exchange is shown in `docs/architecture.md`.

use crate::json::{name, put, record, tagged, take, words};

/// The protocol version that this binary speaks.
pub const VERSION: u32 = 1;
/// The longest line either side accepts, in bytes, the newline included.
pub const MAX_LINE: usize = 1 << 20;
/// The longest question or answer, in bytes of UTF-8.
pub const MAX_TEXT: usize = 512 << 10;
/// The longest of the short strings (names, ids, directories, branches), in bytes.
pub const MAX_LABEL: usize = 4096;

tagged! {
    /// What a client says to the hub.
    pub enum ToHub by "type" {
        /// The first line of every connection.
        Hello = "hello" {
            /// The protocol version of the client.
            v: u32,
        },
        /// One thing that the client still holds from an earlier connection. Any number of them, all before `register`,
        /// which commits them together.
        Resume = "resume" { held: Held },
        /// Become a peer. Answered by [`Answer::Registered`].
        Register = "register" { id: u64, who: Box<Who> },
        /// Who is there. Answered by [`Answer::Peers`]; open to connections that are not registered.
        Peers = "peers" { id: u64 },
        /// Ask one peer. Answered by [`Answer::Asked`] as soon as the question is in the target's hands, or after a moment
        /// if that takes longer. Idempotent on `ask_id`.
        Ask = "ask" {
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
        Broadcast = "broadcast" {
            id: u64,
            broadcast_id: String,
            text: String,
            scope: Scope,
            /// Milliseconds until the asks of those that have not answered end in `timeout`.
            timeout_ms: u64,
        },
        /// Answer an ask. Answered by [`Answer::Replied`] as soon as the answer is in the asker's hands, or after a moment
        /// if that takes longer. Idempotent on `ask_id`.
        Reply = "reply" { id: u64, ask_id: String, text: String },
        /// Take another name. Answered by [`Answer::Renamed`].
        Rename = "rename" {
            id: u64,
            name: String,
            /// Fail with `name_taken` where `false` would add a suffix.
            exact: bool,
        },
        /// The client did what a [`Parcel`] told it to. No answer.
        Pushed = "pushed" {
            /// The parcel's `push`.
            push: String,
            /// Why the path could not be used; `None` when the text was handed over.
            error: Option<String> = None,
        },
        /// These pushes were met in the conversation (`pushes`) or in the client's queue for it (`accepted`). No answer.
        Seen = "seen" {
            pushes: Vec<String>,
            accepted: Vec<String> = Vec::new(),
        },
        /// What changed about the session that this connection registered. No answer. `None` leaves a field as it is.
        Activity = "activity" {
            activity: Option<Activity> = None,
            /// How long ago `activity` began: what hooks told since then is newer.
            age_ms: Option<u64> = None,
            branch: Option<String> = None,
            paths: Option<Vec<Path>> = None,
        },
        /// A hook of the Claude Code process `claude` fired. Answered by [`Answer::Hooked`]. Hooks do not register.
        Hook = "hook" {
            id: u64,
            /// See [`crate::session::process_key`].
            claude: String,
            event: HookEvent,
            /// How long ago it fired, where that is known: hooks for which nobody waits may overtake one another.
            age_ms: Option<u64> = None,
        },
        /// This connection is the waiter of the Claude Code process `claude`: parcels for the `hook` path may be sent to it.
        /// Answered by [`Answer::Done`]; the hub closes the connection when the waiter is not needed (any more).
        Wait = "wait" { id: u64, claude: String },
        /// Send an [`Event`] for everything that happens from now on. Answered by [`Answer::Done`].
        Watch = "watch" { id: u64 },
        /// What the hub is and holds. Answered by [`Answer::Status`].
        Status = "status" { id: u64 },
        /// Leave: flush the queues, remove the socket, exit. Answered by [`Answer::Done`].
        Stop = "stop" { id: u64 },
        /// This peer will not come back; its asks and debts end now.
        Bye = "bye",
    }

    /// What the hub says to a client.
    pub enum ToClient by "type" {
        /// The hub has taken the connection.
        Welcome = "welcome" {
            v: u32,
            /// The hub's process.
            pid: u32,
            /// The hub's own version, for people.
            version: String,
        },
        /// A request succeeded.
        Ok = "ok" {
            id: u64,
            answer: Answer,
            /// What could not be pushed by any path and is handed over with this answer (path `tool`).
            waiting: Vec<Parcel> = Vec::new(),
        },
        /// A request failed, or (without `id`) the connection is about to be closed.
        Error = "error" {
            id: Option<u64> = None,
            code: Code,
            message: String,
            /// As in `ok`.
            waiting: Vec<Parcel> = Vec::new(),
        },
        /// The waiter is not needed (any more); the connection is closed.
        Dismissed = "dismissed",
        /// Hand this to the session, by the path it names, then say `pushed`.
        Push = "push"(parcel: Parcel),
        /// How far a parcel got. Goes to the asker for its questions, to whom replied for its answers, and to the recipient
        /// for what it was handed.
        State = "state" {
            kind: Kind,
            /// The ask's id, or the broadcast's for a summary.
            ask_id: String,
            state: State,
            path: Option<Path> = None,
            /// How an ask of a broadcast failed; other failures are pushed.
            code: Option<Code> = None,
        },
        /// Something happened, for those who watch.
        Event = "event"(event: Event),
    }
}

record! {
    /// Who registers.
    pub struct Who {
        /// The wanted name; the hub slugs it.
        pub name: String,
        /// Fail with `name_taken` where `false` would add a suffix.
        pub exact: bool = false,
        pub kind: PeerKind,
        /// The peer's public identity, made by the client and kept for as long as the session lives.
        pub peer: String,
        /// What proves that a later connection is the same session. Known to the client and the hub only.
        pub secret: String,
        /// Absolute.
        pub cwd: String,
        /// The repository that `cwd` is in: the absolute path of its common git directory.
        pub repo: Option<String> = None,
        pub branch: Option<String> = None,
        /// The session's process: Claude Code for a session, the client itself for a person or a script.
        pub pid: u32,
        /// The Claude Code process that hooks will name.
        pub claude: Option<String> = None,
        /// The ways to reach this peer, the preferred one first.
        pub paths: Vec<Path>,
        /// Whether broadcasts go to this peer.
        pub listens: bool,
        /// Whether this process has just been started or is not the session's first: what its predecessor was told, it does
        /// not know.
        pub fresh: bool,
        /// Whether hooks were ever heard of in this session, as far as this process knows.
        pub hooked: bool = false,
    }
}

tagged! {
    /// What a client still holds when it comes back to a hub that may have forgotten it.
    pub enum Held by "what" {
        /// A question that it asked and that has not ended, or has timed out less than an hour ago.
        Asked = "asked" {
            ask_id: String,
            /// The target: identity and name.
            peer: String,
            to: String,
            /// `None` when only the id survived.
            text: Option<String> = None,
            state: State,
            age_ms: u64,
            /// Until the timeout; 0 when it has passed.
            left_ms: u64,
            broadcast: Option<String> = None,
        },
        /// A request, for an ask or for a broadcast, that was not answered and is sent again after `register`. What came of
        /// it before is still wanted.
        Asking = "asking" {
            /// The `ask_id` or `broadcast_id`.
            id: String,
            /// Until the timeout.
            left_ms: u64,
        },
        /// Something that was pushed to it: a question that it owes an answer to, or news that is not confirmed yet. Its text
        /// is empty where only the id survived.
        Given = "given" {
            parcel: Parcel,
            /// The asker's identity, for an ask.
            peer: Option<String> = None,
            state: State,
            /// The identifiers of all pushes of it so far with their paths.
            pushes: Vec<(String, Path)>,
            age_ms: u64,
        },
        /// An answer that the asker is not known to have.
        Replied = "replied" {
            ask_id: String,
            /// The asker: identity and name.
            peer: String,
            to: String,
            text: String,
        },
        /// How the ended asks of a broadcast that is still open went.
        Outcomes = "outcomes" { broadcast_id: String, outcomes: Vec<Outcome> },
    }
}

record! {
    /// One ended ask of a broadcast.
    pub struct Outcome {
        pub ask_id: String,
        pub to: String,
        /// `None` when it was answered.
        pub code: Option<Code> = None,
    }

    /// A text on its way into a session, and what the session is told about it.
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
        pub peer: Option<String> = None,
        /// The directory of `from`.
        pub cwd: Option<String> = None,
        pub text: String,
        /// For `failed`.
        pub code: Option<Code> = None,
        /// The broadcast that this belongs to.
        pub broadcast: Option<String> = None,
        /// A reply that came after its ask had timed out.
        pub late: bool = false,
        /// Whether the hub expects a receipt: the pushing process keeps the parcel until it is told that it was seen.
        pub receipt: bool = false,
    }
}

tagged! {
    /// What a request brought.
    pub enum Answer by "what" {
        /// The name that the peer now has.
        Registered = "registered" {
            name: String,
        },
        Peers = "peers"(roster: Roster),
        Asked = "asked" {
            ask_id: String,
            to: String,
            /// The target's identity.
            peer: String,
            state: State,
        },
        Broadcast = "broadcast" {
            broadcast_id: String,
            asks: Vec<Member>,
        },
        Replied = "replied" {
            ask_id: String,
            to: String,
            state: State,
        },
        Renamed = "renamed" {
            name: String,
        },
        Hooked = "hooked" {
            /// How many pushes to the session lack a receipt: unless 0, the hook looks for them in the transcript.
            unconfirmed: usize,
        },
        Status = "status"(status: Status),
        Done = "done",
    }
}

record! {
    /// One ask of a broadcast.
    pub struct Member {
        pub ask_id: String,
        pub to: String,
        /// The target's identity.
        pub peer: Option<String> = None,
    }

    /// Who is there, as one connection sees it.
    pub struct Roster {
        /// The asking peer itself; `None` for a connection that has not registered.
        pub me: Option<Me> as "self" = None,
        pub peers: Vec<PeerLine>,
        pub asks: Vec<AskLine>,
        pub owed: Vec<DebtLine>,
    }

    /// The asking peer in its own roster.
    pub struct Me {
        pub name: String,
        pub cwd: String,
        /// The path that the next push will take; `None` when every path is dead.
        pub push: Option<Path>,
    }

    /// Another peer in the roster.
    pub struct PeerLine {
        pub name: String,
        pub kind: PeerKind,
        pub cwd: String,
        pub branch: Option<String> = None,
        pub pid: u32,
        pub activity: Activity,
        /// The path that the next push will take; `None` when every path is dead.
        pub push: Option<Path>,
        /// Whether the client ever confirmed a push to this peer.
        pub confirmed: bool,
        /// Seconds since it last did.
        pub confirmed_s: Option<u64>,
        /// Seconds since it registered.
        pub connected_s: u64,
    }

    /// An open ask of the asking peer.
    pub struct AskLine {
        pub ask_id: String,
        pub to: String,
        pub state: State,
        pub age_s: u64,
        /// The same for people: when, by which path, and what it waits for.
        pub detail: String,
    }

    /// An ask that the asking peer owes an answer to.
    pub struct DebtLine {
        pub ask_id: String,
        pub from: String,
        pub age_s: u64,
    }

    /// The hub about itself.
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
    pub struct Event {
        /// Milliseconds since 1970, UTC.
        pub ts_ms: u64,
        pub event: What,
        /// The peer that did it or whose text it is; for `renamed` the old name.
        pub from: String,
        /// Whom it was for; for `renamed` the new name.
        pub to: Option<String> = None,
        pub ask_id: Option<String> = None,
        /// For `state`: of what.
        pub kind: Option<Kind> = None,
        pub state: Option<State> = None,
        pub path: Option<Path> = None,
        pub code: Option<Code> = None,
        pub text: Option<String> = None,
        /// For `refused`: which limit, and what to do.
        pub why: Option<String> = None,
    }
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
        /// A parcel got further.
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
    }

    /// How far a parcel got.
    pub enum State {
        /// The hub has it.
        Queued = "queued",
        /// It was handed to the session.
        Pushed = "pushed",
        /// The client itself confirmed that it is in the session's conversation.
        Seen = "seen",
        /// The ask was answered.
        Replied = "replied",
        /// The ask ended without an answer, or nobody waits for the parcel any more.
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
    }

    /// What is behind a peer.
    pub enum PeerKind {
        Session = "session",
        Person = "person",
        Script = "script",
    }

    /// Which hook of Claude Code fired, as far as the hub needs to know.
    pub enum HookEvent {
        /// `SessionStart`, also after `/clear`: idle.
        Start = "start",
        /// `UserPromptSubmit`: busy.
        Prompt = "prompt",
        /// `PostToolUse`: busy again if a dialog was open.
        Tool = "tool",
        /// `PermissionRequest`: waiting for the user.
        Permission = "permission",
        /// `Stop`: idle.
        Stop = "stop",
        /// `SessionEnd`, but not that of `/clear`: the session will not come back.
        End = "end",
    }

    /// How far a broadcast reaches.
    pub enum Scope {
        Machine = "machine",
        Repo = "repo",
        Directory = "directory",
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

record! {
    /// An error as it is told: the code, and what happened and what to do.
    pub struct Fault {
        pub code: Code,
        pub message: String,
    }
}
