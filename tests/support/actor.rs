//! A session that does as it is told.

use std::time::Instant;

use serde_json::{Value, json};

use super::journal::deadline;
use super::model::{Gate, Request, ToolResult};
use super::session::Session;
use super::stage::{Stage, ask_line, lock, peer_line, wait_until};
use super::terminal::Terminal;

/// Something that takes prompts.
pub trait Prompted {
    fn give(&mut self, prompt: &str);
}

impl Prompted for Session {
    #[track_caller]
    fn give(&mut self, prompt: &str) {
        self.prompt(prompt);
    }
}

impl Prompted for Terminal {
    #[track_caller]
    fn give(&mut self, prompt: &str) {
        self.prompt(prompt);
    }
}

/// A session that does what it is told.
pub struct Actor<'a, S> {
    pub name: String,
    pub session: S,
    pub(super) stage: &'a Stage,
    orders: usize,
}

impl<'a, S> Actor<'a, S> {
    pub(super) fn new(name: &str, stage: &'a Stage, session: S) -> Self {
        Actor { name: name.to_owned(), stage, session, orders: 0 }
    }
}

/// A tool call that was ordered.
#[must_use]
pub struct Ordered {
    order: String,
    tool: String,
}

impl<S: Prompted> Actor<'_, S> {
    /// Has the model call a tool (`relay_ask`, `Bash`), and returns its result.
    #[track_caller]
    pub fn call(&mut self, tool: &str, input: Value) -> ToolResult {
        let ordered = self.start(tool, input);
        self.result(&ordered)
    }

    /// As [`Actor::call`], for a call that succeeds with an object.
    #[track_caller]
    pub fn get(&mut self, tool: &str, input: Value) -> Value {
        let result = self.call(tool, input);
        assert!(!result.is_error, "{}: {result:?}", self.name);
        serde_json::from_str(&result.text).unwrap_or_else(|e| panic!("{}: {e}: {result:?}", self.name))
    }

    /// As [`Actor::call`], for a call that fails; the error's text.
    #[track_caller]
    pub fn fail(&mut self, tool: &str, input: Value) -> String {
        let result = self.call(tool, input);
        assert!(result.is_error, "{}: {result:?}", self.name);
        result.text
    }

    /// Has the model call a tool, and does not wait for it.
    #[track_caller]
    pub fn start(&mut self, tool: &str, input: Value) -> Ordered {
        let order = self.order("CALL");
        self.session.give(&format!("{order} {tool} {input}"));
        Ordered { order: format!("{order} "), tool: tool.to_owned() }
    }

    /// Blocks until the model has the result of what was started.
    #[track_caller]
    pub fn result(&self, ordered: &Ordered) -> ToolResult {
        let Ordered { order, tool } = ordered;
        let of_it = |result: &ToolResult| result.name.ends_with(tool.as_str());
        let request =
            self.stage.model.wait_for(&self.name, &format!("the result of {order}{tool}"), |request| {
                !request.hears(order)
                    && request.received(order).matches > 0
                    && request.tool_results().iter().any(of_it)
            });
        request.tool_results().into_iter().find(of_it).expect("just seen")
    }

    /// Asks a peer, and returns the ask's id.
    #[track_caller]
    pub fn ask(&mut self, to: &str, question: &str) -> String {
        let asked = self.get("relay_ask", json!({"to": to, "question": question}));
        assert_eq!(asked["to"], to);
        asked["ask_id"].as_str().expect("an id").to_owned()
    }

    /// What `relay_peers` says.
    #[track_caller]
    pub fn peers(&mut self) -> Value {
        self.get("relay_peers", json!({}))
    }

    /// Blocks until this session's hub knows the peer.
    #[track_caller]
    pub fn meet(&mut self, peer: &str) {
        self.wait_for_peers(peer, |peers| peer_line(peers, peer) != Value::Null);
    }

    /// Has `relay_peers` called until it says what is wanted.
    #[track_caller]
    pub fn wait_for_peers(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + deadline();
        loop {
            let peers = self.peers();
            if wanted(&peers) {
                return peers;
            }
            assert!(
                Instant::now() < end,
                "{}: no {what} within {} s: {peers:#}",
                self.name,
                deadline().as_secs()
            );
        }
    }

    /// What `relay_peers` says of an open ask of this session.
    #[track_caller]
    pub fn wait_for_state(&mut self, ask_id: &str, state: &str) -> Value {
        let peers = self
            .wait_for_peers(&format!("state {state:?}"), |peers| ask_line(peers, ask_id)["state"] == state);
        ask_line(&peers, ask_id)
    }

    /// Begins a turn that lasts until the gate is opened, and returns when it has begun.
    #[track_caller]
    pub fn hold(&mut self) -> Gate {
        let (gate, order) = (Gate::new(), self.order("HOLD"));
        let key = format!("{}-{order}", self.name);
        lock(&self.stage.plot.gates).insert(key.clone(), gate.clone());
        self.session.give(&format!("{order} {key} please"));
        gate.wait_until_reached();
        gate
    }

    /// Begins a tool call that lasts until [`LongCall::end`], and returns when it runs.
    #[track_caller]
    pub fn long_call(&mut self) -> LongCall {
        let number = self.orders;
        let file = |what: &str| self.stage.home.path().join(format!("tmp/{}-{number}-{what}", self.name));
        let (runs, ends) = (file("runs"), file("ends"));
        let command =
            format!("touch {}; while [ ! -e {} ]; do sleep 0.05; done", runs.display(), ends.display());
        let ordered = self.start("Bash", json!({"command": command, "description": "Wait"}));
        wait_until("the tool call runs", || runs.exists());
        LongCall { ordered, ends }
    }

    /// Lets the session take one more turn when nothing is on its way any more: whatever came, and whatever came twice, is
    /// in the request that this returns.
    #[track_caller]
    pub fn settle(&mut self) -> Request {
        self.stage.wait_until_delivered();
        let order = self.order("SETTLE");
        self.session.give(&format!("{order} and no more"));
        let order = format!("{order} ");
        self.stage.model.wait_for(&self.name, &order, |request| request.hears(&order))
    }

    /// When nothing is on its way any more, the session has met each of these exactly once.
    #[track_caller]
    pub fn got_each_once(&mut self, needles: &[&str]) {
        let all = self.settle();
        for needle in needles {
            assert_eq!(all.received(needle).matches, 1, "{} got {needle:?} that often", self.name);
        }
    }

    pub(super) fn order(&mut self, verb: &str) -> String {
        self.orders += 1;
        format!("{verb}-{}", self.orders)
    }
}

impl Actor<'_, Session> {
    /// Ends the session as its user would.
    #[track_caller]
    pub fn end(self) {
        self.session.end();
    }
}

impl Actor<'_, Terminal> {
    /// Ends the session as its user would.
    #[track_caller]
    pub fn end(self) {
        self.session.prompt("/exit");
        self.session.wait_for_exit();
    }
}

/// A tool call that runs.
pub struct LongCall {
    ordered: Ordered,
    ends: std::path::PathBuf,
}

impl LongCall {
    /// Ends the tool call, and returns when the model has its result.
    #[track_caller]
    pub fn end<S: Prompted>(self, actor: &Actor<'_, S>) {
        std::fs::write(&self.ends, "").expect("the end of a tool call");
        actor.result(&self.ordered);
    }
}
