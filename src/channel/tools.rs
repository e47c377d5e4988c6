//! The tools as types, and the requests that they make.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::fence::clean;
use crate::wire::{BroadcastRequest, Code, Fault, MAX_TEXT, MAX_THREAD, MAX_TIMEOUT_MS, Scope, ToHub, fault};

mod results;

pub use results::{Delivery, peer_line, render, render_fault, render_wait};

/// The default timeout of an ask, in seconds.
pub const TIMEOUT_S: u64 = 600;
/// Seconds that `relay_wait` waits when the caller does not say: official clients give up on a call after 60.
pub const WAIT_S: u64 = 45;
/// The longest name or id, in bytes.
const MAX_LABEL: usize = 256;
/// The longest error about arguments, in characters: it may quote them.
const MAX_ERROR: usize = 500;

/// The tools as `tools/list` describes them, on several lines; the last one is `relay_wait`.
const LIST: &str = include_str!("tools.json");
/// Placeholders in the descriptions, with the text for clients that can be pushed to and for others.
const ARRIVALS: [(&str, &str, &str); 2] = [
    (
        "{ask_arrival}",
        "The answer (or the reason why there is none) arrives later by itself as a message with that ask_id. Don't wait or \
         poll for it.",
        "The answer (or the reason why there is none) comes as a message with the result of a later relay tool call; relay_wait \
         waits for it.",
    ),
    (
        "{broadcast_arrival}",
        "The answers arrive by themselves, all in one message, when the last is in or the time is up. Don't wait or poll for \
         them.",
        "The answers come all in one message, when the last is in or the time is up, with the result of a later relay tool \
         call; relay_wait waits for it.",
    ),
];

/// The parameters of `tools/call`.
#[derive(Deserialize)]
pub struct Call {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    arguments: Option<Box<RawValue>>,
    #[serde(default, rename = "_meta", deserialize_with = "crate::mcp::lenient")]
    pub meta: Meta,
}

/// The `_meta` of a tool call by Codex.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Meta {
    /// The model's call; missing where no model called.
    #[serde(deserialize_with = "crate::mcp::lenient")]
    pub call_id: Option<String>,
    /// The client's own conversation.
    #[serde(deserialize_with = "crate::mcp::lenient")]
    pub thread_id: Option<String>,
}

/// A tool with its arguments.
#[derive(Debug, PartialEq)]
pub enum Tool {
    Peers(Peers),
    Ask(Ask),
    Reply(Reply),
    Broadcast(Broadcast),
    Rename(Rename),
    Wait(Wait),
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peers {}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    to: Label,
    question: Text,
    #[serde(default)]
    who: Option<Asked>,
    #[serde(default)]
    thread_id: Option<Bounded<MAX_THREAD>>,
    #[serde(default)]
    timeout_s: Option<Seconds>,
}

/// Who is to answer.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Asked {
    Session,
    Person,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    ask_id: Label,
    #[serde(alias = "text")]
    answer: Text,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Broadcast {
    question: Text,
    #[serde(default)]
    scope: Option<Scope>,
    #[serde(default)]
    exclude_self: Option<bool>,
    #[serde(default)]
    collect: Option<bool>,
    #[serde(default)]
    collect_s: Option<Seconds>,
    #[serde(default)]
    timeout_s: Option<Seconds>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    #[serde(alias = "new_name")]
    name: Label,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    #[serde(default)]
    timeout_s: Option<Seconds>,
}

impl Wait {
    /// How long to wait at most.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(self.timeout_s.map_or(WAIT_S, |Seconds(s)| s))
    }
}

/// A text of at most `MOST` bytes that is not blank: a question or an answer, a name or an id.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
struct Bounded<const MOST: usize>(String);

type Text = Bounded<MAX_TEXT>;
type Label = Bounded<MAX_LABEL>;

impl<const MOST: usize> TryFrom<String> for Bounded<MOST> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.len() {
            _ if text.trim().is_empty() => Err("the text is empty; give some text".to_owned()),
            length if length > MOST => Err(format!(
                "{length} bytes exceed the limit of {MOST}; shorten the text or name a file to read"
            )),
            _ => Ok(Bounded(text)),
        }
    }
}

/// A time in seconds, at least 1 and at most a day. `60.0` and `6e1` are whole numbers too.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
struct Seconds(u64);

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(number: f64) -> Result<Self, String> {
        const MOST: u64 = MAX_TIMEOUT_MS / 1000;
        match (1.0..=MOST as f64).contains(&number) && number.fract() == 0.0 {
            true => Ok(Seconds(number as u64)),
            false => Err(format!("{number} is not a whole number of seconds from 1 to {MOST}")),
        }
    }
}

/// The answer to `tools/list`, as JSON text on one line. A client whose model messages reach by themselves needs no
/// `relay_wait`.
pub fn list(is_pushable: bool) -> Box<RawValue> {
    #[derive(Serialize, Deserialize)]
    struct List<'a> {
        #[serde(borrow)]
        tools: Vec<&'a RawValue>,
    }

    let mut text = LIST.replace('\n', " ");
    for (place, by_push, by_tool) in ARRIVALS {
        text = text.replace(place, if is_pushable { by_push } else { by_tool });
    }
    let mut list: List = serde_json::from_str(&text).unwrap_or(List { tools: Vec::new() });
    if is_pushable {
        list.tools.pop();
    }
    serde_json::value::to_raw_value(&list).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

impl Call {
    /// The tool that is called, with its arguments; `None` where there is no such tool.
    ///
    /// # Errors
    /// `bad_args`, which names the argument and the remedy.
    pub fn tool(&self) -> Option<Result<Tool, Fault>> {
        let arguments = self.arguments.as_deref();
        let tool = match self.name.as_str() {
            "relay_peers" => read(arguments).map(Tool::Peers),
            "relay_ask" => read(arguments).map(Tool::Ask),
            "relay_reply" => read(arguments).map(Tool::Reply),
            "relay_broadcast" => read(arguments).map(Tool::Broadcast),
            "relay_rename" => read(arguments).map(Tool::Rename),
            "relay_wait" => read(arguments).map(Tool::Wait),
            _ => return None,
        };
        Some(tool.map_err(|why| fault(Code::BadArgs, why)))
    }
}

/// Reads the arguments of a tool, which may be missing.
///
/// # Errors
/// What is wrong with which argument.
fn read<T: DeserializeOwned>(arguments: Option<&RawValue>) -> Result<T, String> {
    let shown = |e: serde_json::Error| {
        let (why, at) = (e.to_string(), format!(" at line {} column {}", e.line(), e.column()));
        clean(why.trim_end_matches(&at)).chars().take(MAX_ERROR).collect::<String>()
    };
    let text = arguments.map_or("{}", RawValue::get);
    let each: BTreeMap<String, &RawValue> =
        serde_json::from_str(text).map_err(|e| format!("the arguments are no object: {}", shown(e)))?;
    serde_json::from_str(text).map_err(|e| {
        // The error does not tell which argument is wrong: that one is wrong by itself too.
        let wrong = each.iter().find_map(|(name, value)| {
            let alone = serde_json::to_string(&BTreeMap::from([(name, value)])).ok()?;
            let why = shown(serde_json::from_str::<T>(&alone).err()?);
            (!why.starts_with("missing field")).then(|| format!("`{name}`: {why}"))
        });
        wrong.unwrap_or_else(|| shown(e))
    })
}

impl Tool {
    /// The request to the hub. `unique` makes the id of an ask or a broadcast: it is ours, so that a request can be sent again
    /// and still counts once.
    pub fn request(self, id: u64, unique: &str) -> ToHub {
        match self {
            // Every answer brings the messages that wait for the session.
            Tool::Peers(Peers {}) | Tool::Wait(_) => ToHub::Peers { id },
            Tool::Ask(Ask { to: Bounded(to), question: Bounded(text), who, thread_id, timeout_s }) => {
                let (timeout_ms, thread) = (milliseconds(timeout_s), thread_id.map(|Bounded(id)| id));
                let person = who == Some(Asked::Person);
                ToHub::Ask { id, ask_id: format!("ask_{unique}"), to, text, timeout_ms, thread, person }
            }
            Tool::Reply(Reply { ask_id: Bounded(ask_id), answer: Bounded(text) }) => {
                ToHub::Reply { id, ask_id, text }
            }
            Tool::Broadcast(call) => {
                let collect_ms = call.collect_ms();
                let Broadcast { question: Bounded(text), scope, exclude_self, timeout_s, .. } = call;
                let scope = scope.unwrap_or(Scope::Machine);
                let timeout_ms = milliseconds(timeout_s);
                let include_self = !exclude_self.unwrap_or(true);
                let broadcast_id = format!("bc_{unique}");
                ToHub::Broadcast(BroadcastRequest {
                    id,
                    broadcast_id,
                    text,
                    scope,
                    timeout_ms,
                    include_self,
                    collect_ms,
                })
            }
            Tool::Rename(Rename { name: Bounded(name) }) => ToHub::Rename { id, name, exact: true },
        }
    }
}

impl Broadcast {
    /// After how many milliseconds the answers that are in are handed over together; `None` if each is handed over by itself.
    pub fn collect_ms(&self) -> Option<u64> {
        let together = self.collect.unwrap_or(true);
        together.then(|| self.collect_s.map_or(milliseconds(self.timeout_s), |Seconds(s)| s * 1000))
    }
}

fn milliseconds(timeout: Option<Seconds>) -> u64 {
    timeout.map_or(TIMEOUT_S, |Seconds(s)| s) * 1000
}

#[cfg(test)]
mod tests;
