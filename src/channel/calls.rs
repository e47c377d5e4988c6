//! Requests of the client that wait for the hub or for a message: tool calls and resources.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Channel, resources, tools};
use crate::fence;
use crate::mcp::{self, Id};
use crate::texts;
use crate::wire::{Answer, Fault, Parcel, ToHub};

/// The longest tool result, in characters of JSON. Claude Code shows its model up to 500,000 of a tool whose `_meta` says so, and
/// of longer ones a short preview (measured); what other clients do is not known.
const MAX_RESULT: usize = 490_000;
const MAX_RESULT_OF_OTHERS: usize = 40_000;

/// A request of the client that waits for the hub.
pub enum Call {
    /// A tool call, and whether a model reads its result.
    Tool(Id, bool),
    /// A look for messages, for the open call of `relay_wait`.
    Wait,
    /// `resources/list`, or `resources/read` of an address.
    Resources(Id, Option<String>),
}

/// The result of `relay_wait`, which gets its messages later.
fn waited(messages: &[Parcel]) -> Value {
    // Some clients read only the text, which must not say that there are none.
    if messages.is_empty() { json!({"ok": true, "messages": []}) } else { json!({"ok": true}) }
}

impl Channel {
    pub(super) fn call(&mut self, id: Id, params: &str) {
        let call: tools::Call = match mcp::params(params) {
            Ok(call) => call,
            Err(why) => return self.refuse(&id, &format!("not a tool call: {why}")),
        };
        let name = fence::label(&call.name);
        log::debug!(tool = name; "tool_call");
        let Some(tool) = call.tool(self.is_pushable()) else {
            return self.refuse(&id, &format!("there is no tool \"{name}\"; tools/list names them"));
        };
        let (tool, unique) = match tool.and_then(|tool| Ok((tool, self.client.new_id("")?))) {
            Ok(called) => called,
            Err(fault) => return self.end_call(&id, Err(&fault), Vec::new()),
        };
        // Codex also calls tools itself; a call by its model has an id.
        let is_read = self.program.client() != mcp::CODEX || call.meta["callId"].is_string();
        let call = match &tool {
            tools::Tool::Wait { .. } if !is_read => {
                return self.end_call(&id, Ok(waited(&[])), Vec::new());
            }
            tools::Tool::Wait { timeout_s } => {
                self.end_wait(None); // an earlier call
                let longest = timeout_s.as_ref().map_or(tools::WAIT_S, |seconds| seconds.0);
                self.wait = Some((id, Instant::now() + Duration::from_secs(longest)));
                Call::Wait
            }
            _ => Call::Tool(id, is_read),
        };
        self.ask_hub(|id| tool.request(id, &unique), call);
    }

    pub(super) fn refuse(&mut self, id: &Id, why: &str) {
        self.print(&mcp::error(id, mcp::INVALID_PARAMS, why));
    }

    /// Sends a request to the hub; `call` ends with its answer.
    pub(super) fn ask_hub(&mut self, request: impl FnOnce(u64) -> ToHub, call: Call) {
        let id = self.client.request(request);
        self.calls.insert(id, call);
    }

    /// Looks for messages again, for the open call of `relay_wait`, or ends it if its time is up. Every answer of the hub brings
    /// the messages that no path can deliver.
    pub(super) fn check_wait(&mut self, now: Instant) {
        match &self.wait {
            Some((_, until)) if *until <= now => self.end_wait(None),
            Some(_) => self.ask_hub(|id| ToHub::Peers { id }, Call::Wait),
            None => {}
        }
    }

    /// Ends the open call of `relay_wait` with what has arrived.
    pub(super) fn end_wait(&mut self, fault: Option<&Fault>) {
        if let Some((call, _)) = self.wait.take() {
            let parcels = std::mem::take(&mut self.arrived);
            self.end_call(&call, fault.map_or_else(|| Ok(waited(&parcels)), Err), parcels);
        }
    }

    /// Answers with an empty list while there is no hub: a client waits for this answer at its start, and each registration
    /// reports a change.
    pub(super) fn list_resources(&mut self, id: Id) {
        if !self.client.is_registered() {
            self.print(&mcp::result(&id, json!({"resources": []})));
            return;
        }
        self.client.send(&ToHub::WatchRoster);
        self.ask_hub(|id| ToHub::Peers { id }, Call::Resources(id, None));
    }

    /// Answers a tool call, with as many of the waiting messages as a tool result of this client can hold. The hub keeps the rest.
    fn end_call(&mut self, call: &Id, outcome: Result<Value, &Fault>, parcels: Vec<Parcel>) {
        let is_error = outcome.is_err();
        let (text, mut structured) =
            outcome.map_or_else(tools::render_fault, |done| (done.to_string(), done));
        let most = if self.is_claude() { MAX_RESULT } else { MAX_RESULT_OF_OTHERS };
        let mut room = most.saturating_sub(structured.to_string().encode_utf16().count());
        let (mut texts, mut carried, mut left) = (vec![text], Vec::new(), Vec::new());
        for parcel in parcels {
            // The first one may be too large by itself.
            let most = if carried.is_empty() { room } else { usize::MAX };
            let text = self.texts.fit(&parcel, most, fence::text);
            let length = texts::length(&text) + 3; // with quotes and a comma
            if carried.is_empty() || left.is_empty() && length <= room {
                room = room.saturating_sub(length);
                texts.push(text);
                carried.push(parcel.push);
            } else {
                left.push(parcel);
            }
        }
        if !carried.is_empty() {
            // Claude Code gives the model only the structured form of a successful result.
            structured["messages"] = json!(texts[1..]);
        }
        if self.print(&mcp::result(call, mcp::tool_result(&texts, structured, is_error))) {
            carried.iter().for_each(|push| self.client.pushed(push, None));
        }
        self.give_back(left, "the tool result is full");
    }

    /// Returns messages to the hub, which keeps them for the next tool call.
    pub(super) fn give_back(&mut self, parcels: Vec<Parcel>, why: &str) {
        for parcel in parcels {
            self.client.pushed(&parcel.push, Some(why.to_owned()));
        }
    }

    /// Ends the call that waits for a request. A tool call takes the messages that came with the answer.
    pub(super) fn ended(&mut self, id: u64, result: &Result<Answer, Fault>) {
        if let Ok(Answer::Replied { ask_id, .. }) = result {
            self.texts.remove_question(ask_id);
        }
        match self.calls.remove(&id) {
            Some(Call::Tool(id, is_read)) => {
                let carried = if is_read { std::mem::take(&mut self.arrived) } else { Vec::new() };
                self.end_call(&id, result.as_ref().map(tools::render), carried);
            }
            Some(Call::Wait) if result.is_ok() && self.arrived.is_empty() => {}
            Some(Call::Wait) => self.end_wait(result.as_ref().err()),
            Some(Call::Resources(id, uri)) => {
                self.print(&resources::answer(&id, uri.as_deref(), result));
            }
            None => {}
        }
    }
}
