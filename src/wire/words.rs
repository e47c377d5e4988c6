//! Enums whose variants have a name on the wire.

use serde::{Deserialize, Serialize};

/// Declares enums whose variants have a name on the wire, and a method that returns that name.
macro_rules! words {
    ($($(#[$about:meta])* pub enum $name:ident { $($(#[$note:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$note])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// The name on the wire.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $word,)* }
            }
        }
    )*};
}

words! {
    /// What happened.
    #[derive(Default)]
    pub enum What {
        #[default]
        Joined = "joined",
        Left = "left",
        Renamed = "renamed",
        Ask = "ask",
        Reply = "reply",
        Failed = "failed",
        /// A delivery changed its state.
        State = "state",
        /// An open ask may not be answered.
        Note = "note",
        /// A path to a session was marked as dead.
        DeadPath = "dead_path",
        /// A limit was exceeded.
        Refused = "refused",
    }

    /// The kind of a parcel.
    #[derive(Default)]
    pub enum Kind {
        #[default]
        Ask = "ask",
        Reply = "reply",
        Failed = "failed",
        Summary = "summary",
        /// A notice of the relay about an open ask.
        Notice = "notice",
        /// Whether a peer may ask this session: a question of the relay to the person in front of it.
        Consent = "consent",
    }

    /// The state of a delivery or an ask.
    #[derive(Default)]
    pub enum State {
        /// The hub has it.
        #[default]
        Queued = "queued",
        /// It was handed to the session.
        Pushed = "pushed",
        /// The client confirmed that it is in the session's conversation.
        Seen = "seen",
        /// The ask was answered.
        Replied = "replied",
        /// The ask ended without an answer.
        Ended = "ended",
    }

    /// A path to a session.
    #[derive(Default)]
    pub enum Path {
        /// `notifications/claude/channel` from the session's channel.
        Channel = "channel",
        /// The inbox socket of the Claude Code process.
        Inbox = "inbox",
        /// The waiter, a hook that wakes an idle session.
        Hook = "hook",
        /// The result of the session's next tool call, if no other path is left.
        Tool = "tool",
        /// The peer's connection: for people and scripts.
        #[default]
        Socket = "socket",
        /// A form in front of the session's person.
        Form = "form",
    }

    /// What a session is doing.
    #[derive(Default)]
    pub enum Activity {
        /// No hook has reported.
        #[default]
        Unknown = "unknown",
        Idle = "idle",
        Busy = "busy",
        /// At a permission dialog.
        Waiting = "waiting",
        /// One of the client's own screens, such as `/model`, is open; messages wait until it closes.
        Screen = "screen",
        /// Stopped by a signal or a debugger: it takes nothing until it goes on.
        Stopped = "stopped",
    }

    /// The kind of a peer.
    #[derive(Default)]
    pub enum PeerKind {
        #[default]
        Session = "session",
        Person = "person",
        Script = "script",
    }

    /// The error codes of tools and shell commands.
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
        /// The person in front of the session said no, or cannot be asked.
        Declined = "declined",
        /// The socket that the client is connected to does not offer the request.
        NotAllowed = "not_allowed",
    }
}

/// The hook event of Claude Code, reduced to what the hub needs.
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
    /// `SessionEnd`, except after `/clear`: the session has ended.
    End,
}

/// What a receipt proves of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// In the client's queue.
    Queued,
    /// In a prompt on its way to the model. Another hook may still refuse it.
    Prompted,
    /// Refused by another hook: the model does not get the text.
    Refused,
    /// In the result of a tool call: a proof for the path `tool` only.
    InToolResult,
    /// In the conversation: the model has the text.
    Seen,
}

/// Whose questions need the consent of the person in front of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consent {
    /// Those of peers in other repositories.
    Repo,
    All,
}

/// The scope of a broadcast.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Machine,
    Repo,
    Directory,
}

/// Why an ask that was seen will probably not be answered. The ask stays open: an answer counts until the timeout.
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
    /// The person who was asked closed the form, and is asked once more.
    PutOff,
}
