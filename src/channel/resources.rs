//! Peers as resources (`peer://NAME`), which a user mentions as `@plugin:relay:relay:peer://NAME`, and prompts, which a user types as
//! slash commands.

use serde_json::{Value, json};

use super::tools;
use crate::fence::{label, percent_encode};
use crate::mcp::{self, Id};
use crate::wire::{Answer, Fault, ListedPeer, Roster, place};

/// The scheme of the address of a peer.
const SCHEME: &str = "peer://";

/// The answer to `resources/list`.
fn list(roster: &Roster) -> Value {
    let describe = |peer: &ListedPeer| {
        json!({
            "uri": address(&peer.name),
            "name": peer.name,
            "description": format!("The state of \"{}\" ({})", peer.name, place(peer.host.as_deref(), &peer.cwd)),
            "mimeType": "text/plain",
        })
    };
    json!({"resources": roster.peers.iter().map(describe).collect::<Vec<_>>()})
}

/// The line that answers `resources/list`, or with an address `resources/read`.
pub fn answer(id: &Id, uri: Option<&str>, result: &Result<Answer, Fault>) -> String {
    let roster = match result {
        Ok(Answer::Peers(roster)) => roster,
        Ok(_) => return mcp::error(id, mcp::INTERNAL_ERROR, "the hub gave another answer"),
        Err(fault) => return mcp::error(id, mcp::INTERNAL_ERROR, &fault.message),
    };
    let Some(uri) = uri else { return mcp::result(id, list(roster)) };
    read(roster, uri).map_or_else(
        || {
            let why = format!("no peer has the address \"{}\"; resources/list has them all", label(uri));
            mcp::error(id, mcp::RESOURCE_NOT_FOUND, &why)
        },
        |contents| mcp::result(id, contents),
    )
}

/// The answer to `resources/read` of a peer: its state, its directory, and the open asks between it and this session. `None` if
/// no peer has that address, with or without percent-encoding.
fn read(roster: &Roster, uri: &str) -> Option<Value> {
    let wanted = uri.trim_end_matches('/');
    let addresses = |name: &str| [address(name), format!("{SCHEME}{name}")];
    let is_wanted = |name: &str| addresses(name).iter().any(|known| known.eq_ignore_ascii_case(wanted));
    let peer = roster.peers.iter().find(|peer| is_wanted(&peer.name))?;
    let part = Roster {
        peers: vec![peer.clone()],
        asks: roster.asks.iter().filter(|ask| ask.to == peer.name).cloned().collect(),
        owed: roster.owed.iter().filter(|ask| ask.from == peer.name).cloned().collect(),
        ..Roster::default()
    };
    Some(json!({"contents": [{"uri": uri, "mimeType": "text/plain", "text": tools::describe(&part)}]}))
}

/// The address of a peer. Names hold letters of any script; an address holds few characters as they are.
fn address(name: &str) -> String {
    SCHEME.to_owned() + &percent_encode(name)
}

/// The answer to `prompts/list`.
pub fn prompts() -> Value {
    let question =
        json!({"name": "question", "description": "The question, in your words", "required": true});
    let to =
        json!({"name": "to", "description": "The peer's name; relay_peers lists them", "required": true});
    json!({"prompts": [
        {"name": "ask", "title": "Ask a peer", "description": "Ask another session", "arguments": [to, question]},
        {"name": "broadcast", "title": "Ask everyone", "description": "Ask every other session", "arguments": [question]},
    ]})
}

/// The answer to `prompts/get`.
///
/// # Errors
/// There is no such prompt, or an argument is missing.
pub fn prompt(params: &Value) -> Result<Value, String> {
    let argument = |name: &str| {
        let given = params["arguments"][name].as_str().filter(|given| !given.trim().is_empty());
        given.ok_or_else(|| format!("the argument `{name}` is missing; give some text"))
    };
    let (description, text) = match params["name"].as_str().unwrap_or_default() {
        "ask" => {
            let to = label(argument("to")?);
            ("Ask another session", format!("Ask the peer \"{to}\" with the `relay_ask` tool."))
        }
        "broadcast" => {
            ("Ask every other session", "Ask every other session with the `relay_broadcast` tool.".to_owned())
        }
        other => return Err(format!("there is no prompt \"{}\"; prompts/list names them", label(other))),
    };
    let question = argument("question")?;
    let text = format!(
        "{text} Pass the question on in the user's words; add from this conversation only what is needed to understand it. \
             If the tool fails, tell the user why and do not broadcast instead. Some clients hand over only the first word of \
             the question: where the command's own arguments above go on after it, all of that is the question.\n\n\
             {question}"
    );
    let message = json!({"role": "user", "content": {"type": "text", "text": text}});
    Ok(json!({"description": description, "messages": [message]}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_read_by_its_address_encoded_or_not() {
        let peer = |name: &str| {
            json!({"name": name, "kind": "session", "cwd": "/", "pid": 1, "activity": "idle", "push": null, "confirmed": false,
                "connected_s": 0})
        };
        for name in ["backend-api", "Web.App_2", "données", "日本語", "a%41", "%"] {
            let all = json!({"peers": [peer("other"), peer(name)], "asks": [], "owed": []});
            let roster: Roster = serde_json::from_value(all).expect("a roster");
            let uri = address(name);
            assert!(uri.is_ascii(), "{uri}");
            for uri in [uri, format!("peer://{name}"), format!("PEER://{name}/")] {
                let found = read(&roster, &uri).expect("the peer")["contents"][0]["text"].to_string();
                assert!(found.contains(&format!("- \\\"{name}\\\"")), "{uri}: {found}");
            }
            for uri in ["", "peer://", "peer:///", "file://x", "pee", "peer:/é"] {
                assert_eq!(read(&roster, uri), None, "{uri}");
            }
        }
    }

    #[test]
    fn prompts_need_their_arguments() {
        let get = |params: Value| prompt(&params);
        let ask =
            get(json!({"name": "ask", "arguments": {"to": "b", "question": "why?"}})).expect("messages");
        let text = ask["messages"][0]["content"]["text"].as_str().expect("text");
        assert!(text.contains("\"b\"") && text.ends_with("\n\nwhy?"), "{text}");
        assert!(get(json!({"name": "broadcast", "arguments": {"question": "why?"}})).is_ok());
        for (params, says) in [
            (json!({"name": "ask", "arguments": {"question": "why?"}}), "`to`"),
            (json!({"name": "ask", "arguments": {"to": "b"}}), "`question`"),
            (json!({"name": "broadcast"}), "`question`"),
            (json!({"name": "dance"}), "there is no prompt \"dance\""),
        ] {
            let why = get(params).expect_err("refused");
            assert!(why.contains(says), "{why}");
        }
    }
}
