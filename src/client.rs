//! A registered connection that survives a lost connection: the client side of channels, `relay ask` and `relay join`.
//!
//! The hub keeps the state; a client keeps what it needs to continue after a lost connection: its identity and secret,
//! requests that have no answer (each is sent again under the same ids: all are idempotent), the identifiers of its
//! last pushes (a push that arrives again is confirmed and not repeated), and the ids of its open asks. Each
//! registration names those asks, and the hub ends each that it does not know.
//!
//! Every request ends: with the hub's answer, or with `hub_unreachable` after [`CONNECT`] without a hub or [`ANSWER`]
//! in all, counted from the call and never extended. A request whose hub died twice is not sent a third time. An ask
//! that is given up is withdrawn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use crate::connection::{ANSWER, CONNECT, FromHub, Sender, silent, unreachable};
use crate::process::HOST;
use crate::token::Tokens;
use crate::wire::{
    Answer, AskRequest, BroadcastRequest, Fault, Kind, Parcel, Proof, State, ToClient, ToHub, Who,
};

/// The number of pushes that a client remembers.
const MAX_PUSHES: usize = 1024;
/// How many hubs may die while they have a request: it may be what kills them. A request without a time limit is tried longer,
/// since its ask would stay open.
const MAX_DEATHS: u32 = 2;
const MAX_DEATHS_WITHOUT_LIMIT: u32 = 16;
const DEATHS: &str =
    "hubs have died while they had this request, so it is not sent again; see `relay doctor`";
/// The id of the registration request.
const REGISTER: u64 = 0;

/// An event for the owner of a [`Client`].
#[derive(Debug)]
pub enum Event {
    Registered {
        name: String,
    },
    /// The hub refused the registration.
    Refused(Fault),
    /// A request has ended. Texts for the result of a tool call came as [`Push`](Self::Push) before.
    Ended {
        id: u64,
        request: ToHub,
        result: Result<Answer, Fault>,
    },
    /// Push this, and report it with [`Client::pushed`] or [`Client::seen`].
    Push(Parcel),
    /// A message of the hub that only its owner acts on: `State`, `Over` or `RosterChanged`.
    Told(ToClient),
    /// The connection is lost; [`keep`](crate::connection::keep) reconnects.
    Lost(Fault),
}

/// A request that has no answer.
struct Request {
    message: ToHub,
    /// The time of the call; `None` for a request without a time limit.
    called: Option<Instant>,
    /// Whether it was sent on the present connection.
    sent: bool,
    /// How often the connection was lost while the request was sent and unanswered.
    deaths: u32,
}

/// A registered client, and what it needs to continue after a lost connection.
pub struct Client {
    tokens: Tokens,
    pub who: Who,
    sender: Option<Sender>,
    registered: bool,
    /// The epoch of the last registration, and that of the present connection.
    epoch: Option<String>,
    next_epoch: String,
    /// Why there is no hub, or none that answers.
    away: Fault,
    next_id: u64,
    requests: BTreeMap<u64, Request>,
    /// The last pushes, oldest first, each with the report about it once it is made.
    pushes: VecDeque<(String, Option<ToHub>)>,
    /// The ids of open asks and broadcasts.
    open: BTreeSet<String>,
    /// The events of the present call.
    events: Vec<Event>,
}

impl Client {
    /// A client that registers as `who` on each connection that [`handle`](Self::handle) is given.
    pub fn new(tokens: Tokens, who: Who) -> Client {
        Client {
            tokens,
            who,
            sender: None,
            registered: false,
            epoch: None,
            next_epoch: String::new(),
            away: unreachable("the hub has not been reached yet; try again"),
            next_id: REGISTER,
            requests: BTreeMap::new(),
            pushes: VecDeque::new(),
            open: BTreeSet::new(),
            events: Vec::new(),
        }
    }

    /// A new unique id.
    ///
    /// # Errors
    /// The random source cannot be read.
    pub fn new_id(&mut self, prefix: &str) -> Result<String, Fault> {
        self.tokens.id(prefix).map_err(|e| unreachable(format!("cannot read /dev/urandom: {e}")))
    }

    pub fn is_registered(&self) -> bool {
        self.registered
    }

    /// Whether there is a connection, registered or not.
    pub fn is_connected(&self) -> bool {
        self.sender.is_some()
    }

    /// Whether all requests have an answer and all asks have ended.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.open.is_empty()
    }

    /// Queues a request, which is sent once the client is registered. Returns its id.
    pub fn request(&mut self, make: impl FnOnce(u64) -> ToHub) -> u64 {
        self.next_id += 1;
        let message = make(self.next_id);
        // No caller waits for a withdrawal or for the end of a form.
        let has_limit = !matches!(message, ToHub::Withdraw { .. } | ToHub::FormClosed { .. });
        let called = has_limit.then(Instant::now);
        self.requests.insert(self.next_id, Request { message, called, sent: false, deaths: 0 });
        self.send_requests();
        self.next_id
    }

    /// Sends a message that has no answer, if the client is connected.
    pub fn send(&self, message: &ToHub) {
        if let Some(sender) = &self.sender {
            let _ = sender.send(message); // the reader reports the loss
        }
    }

    /// Reports that a push was made, or why not.
    pub fn pushed(&mut self, push: &str, error: Option<String>) {
        self.conclude(push, ToHub::Pushed { push: push.to_owned(), error });
    }

    /// Reports that the recipient, a person or script that reads its own connection, has seen what was pushed.
    pub fn seen(&mut self, push: &str) {
        self.conclude(push, ToHub::Seen { receipts: vec![(push.to_owned(), Proof::Seen)] });
    }

    fn conclude(&mut self, push: &str, report: ToHub) {
        self.send(&report);
        if let Some((_, known)) = self.pushes.iter_mut().find(|(known, _)| known == push) {
            *known = Some(report);
        }
    }

    /// Sends `bye`; `false` if the client is not connected.
    pub fn leave(&mut self) -> bool {
        self.sender.take().is_some_and(|sender| sender.send(&ToHub::Bye).is_ok())
    }

    /// Handles a message from [`keep`](crate::connection::keep).
    pub fn handle(&mut self, message: FromHub) -> Vec<Event> {
        match message {
            FromHub::Up { sender, epoch, pid } => {
                (self.sender, self.registered, self.next_epoch) = (Some(sender), false, epoch);
                self.away = silent(pid); // should it end a request
                let who = Box::new(Who { host: Some(HOST.clone()), ..self.who.clone() });
                let lost = self.open.iter().cloned().collect();
                self.send(&ToHub::Register { id: REGISTER, who, lost });
            }
            FromHub::Down(why) => self.disconnected(why),
            FromHub::Message(message) => self.received(*message),
        }
        std::mem::take(&mut self.events)
    }

    fn disconnected(&mut self, why: Fault) {
        let was_connected = self.sender.take().is_some();
        self.registered = false;
        self.away = why.clone();
        for request in self.requests.values_mut().filter(|r| r.sent) {
            (request.sent, request.deaths) = (false, request.deaths + 1);
        }
        let most = |r: &Request| r.called.map_or(MAX_DEATHS_WITHOUT_LIMIT, |_| MAX_DEATHS);
        self.give_up(|r| r.deaths >= most(r), &unreachable(DEATHS));
        if was_connected {
            self.events.push(Event::Lost(why));
        }
    }

    fn received(&mut self, message: ToClient) {
        match message {
            ToClient::Ok { id: REGISTER, answer: Answer::Registered { name, open } } => {
                self.registered_again(name, &open);
            }
            ToClient::Error { id: None | Some(REGISTER), code, message } => {
                self.away = Fault { code, message };
                self.events.push(Event::Refused(self.away.clone()));
            }
            ToClient::Ok { id, answer } => self.answered(id, Ok(answer)),
            ToClient::Error { id: Some(id), code, message } => {
                self.answered(id, Err(Fault { code, message }))
            }
            ToClient::Push(parcel) => self.push(parcel),
            ToClient::State { ref ask_id, state, path, .. } => {
                if state >= State::Replied && path.is_some() {
                    self.open.remove(ask_id); // a waiter has delivered the end, for example
                }
                self.events.push(Event::Told(message));
            }
            ToClient::Over { .. } | ToClient::RosterChanged => self.events.push(Event::Told(message)),
            ToClient::Welcome { .. } | ToClient::Dismissed | ToClient::Event(_) => {}
        }
    }

    /// The client is registered. A request that was sent in an earlier epoch may have taken effect, and repeating it
    /// might ask twice.
    fn registered_again(&mut self, name: String, open: &[String]) {
        let other = self.epoch.as_ref().is_some_and(|before| *before != self.next_epoch);
        self.epoch = Some(self.next_epoch.clone());
        (self.who.fresh, self.who.exact) = (false, false);
        self.who.name.clone_from(&name);
        // With a linked hub a client comes back to an earlier epoch. What it ended in between must not end again.
        let ended = |id: &&String| other && !self.open.contains(*id);
        let ended: Vec<String> = open.iter().filter(ended).cloned().collect();
        self.open.retain(|id| open.contains(id));
        for ask_id in ended {
            self.request(|id| ToHub::Withdraw { id, ask_id });
        }
        let is_lost = |r: &Request| {
            let acts = matches!(r.message, ToHub::Ask(_) | ToHub::Broadcast(_) | ToHub::Reply { .. });
            other && acts && r.deaths > 0
        };
        let why = "the relay's state was lost while it had this request; it may have taken effect";
        self.events.push(Event::Registered { name });
        self.give_up(is_lost, &unreachable(why));
        self.registered = true; // not before: nothing that was lost may be sent again
        self.send_requests();
    }

    fn push(&mut self, parcel: Parcel) {
        if matches!(parcel.kind, Kind::Reply | Kind::Failed | Kind::Summary) {
            self.open.remove(&parcel.ask_id);
        }
        if let Some((_, report)) = self.pushes.iter().find(|(known, _)| *known == parcel.push) {
            // A push that is under way is reported when it is done.
            return report.iter().for_each(|report| self.send(report));
        }
        if self.pushes.len() >= MAX_PUSHES {
            self.pushes.pop_front();
        }
        self.pushes.push_back((parcel.push.clone(), None));
        self.events.push(Event::Push(parcel));
    }

    fn answered(&mut self, id: u64, result: Result<Answer, Fault>) {
        let Some(Request { message: request, .. }) = self.requests.remove(&id) else { return };
        match (&request, &result) {
            (_, Ok(Answer::Asked { ask_id, state, .. })) if *state < State::Replied => {
                self.open.insert(ask_id.clone());
            }
            (_, Ok(Answer::Broadcast { broadcast_id, asks })) if !asks.is_empty() => {
                self.open.insert(broadcast_id.clone());
            }
            (_, Ok(Answer::Renamed { name })) => self.who.name.clone_from(name),
            (ToHub::Withdraw { ask_id, .. }, Ok(_)) => drop(self.open.remove(ask_id)),
            _ => {}
        }
        self.events.push(Event::Ended { id, request, result });
    }

    /// The time at which [`expire`](Self::expire) has to be called.
    pub fn deadline(&self) -> Option<Instant> {
        let patience = if self.registered { ANSWER } else { CONNECT };
        let called = self.requests.values().filter_map(|r| r.called).min();
        called.map(|called| called + patience)
    }

    /// Ends the requests that have timed out.
    pub fn expire(&mut self, now: Instant) -> Vec<Event> {
        let patience = if self.registered { ANSWER } else { CONNECT };
        let is_late = |r: &Request| r.called.is_some_and(|called| called + patience <= now);
        if let Some(sender) = self.sender.as_ref().filter(|_| self.requests.values().any(is_late)) {
            sender.close(); // so that `keep` reconnects
        }
        self.give_up(is_late, &self.away.clone());
        std::mem::take(&mut self.events)
    }

    /// Ends requests without an answer. An ask that the hub may have received is withdrawn.
    fn give_up(&mut self, is_over: impl Fn(&Request) -> bool, why: &Fault) {
        let requests = std::mem::take(&mut self.requests).into_iter();
        let (over, left): (BTreeMap<_, _>, _) = requests.partition(|(_, request)| is_over(request));
        self.requests = left;
        for (id, request) in over {
            let Request { message: request, deaths, sent, .. } = request;
            if let ToHub::Ask(AskRequest { ask_id, .. })
            | ToHub::Broadcast(BroadcastRequest { broadcast_id: ask_id, .. }) = &request
                && (sent || deaths > 0)
            {
                let ask_id = ask_id.clone();
                self.request(|id| ToHub::Withdraw { id, ask_id });
            }
            self.events.push(Event::Ended { id, request, result: Err(why.clone()) });
        }
    }

    /// Sends the requests that are not sent yet, in the order of the calls.
    fn send_requests(&mut self) {
        let Some(sender) = self.sender.as_ref().filter(|_| self.registered) else { return };
        for request in self.requests.values_mut().filter(|r| !r.sent) {
            let _ = sender.send(&request.message); // the reader reports the loss
            request.sent = true;
        }
    }
}
