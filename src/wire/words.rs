//! The words of the protocol.

use serde::{Deserialize, Serialize};

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
        /// Stopped by a signal or a debugger: it takes nothing until it goes on.
        Stopped = "stopped",
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
