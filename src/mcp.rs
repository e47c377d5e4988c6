//! The part of the Model Context Protocol that a channel needs: JSON-RPC 2.0, one message per line, on stdin and
//! stdout.
//!
//! Every request is answered, and with its own id, whatever the rest of its line holds: only the outermost object has
//! to be JSON, ids are never interpreted, and where even that fails [`scan`] still finds the id. Clients wait forever
//! for an answer that has another id, or `null`.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

mod scan;

use scan::IdScan;
pub use scan::replace_lone_surrogates;

/// The revisions that are spoken, newest first. Without 2026-07-28 on purpose: Claude Code does not register a server
/// with that revision as a channel.
const REVISIONS: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
/// How Claude Code and Codex introduce themselves.
pub const CLAUDE_CODE: &str = "claude-code";
pub const CODEX: &str = "codex-mcp-client";
/// The longest line that is read whole, in bytes: a 512 KiB text, each byte of it escaped, and what surrounds it.
pub const MAX_LINE: usize = crate::wire::MAX_LINE;
/// The code of an answer to a line that is not JSON.
const PARSE_ERROR: i32 = -32700;
/// The code of an answer to JSON that is not a request.
const INVALID_REQUEST: i32 = -32600;
/// The code of an answer to a request whose method is not offered.
pub const METHOD_NOT_FOUND: i32 = -32601;
/// The code of an answer to a request whose parameters are wrong.
pub const INVALID_PARAMS: i32 = -32602;
/// The code of an answer to a request that failed for no fault of the client's.
pub const INTERNAL_ERROR: i32 = -32603;
/// The code of an answer to `resources/read` of a resource that is not there.
pub const RESOURCE_NOT_FOUND: i32 = -32002;

/// The instructions for the model; the client truncates them at 2 KB.
const INSTRUCTIONS: &str = include_str!("mcp/instructions.txt");
/// A request's id as the client wrote it, character by character: a JSON string or number of any size, or `null` in the
/// answer to a line without one.
#[derive(Debug, Clone, PartialEq)]
pub struct Id(String);

impl Id {
    /// `None` unless `text` is a string or a number.
    fn new(text: &str) -> Option<Id> {
        let raw: &RawValue = serde_json::from_str(text).ok()?;
        let text = raw.get();
        matches!(text.as_bytes(), [b'"' | b'-' | b'0'..=b'9', ..]).then(|| Id(text.to_owned()))
    }

    /// Whether it is that of our request `name`.
    pub fn is(&self, name: &str) -> bool {
        params::<String>(&self.0).is_ok_and(|own| own == name)
    }

    fn null() -> Id {
        Id("null".to_owned())
    }
}

/// A message from the client.
#[derive(Debug, PartialEq)]
pub enum Incoming {
    /// To be answered exactly once, under this id.
    Request {
        id: Id,
        method: String,
        /// JSON text without lone surrogates, read by [`params`]; not checked beyond its syntax.
        params: String,
    },
    /// Not to be answered.
    Notification {
        /// The request that the client no longer waits for.
        cancels: Option<Id>,
    },
    /// An answer to a request of ours. The result is JSON text without lone surrogates; `None` for an error.
    Response { id: Id, result: Option<String> },
    /// Not a valid message; the text is the answer to it.
    Broken(String),
}

/// Reads the next line that is not blank and gives the message in it; `None` at the end of the input. Of a line over
/// [`MAX_LINE`] only the id is read.
///
/// # Errors
/// Those of the input.
pub fn read(input: &mut impl BufRead) -> io::Result<Option<Incoming>> {
    let mut line = Vec::new();
    loop {
        line.clear();
        if io::Read::take(&mut *input, MAX_LINE as u64).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') && line.len() >= MAX_LINE {
            let mut id = IdScan::default().feed(&line);
            while line.last().is_some_and(|byte| *byte != b'\n') {
                line.clear();
                io::Read::take(&mut *input, 64 << 10).read_until(b'\n', &mut line)?;
                id = id.feed(&line);
            }
            return Ok(Some(broken(id, INVALID_REQUEST, "the message is longer than 4 MiB")));
        }
        let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line); // a byte order mark
        if !text.trim_ascii().is_empty() {
            return Ok(Some(parse(&String::from_utf8_lossy(text))));
        }
    }
}

/// The members are parsed later, where they are used, so that a number or a nesting beyond what a parser takes costs that
/// member and not the whole message.
fn parse(text: &str) -> Incoming {
    let wrong = |code, why: &str| broken(IdScan::default().feed(text.as_bytes()), code, why);
    let members: BTreeMap<String, &RawValue> = match serde_json::from_str(text) {
        Ok(members) => members,
        Err(e) if e.is_data() => return wrong(INVALID_REQUEST, &format!("not a JSON-RPC message: {e}")),
        Err(e) => return wrong(PARSE_ERROR, &format!("not JSON: {e}")),
    };
    let member = |name| members.get(name).map(|raw| replace_lone_surrogates(raw.get()));
    let method = member("method").map(|method| params::<String>(&method));
    let (params, result) = (member("params").unwrap_or_else(|| "{}".to_owned()), member("result"));
    match (method, members.get("id").map(|raw| Id::new(raw.get()))) {
        (Some(Ok(method)), Some(Some(id))) => Incoming::Request { id, method, params },
        (Some(Ok(method)), None) => Incoming::Notification { cancels: cancelled(&method, &params) },
        (None, Some(id)) if result.is_some() || members.contains_key("error") => {
            Incoming::Response { id: id.unwrap_or_else(Id::null), result }
        }
        _ => wrong(INVALID_REQUEST, "`method` is a string, and `id` a string or a number"),
    }
}

/// The answer to a malformed line, with the id that was found in it.
fn broken(id: IdScan, code: i32, why: &str) -> Incoming {
    let id = id.finish().and_then(|id| Id::new(&id)).unwrap_or_else(Id::null);
    Incoming::Broken(error(&id, code, why))
}

/// The parameters of a request, as their type says.
///
/// # Errors
/// They have another form; the text says where.
pub fn params<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|e| e.to_string())
}

/// The line that answers a request.
pub fn result(id: &Id, result: impl Serialize) -> String {
    response(id, "result", &result)
}

/// The line that answers a request with an error.
pub fn error(id: &Id, code: i32, message: &str) -> String {
    response(id, "error", &json!({"code": code, "message": message}))
}

fn response(id: &Id, outcome: &str, value: &impl Serialize) -> String {
    let value = serde_json::to_string(value).unwrap_or_default(); // cannot fail: string keys, written to memory
    format!(r#"{{"jsonrpc":"2.0","id":{},"{outcome}":{value}}}"#, id.0)
}

/// The line of a request of ours, whose id is `name`.
pub fn request(name: &str, method: &str, params: Value) -> String {
    json!({"jsonrpc": "2.0", "id": name, "method": method, "params": params}).to_string()
}

/// The line of a notification.
pub fn notification(method: &str, params: Value) -> String {
    json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string()
}

/// The parameters of `initialize`. A member of an unexpected type counts as missing.
#[derive(Default, Deserialize)]
pub struct Initialize(Value);

impl Initialize {
    /// The name of the client that introduces itself.
    pub fn client(&self) -> &str {
        self.0["clientInfo"]["name"].as_str().unwrap_or_default()
    }

    /// Whether the client can show forms to its user (revisions before 2025-11-25 know no other elicitation).
    pub fn shows_forms(&self) -> bool {
        let elicitation = &self.0["capabilities"]["elicitation"];
        elicitation.is_object() && (elicitation["form"].is_object() || elicitation["url"].is_null())
    }

    /// The answer: the revision that the client asks for, or the newest. `is_pushable`: messages reach the model by themselves.
    pub fn answer(&self, is_pushable: bool) -> Value {
        let revision = REVISIONS.iter().find(|r| self.0["protocolVersion"] == **r).unwrap_or(&REVISIONS[0]);
        json!({
            "protocolVersion": revision,
            "capabilities": {
                "tools": {},
                "resources": {"listChanged": true},
                "prompts": {},
                "experimental": {"claude/channel": {}},
            },
            "serverInfo": {"name": "relay", "title": "Claude Relay", "version": env!("CARGO_PKG_VERSION")},
            "instructions": INSTRUCTIONS.replace("{arrival}", arrival(is_pushable)),
        })
    }
}

/// How a message reaches the model: by itself, or only with the result of a tool call.
pub fn arrival(is_pushable: bool) -> &'static str {
    match is_pushable {
        true => "by itself, as a message: go on without waiting or polling",
        false => "with the result of a later relay tool call; relay_wait waits for messages",
    }
}

/// The request that the client no longer waits for.
fn cancelled(method: &str, text: &str) -> Option<Id> {
    let is_meant = method == "notifications/cancelled";
    let members: BTreeMap<String, Box<RawValue>> = params(text).ok().filter(|_| is_meant)?;
    Id::new(members.get("requestId")?.get())
}

/// A tool's result: the texts, and the structured content. Of a successful result Claude Code gives its model only the latter.
pub fn tool_result(text: &[String], structured: Value, is_error: bool) -> Value {
    let content: Vec<Value> = text.iter().map(|t| json!({"type": "text", "text": t})).collect();
    json!({"content": content, "structuredContent": structured, "isError": is_error})
}

#[cfg(test)]
mod tests;
