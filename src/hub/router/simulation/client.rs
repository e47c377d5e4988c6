//! A model of `src/client.rs` and of the channel around it: one registered connection that comes back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::{ConnId, Ms};
use super::session::{Conversation, Hook, RunningHook, Waiter, Way};
use super::truth::End;
use super::world::{Owner, World};
use crate::connection::{ANSWER, CONNECT};
use crate::wire::{
    Activity, Answer, AskRequest, BroadcastRequest, Code, Fault, Kind, Parcel, Path, PeerKind, Proof, State,
    ToClient, ToHub, Who, fault,
};

/// The request by which a client registers.
const REGISTER: u64 = 0;

/// A request that has no answer.
#[derive(Debug)]
pub struct Request {
    message: ToHub,
    called: Ms,
    sent: bool,
    deaths: u32,
}

#[derive(Debug, Clone)]
enum Outcome {
    UnderWay,
    Pushed(Option<String>),
    Seen,
}

/// A client in one process. The process is one of several in the life of a session.
#[derive(Debug, Default)]
pub struct Client {
    pub process: u64,
    pub conn: Option<ConnId>,
    pub registered: bool,
    has_registered: bool,
    epoch: Option<String>,
    next_epoch: String,
    last_id: u64,
    pub requests: BTreeMap<u64, Request>,
    pushes: BTreeMap<String, Outcome>,
    /// Open asks and broadcasts.
    pub open: BTreeSet<String>,
    /// Texts for the result of a tool call that is under way.
    arrived: Vec<Parcel>,
    /// What the thread for the session's inbox has not handed over.
    pub to_inbox: VecDeque<Parcel>,
    pub told_activity: Option<Activity>,
    /// The forms that are open.
    pub forms: Vec<Form>,
}

/// A form in front of the session's person.
#[derive(Debug, Clone)]
pub struct Form {
    pub push: String,
    pub ask_id: String,
    pub is_consent: bool,
}

impl Client {
    /// Whether it will learn how this ask or broadcast ends.
    pub fn waits_for(&self, id: &str) -> bool {
        let asks = |r: &Request| asked(&r.message) == Some(id);
        self.open.contains(id) || self.requests.values().any(asks)
    }

    /// When a request ends without an answer.
    pub fn deadline(&self) -> Option<Ms> {
        let patience = if self.registered { ANSWER } else { CONNECT }.as_millis() as Ms;
        let called = self.requests.values().filter(|r| !is_withdrawal(&r.message)).map(|r| r.called);
        called.min().map(|called| called + patience)
    }
}

/// The id that an ask or a broadcast begins.
fn asked(request: &ToHub) -> Option<&str> {
    match request {
        ToHub::Ask(AskRequest { ask_id: id, .. })
        | ToHub::Broadcast(BroadcastRequest { broadcast_id: id, .. }) => Some(id),
        _ => None,
    }
}

/// The receipt of a peer that reads for itself.
fn seen(push: String) -> ToHub {
    ToHub::Seen { receipts: vec![(push, Proof::Seen)] }
}

fn is_withdrawal(request: &ToHub) -> bool {
    matches!(request, ToHub::Withdraw { .. } | ToHub::FormClosed { .. })
}

/// A peer of any kind, with all that belongs to it.
pub struct Peer {
    pub who: Who,
    pub alive: bool,
    /// Its hooks run.
    pub hooks: bool,
    /// Its channel reads the session's file.
    pub polls: bool,
    /// Fires `UserPromptSubmit` in the middle of a turn.
    pub modern: bool,
    /// What the channel and the inbox do with a text.
    pub ways: [Way; 2],
    pub client: Option<Client>,
    pub kills: u32,
    pub conversation: Conversation,
    pub hook: Option<RunningHook>,
    pub hooks_queued: VecDeque<Hook>,
    pub waiters: Vec<Waiter>,
}

impl Peer {
    /// Whether hooks of the session run. A client does not begin a turn before they have ended.
    pub fn is_in_hooks(&self) -> bool {
        self.hook.is_some() || !self.hooks_queued.is_empty()
    }

    pub fn is_session(&self) -> bool {
        self.who.kind == PeerKind::Session
    }
}

impl World {
    pub fn new_client(&mut self) -> Client {
        Client { process: self.number(), ..Client::default() }
    }

    /// The client of peer `i`, which its caller knows to run.
    pub fn client(&mut self, i: usize) -> &mut Client {
        self.peers[i].client.as_mut().expect("its process runs")
    }

    pub fn reconnect(&mut self, i: usize) {
        let peer = &self.peers[i];
        if peer.alive && peer.client.as_ref().is_some_and(|c| c.conn.is_none()) {
            let conn = self.connect(Owner::Channel(i));
            self.client(i).conn = Some(conn);
        }
    }

    /// The hub's welcome.
    fn register(&mut self, i: usize, epoch: String) {
        let client = self.client(i);
        (client.registered, client.next_epoch, client.told_activity) = (false, epoch, None);
        let (lost, fresh) = (client.open.iter().cloned().collect(), !client.has_registered);
        let open_forms = client.forms.iter().map(|form| form.ask_id.clone()).collect();
        let who = Box::new(Who { fresh, open_forms, ..self.peers[i].who.clone() });
        self.tell(i, ToHub::Register { id: REGISTER, who, lost });
    }

    fn registered(&mut self, i: usize, name: String, open: &[String]) {
        self.peers[i].who.name = name;
        let client = self.client(i);
        let other = client.epoch.as_ref().is_some_and(|before| *before != client.next_epoch);
        client.epoch = Some(client.next_epoch.clone());
        client.has_registered = true;
        client.open.retain(|id| open.contains(id));
        let is_lost = |r: &Request| {
            let acts = matches!(r.message, ToHub::Ask(_) | ToHub::Broadcast(_) | ToHub::Reply { .. });
            other && acts && r.deaths > 0
        };
        let lost: Vec<u64> = client.requests.iter().filter(|(_, r)| is_lost(r)).map(|(id, _)| *id).collect();
        lost.into_iter().for_each(|id| self.give_up(i, id));
        self.client(i).registered = true;
        self.send_requests(i);
        if self.plan.lose {
            self.excuse_unknown(); // an end whose text was lost with the journal may have been told before
        }
    }

    pub fn request(&mut self, i: usize, make: impl FnOnce(u64) -> ToHub) {
        let called = self.now;
        let Some(client) = self.peers[i].client.as_mut() else { return };
        client.last_id += 1;
        let message = make(client.last_id);
        client.requests.insert(client.last_id, Request { message, called, sent: false, deaths: 0 });
        self.send_requests(i);
    }

    fn send_requests(&mut self, i: usize) {
        let client = self.client(i);
        if client.registered {
            let unsent = client.requests.values_mut().filter(|r| !r.sent);
            let unsent: Vec<ToHub> = unsent.map(|r| (r.sent = true, r.message.clone()).1).collect();
            unsent.into_iter().for_each(|message| self.tell(i, message));
        }
    }

    /// Sends what needs no answer, if there is a hub.
    pub fn tell(&mut self, i: usize, message: ToHub) {
        if let Some(conn) = self.client(i).conn {
            self.say(conn, message);
        }
    }

    pub fn disconnected(&mut self, i: usize) {
        let client = self.client(i);
        (client.conn, client.registered) = (None, false);
        for request in client.requests.values_mut().filter(|r| r.sent) {
            (request.sent, request.deaths) = (false, request.deaths + 1);
        }
        let kills = |r: &Request| r.deaths >= 2 && !is_withdrawal(&r.message);
        let killers: Vec<u64> = client.requests.iter().filter(|(_, r)| kills(r)).map(|(id, _)| *id).collect();
        killers.into_iter().for_each(|id| self.give_up(i, id));
    }

    /// Ends the requests whose time is up.
    pub fn expire(&mut self, i: usize) {
        let now = self.now;
        let Some(client) = &self.peers[i].client else { return };
        if client.deadline().is_none_or(|at| at > now) {
            return;
        }
        assert!(!client.registered, "the hub does not answer {:?}", client.requests);
        let late: Vec<u64> = client
            .requests
            .iter()
            .filter(|(_, r)| r.called + CONNECT.as_millis() as Ms <= now && !is_withdrawal(&r.message))
            .map(|(id, _)| *id)
            .collect();
        late.into_iter().for_each(|id| self.give_up(i, id));
    }

    fn give_up(&mut self, i: usize, id: u64) {
        let Some(Request { message, sent, deaths, .. }) = self.client(i).requests.remove(&id) else { return };
        if let Some(id) = asked(&message) {
            let ask_id = id.to_owned();
            self.truth(&ask_id).given_up = true;
            if sent || deaths > 0 {
                self.request(i, |id| ToHub::Withdraw { id, ask_id });
            }
        }
        self.refused(i, &message, &fault(Code::HubUnreachable, "given up"));
        self.give_back(i);
    }

    pub fn hear_client(&mut self, i: usize, message: ToClient) {
        match message {
            ToClient::Welcome { epoch, .. } => self.register(i, epoch),
            ToClient::Ok { id: REGISTER, answer: Answer::Registered { name, open }, .. } => {
                self.registered(i, name, &open);
            }
            ToClient::Ok { id, answer } => self.answered(i, id, Ok(answer)),
            ToClient::Error { id: Some(REGISTER), message, .. } => panic!("refused: {message}"),
            ToClient::Error { id: Some(id), code, message } => {
                self.answered(i, id, Err(Fault { code, message }));
            }
            ToClient::Error { id: None, code, .. } => assert_eq!(code, Code::BadMsg),
            ToClient::Push(parcel) => self.push(i, parcel),
            ToClient::State { ask_id, state, path, code, .. } => {
                if state >= State::Replied && path.is_some() {
                    self.client(i).open.remove(&ask_id);
                    if self.truth(&ask_id).journal_lost {
                        self.excuse_unknown(); // the text was lost, and this was heard after that
                    }
                }
                if let Some(code) = code
                    && path.is_none() // else its text was handed over
                    && self.truth(&ask_id).broadcast.is_some()
                {
                    self.end(&ask_id, End::Told(code));
                }
            }
            ToClient::Over { ask_id, .. } => self.client(i).forms.retain(|form| form.ask_id != ask_id),
            other => panic!("a client hears {other:?}"),
        }
    }

    fn answered(&mut self, i: usize, id: u64, result: Result<Answer, Fault>) {
        let Some(Request { message, .. }) = self.client(i).requests.remove(&id) else { return };
        if !is_withdrawal(&message) {
            for parcel in std::mem::take(&mut self.client(i).arrived) {
                self.hand_over(i, &parcel);
                self.pushed(i, &parcel.push, None);
            }
        }
        self.give_back(i);
        match result {
            Ok(answer) => self.succeeded(i, message, answer),
            Err(fault) => self.refused(i, &message, &fault),
        }
    }

    /// Texts for the result of a tool call go back if none is under way.
    fn give_back(&mut self, i: usize) {
        if self.client(i).requests.values().all(|r| is_withdrawal(&r.message)) {
            for parcel in std::mem::take(&mut self.client(i).arrived) {
                self.pushed(i, &parcel.push, Some("no tool call".to_owned()));
            }
        }
    }

    fn succeeded(&mut self, i: usize, request: ToHub, answer: Answer) {
        match (request, answer) {
            (ToHub::Ask(_), Answer::Asked { ask_id, state, .. }) => {
                if state < State::Replied {
                    self.client(i).open.insert(ask_id);
                }
            }
            (ToHub::Broadcast(_), Answer::Broadcast { broadcast_id, asks }) => match asks.is_empty() {
                true => self.truth(&broadcast_id).excused = true, // nobody was asked
                false => drop(self.client(i).open.insert(broadcast_id)),
            },
            (ToHub::Reply { ask_id, text, .. }, Answer::Replied { .. }) => {
                let truth = self.truth(&ask_id);
                assert_eq!(truth.target, Some(i), "an answer of another peer was taken");
                assert!(truth.answers.contains(&text), "an answer of nobody was taken");
                let before = truth.accepted.replace(text.clone());
                assert!(before.is_none_or(|b| b == text), "two answers to {ask_id} were taken");
            }
            (ToHub::Rename { .. }, Answer::Renamed { name }) => self.peers[i].who.name = name,
            (ToHub::Peers { .. }, Answer::Peers(_)) | (ToHub::Status { .. }, Answer::Status(_)) => {}
            (ToHub::FormClosed { .. }, Answer::Done | Answer::Replied { .. }) => {}
            (ToHub::Withdraw { ask_id, .. }, Answer::Done) => drop(self.client(i).open.remove(&ask_id)),
            (request, answer) => panic!("{request:?} was answered by {answer:?}"),
        }
    }

    fn refused(&mut self, i: usize, request: &ToHub, fault: &Fault) {
        if let Some(id) = asked(request) {
            return self.end(id, End::Refused(fault.code));
        }
        match request {
            ToHub::Reply { ask_id, .. } if self.truths.get(ask_id).is_some_and(|t| t.target != Some(i)) => {
                let code = fault.code;
                assert!(matches!(code, Code::UnknownAsk | Code::HubUnreachable), "{}", fault.message);
            }
            _ => {}
        }
    }

    /// Remembers a push; false if it is known.
    fn remember(&mut self, i: usize, push: &str) -> bool {
        let pushes = &mut self.client(i).pushes;
        let is_new = !pushes.contains_key(push);
        if is_new {
            pushes.insert(push.to_owned(), Outcome::UnderWay);
        }
        is_new
    }

    fn report_again(&mut self, i: usize, push: String) {
        match self.client(i).pushes.get(&push).cloned() {
            Some(Outcome::Pushed(error)) => self.tell(i, ToHub::Pushed { push, error }),
            Some(Outcome::Seen) => self.tell(i, seen(push)),
            Some(Outcome::UnderWay) | None => {}
        }
    }

    fn pushed(&mut self, i: usize, push: &str, error: Option<String>) {
        self.client(i).pushes.insert(push.to_owned(), Outcome::Pushed(error.clone()));
        self.tell(i, ToHub::Pushed { push: push.to_owned(), error });
    }

    /// A client that has been sent an end no longer takes the ask to be open.
    fn note_end(&mut self, i: usize, parcel: &Parcel) {
        if matches!(parcel.kind, Kind::Reply | Kind::Failed | Kind::Summary) {
            self.client(i).open.remove(&parcel.ask_id);
        }
    }

    /// The hub has the client push a text.
    fn push(&mut self, i: usize, parcel: Parcel) {
        assert!(self.client(i).registered, "pushed before it was registered");
        self.note_end(i, &parcel);
        if !self.remember(i, &parcel.push) {
            return self.report_again(i, parcel.push);
        }
        match parcel.path {
            Path::Channel => self.push_by(i, 0, parcel),
            Path::Inbox => self.client(i).to_inbox.push_back(parcel),
            Path::Tool => {
                self.client(i).arrived.push(parcel);
                self.give_back(i);
            }
            Path::Socket => {
                self.hand_over(i, &parcel);
                self.client(i).pushes.insert(parcel.push.clone(), Outcome::Seen);
                self.tell(i, seen(parcel.push));
            }
            Path::Form if self.rng.chance(15) => self.pushed(i, &parcel.push, Some("typing".to_owned())),
            Path::Form => {
                self.note_handed(i, self.client_process(i), &parcel);
                self.pushed(i, &parcel.push, None);
                let Parcel { push, ask_id, kind, .. } = parcel;
                let forms = &mut self.client(i).forms;
                assert!(forms.is_empty(), "two forms at once: {forms:?} and {ask_id}");
                forms.push(Form { push, ask_id, is_consent: kind == Kind::Consent });
            }
            Path::Hook => panic!("a channel was told to use the hook path"),
        }
    }

    /// The thread for the session's inbox does its work.
    pub fn empty_inbox(&mut self, i: usize) {
        while let Some(parcel) = self.peers[i].client.as_mut().and_then(|c| c.to_inbox.pop_front()) {
            self.push_by(i, 1, parcel);
        }
    }

    fn push_by(&mut self, i: usize, way: usize, parcel: Parcel) {
        let way = self.peers[i].ways[way];
        match way {
            Way::Fails => return self.pushed(i, &parcel.push, Some("no way".to_owned())),
            Way::Late(_) | Way::Holds => {
                self.note_handed(i, self.client_process(i), &parcel);
                let due = self.now + 1_000 + self.rng.below(20_000) as Ms;
                let (shows, conversation) = (way == Way::Late(true), &mut self.peers[i].conversation);
                conversation.late.push((due, shows, parcel.clone()));
                conversation.enqueued += usize::from(shows);
            }
            Way::Swallows | Way::Drops(_) => {
                self.note_handed(i, self.client_process(i), &parcel);
                self.pushes.get_mut(&parcel.push).expect("a push of the hub").swallowed = true;
                if let Way::Drops(is_told) = way {
                    self.drop_prompt(i, &parcel, is_told);
                }
            }
            Way::Works | Way::Stutters => {
                self.note_handed(i, self.client_process(i), &parcel);
                self.offer(i, parcel.clone());
            }
        }
        if way == Way::Stutters {
            self.pushed(i, &parcel.push, None);
        }
        self.pushed(i, &parcel.push, None);
    }

    fn client_process(&self, i: usize) -> u64 {
        self.peers[i].client.as_ref().map_or(0, |c| c.process)
    }

    /// With the result of a tool call, or on the screen of a person: it is in the conversation at once.
    fn hand_over(&mut self, i: usize, parcel: &Parcel) {
        self.note_handed(i, self.client_process(i), parcel);
        self.take(i, parcel);
    }

    /// The channel's process ends, with or without a goodbye.
    pub fn kill(&mut self, i: usize, goodbye: bool) {
        let Some(client) = self.peers[i].client.take() else { return };
        self.counts.kills += 1;
        self.peers[i].kills += 1;
        self.log(|| format!("peer{i}'s CHANNEL DIES, goodbye={goodbye}"));
        self.dead.insert(client.process);
        if let Some(conn) = client.conn {
            if goodbye {
                self.say(conn, ToHub::Bye);
            }
            let lose = !goodbye && self.rng.chance(20);
            self.hang_up(conn, lose);
        }
        let unknown: BTreeSet<&str> = client.requests.values().filter_map(|r| asked(&r.message)).collect();
        for id in unknown {
            let truth = self.truth(id);
            (truth.excused, truth.given_up) = (true, true); // nobody heard whether it was asked
        }
        self.excuse_unknown();
    }

    /// A new process of the same session.
    pub fn restart(&mut self, i: usize) {
        if self.peers[i].alive && self.peers[i].client.is_none() {
            let client = self.new_client();
            self.peers[i].client = Some(client);
            self.log(|| format!("peer{i}'s channel is back"));
        }
    }

    /// The client's connection breaks; its process lives.
    pub fn vanish(&mut self, i: usize) {
        if let Some(conn) = self.peers[i].client.as_ref().and_then(|c| c.conn) {
            self.log(|| format!("peer{i} loses its connection"));
            self.disconnected(i);
            self.hang_up(conn, true);
        }
    }
}
