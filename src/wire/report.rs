//! What the hub tells clients about its state: the roster, asks, itself, and what happens.

use serde::{Deserialize, Serialize};

use super::{Activity, Code, Kind, Note, Path, PeerKind, State, What};

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
