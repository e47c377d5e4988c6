//! The tools as types, and the requests that they make.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::fence::clean;
use crate::mcp;
use crate::wire::{
    AskRequest, BroadcastRequest, Code, Fault, MAX_TEXT, MAX_THREAD, MAX_TIMEOUT_MS, Scope, ToHub, fault,
};

mod results;

pub use results::{render, render_fault};

/// The default timeout of an ask, in seconds.
pub const TIMEOUT_S: u64 = 600;
/// The default duration of `relay_wait`, in seconds: official clients give up a call after 60.
pub const WAIT_S: u64 = 45;
/// The longest name or id, in bytes.
const MAX_LABEL: usize = 256;
/// The longest error about arguments, in characters: it may quote them.
const MAX_ERROR: usize = 500;

/// The tools, each without `relay_`.
const NAMES: [&str; 6] = ["peers", "ask", "reply", "broadcast", "rename", "wait"];
/// The tools as `tools/list` describes them, on several lines; the last one is `relay_wait`.
const LIST: &str = include_str!("tools.json");
/// The parameters of `tools/call`.
#[derive(Deserialize)]
pub struct Call {
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    arguments: Option<Box<RawValue>>,
    /// Codex sets `callId` if its model makes the call.
    #[serde(default, rename = "_meta")]
    pub meta: Value,
}

/// A tool with its arguments.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Tool {
    Peers {},
    Ask {
        to: Label,
        question: Text,
        who: Option<Asked>,
        thread_id: Option<Bounded<MAX_THREAD>>,
        timeout_s: Option<Seconds>,
    },
    Reply {
        ask_id: Label,
        #[serde(alias = "text")]
        answer: Text,
    },
    Broadcast {
        question: Text,
        scope: Option<Scope>,
        exclude_self: Option<bool>,
        collect: Option<bool>,
        collect_s: Option<Seconds>,
        timeout_s: Option<Seconds>,
    },
    Rename {
        #[serde(alias = "new_name")]
        name: Label,
    },
    Wait {
        timeout_s: Option<Seconds>,
    },
}

/// Who is to answer.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Asked {
    Session,
    Person,
}

/// A text of at most `MOST` bytes that is not blank: a question or an answer, a name or an id.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Bounded<const MOST: usize>(String);

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
#[derive(Debug, PartialEq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Seconds(pub u64);

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

/// The answer to `tools/list`, as JSON text on one line. A client that can be pushed to
/// gets no `relay_wait`.
pub fn list(is_pushable: bool) -> Box<RawValue> {
    let text = LIST.replace('\n', " ").replace("{arrival}", mcp::arrival(is_pushable));
    let mut list: BTreeMap<&str, Vec<&RawValue>> = serde_json::from_str(&text).unwrap_or_default();
    if is_pushable {
        list.get_mut("tools").and_then(Vec::pop);
    }
    serde_json::value::to_raw_value(&list).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

impl Call {
    /// The tool that is called, with its arguments; `None` where there is no such tool.
    ///
    /// # Errors
    /// `bad_args`, which names the argument and the remedy.
    pub fn tool(&self, is_pushable: bool) -> Option<Result<Tool, Fault>> {
        let name = self.name.strip_prefix("relay_")?;
        let is_offered = NAMES.contains(&name) && !(is_pushable && name == "wait");
        is_offered.then(|| read(name, self.arguments.as_deref()).map_err(|why| fault(Code::BadArgs, why)))
    }
}

/// Reads the arguments of a tool, which may be missing.
///
/// # Errors
/// What is wrong with which argument.
fn read(tool: &str, arguments: Option<&RawValue>) -> Result<Tool, String> {
    let shown = |e: serde_json::Error| {
        let (why, at) = (e.to_string(), format!(" at line {} column {}", e.line(), e.column()));
        clean(why.trim_end_matches(&at)).chars().take(MAX_ERROR).collect::<String>()
    };
    let read = |arguments: &str| serde_json::from_str::<Tool>(&format!("{{\"{tool}\":{arguments}}}"));
    let text = arguments.map_or("{}", RawValue::get);
    let each: BTreeMap<String, &RawValue> =
        serde_json::from_str(text).map_err(|e| format!("the arguments are no object: {}", shown(e)))?;
    read(text).map_err(|e| {
        // The error does not name the argument. A wrong argument is also wrong without the others.
        let wrong = each.iter().find_map(|(name, value)| {
            let why = shown(read(&format!("{{{}:{value}}}", json!(name))).err()?);
            (!why.starts_with("missing field")).then(|| format!("`{name}`: {why}"))
        });
        wrong.unwrap_or_else(|| shown(e))
    })
}

impl Tool {
    /// The request to the hub. `unique` makes the id of an ask or a broadcast: created here, it lets a repeated request count
    /// once.
    pub fn request(self, id: u64, unique: &str) -> ToHub {
        match self {
            // Every answer brings the messages that wait for the session.
            Tool::Peers {} | Tool::Wait { .. } => ToHub::Peers { id },
            Tool::Ask { to, question, who, thread_id, timeout_s } => ToHub::Ask(AskRequest {
                id,
                ask_id: format!("ask_{unique}"),
                to: to.0,
                text: question.0,
                timeout_ms: milliseconds(timeout_s),
                thread: thread_id.map(|id| id.0),
                person: who == Some(Asked::Person),
            }),
            Tool::Reply { ask_id, answer } => ToHub::Reply { id, ask_id: ask_id.0, text: answer.0 },
            Tool::Broadcast { question, scope, exclude_self, collect, collect_s, timeout_s } => {
                let timeout_ms = milliseconds(timeout_s);
                let together_ms = collect_s.map_or(timeout_ms, |Seconds(s)| s * 1000);
                ToHub::Broadcast(BroadcastRequest {
                    id,
                    broadcast_id: format!("bc_{unique}"),
                    text: question.0,
                    scope: scope.unwrap_or(Scope::Machine),
                    timeout_ms,
                    include_self: !exclude_self.unwrap_or(true),
                    collect_ms: collect.unwrap_or(true).then_some(together_ms),
                })
            }
            Tool::Rename { name } => ToHub::Rename { id, name: name.0, exact: true },
        }
    }
}

fn milliseconds(timeout: Option<Seconds>) -> u64 {
    timeout.map_or(TIMEOUT_S, |Seconds(s)| s) * 1000
}

#[cfg(test)]
mod tests;
