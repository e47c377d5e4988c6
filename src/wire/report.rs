//! The hub's reports to clients: roster, asks, status, events.

use serde::{Deserialize, Serialize};

use super::{Activity, Code, Kind, Note, Path, PeerKind, State, What};

/// An ask, or one of a broadcast, by its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The ask's id, or the broadcast's.
    pub ask_id: String,
    /// The name of the peer that was asked.
    pub to: String,
}

/// The list of peers for one connection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Roster {
    /// The requesting peer; `None` if the connection is not registered.
    #[serde(rename = "self")]
    pub me: Option<ListedPeer>,
    /// The other peers.
    pub peers: Vec<ListedPeer>,
    /// Its open asks.
    pub asks: Vec<ListedAsk>,
    /// The open asks that it has to answer.
    pub owed: Vec<ListedAsk>,
}

/// A peer in the roster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ListedPeer {
    pub name: String,
    pub kind: PeerKind,
    /// The machine or container that the peer runs on, unless it is the hub's.
    pub host: Option<String>,
    pub cwd: String,
    pub branch: Option<String>,
    pub pid: u32,
    pub activity: Activity,
    /// The path of the next push; `None` if all paths are dead.
    pub push: Option<Path>,
    /// Whether a push to this peer was ever confirmed.
    pub confirmed: bool,
    /// Seconds since the peer registered.
    pub connected_s: u64,
    /// The names of further channels of the same session, whose server is configured more than once.
    #[serde(default)]
    pub other_channels: Vec<String>,
}

/// A directory, after the host if that is not the hub's: `HOST:/DIRECTORY`.
pub fn place(host: Option<&str>, cwd: &str) -> String {
    host.map_or_else(|| cwd.to_owned(), |host| format!("{host}:{cwd}"))
}

/// The open asks of all peers, and the asks that ended last, newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AskList {
    pub open: Vec<ListedAsk>,
    pub ended: Vec<ListedAsk>,
}

/// An ask in a list.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ListedAsk {
    pub ask_id: String,
    pub from: String,
    pub to: String,
    pub state: State,
    /// Why an answer is unlikely.
    pub note: Option<Note>,
    /// Seconds since it was asked, or since its end.
    pub age_s: u64,
    /// Seconds until the timeout.
    pub left_s: u64,
    pub thread: String,
    /// A description of the state for people. Of an ended ask the error code, `answered` or `withdrawn`.
    pub detail: String,
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
    pub off: Option<String>,
}

/// An event, for `relay tail`. Fields that do not apply are `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since 1970, UTC.
    pub ts_ms: u64,
    pub event: What,
    /// The sender or the peer that acted; for `renamed` the old name.
    pub from: String,
    /// The recipient; for `renamed` the new name.
    pub to: Option<String>,
    pub ask_id: Option<String>,
    pub thread: Option<String>,
    /// For `state`: the kind of the text.
    pub kind: Option<Kind>,
    pub state: Option<State>,
    pub path: Option<Path>,
    pub code: Option<Code>,
    /// For `note`: why an answer is unlikely; `text` says it in words.
    pub note: Option<Note>,
    /// For a reply that a person gave: `person`.
    pub by: Option<PeerKind>,
    pub text: Option<String>,
    /// For `refused`: the limit and the remedy.
    pub why: Option<String>,
}
