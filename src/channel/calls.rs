//! Requests of the client that wait for the hub or for a message: tool calls and resources.

use std::slice;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Channel, resources, tools};
use crate::fence;
use crate::mcp::{self, Id};
use crate::texts;
use crate::wire::{Answer, Fault, Parcel, Roster, ToHub};

/// How long messages of the path `tool` are held back for an open call of `relay_wait`, so that those that arrive together are
/// handed over together.
const TOGETHER: Duration = Duration::from_millis(20);

/// The longest tool result, in characters of JSON. Claude Code shows its model up to 500,000 of a tool whose `_meta` says so, and
/// of longer ones a short preview (measured); what other clients do is not known.
const MAX_RESULT: usize = 490_000;
const MAX_RESULT_OF_OTHERS: usize = 40_000;

/// A request of the client that waits for the hub.
pub enum Call {
    /// A tool call, and whether a model reads its result.
    Tool(Id, bool),
    /// `relay_wait`: it ends with an error if no hub can be reached.
    Wait(Id),
    /// `resources/list`, or `resources/read` of an address.
    Resources(Id, Option<String>),
}

/// An open call of `relay_wait`.
pub struct Wait {
    call: Id,
    pub until: Instant,
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
            Err(fault) => return self.end_call(&id, tools::render_fault(&fault), true, Vec::new()),
        };
        // Codex also calls tools itself; a call by its model has an id.
        let is_read = self.program != mcp::Client::Codex || call.meta["callId"].is_string();
        let call = match &tool {
            tools::Tool::Wait { .. } if !is_read => {
                return self.end_call(&id, tools::render_wait(0), false, Vec::new());
            }
            tools::Tool::Wait { timeout_s } => {
                let longest = timeout_s.as_ref().map_or(tools::WAIT_S, |seconds| seconds.0);
                self.open_wait(id.clone(), Duration::from_secs(longest));
                Call::Wait(id)
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

    /// Opens the path `tool`, by which the hub then hands over what waits for the session. An earlier call ends.
    fn open_wait(&mut self, call: Id, longest: Duration) {
        self.end_wait_if(|_| true);
        self.wait = Some(Wait { call, until: Instant::now() + longest });
        self.update_paths();
    }

    /// Ends the open call of `relay_wait` if its time is up, or the client sends no more requests.
    pub(super) fn end_wait(&mut self, now: Instant) {
        let ending = self.ending;
        self.end_wait_if(|wait| wait.until <= now || ending);
    }

    fn end_wait_if(&mut self, is_over: impl FnOnce(&mut Wait) -> bool) {
        let Some(wait) = self.wait.take_if(is_over) else { return };
        self.update_paths(); // first, so that the hub pushes nothing more by `tool`
        let parcels = std::mem::take(&mut self.arrived);
        self.end_call(&wait.call, tools::render_wait(parcels.len()), false, parcels);
    }

    /// Hands texts of the path `tool` to the open call of `relay_wait`, or else back to the hub, unless the result of another call
    /// is about to carry them.
    pub(super) fn settle_arrived(&mut self) {
        match &mut self.wait {
            Some(wait) if !self.arrived.is_empty() => wait.until = wait.until.min(Instant::now() + TOGETHER),
            None if self.calls.is_empty() => {
                let parcels = std::mem::take(&mut self.arrived);
                self.give_back(parcels, "no tool call can carry it");
            }
            _ => {}
        }
    }

    /// The client no longer waits for one of its requests. Only `relay_wait` takes long enough to matter.
    pub(super) fn cancel(&mut self, params: &str) {
        let cancelled = mcp::cancelled(params);
        if self.wait.take_if(|wait| cancelled.as_ref() == Some(&wait.call)).is_some() {
            self.update_paths();
            self.settle_arrived();
        }
    }

    /// Answers with an empty list while there is no hub: a client waits for this answer at its start, and a notification
    /// tells it about peers later.
    pub(super) fn list_resources(&mut self, id: Id) {
        self.lists_resources = true;
        if self.client.is_registered() {
            self.client.send(&ToHub::WatchRoster);
            self.ask_hub(|id| ToHub::Peers { id }, Call::Resources(id, None));
        } else {
            self.print(&mcp::result(&id, resources::list(&Roster::default())));
        }
    }

    /// Answers a tool call, with as many of the waiting messages as a tool result of this client can hold. The hub keeps the rest.
    fn end_call(
        &mut self,
        call: &Id,
        (text, mut structured): (String, Value),
        is_error: bool,
        mut parcels: Vec<Parcel>,
    ) {
        let most = if self.program == mcp::Client::ClaudeCode { MAX_RESULT } else { MAX_RESULT_OF_OTHERS };
        let mut room = most.saturating_sub(structured.to_string().encode_utf16().count());
        let mut texts = vec![text];
        for (n, parcel) in parcels.iter_mut().enumerate() {
            if n == 0 {
                // It may be too large by itself.
                self.texts.fit(slice::from_mut(parcel), room, fence::text);
            }
            let text = fence::text(parcel);
            let length = texts::length(&text) + 3; // with quotes and a comma
            if n > 0 && length > room {
                break;
            }
            room = room.saturating_sub(length);
            texts.push(text);
        }
        let left = parcels.split_off(texts.len() - 1);
        if !parcels.is_empty() {
            // Claude Code gives the model only the structured form of a successful result.
            structured["messages"] = json!(texts[1..]);
        }
        if self.print(&mcp::result(call, mcp::tool_result(&texts, structured, is_error))) {
            parcels.iter().for_each(|parcel| self.client.pushed(&parcel.push, None));
        }
        self.give_back(left, "the tool result is full");
    }

    /// Returns messages to the hub, which keeps them for the next tool call.
    fn give_back(&mut self, parcels: Vec<Parcel>, why: &str) {
        for parcel in parcels {
            self.client.pushed(&parcel.push, Some(why.to_owned()));
        }
    }

    /// Ends the call that waits for a request. A tool call takes the messages that came with the answer.
    pub(super) fn ended(&mut self, id: u64, request: &ToHub, result: &Result<Answer, Fault>) {
        if let Ok(Answer::Replied { ask_id, .. }) = result {
            self.texts.remove_question(ask_id);
        }
        match (self.calls.remove(&id), result) {
            (Some(Call::Tool(id, is_read)), _) => {
                let rendered = match result {
                    Ok(answer) => tools::render(request, answer, self.is_pushable()),
                    Err(fault) => tools::render_fault(fault),
                };
                let carried = if is_read { std::mem::take(&mut self.arrived) } else { Vec::new() };
                self.end_call(&id, rendered, result.is_err(), carried);
            }
            (Some(Call::Wait(id)), Err(fault)) if self.wait.take_if(|wait| wait.call == id).is_some() => {
                self.update_paths();
                self.end_call(&id, tools::render_fault(fault), true, Vec::new());
            }
            (Some(Call::Resources(id, uri)), _) => {
                self.print(&resources::answer(&id, uri.as_deref(), result));
            }
            (Some(Call::Wait(_)) | None, _) => {}
        }
    }
}
