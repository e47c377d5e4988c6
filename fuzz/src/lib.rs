//! The fuzz targets, as functions of bytes. Each panics when an invariant is violated. The relay's sources are compiled
//! unchanged.

#![allow(dead_code, unused_imports, reason = "the targets use a part of the sources")]

/// The sources as modules of one directory, so that each finds its own submodules.
#[path = "../../src"]
mod relay {
    pub mod channel {
        pub mod tools;
    }
    pub mod datadir;
    pub mod fence;
    pub mod hook;
    pub mod hub {
        pub mod journal;
        pub mod router;
    }
    pub mod lines;
    pub mod connection;
    pub mod mcp;
    pub mod name;
    pub mod process;
    pub mod repository;
    pub mod span;
    pub mod texts;
    pub mod threads;
    pub mod wire;
}
use relay::*;

mod play;

use channel::tools;
use serde::{Serialize, de::DeserializeOwned};
use wire::{AskRequest, BroadcastRequest, Code, Kind, Parcel, Path, PeerKind, ToClient, ToHub};

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: [(&str, Target); 5] =
    [("wire", wire), ("router", router), ("mcp", mcp), ("hook", hook), ("fence", fence)];

/// A line from a client or from the hub: an accepted message is unchanged after it is written and read again.
pub fn wire(data: &[u8]) {
    check_round_trip::<ToHub>(data);
    check_round_trip::<ToClient>(data);
}

fn check_round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(data) else { return };
    let mut line = Vec::new();
    wire::write_line(&mut line, &message);
    assert_eq!(line.iter().position(|b| *b == b'\n'), Some(line.len() - 1), "one line");
    assert_eq!(serde_json::from_slice::<T>(&line).expect("our own line"), message);
}

/// A sequence of inputs of the hub's router; see `play.rs`.
pub fn router(data: &[u8]) {
    play::play(data);
}

/// A channel's standard input. Every line with an id is answered once, with that id, whatever else stands in it; the arguments of
/// tool calls are within their bounds.
pub fn mcp(data: &[u8]) {
    let mut each = Vec::new();
    for line in data.split(|b| *b == b'\n') {
        let answered = answers(line);
        match request_id(line) {
            Some(id) => assert_eq!(answered, [id]),
            None => assert!(answered.len() <= 1),
        }
        each.extend(answered);
        let answered =
            answers(&[br#"{"jsonrpc":"2.0","id":4711,"method":"tools/call","params":"#, line].concat());
        assert_eq!(answered.len(), 1);
        let may_have_another = line.windows(4).any(|w| w == br#""id""#);
        assert!(answered == ["4711"] || may_have_another, "{answered:?}");
    }
    assert_eq!(answers(data), each, "lines do not depend on each other");
}

/// The ids of the answers to this input.
fn answers(mut input: &[u8]) -> Vec<String> {
    let mut answered = Vec::new();
    while let Ok(Some(incoming)) = mcp::read(&mut input) {
        match incoming {
            mcp::Incoming::Broken(answer) => answered.push(id_of(&answer)),
            mcp::Incoming::Request { id, method, params } => {
                answered.push(id_of(&mcp::error(&id, mcp::METHOD_NOT_FOUND, &fence::label(&method))));
                let client: mcp::Initialize = mcp::params(&params).unwrap_or_default();
                id_of(&mcp::result(&id, client.answer(client.client() == mcp::CLAUDE_CODE)));
                let called = mcp::params(&params).map(|call: tools::Call| call.tool(false));
                if let Ok(Some(tool)) = called {
                    check_tool(&id, tool);
                }
            }
            mcp::Incoming::Notification { params, .. } => {
                let _ = mcp::cancelled(&params);
            }
            mcp::Incoming::Response { .. } => {}
        }
    }
    answered
}

fn check_tool(id: &mcp::Id, tool: Result<tools::Tool, wire::Fault>) {
    let is_label = |label: &str| !label.trim().is_empty() && label.len() <= 256;
    let is_text = |text: &str| !text.trim().is_empty() && text.len() <= wire::MAX_TEXT;
    let is_timeout = |ms: u64| (1_000..=wire::MAX_TIMEOUT_MS).contains(&ms);
    match tool.map(|tool| tool.request(0, "1")) {
        Err(fault) => {
            assert_eq!(fault.code, Code::BadArgs);
            let (text, structured) = tools::render_fault(&fault);
            id_of(&mcp::result(id, mcp::tool_result(&[text], structured, true)));
        }
        Ok(ToHub::Ask(AskRequest { to, text, timeout_ms, thread, .. })) => {
            assert!(is_label(&to) && is_text(&text) && is_timeout(timeout_ms));
            assert!(thread.is_none_or(|thread| is_label(&thread)));
        }
        Ok(ToHub::Broadcast(BroadcastRequest { text, timeout_ms, collect_ms, .. })) => {
            assert!(is_text(&text) && is_timeout(timeout_ms) && collect_ms.is_none_or(is_timeout));
        }
        Ok(ToHub::Reply { ask_id, text, .. }) => assert!(is_label(&ask_id) && is_text(&text)),
        Ok(ToHub::Rename { name, .. }) => assert!(is_label(&name)),
        Ok(other) => assert!(matches!(other, ToHub::Peers { .. }), "{other:?}"),
    }
}

/// The id of a line that any JSON parser takes for a request, found without the relay's own parser.
fn request_id(line: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Request<'a> {
        #[serde(borrow)]
        id: &'a serde_json::value::RawValue,
        #[serde(rename = "method")]
        _method: String,
    }
    let request: Request = serde_json::from_slice(line).ok()?;
    let id = request.id.get();
    (line.len() < mcp::MAX_LINE
        && id.starts_with(['"', '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']))
    .then(|| id.to_owned())
}

/// The id of a response, which is one line of JSON.
fn id_of(answer: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Answer<'a> {
        jsonrpc: &'a str,
        #[serde(borrow)]
        id: &'a serde_json::value::RawValue,
    }
    assert!(!answer.contains('\n'), "one line");
    let answer: Answer = serde_json::from_str(answer).expect("JSON");
    assert_eq!(answer.jsonrpc, "2.0");
    answer.id.get().to_owned()
}

/// A hook's input, and lines of a transcript: only identifiers that are present are found.
pub fn hook(data: &[u8]) {
    if let Ok(input) = serde_json::from_slice::<hook::Input>(data) {
        let _ = (input.event(), input.answered_ask());
    }
    let pushes = hook::pushes_in(data);
    for (n, push) in pushes.iter().enumerate() {
        assert_eq!(push.len(), 29);
        assert!(data.windows(29).any(|w| w == push.as_bytes()), "invented");
        assert!(!pushes[..n].contains(push), "found twice");
    }
    for line in data.split(|b| *b == b'\n') {
        let proof = hook::transcript::proof(line);
        assert!(proof.is_none() || serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok());
    }
}

/// A peer's text, name and directory: the text stays within its quotes, and there is one header.
pub fn fence(data: &[u8]) {
    let raw = String::from_utf8_lossy(data);
    let clean = fence::clean(&raw);
    assert_eq!(fence::clean(&clean), clean, "cleaning is idempotent");
    assert!(clean.len() <= 2 * raw.len());
    assert!(!clean.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
    assert!(hook::pushes_in(clean.as_bytes()).is_empty(), "a receipt");
    assert!(fence::quote(&raw).split('\n').all(|line| line.starts_with("> ")));
    let label = fence::label(&raw);
    assert!(
        label.chars().count() <= 200 && !label.contains(['"', '\\', '<', '>', '[', ']', '\n', '`', '\''])
    );
    assert_eq!(fence::label(&label), label);
    for of in [name::slug, name::wish] {
        let name = of(&raw);
        assert_eq!(of(&name), name);
        assert!(name::is_valid(&name) && (1..=name::MAX_NAME).contains(&name.chars().count()));
        assert!(!name.contains(|c: char| c.is_whitespace() || c.is_control()));
    }
    for kind in [Kind::Ask, Kind::Reply, Kind::Failed, Kind::Summary, Kind::Notice] {
        check_parcel(&parcel(kind, &raw));
    }
}

fn check_parcel(parcel: &Parcel) {
    let text = fence::text(parcel);
    let (header, body) = text.split_once('\n').expect("a header");
    assert!(header.starts_with("[relay kind=") && header.ends_with(']'));
    assert_eq!(header.matches(['[', ']']).count(), 2);
    if matches!(parcel.kind, Kind::Ask | Kind::Reply) {
        assert!(!body.split('\n').any(|line| line.starts_with("[relay")), "a second header");
    }
    for tag in ["<channel>", "<channel ", "</channel>", "<system-reminder>", "</system-reminder>"] {
        assert!(!body.contains(tag), "{tag}");
    }
    let text = fence::inbox_text(parcel);
    let tags = ["<cross-session-message ", "</cross-session-message>"].map(|tag| text.matches(tag).count());
    assert_eq!(tags, [1, 1], "the block is closed once");
}

fn parcel(kind: Kind, raw: &str) -> Parcel {
    let text = || Some(raw.to_owned());
    Parcel {
        push: raw.to_owned(),
        path: Path::Inbox,
        kind,
        ask_id: raw.to_owned(),
        from: raw.to_owned(),
        from_kind: Some(PeerKind::Session),
        by: Some(PeerKind::Person),
        about: text(),
        cwd: text(),
        text: raw.to_owned(),
        cut: None,
        code: None,
        broadcast: None,
        thread: text(),
        late: false,
        again: true,
    }
}
