//! The tools as types, and the requests that they make.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::wire::{self, Code, Fault, MAX_TEXT, MAX_TIMEOUT_MS, ToHub, fault};

mod arguments;
mod results;

pub use results::{Delivery, peer_line, render, render_fault, render_wait};

/// The default timeout of an ask, in seconds.
pub const TIMEOUT_S: u64 = 600;
/// Seconds that `relay_wait` waits when the caller does not say: official clients give up on a call after 60.
pub const WAIT_S: u64 = 45;
/// The longest name or id, in bytes.
const MAX_LABEL: usize = 256;

/// The tools as `tools/list` describes them, on several lines; the last one is `relay_wait`.
const LIST: &str = include_str!("tools.json");
/// What the descriptions say of the arrival of answers, by whether they reach the model by themselves.
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

/// What Codex says about a tool call, in `_meta`.
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
    thread_id: Option<Label>,
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

/// How far a broadcast reaches.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Scope {
    Machine,
    Repo,
    Directory,
}

/// A question or an answer: not blank, at most [`MAX_TEXT`] bytes.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
struct Text(String);

impl TryFrom<String> for Text {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("is empty; give some text".to_owned());
        }
        if text.len() > MAX_TEXT {
            let (length, most, kib) = (text.len(), MAX_TEXT, MAX_TEXT >> 10);
            return Err(format!(
                "has {length} bytes, and the limit is {most} ({kib} KiB); shorten it or name a file to read"
            ));
        }
        Ok(Text(text))
    }
}

/// A name or an id: not blank, at most [`MAX_LABEL`] bytes.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
struct Label(String);

impl TryFrom<String> for Label {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.len() {
            _ if text.trim().is_empty() => Err("is empty; give some text".to_owned()),
            length if length > MAX_LABEL => {
                Err(format!("has {length} bytes, and the limit is {MAX_LABEL}; shorten it"))
            }
            _ => Ok(Label(text)),
        }
    }
}

/// A timeout in seconds, at least 1 and at most a day.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seconds(u64);

impl Seconds {
    const MOST: u64 = MAX_TIMEOUT_MS / 1000;
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Whole;

        impl Visitor<'_> for Whole {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "a whole number of seconds from 1 to {}", Seconds::MOST)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Seconds, E> {
                match number {
                    1..=Seconds::MOST => Ok(Seconds(number)),
                    _ => Err(E::invalid_value(Unexpected::Unsigned(number), &self)),
                }
            }
        }

        from.deserialize_u64(Whole)
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
            "relay_peers" => arguments::read(arguments).map(Tool::Peers),
            "relay_ask" => arguments::read(arguments).map(Tool::Ask),
            "relay_reply" => arguments::read(arguments).map(Tool::Reply),
            "relay_broadcast" => arguments::read(arguments).map(Tool::Broadcast),
            "relay_rename" => arguments::read(arguments).map(Tool::Rename),
            "relay_wait" => arguments::read(arguments).map(Tool::Wait),
            _ => return None,
        };
        Some(tool.map_err(|why| fault(Code::BadArgs, why)))
    }
}

impl Tool {
    /// The request to the hub, with the id 0. `new_id` makes the ids of asks and broadcasts: they are ours, so that a request
    /// can be sent again and still counts once.
    ///
    /// # Errors
    /// Those of `new_id`.
    pub fn request(self, new_id: impl FnOnce(&str) -> Result<String, Fault>) -> Result<ToHub, Fault> {
        let id = 0;
        Ok(match self {
            // What waits for the session comes with any answer.
            Tool::Peers(Peers {}) | Tool::Wait(_) => ToHub::Peers { id },
            Tool::Ask(Ask { to: Label(to), question: Text(text), who, thread_id, timeout_s }) => {
                let (timeout_ms, thread) = (milliseconds(timeout_s), thread_id.map(|Label(id)| id));
                let person = who == Some(Asked::Person);
                ToHub::Ask { id, ask_id: new_id("ask_")?, to, text, timeout_ms, thread, person }
            }
            Tool::Reply(Reply { ask_id: Label(ask_id), answer: Text(text) }) => {
                ToHub::Reply { id, ask_id, text }
            }
            Tool::Broadcast(call) => {
                let collect_ms = call.collect_ms();
                let Broadcast { question: Text(text), scope, exclude_self, timeout_s, .. } = call;
                let scope = match scope {
                    None | Some(Scope::Machine) => wire::Scope::Machine,
                    Some(Scope::Repo) => wire::Scope::Repo,
                    Some(Scope::Directory) => wire::Scope::Directory,
                };
                let timeout_ms = milliseconds(timeout_s);
                let include_self = !exclude_self.unwrap_or(true);
                let broadcast_id = new_id("bc_")?;
                ToHub::Broadcast { id, broadcast_id, text, scope, timeout_ms, include_self, collect_ms }
            }
            Tool::Rename(Rename { name: Label(name) }) => ToHub::Rename { id, name, exact: true },
        })
    }
}

impl Broadcast {
    /// After how many milliseconds the answers that are in are handed over together; `None` if each is handed over by itself.
    fn collect_ms(&self) -> Option<u64> {
        let together = self.collect.unwrap_or(true);
        together.then(|| self.collect_s.map_or(milliseconds(self.timeout_s), |Seconds(s)| s * 1000))
    }
}

fn milliseconds(timeout: Option<Seconds>) -> u64 {
    timeout.map_or(TIMEOUT_S, |Seconds(s)| s) * 1000
}

#[cfg(test)]
mod tests;
