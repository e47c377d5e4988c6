//! Requests of the client that wait for the hub or for a message: tool calls and resources.

use std::io;
use std::time::Instant;

use serde_json::{Value, json};

use super::{Channel, print, resources, tools};
use crate::fence;
use crate::mcp::{self, Id};
use crate::texts::{Limit, json_cost};
use crate::wire::{Answer, Fault, Parcel, Roster, ToHub};

/// A request of the client that waits for the hub.
pub enum Call {
    Tool {
        id: Id,
        delivery: tools::Delivery,
        /// Whether a model reads the result.
        is_read: bool,
    },
    /// `relay_wait`, and until when it waits.
    Wait(Id, Instant),
    /// `resources/list`.
    Resources(Id),
    /// `resources/read` of an address.
    Resource(Id, String),
}

impl Channel {
    pub(super) fn call(&mut self, id: Id, params: &str) -> io::Result<()> {
        let call: tools::Call = match mcp::params(params) {
            Ok(call) => call,
            Err(why) => {
                return print(&mcp::error(&id, mcp::INVALID_PARAMS, &format!("not a tool call: {why}")));
            }
        };
        let thread = call.meta.thread_id.as_deref().map(fence::label).unwrap_or_default();
        log::debug!(tool = fence::label(&call.name), client_thread = thread; "tool_call");
        // A model of Codex is behind a call only if the call says so.
        let is_read = self.program != mcp::Client::Codex || call.meta.call_id.is_some();
        let tool =
            match call.tool().filter(|t| !(self.is_pushable() && matches!(t, Ok(tools::Tool::Wait(_))))) {
                None => {
                    let why =
                        format!("there is no tool \"{}\"; tools/list names them", fence::label(&call.name));
                    return print(&mcp::error(&id, mcp::INVALID_PARAMS, &why));
                }
                Some(tool) => tool,
            };
        let until = match &tool {
            Ok(tools::Tool::Wait(_)) if !is_read => {
                return self.end_call(&id, tools::render_wait(0), false, Vec::new());
            }
            Ok(tools::Tool::Wait(wait)) => Some(Instant::now() + wait.duration()),
            _ => None,
        };
        let (tool, unique) = match tool.and_then(|tool| Ok((tool, self.client.new_id("")?))) {
            Ok(called) => called,
            Err(fault) => return self.end_call(&id, tools::render_fault(&fault), true, Vec::new()),
        };
        let collect_ms = match &tool {
            tools::Tool::Broadcast(broadcast) => broadcast.collect_ms(),
            _ => None,
        };
        let delivery = tools::Delivery { is_pushed: self.is_pushable(), collect_ms };
        let call = match until {
            Some(until) => Call::Wait(id, until),
            None => Call::Tool { id, delivery, is_read },
        };
        self.ask_hub(|id| tool.request(id, &unique), call);
        Ok(())
    }

    /// Sends a request to the hub; `call` ends with its answer.
    fn ask_hub(&mut self, request: impl FnOnce(u64) -> ToHub, call: Call) {
        let id = self.client.request(request);
        self.calls.insert(id, call);
    }

    /// The client no longer waits for one of its requests. Only `relay_wait` takes long enough to matter.
    pub(super) fn cancel(&mut self, params: &str) {
        let cancelled = mcp::params(params).ok().and_then(|cancelled: mcp::Cancelled| cancelled.request());
        let Some(id) = cancelled else { return };
        let left = self.waits.cancel(&id);
        self.calls.retain(|_, call| !matches!(call, Call::Wait(call, _) if *call == id));
        self.update_paths();
        self.give_back(left, "the client does not wait any more");
    }

    /// Answers with an empty list while there is no hub: a client waits for this answer at its start, and a notification
    /// tells it about peers later.
    pub(super) fn list_resources(&mut self, id: Id) -> io::Result<()> {
        self.lists_resources = true;
        if !self.client.is_registered() {
            return print(&mcp::result(&id, resources::list(&Roster::default())));
        }
        self.client.send(&ToHub::WatchRoster);
        self.ask_hub(|id| ToHub::Peers { id }, Call::Resources(id));
        Ok(())
    }

    pub(super) fn read_resource(&mut self, id: Id, params: &str) {
        let read: resources::Read = mcp::params(params).unwrap_or_default();
        self.ask_hub(|id| ToHub::Peers { id }, Call::Resource(id, read.uri));
    }

    pub(super) fn tell_resources_changed(&mut self) -> io::Result<()> {
        print(&mcp::notification("notifications/resources/list_changed", json!({})))
    }

    /// Ends the calls of `relay_wait` whose time is up or for which something has arrived.
    pub(super) fn end_waits(&mut self, now: Instant) -> io::Result<()> {
        while let Some((call, parcels)) = self.waits.take_due(now) {
            self.end_wait(&call, parcels)?;
        }
        while self.ending
            && let Some((call, parcels)) = self.waits.take_any()
        {
            self.end_wait(&call, parcels)?;
        }
        Ok(())
    }

    /// Closes the path `tool` before it answers, so that the hub pushes nothing more by it.
    fn end_wait(&mut self, call: &Id, parcels: Vec<Parcel>) -> io::Result<()> {
        self.update_paths();
        self.end_call(call, tools::render_wait(parcels.len()), false, parcels)
    }

    /// Answers a tool call, with as many of the waiting messages as a tool result of this client can hold. The hub keeps the rest.
    fn end_call(
        &mut self,
        call: &Id,
        (text, mut structured): (String, Value),
        is_error: bool,
        parcels: Vec<Parcel>,
    ) -> io::Result<()> {
        let mut room = self.program.max_tool_result().saturating_sub(json_length(&structured));
        let (mut taken, mut left) = (Vec::new(), Vec::new());
        for mut parcel in parcels {
            let mut text = json!(fence::text(&parcel));
            if json_length(&text) >= room && taken.is_empty() {
                // Too large by itself.
                let limit = Limit { most: room, cost: json_cost, form: fence::text };
                self.texts.fit([&mut parcel], &limit);
                text = json!(fence::text(&parcel));
            } else if json_length(&text) >= room || !left.is_empty() {
                left.push(parcel);
                continue;
            }
            room = room.saturating_sub(json_length(&text) + 1);
            taken.push((parcel.push, text));
        }
        let mut texts = vec![text];
        if !taken.is_empty() {
            // Claude Code gives the model only the structured form of a successful result.
            structured["messages"] = taken.iter().map(|(_, text)| text.clone()).collect();
            texts.extend(taken.iter().filter_map(|(_, text)| text.as_str().map(str::to_owned)));
        }
        print(&mcp::result(call, mcp::tool_result(&texts, structured, is_error)))?;
        taken.iter().for_each(|(push, _)| self.client.pushed(push, None));
        self.give_back(left, "the tool result is full");
        Ok(())
    }

    /// Returns messages to the hub, which keeps them for the next tool call.
    pub(super) fn give_back(&mut self, parcels: Vec<Parcel>, why: &str) {
        for parcel in parcels {
            self.client.pushed(&parcel.push, Some(why.to_owned()));
        }
    }

    /// Ends the call that waits for a request, with the messages that came with its answer.
    pub(super) fn ended(
        &mut self,
        id: u64,
        result: &Result<Answer, Fault>,
        waiting: Vec<Parcel>,
    ) -> io::Result<()> {
        let (new, known): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|p| self.client.remember(&p.push));
        known.iter().for_each(|parcel| self.client.report_again(&parcel.push));
        if let Ok(Answer::Replied { ask_id, .. }) = result {
            self.texts.remove_question(ask_id);
        }
        match self.calls.remove(&id) {
            Some(Call::Tool { id, delivery, is_read }) => {
                let rendered = match result {
                    Ok(answer) => tools::render(answer, delivery).unwrap_or_default(),
                    Err(fault) => tools::render_fault(fault),
                };
                let (carried, left) = if is_read { (new, Vec::new()) } else { (Vec::new(), new) };
                self.end_call(&id, rendered, result.is_err(), carried)?;
                self.give_back(left, "no model reads the result");
            }
            Some(Call::Wait(id, until)) => match result {
                Err(fault) => self.end_call(&id, tools::render_fault(fault), true, new)?,
                Ok(_) if !new.is_empty() => self.end_wait(&id, new)?,
                Ok(_) => {
                    self.waits.open(id, until);
                    self.update_paths();
                }
            },
            Some(call) => {
                self.give_back(new, "no model reads the answer");
                print(&call.answer(result))?;
            }
            None => self.give_back(new, "no tool call waits for this answer"),
        }
        Ok(())
    }
}

impl Call {
    /// The answer to a request for resources.
    fn answer(&self, result: &Result<Answer, Fault>) -> String {
        let roster = match result {
            Ok(Answer::Peers(roster)) => Ok(roster),
            Ok(_) => Err("the hub gave another answer"),
            Err(fault) => Err(fault.message.as_str()),
        };
        let (Call::Tool { id, .. } | Call::Wait(id, _) | Call::Resources(id) | Call::Resource(id, _)) = self;
        match (self, roster) {
            (_, Err(why)) => mcp::error(id, mcp::INTERNAL_ERROR, why),
            (Call::Resource(_, uri), Ok(roster)) => match resources::read(roster, uri) {
                Some(contents) => mcp::result(id, contents),
                None => {
                    let why = format!(
                        "no peer has the address \"{}\"; resources/list has them all",
                        fence::label(uri)
                    );
                    mcp::error(id, mcp::RESOURCE_NOT_FOUND, &why)
                }
            },
            (_, Ok(roster)) => mcp::result(id, resources::list(roster)),
        }
    }
}

/// The length of a value as JSON text, as Claude Code counts it: in UTF-16 units.
fn json_length(value: &Value) -> usize {
    value.to_string().encode_utf16().count()
}
