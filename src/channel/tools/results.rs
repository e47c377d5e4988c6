//! Results of tool calls as structured content. Of a successful result Claude Code gives its model nothing else; the text repeats
//! it as JSON, for clients that know no structured content.

use serde_json::{Value, json};

use crate::fence;
use crate::wire::{Answer, Code, Fault, Roster};

/// The result of a tool whose request got this answer.
pub fn render(answer: &Answer) -> Value {
    match answer {
        Answer::Peers(roster) => peers(roster),
        Answer::Asked { ask_id, to, state, thread } => {
            json!({"ok": true, "ask_id": ask_id, "to": to, "state": state, "thread_id": thread})
        }
        Answer::Broadcast { broadcast_id, asks } => {
            json!({"ok": true, "broadcast_id": broadcast_id, "peer_count": asks.len(), "asks": asks})
        }
        Answer::Replied { ask_id, to, state } => {
            json!({"ok": true, "ask_id": ask_id, "to": to, "state": state})
        }
        Answer::Renamed { name } => json!({"ok": true, "name": name}),
        _ => Value::Null, // of another request than a tool's
    }
}

/// The roster, with the keys of the original claude-relay beside ours.
fn peers(roster: &Roster) -> Value {
    let mut all = json!(roster);
    for peer in all["peers"].as_array_mut().into_iter().flatten() {
        peer["git_branch"] = peer["branch"].clone();
    }
    all["ok"] = json!(true);
    all["me"] = json!(roster.me.as_ref().map(|me| &me.name));
    all
}

/// The text and the structured content of an error.
pub fn render_fault(fault: &Fault) -> (String, Value) {
    let code = fault.code.name();
    let mut message = fault.message.clone();
    if !matches!(fault.code, Code::BadArgs | Code::NameTaken | Code::UnknownAsk) {
        message = format!("{}. {}", message.trim_end_matches('.'), fence::ON_FAILURE);
    }
    let structured = json!({"ok": false, "code": code, "error": {"code": code, "message": message}});
    (format!("{code}: {message}"), structured)
}
