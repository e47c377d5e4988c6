//! What is fuzzed, as functions of bytes: each panics when something that must hold does not. The relay's sources are
//! taken as they are.

#![allow(dead_code, unused_imports, reason = "the targets reach a part of the sources")]

/// The sources as modules of one folder, so that each finds its own submodules.
#[path = "../../src"]
mod relay {
    pub mod datadir;
    pub mod fence;
    pub mod hook;
    pub mod json;
    pub mod lines;
    pub mod link;
    pub mod mcp;
    pub mod name;
    pub mod router;
    pub mod session;
    pub mod tools;
    pub mod wire;
}
use relay::*;

mod play;

use wire::{Code, Kind, Parcel, Path, ToClient, ToHub};

/// A target of the fuzzer.
pub type Target = fn(&[u8]);

/// All of them by name.
pub const TARGETS: [(&str, Target); 5] =
    [("wire", wire), ("router", router), ("mcp", mcp), ("hook", hook), ("fence", fence)];

/// A line from a client, or from the hub: what is understood means the same when it is written again.
pub fn wire(data: &[u8]) {
    survives::<ToHub>(data);
    survives::<ToClient>(data);
}

fn survives<T: json::Record + PartialEq + std::fmt::Debug>(data: &[u8]) {
    let Ok(message) = json::read::<T>(data) else { return };
    let mut line = Vec::new();
    json::write(&mut line, &message);
    assert!(!line.contains(&b'\n'), "one line");
    assert_eq!(json::read::<T>(&line).expect("our own line"), message);
}

/// A sequence of events at the hub; see `play.rs`.
pub fn router(data: &[u8]) {
    play::play(data);
}

/// A channel's stdin. Every line that a client waits for an answer to gets exactly one, under its own id; tool calls are
/// checked whole.
pub fn mcp(data: &[u8]) {
    let mut input = data;
    let mut answered = Vec::new();
    while let Ok(Some(messages)) = mcp::read(&mut input) {
        for incoming in messages {
            match incoming {
                mcp::Incoming::Broken(answer) => answered.extend(id_of(&answer)),
                mcp::Incoming::Request { id, method, params } => {
                    answered.extend(id_of(&mcp::error(&id, mcp::METHOD_NOT_FOUND, &fence::label(&method))));
                    let client: mcp::Initialize = mcp::params(&params).unwrap_or_default();
                    id_of(&mcp::result(&id, client.answer(true)));
                    let called = mcp::params(&params).map(|call: tools::Call| call.tool());
                    if let Ok(Some(tool)) = called {
                        check_tool(&id, tool);
                    }
                }
                mcp::Incoming::Notification { .. } | mcp::Incoming::Response => {}
            }
        }
    }
    let waited_for: Vec<String> = data.split(|b| *b == b'\n').filter_map(waited_for).collect();
    // A line that is no single request may be answered as well: with an error, a batch message by message.
    let mut answers = answered.into_iter();
    for id in waited_for {
        assert!(answers.any(|answer| answer == id), "{id} is not answered, or not in its turn");
    }
}

fn check_tool(id: &mcp::Id, tool: Result<tools::Tool, wire::Fault>) {
    match tool.and_then(|tool| tool.request(|prefix| Ok(prefix.to_owned()))) {
        Err(fault) => {
            assert_eq!(fault.code, Code::BadArgs);
            let (text, structured) = tools::render_fault(&fault);
            id_of(&mcp::result(id, mcp::tool_result(&[text], structured, true)));
        }
        Ok(ToHub::Ask { to, text: question, timeout_ms, .. }) => {
            assert!(!to.trim().is_empty() && to.len() <= 256);
            assert!(!question.trim().is_empty() && question.len() <= wire::MAX_TEXT);
            assert!((1_000..=86_400_000).contains(&timeout_ms));
        }
        Ok(_) => {}
    }
}

/// The id of a line that any JSON parser takes for a request, by means that are not the relay's own.
fn waited_for(line: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Request<'a> {
        #[serde(borrow)]
        id: &'a serde_json::value::RawValue,
        #[serde(rename = "method")]
        _method: String,
    }
    let request: Request = serde_json::from_slice(line).ok()?;
    let id = request.id.get();
    (line.len() < mcp::MAX_LINE && id.starts_with(['"', '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']))
        .then(|| id.to_owned())
}

/// The id of an answer, which is one line of JSON; `None` for `null`.
fn id_of(answer: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Answer<'a> {
        jsonrpc: &'a str,
        #[serde(borrow)]
        id: &'a serde_json::value::RawValue,
    }
    assert!(!answer.contains('\n'), "one line");
    let answer: Answer = serde_json::from_str(answer).expect("JSON");
    assert_eq!(answer.jsonrpc, "2.0");
    Some(answer.id.get().to_owned()).filter(|id| id != "null")
}

/// A hook's input, and a line of a transcript.
pub fn hook(data: &[u8]) {
    if let Ok(input) = json::read::<hook::Input>(data) {
        let _ = hook::event(&input);
    }
    for push in hook::pushes_in(data) {
        assert_eq!(push.len(), 29);
        assert!(data.windows(29).any(|w| w == push.as_bytes()), "made up");
    }
    for line in data.split(|b| *b == b'\n') {
        let _ = hook::role(line);
    }
}

/// Text of a peer: whatever it is, it stays within its quotes, and our header is ours.
pub fn fence(data: &[u8]) {
    let raw = String::from_utf8_lossy(data);
    let clean = fence::clean(&raw);
    assert_eq!(fence::clean(&clean), clean, "cleaning is done once");
    assert!(clean.len() <= 2 * raw.len());
    assert!(!clean.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
    assert!(fence::quote(&raw).split('\n').all(|line| line.starts_with("> ")));
    let label = fence::label(&raw);
    assert!(
        label.chars().count() <= 200 && !label.contains(['"', '\\', '<', '>', '[', ']', '\n', '`', '\''])
    );
    assert_eq!(fence::label(&label), label);
    let slug = name::slug(&raw);
    assert_eq!(name::slug(&slug), slug);
    assert!(
        (1..=40).contains(&slug.chars().count())
            && !slug.contains(|c: char| c.is_whitespace() || c.is_control())
    );
    for (kind, path) in [(Kind::Ask, Path::Inbox), (Kind::Reply, Path::Hook), (Kind::Failed, Path::Tool)] {
        let text = fence::text(&parcel(kind, path, &raw));
        let (header, body) = text.split_once('\n').expect("a header");
        assert!(header.starts_with("[relay kind=") && header.ends_with(']'));
        assert_eq!(header.matches(['[', ']']).count(), 2);
        if kind != Kind::Failed {
            assert!(!body.split('\n').any(|line| line.starts_with("[relay")), "a second header");
        }
        for tag in ["<channel>", "<channel ", "</channel>", "<system-reminder>", "</system-reminder>"] {
            assert!(!body.contains(tag), "{tag}");
        }
    }
}

fn parcel(kind: Kind, path: Path, raw: &str) -> Parcel {
    Parcel {
        push: raw.to_owned(),
        path,
        kind,
        ask_id: raw.to_owned(),
        from: raw.to_owned(),
        peer: None,
        cwd: Some(raw.to_owned()),
        text: raw.to_owned(),
        code: None,
        broadcast: None,
        late: false,
        receipt: false,
    }
}
