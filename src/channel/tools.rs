//! The five tools: what the model may call, and what it reads when it has.

use serde_json::{Map, Value, json};

use crate::wire::{
    Activity, Answer, Code, Fault, MAX_TEXT, MAX_TIMEOUT_MS, PeerKind, PeerLine, Roster, Scope, State, ToHub,
    fault,
};

/// Seconds until an ask ends in `timeout` when the caller does not say.
pub const TIMEOUT_S: u64 = 600;

/// The answer to `tools/list`, on several lines.
const LIST: &str = include_str!("tools.json");

/// The answer to `tools/list` as JSON text on one line.
pub fn list() -> String {
    LIST.replace('\n', " ")
}

/// The request that a `tools/call` is for, with the id 0; `None` for a tool that we don't have. `new_id` makes the ids of
/// asks and broadcasts: they are ours, so that a request may be sent to two hubs and still count once.
///
/// # Errors
/// `bad_args`, which names the argument, and what `new_id` says.
pub fn parse(
    name: &str,
    arguments: Value,
    new_id: impl FnOnce(&str) -> Result<String, Fault>,
) -> Option<Result<ToHub, Fault>> {
    let known: &[&str] = match name {
        "relay_peers" => &[],
        "relay_ask" => &["to", "question", "timeout_s"],
        "relay_reply" => &["ask_id", "answer"],
        "relay_broadcast" => &["question", "scope", "timeout_s"],
        "relay_rename" => &["name"],
        _ => return None,
    };
    let id = 0;
    Some(Args::new(arguments, known).and_then(|mut args| {
        Ok(match name {
            "relay_ask" => {
                let (to, text, timeout_ms) = (args.label("to")?, args.text("question")?, args.timeout_ms()?);
                ToHub::Ask { id, ask_id: new_id("ask_")?, to, text, timeout_ms, thread: None }
            }
            "relay_reply" => ToHub::Reply { id, ask_id: args.label("ask_id")?, text: args.text("answer")? },
            "relay_broadcast" => {
                let (text, scope, timeout_ms) = (args.text("question")?, args.scope()?, args.timeout_ms()?);
                ToHub::Broadcast { id, broadcast_id: new_id("bc_")?, text, scope, timeout_ms }
            }
            "relay_rename" => ToHub::Rename { id, name: args.label("name")?, exact: true },
            _ => ToHub::Peers { id },
        })
    }))
}

fn bad<T>(why: String) -> Result<T, Fault> {
    Err(fault(Code::BadArgs, why))
}

/// A call's arguments, each taken out once.
struct Args(Map<String, Value>);

impl Args {
    fn new(arguments: Value, known: &[&str]) -> Result<Self, Fault> {
        let arguments = match arguments {
            Value::Object(arguments) => arguments,
            Value::Null => Map::new(),
            other => return bad(format!("the arguments are {}; give an object", kind(&other))),
        };
        let takes =
            if known.is_empty() { "no arguments".into() } else { format!("`{}`", known.join("`, `")) };
        match arguments.keys().find(|k| !known.contains(&k.as_str())) {
            Some(extra) => {
                let extra = crate::fence::label(extra);
                bad(format!("there is no argument `{extra}`; this tool takes {takes}"))
            }
            None => Ok(Args(arguments)),
        }
    }

    fn text(&mut self, name: &str) -> Result<String, Fault> {
        match self.0.remove(name) {
            Some(Value::String(text)) if text.trim().is_empty() => {
                bad(format!("`{name}` is empty; say something"))
            }
            Some(Value::String(text)) if text.len() > MAX_TEXT => bad(format!(
                "`{name}` has {} bytes, and {MAX_TEXT} (512 KiB) is the limit; shorten it or name a file to read",
                text.len()
            )),
            Some(Value::String(text)) => Ok(text),
            Some(other) => bad(format!("`{name}` is {}; give a string", kind(&other))),
            None => bad(format!("`{name}` is missing; give a string")),
        }
    }

    fn label(&mut self, name: &str) -> Result<String, Fault> {
        let text = self.text(name)?;
        if text.len() > 256 {
            return bad(format!("`{name}` has {} bytes, and 256 is the limit", text.len()));
        }
        Ok(text)
    }

    fn timeout_ms(&mut self) -> Result<u64, Fault> {
        let most = MAX_TIMEOUT_MS / 1000;
        match self.0.remove("timeout_s") {
            None | Some(Value::Null) => Ok(TIMEOUT_S * 1000),
            Some(Value::Number(n)) => match n.as_u64() {
                Some(s) if (1..=most).contains(&s) => Ok(s * 1000),
                _ => bad(format!("`timeout_s` is {n}; give a whole number of seconds from 1 to {most}")),
            },
            Some(other) => bad(format!("`timeout_s` is {}; give a whole number of seconds", kind(&other))),
        }
    }

    fn scope(&mut self) -> Result<Scope, Fault> {
        match self.0.remove("scope") {
            None | Some(Value::Null) => Ok(Scope::Machine),
            Some(value) => value
                .as_str()
                .and_then(|_| serde_json::from_value(value.clone()).ok())
                .map_or_else(|| bad("`scope` is none of \"machine\", \"repo\", \"directory\"".into()), Ok),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// What the model reads, and the same for programs. `None` for an answer that no tool gives.
pub fn render(answer: &Answer) -> Option<(String, Value)> {
    Some(match answer {
        Answer::Peers(roster) => (describe(roster), json!(roster)),
        Answer::Asked { ask_id, to, state, .. } => {
            let far = match state {
                State::Queued => "The relay has it; it is handed over as soon as that session can take it.",
                State::Pushed => "It was handed to that session.",
                State::Seen => "That session has seen it.",
                State::Replied => "It has been answered.",
                State::Ended => "It has ended already.",
            };
            let text = format!(
                "Asked \"{to}\" (ask_id {ask_id}, state {}). {far} The answer, or the reason why there is none, arrives by \
                 itself as a message with this ask_id; go on without waiting or polling.",
                state.name()
            );
            (text, json!({"ask_id": ask_id, "to": to, "state": state.name()}))
        }
        Answer::Broadcast { broadcast_id, asks } => {
            let asks: Vec<Value> = asks.iter().map(|m| json!({"ask_id": m.ask_id, "to": m.to})).collect();
            let text = match asks.len() {
                0 => "Nobody was asked: no other session is in that scope. relay_peers lists who is there."
                    .into(),
                n => {
                    let names: Vec<&str> = asks.iter().filter_map(|a| a["to"].as_str()).collect();
                    format!(
                        "Asked {n} (broadcast_id {broadcast_id}): {}. The answers arrive one by one as messages, then one \
                         closing summary; go on without waiting or polling.",
                        names.join(", ")
                    )
                }
            };
            (text, json!({"broadcast_id": broadcast_id, "asks": asks}))
        }
        Answer::Replied { ask_id, to, state } => {
            let text = match state {
                State::Queued => format!(
                    "The relay has your answer (ask_id {ask_id}) and hands it to \"{to}\" as soon as that session can take it."
                ),
                _ => format!("Your answer (ask_id {ask_id}) was handed to \"{to}\"."),
            };
            (text, json!({"ask_id": ask_id, "to": to, "state": state.name()}))
        }
        Answer::Renamed { name } => {
            (format!("This session is now called \"{name}\"."), json!({"name": name}))
        }
        _ => return None,
    })
}

/// An error as a tool result carries it.
pub fn render_fault(fault: &Fault) -> (String, Value) {
    let text = match fault.message.starts_with(fault.code.name()) {
        true => fault.message.clone(),
        false => format!("{}: {}", fault.code.name(), fault.message),
    };
    (text, json!({"error": {"code": fault.code.name(), "message": fault.message}}))
}

/// The roster as text.
pub fn describe(roster: &Roster) -> String {
    let mut lines = Vec::new();
    if let Some(me) = &roster.me {
        lines.push(format!("This session is \"{}\" ({}).", me.name, me.cwd));
    }
    match roster.peers.len() {
        0 => lines.push("No other peer is there.".into()),
        n => lines.push(format!("{n} other peer{}:", if n == 1 { "" } else { "s" })),
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

fn peer_line(peer: &PeerLine) -> String {
    let what = match peer.kind {
        PeerKind::Session => "",
        PeerKind::Person => " (a person at a terminal)",
        PeerKind::Script => " (a script)",
    };
    let branch = peer.branch.as_ref().map(|b| format!(", branch {b}")).unwrap_or_default();
    let doing = match peer.activity {
        Activity::Idle => ", idle",
        Activity::Busy => ", busy",
        Activity::Waiting => ", waiting for its user's permission",
        Activity::Unknown => "",
    };
    let push = match (peer.push, peer.confirmed) {
        (None, _) => ", can't be pushed to right now (asks wait until it acts)".to_owned(),
        (Some(path), true) => format!(", reached by {} (confirmed)", path.name()),
        (Some(path), false) => format!(", reached by {} (not confirmed yet)", path.name()),
    };
    format!("- \"{}\"{what} in {}{branch}{doing}{push}", peer.name, peer.cwd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str, arguments: Value) -> Option<Result<ToHub, Fault>> {
        parse(name, arguments, |prefix| Ok(format!("{prefix}1")))
    }

    fn refusal(name: &str, arguments: Value) -> String {
        let fault = parsed(name, arguments).expect("a known tool").expect_err("bad arguments");
        assert_eq!(fault.code, Code::BadArgs);
        fault.message
    }

    #[test]
    fn arguments_are_checked_and_the_refusal_names_them() {
        let long = "x".repeat(MAX_TEXT + 1);
        for (name, arguments, says) in [
            ("relay_ask", json!({"question": "?"}), "`to` is missing"),
            ("relay_ask", json!({"to": "b"}), "`question` is missing"),
            ("relay_ask", json!({"to": 5, "question": "?"}), "`to` is a number"),
            ("relay_ask", json!({"to": "b", "question": " \n"}), "`question` is empty"),
            ("relay_ask", json!({"to": "b", "question": long}), "`question` has 524289 bytes"),
            ("relay_ask", json!({"to": "b", "question": "?", "timeout_s": 0}), "`timeout_s` is 0"),
            ("relay_ask", json!({"to": "b", "question": "?", "timeout_s": 1.5}), "`timeout_s` is 1.5"),
            ("relay_ask", json!({"to": "b", "question": "?", "timeout_s": "9"}), "`timeout_s` is a string"),
            ("relay_ask", json!({"to": "b", "question": "?", "when": 1}), "no argument `when`"),
            ("relay_peers", json!({"all": true}), "takes no arguments"),
            ("relay_peers", json!([]), "the arguments are an array"),
            ("relay_reply", json!({"ask_id": "a", "answer": null}), "`answer` is null"),
            ("relay_broadcast", json!({"question": "?", "scope": "planet"}), "`scope`"),
            ("relay_rename", json!({"name": ["x"]}), "`name` is an array"),
        ] {
            let said = refusal(name, arguments.clone());
            assert!(said.contains(says), "{name} {arguments}: {said}");
        }
        assert!(parsed("relay_dance", json!({})).is_none());
    }

    #[test]
    fn defaults_apply() {
        let call = parsed("relay_broadcast", json!({"question": "?"})).expect("known").expect("fine");
        let (broadcast_id, text, timeout_ms) = ("bc_1".to_owned(), "?".to_owned(), TIMEOUT_S * 1000);
        assert_eq!(call, ToHub::Broadcast { id: 0, broadcast_id, text, scope: Scope::Machine, timeout_ms });
        assert_eq!(parsed("relay_peers", Value::Null).expect("known"), Ok(ToHub::Peers { id: 0 }));
    }

    #[test]
    fn every_schema_is_strict() {
        let list: Value = serde_json::from_str(&list()).expect("JSON");
        let tools = list["tools"].as_array().expect("a list");
        let names: Vec<&str> = tools.iter().filter_map(|t| t["name"].as_str()).collect();
        assert_eq!(names, ["relay_peers", "relay_ask", "relay_reply", "relay_broadcast", "relay_rename"]);
        for tool in tools {
            assert_eq!(tool["inputSchema"]["additionalProperties"], json!(false));
            assert!(tool["description"].as_str().is_some_and(|d| d.len() <= 2048));
            assert_eq!(tool["annotations"]["readOnlyHint"], json!(tool["name"] == "relay_peers"));
            let timeout = &tool["inputSchema"]["properties"]["timeout_s"];
            let limits = [json!(MAX_TIMEOUT_MS / 1000), Value::Null];
            assert!(limits.contains(&timeout["maximum"]), "{timeout}");
        }
    }
}
