//! Results of tool calls: text for the model, and structured content for programs.

use serde_json::{Value, json};

use crate::fence;
use crate::mcp;
use crate::wire::{Activity, Answer, Code, Fault, ListedPeer, PeerKind, Roster, State, place};

/// The text and the structured content of an answer to a tool's request. `is_pushed`: messages reach the model by themselves, and
/// not only with the result of a tool call.
pub fn render(answer: &Answer, is_pushed: bool) -> (String, Value) {
    let arrival = mcp::arrival(is_pushed);
    match answer {
        Answer::Peers(roster) => (describe(roster), peers(roster)),
        Answer::Asked { ask_id, to, state, thread } => {
            let (state, progress) = (state.name(), progress(*state));
            let text = format!(
                "Asked \"{to}\" (ask_id {ask_id}, thread_id {thread}, state {state}). {progress} The answer, or the reason why \
                 there is none, comes {arrival}."
            );
            let structured =
                json!({"ok": true, "ask_id": ask_id, "to": to, "state": state, "thread_id": thread});
            (text, structured)
        }
        Answer::Broadcast { broadcast_id, asks } => {
            let names: Vec<&str> = asks.iter().map(|ask| ask.to.as_str()).collect();
            let (n, names) = (asks.len(), names.join(", "));
            let text = match n {
                0 => "Nobody was asked: no other session is in that scope. relay_peers lists the peers."
                    .to_owned(),
                n => format!(
                    "Asked {n} (broadcast_id {broadcast_id}): {names}. What they answer comes {arrival}."
                ),
            };
            (text, json!({"ok": true, "broadcast_id": broadcast_id, "peer_count": n, "asks": asks}))
        }
        Answer::Replied { ask_id, to, state } => {
            let text =
                format!("The relay has your answer (ask_id {ask_id}) to \"{to}\". {}", progress(*state));
            (text, json!({"ok": true, "ask_id": ask_id, "to": to, "state": state.name()}))
        }
        Answer::Renamed { name } => {
            (format!("This session is now called \"{name}\"."), json!({"ok": true, "name": name}))
        }
        _ => (String::new(), Value::Null), // of another request than a tool's
    }
}

fn progress(state: State) -> &'static str {
    match state {
        State::Queued => "It is handed over as soon as that session can take it.",
        _ => "It was handed over.",
    }
}

/// The result of `relay_wait` without the messages that it brings.
pub fn render_wait(messages: usize) -> (String, Value) {
    let text = match messages {
        0 => "Nothing has arrived. Call relay_wait again to wait on; what arrives meanwhile comes with the result of your next relay tool call.".to_owned(),
        n => format!("Messages that have arrived: {n}."),
    };
    (text, json!({"ok": true, "messages": []}))
}

/// The roster for programs, with the keys of the original claude-relay beside ours.
fn peers(roster: &Roster) -> Value {
    let mut all = json!(roster);
    for peer in all.get_mut("peers").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(branch) = peer.get("branch").cloned() {
            peer["git_branch"] = branch;
        }
    }
    all["ok"] = json!(true);
    all["me"] = json!(roster.me.as_ref().map(|me| &me.name));
    all
}

/// An error as a tool result carries it.
pub fn render_fault(fault: &Fault) -> (String, Value) {
    let code = fault.code.name();
    let mut message = fault.message.clone();
    if !matches!(fault.code, Code::BadArgs | Code::NameTaken | Code::UnknownAsk) {
        message = format!("{}. {}", message.trim_end_matches('.'), fence::ON_FAILURE);
    }
    let structured = json!({"ok": false, "code": code, "error": {"code": code, "message": message}});
    (format!("{code}: {message}"), structured)
}

/// The roster as text, or a part of it.
pub fn describe(roster: &Roster) -> String {
    let mut lines = Vec::new();
    if let Some(me) = &roster.me {
        lines.push(format!("This session is \"{}\" ({}).", me.name, me.cwd));
        lines.push(format!("Other peers: {}", roster.peers.len()));
    }
    lines.extend(roster.peers.iter().map(peer_line));
    if !roster.asks.is_empty() {
        lines.push("Open asks of this session:".into());
    }
    for ask in &roster.asks {
        lines.push(format!("- {} to \"{}\", asked {} s ago: {}", ask.ask_id, ask.to, ask.age_s, ask.detail));
    }
    if !roster.owed.is_empty() {
        lines.push("Asks that this session owes an answer to (use relay_reply):".into());
    }
    for debt in &roster.owed {
        lines.push(format!("- {} from \"{}\", asked {} s ago", debt.ask_id, debt.from, debt.age_s));
    }
    lines.join("\n")
}

/// A peer as a line of text.
fn peer_line(peer: &ListedPeer) -> String {
    let what = match peer.kind {
        PeerKind::Session => String::new(),
        kind => format!(" (a {})", kind.name()),
    };
    let branch = peer.branch.as_ref().map(|b| format!(", branch {b}")).unwrap_or_default();
    let doing = match peer.activity {
        Activity::Unknown => "",
        Activity::Waiting => ", waiting for its user's permission",
        activity => &format!(", {}", activity.name()),
    };
    let push = match (peer.push, peer.confirmed) {
        (None, _) => ", can't be pushed to right now (asks wait until it acts)".to_owned(),
        (Some(path), true) => format!(", reached by {} (confirmed)", path.name()),
        (Some(path), false) => format!(", reached by {} (not confirmed yet)", path.name()),
    };
    let place = place(peer.host.as_deref(), &peer.cwd);
    format!("- \"{}\"{what} in {place}{branch}{doing}{push}", peer.name)
}
