//! The hub's reports to clients: roster, asks, status, events.

use serde::{Deserialize, Serialize};

use super::{Activity, Code, Kind, Note, Path, PeerKind, State, What};

/// One ask of a broadcast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub ask_id: String,
    pub to: String,
}

/// The list of peers for one connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Roster {
    /// The requesting peer; `None` if the connection is not registered.
    #[serde(rename = "self", default, skip_serializing_if = "Option::is_none")]
    pub me: Option<Me>,
    pub peers: Vec<ListedPeer>,
    /// Its open asks.
    pub asks: Vec<OpenAsk>,
    pub owed: Vec<OwedAsk>,
}

/// The requesting peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Me {
    pub name: String,
    pub cwd: String,
    /// The path of the next push; `None` if all paths are dead.
    pub push: Option<Path>,
}

/// Another peer in the roster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListedPeer {
    pub name: String,
    pub kind: PeerKind,
    /// The machine or container that the peer runs on, unless it is the hub's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    pub cwd: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    pub pid: u32,
    pub activity: Activity,
    /// The path of the next push; `None` if all paths are dead.
    pub push: Option<Path>,
    /// Whether a push to this peer was ever confirmed.
    pub confirmed: bool,
    /// Seconds since the last confirmation.
    pub confirmed_s: Option<u64>,
    /// Seconds since the peer registered.
    pub connected_s: u64,
    /// The names of further channels of the same session, whose server is configured more than once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_channels: Vec<String>,
}

/// A directory, after the host if that is not the hub's: `HOST:/DIRECTORY`.
pub fn place(host: Option<&str>, cwd: &str) -> String {
    host.map_or_else(|| cwd.to_owned(), |host| format!("{host}:{cwd}"))
}

/// An open ask that the requesting peer has to answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OwedAsk {
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
    /// Why an answer is unlikely.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<Note>,
    pub age_s: u64,
    /// Seconds until the timeout.
    pub left_s: u64,
    pub thread: String,
    /// A description of the state for people.
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

/// The status of the hub.
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
    /// Texts that are not known to have arrived.
    pub undelivered: usize,
    pub connections: usize,
    pub journal: JournalStatus,
}

/// The state of the journal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// The size of the file in bytes; 0 if there is none.
    pub bytes: u64,
    /// Why there is no journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off: Option<String>,
}

/// An event, for `relay tail`. Only the fields that apply are present.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970, UTC.
    pub ts_ms: u64,
    pub event: What,
    /// The sender or the peer that acted; for `renamed` the old name.
    pub from: String,
    /// The recipient; for `renamed` the new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<String>,
    /// For `state`: the kind of the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Path>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// For a reply that a person gave: `person`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<PeerKind>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// For `refused`: the limit and the remedy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}
