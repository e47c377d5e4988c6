//! The tools: what the model may call, and what it reads when it has.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, Unexpected, Visitor};
use serde_json::value::RawValue;

use crate::wire::{self, Code, Fault, MAX_TEXT, MAX_TIMEOUT_MS, ToHub, fault};

mod arguments;
mod results;

pub use results::{render, render_fault};

/// Seconds until an ask ends in `timeout` when the caller does not say.
pub const TIMEOUT_S: u64 = 600;
/// The longest name or id, in bytes.
const MAX_LABEL: usize = 256;

/// The answer to `tools/list`, on several lines.
const LIST: &str = include_str!("tools.json");

/// The parameters of `tools/call`.
#[derive(Deserialize)]
pub struct Call {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    arguments: Option<Box<RawValue>>,
}

/// A tool with its arguments.
#[derive(Debug, PartialEq)]
pub enum Tool {
    Peers(Peers),
    Ask(Ask),
    Reply(Reply),
    Broadcast(Broadcast),
    Rename(Rename),
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
    thread_id: Option<Label>,
    #[serde(default)]
    timeout_s: Option<Seconds>,
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
    timeout_s: Option<Seconds>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rename {
    #[serde(alias = "new_name")]
    name: Label,
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

/// The answer to `tools/list`, as JSON text on one line.
pub fn list() -> Box<RawValue> {
    RawValue::from_string(LIST.replace('\n', " ")).unwrap_or_else(|_| RawValue::NULL.to_owned())
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
            Tool::Peers(Peers {}) => ToHub::Peers { id },
            Tool::Ask(Ask { to: Label(to), question: Text(text), thread_id, timeout_s }) => {
                let (timeout_ms, thread) = (milliseconds(timeout_s), thread_id.map(|Label(id)| id));
                ToHub::Ask { id, ask_id: new_id("ask_")?, to, text, timeout_ms, thread }
            }
            Tool::Reply(Reply { ask_id: Label(ask_id), answer: Text(text) }) => {
                ToHub::Reply { id, ask_id, text }
            }
            Tool::Broadcast(Broadcast { question: Text(text), scope, timeout_s }) => {
                let scope = match scope {
                    None | Some(Scope::Machine) => wire::Scope::Machine,
                    Some(Scope::Repo) => wire::Scope::Repo,
                    Some(Scope::Directory) => wire::Scope::Directory,
                };
                let timeout_ms = milliseconds(timeout_s);
                let (include_self, collect_ms) = (false, None);
                let broadcast_id = new_id("bc_")?;
                ToHub::Broadcast { id, broadcast_id, text, scope, timeout_ms, include_self, collect_ms }
            }
            Tool::Rename(Rename { name: Label(name) }) => ToHub::Rename { id, name, exact: true },
        })
    }
}

fn milliseconds(timeout: Option<Seconds>) -> u64 {
    timeout.map_or(TIMEOUT_S, |Seconds(s)| s) * 1000
}

#[cfg(test)]
mod tests;
