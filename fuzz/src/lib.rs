//! What is fuzzed, as functions of bytes: each panics when something that must hold does not. The relay's sources are
//! taken as they are.

#![allow(dead_code, reason = "the targets reach a part of the sources")]

#[path = "../../src/datadir.rs"]
mod datadir;
#[path = "../../src/fence.rs"]
mod fence;
#[path = "../../src/hook.rs"]
mod hook;
#[path = "../../src/json.rs"]
mod json;
#[path = "../../src/lines.rs"]
mod lines;
#[path = "../../src/link.rs"]
mod link;
#[path = "../../src/mcp.rs"]
mod mcp;
#[path = "../../src/name.rs"]
mod name;
#[path = "../../src/router/mod.rs"]
mod router;
#[path = "../../src/session.rs"]
mod session;
#[path = "../../src/tools.rs"]
mod tools;
#[path = "../../src/wire.rs"]
mod wire;

mod play;

use serde_json::Value;
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

/// A channel's stdin: every line gets at most one answer, which is one line of JSON; tool calls are checked whole.
pub fn mcp(data: &[u8]) {
    let mut input = data;
    while let Ok(Some(incoming)) = mcp::read(&mut input) {
        match incoming {
            mcp::Incoming::Broken(answer) => one_line(&answer),
            mcp::Incoming::Request { id, method, mut params } => {
                one_line(&mcp::result(&id, mcp::initialize(&params)));
                one_line(&mcp::error(&id, -32601, &fence::label(&method)));
                let name = params.get("name").and_then(Value::as_str).unwrap_or("relay_ask").to_owned();
                let arguments = params.get_mut("arguments").map(Value::take).unwrap_or(params.clone());
                match tools::parse(&name, arguments, |prefix| Ok(prefix.to_owned())) {
                    Some(Err(fault)) => {
                        assert_eq!(fault.code, Code::BadArgs);
                        let (text, structured) = tools::render_fault(&fault);
                        one_line(&mcp::result(&id, mcp::tool_result(&[text], structured, true)));
                    }
                    Some(Ok(ToHub::Ask { to, text: question, timeout_ms, .. })) => {
                        assert!(!to.trim().is_empty() && to.len() <= 256);
                        assert!(!question.trim().is_empty() && question.len() <= wire::MAX_TEXT);
                        assert!((1_000..=86_400_000).contains(&timeout_ms));
                    }
                    _ => {}
                }
            }
            mcp::Incoming::Notification { .. } | mcp::Incoming::Response => {}
        }
    }
}

fn one_line(text: &str) {
    assert!(!text.contains('\n'), "one line");
    let value: Value = serde_json::from_str(text).expect("JSON");
    assert_eq!(value["jsonrpc"], "2.0");
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
