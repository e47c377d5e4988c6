//! A session as the hub meets it: our channel process, its hooks and waiters, and the client with its conversation.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::super::{ConnId, Ms};
use super::world::{End, Key, Owner, Truth, World, nth};
use crate::wire::{
    Activity, Answer, Code, Fault, Held, HookEvent, Kind, Outcome, Parcel, Path, PeerKind, State, ToClient,
    ToHub, Who,
};

/// What a path does with a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    Works,
    Swallows,
    /// Takes it up some time later; with `true` the client's queue shows it.
    Late(bool),
    Fails,
    /// Says twice that it is done.
    Stutters,
}

/// A question of this peer, as its channel knows it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `None` until the hub has answered.
    pub peer: Option<String>,
    pub to: String,
    pub text: Option<String>,
    pub state: State,
    pub at: Ms,
    pub deadline: Ms,
    pub broadcast: Option<String>,
    pub timed_out: bool,
}

#[derive(Debug, Clone)]
pub struct Given {
    pub parcel: Parcel,
    pub state: State,
    pub pushes: Vec<(String, Path)>,
    pub at: Ms,
}

/// Our process in the session.
#[derive(Debug, Default)]
pub struct Channel {
    pub conn: Option<ConnId>,
    pub registered: bool,
    pub fresh: bool,
    pub hooked: bool,
    pub asked: BTreeMap<String, Asked>,
    pub given: BTreeMap<(Kind, String), Given>,
    /// Answers that the asker is not known to have: its identity, its name, the text.
    pub replied: BTreeMap<String, (String, String, String)>,
    /// Those of them that nobody waits for, as far as this hub knows.
    pub unwanted: BTreeSet<String>,
    pub outcomes: BTreeMap<String, Vec<Outcome>>,
    /// News that was handed over, and (as `Ask`) the asks of this peer that ended with it.
    pub had: BTreeSet<(Kind, String)>,
    /// When they were made, and what they are.
    pub requests: BTreeMap<u64, (Ms, ToHub)>,
    pub last_id: u64,
    pub told_activity: Option<Activity>,
}

/// The client's side.
#[derive(Debug, Default)]
pub struct Client {
    pub busy: bool,
    pub queue: VecDeque<Parcel>,
    pub late: Vec<(Ms, bool, Parcel)>,
    /// The identifiers in the transcript.
    pub transcript: Vec<String>,
    /// Asks in the conversation, with the asker's identity and name.
    pub asks: Vec<(String, String, String)>,
}

pub struct Sim {
    pub who: Who,
    pub alive: bool,
    /// Its hooks run.
    pub hooks: bool,
    /// Its channel reads the session's file.
    pub polls: bool,
    /// Fires `UserPromptSubmit` in mid-turn.
    pub modern: bool,
    pub ways: [Way; 2],
    pub channel: Option<Channel>,
    /// What a killed channel leaves behind.
    pub saved: BTreeMap<String, Asked>,
    pub client: Client,
    pub hook_link: Option<ConnId>,
    pub hook_queue: VecDeque<(HookEvent, Vec<String>)>,
    pub waiters: Vec<ConnId>,
    /// Texts that a waiter took and the channel has not heard of.
    pub woken: Vec<Key>,
    pub kills: u32,
}

impl Sim {
    pub fn is_session(&self) -> bool {
        self.who.kind == PeerKind::Session
    }
}

fn key(i: usize, p: &Parcel) -> Key {
    (i, p.kind, p.ask_id.clone())
}

impl World {
    pub fn spawn(&mut self) {
        let i = self.peers.len();
        let session = self.rng.chance(85);
        let hooks = session && self.rng.chance(75);
        let all = [Path::Channel, Path::Inbox, Path::Hook];
        let mut paths: Vec<Path> = all.into_iter().filter(|_| self.rng.chance(70)).collect();
        if !hooks {
            paths.retain(|p| *p != Path::Hook);
        }
        if !session {
            paths = vec![Path::Socket];
        }
        let mut way = |odd: bool, late: bool| match self.rng.below(10) {
            0 | 1 if odd => Way::Swallows,
            2 if odd => Way::Fails,
            3 if odd => Way::Stutters,
            4 | 5 if late => Way::Late(false),
            6 if late => Way::Late(true),
            _ => Way::Works,
        };
        let ways = [way(self.plan.odd, self.plan.late), way(self.plan.odd, self.plan.late)];
        let directory = self.rng.below(3);
        let who = Who {
            name: ["api", "web", "docs", "api-2"][self.rng.below(4)].to_owned(),
            exact: false,
            kind: if session { PeerKind::Session } else { PeerKind::Script },
            peer: format!("peer{i}"),
            secret: format!("secret{i}"),
            cwd: format!("/dir{directory}"),
            repo: (directory > 0).then(|| "/repo".to_owned()),
            branch: None,
            pid: 1,
            claude: session.then(|| format!("claude{i}")),
            paths,
            listens: session,
            fresh: true,
            hooked: false,
        };
        // No hook tells that a waiter has woken the session: the session's file must.
        let polls = !hooks || who.paths.contains(&Path::Hook) || self.rng.chance(50);
        let modern = self.rng.chance(60);
        self.peers.push(Sim {
            who,
            alive: true,
            hooks,
            polls,
            modern,
            ways,
            channel: Some(Channel { fresh: true, ..Channel::default() }),
            saved: BTreeMap::new(),
            client: Client::default(),
            hook_link: None,
            hook_queue: VecDeque::new(),
            waiters: Vec::new(),
            woken: Vec::new(),
            kills: 0,
        });
        if hooks {
            self.fire(i, HookEvent::Start, Vec::new());
            self.start_waiter(i);
        }
    }

    /// A channel that has no connection gets one: it resumes, registers, and sends again what was not answered.
    pub fn reconnect(&mut self, i: usize) {
        if self.now < self.down_until || !self.peers[i].alive {
            return;
        }
        let Some(channel) = &self.peers[i].channel else { return };
        if channel.conn.is_some() {
            return;
        }
        let conn = self.connect(Owner::Channel(i));
        let held = self.held(i);
        for held in held {
            self.say(conn, ToHub::Resume { held });
        }
        let peer = &mut self.peers[i];
        let channel = peer.channel.as_mut().expect("looked at above");
        (channel.conn, channel.registered, channel.told_activity) = (Some(conn), false, None);
        channel.last_id += 1;
        let id = channel.last_id;
        let who = Box::new(Who { fresh: channel.fresh, hooked: channel.hooked, ..peer.who.clone() });
        let again: Vec<ToHub> = channel.requests.values().map(|(_, r)| r.clone()).collect();
        self.say(conn, ToHub::Register { id, who });
        for request in again {
            self.say(conn, request);
        }
    }

    fn held(&mut self, i: usize) -> Vec<Held> {
        let now = self.now;
        let channel = self.peers[i].channel.as_ref().expect("only a channel that runs resumes");
        let mut held = Vec::new();
        for (id, a) in &channel.asked {
            let Some(peer) = a.peer.clone() else { continue };
            held.push(Held::Asked {
                ask_id: id.clone(),
                peer,
                to: a.to.clone(),
                text: a.text.clone(),
                state: if a.timed_out { State::Ended } else { a.state.min(State::Seen) },
                age_ms: now - a.at,
                left_ms: a.deadline.saturating_sub(now),
                broadcast: a.broadcast.clone(),
            });
        }
        for g in channel.given.values() {
            held.push(Held::Given {
                parcel: g.parcel.clone(),
                peer: g.parcel.peer.clone(),
                state: g.state,
                pushes: g.pushes.clone(),
                age_ms: now - g.at,
            });
        }
        for (at, request) in channel.requests.values() {
            match request {
                ToHub::Ask { ask_id: id, timeout_ms, .. }
                | ToHub::Broadcast { broadcast_id: id, timeout_ms, .. } => {
                    held.push(Held::Asking {
                        id: id.clone(),
                        left_ms: (at + timeout_ms).saturating_sub(now),
                    });
                }
                _ => {}
            }
        }
        for (id, (peer, to, text)) in &channel.replied {
            let (ask_id, peer, to, text) = (id.clone(), peer.clone(), to.clone(), text.clone());
            held.push(Held::Replied { ask_id, peer, to, text });
        }
        for (id, outcomes) in &channel.outcomes {
            held.push(Held::Outcomes { broadcast_id: id.clone(), outcomes: outcomes.clone() });
        }
        for at in (1..held.len()).rev() {
            held.swap(at, self.rng.below(at + 1));
        }
        held
    }

    /// The model calls a tool, or a script sends a request.
    pub fn request(&mut self, i: usize, make: impl FnOnce(u64) -> ToHub) -> bool {
        let now = self.now;
        let Some(channel) = self.peers[i].channel.as_mut() else { return false };
        channel.last_id += 1;
        let request = make(channel.last_id);
        channel.requests.insert(channel.last_id, (now, request.clone()));
        if let Some(conn) = channel.conn {
            self.say(conn, request);
        }
        true
    }

    pub fn hear(&mut self, conn: ConnId, owner: Owner, message: ToClient) {
        match (owner, message) {
            (
                _,
                ToClient::Welcome { .. } | ToClient::Event(_) | ToClient::Dismissed | ToClient::RosterChanged,
            ) => {}
            (Owner::Channel(i), message) => {
                if self.peers[i].channel.as_ref().is_some_and(|c| c.conn == Some(conn)) {
                    self.channel_hears(i, conn, message);
                }
            }
            (Owner::Waiter(i), ToClient::Push(parcel)) => self.wake(i, conn, parcel),
            (Owner::Waiter(_) | Owner::Watcher, _) => {}
            (Owner::Hook(i), ToClient::Ok { answer, .. }) => {
                if let Answer::Hooked { unconfirmed: 1.. } = answer {
                    let client = &self.peers[i].client;
                    let tail = client.transcript.len().saturating_sub(200);
                    let pushes = client.transcript[tail..].to_vec();
                    let late =
                        client.late.iter().filter(|(_, shows, _)| *shows).map(|(.., p)| p.push.clone());
                    let accepted = client.queue.iter().map(|p| p.push.clone()).chain(late).collect();
                    self.say(conn, ToHub::Seen { pushes, accepted });
                }
                self.hang_up(conn, false);
            }
            (owner, message) => panic!("{owner:?} hears {message:?}"),
        }
    }

    fn channel_hears(&mut self, i: usize, conn: ConnId, message: ToClient) {
        match message {
            ToClient::Ok { id, answer, waiting } => {
                self.tool_results(i, conn, id, waiting);
                if let Answer::Registered { name } = answer {
                    let peer = &mut self.peers[i];
                    peer.who.name = name;
                    let channel = peer.channel.as_mut().expect("it hears");
                    (channel.registered, channel.fresh) = (true, false);
                    return;
                }
                let channel = self.peers[i].channel.as_mut().expect("it hears");
                if let Some((at, request)) = channel.requests.remove(&id) {
                    self.answered(i, at, request, answer);
                }
            }
            ToClient::Error { id, code, message, waiting } => {
                self.tool_results(i, conn, id.unwrap_or(0), waiting);
                let id = id.unwrap_or_else(|| panic!("refused: {message}"));
                let channel = self.peers[i].channel.as_mut().expect("it hears");
                if let Some((_, request)) = channel.requests.remove(&id) {
                    self.refused(i, request, Fault { code, message });
                }
            }
            ToClient::Push(parcel) => self.push(i, conn, parcel),
            ToClient::State { kind, ask_id, state, code, .. } => self.told(i, kind, ask_id, state, code),
            other => panic!("a channel hears {other:?}"),
        }
    }

    fn tool_results(&mut self, i: usize, conn: ConnId, id: u64, waiting: Vec<Parcel>) {
        let call = self.peers[i].channel.as_ref().is_some_and(|c| c.requests.contains_key(&id));
        for parcel in waiting {
            assert_eq!(parcel.path, Path::Tool);
            if !call {
                // The call was answered before by what the hub pushed.
                self.say(conn, ToHub::Pushed { push: parcel.push, error: Some("no call".to_owned()) });
                continue;
            }
            let place = (parcel.kind, parcel.ask_id.clone());
            let channel = self.peers[i].channel.as_ref().expect("it hears");
            if !channel.had.contains(&place) || channel.given.contains_key(&place) {
                self.hand(i, &parcel);
                self.keep(i, &parcel);
                self.take(i, &parcel);
            }
            self.say(conn, ToHub::Pushed { push: parcel.push, error: None });
        }
    }

    /// A request succeeded.
    fn answered(&mut self, i: usize, at: Ms, request: ToHub, answer: Answer) {
        let channel = self.peers[i].channel.as_mut().expect("it hears");
        match (request, answer) {
            (ToHub::Ask { ask_id, .. }, Answer::Asked { to, peer, state, .. }) => {
                let target = peer.trim_start_matches("peer").parse().expect("an identity");
                if state >= State::Replied {
                    // It has ended, and its news came or will come by itself.
                    channel.asked.retain(|id, a| *id != ask_id || a.timed_out);
                } else if let Some(asked) = channel.asked.get_mut(&ask_id) {
                    (asked.peer, asked.to, asked.state) = (Some(peer), to, state);
                    if !asked.timed_out {
                        let saved = Asked { text: None, state: State::Queued, ..asked.clone() };
                        self.peers[i].saved.insert(ask_id.clone(), saved);
                    }
                }
                let truth = self.truths.get_mut(&ask_id).expect("a known ask");
                let again = self.counts.crashes > 0 && !truth.counts;
                assert!(again || truth.target.is_none_or(|t| t == target), "went to {:?}", truth.target);
                (truth.target, truth.counts) = (Some(target), true);
            }
            (ToHub::Broadcast { text, timeout_ms, .. }, Answer::Broadcast { broadcast_id, asks }) => {
                if asks.is_empty() {
                    return;
                }
                if !channel.had.contains(&(Kind::Summary, broadcast_id.clone())) {
                    channel.outcomes.entry(broadcast_id.clone()).or_default();
                }
                self.broadcasts.insert(broadcast_id.clone(), i);
                for member in asks {
                    let asked = Asked {
                        peer: member.peer,
                        to: member.to,
                        text: Some(text.clone()),
                        state: State::Queued,
                        at,
                        deadline: at + timeout_ms,
                        broadcast: Some(broadcast_id.clone()),
                        timed_out: false,
                    };
                    let channel = self.peers[i].channel.as_mut().expect("it hears");
                    if !channel.had.contains(&(Kind::Ask, member.ask_id.clone())) {
                        channel.asked.insert(member.ask_id.clone(), asked.clone());
                        let saved = Asked { text: None, ..asked };
                        self.peers[i].saved.insert(member.ask_id.clone(), saved);
                    }
                    let truth = self.truths.entry(member.ask_id).or_default();
                    (truth.asker, truth.counts, truth.broadcast) = (i, true, Some(broadcast_id.clone()));
                }
            }
            (ToHub::Reply { ask_id, text, .. }, Answer::Replied { state, .. }) => {
                let given = channel.given.remove(&(Kind::Ask, ask_id.clone()));
                if let Some(Given { parcel, .. }) = given {
                    // A waiter brought the question, and the answer was faster than the channel's copy of it.
                    let held = (parcel.peer.unwrap_or_default(), parcel.from, text.clone());
                    channel.replied.entry(ask_id.clone()).or_insert(held);
                }
                let truth = self.truths.get_mut(&ask_id).expect("a known ask");
                assert!(truth.answers.contains(&(i, text.clone())), "an answer of nobody was taken");
                let before = truth.accepted.insert(i, text.clone());
                assert!(before.is_none_or(|b| b == text), "two answers to {ask_id} were taken");
                if state >= State::Pushed {
                    channel.replied.remove(&ask_id);
                }
            }
            (ToHub::Rename { .. }, Answer::Renamed { name }) => self.peers[i].who.name = name,
            (ToHub::Peers { .. }, Answer::Peers(_)) | (ToHub::Status { .. }, Answer::Status(_)) => {}
            (request, answer) => panic!("{request:?} was answered by {answer:?}"),
        }
    }

    /// A request failed.
    fn refused(&mut self, i: usize, request: ToHub, fault: Fault) {
        let channel = self.peers[i].channel.as_mut().expect("it hears");
        match request {
            ToHub::Ask { ask_id, .. } => {
                channel.asked.remove(&ask_id);
                self.truths.get_mut(&ask_id).expect("a known ask").counts = true;
                self.end(&ask_id, End::ToolError(nth(fault.code)));
            }
            ToHub::Reply { ask_id, text, .. } => {
                if channel.replied.get(&ask_id).is_some_and(|held| held.2 == text) {
                    channel.replied.remove(&ask_id);
                }
                let asked = |t: &Truth| t.given.contains(&i) || t.target.is_none_or(|t| t == i);
                if !self.truths.get(&ask_id).is_none_or(asked) {
                    assert_eq!(fault.code, Code::UnknownAsk, "{}", fault.message);
                }
            }
            ToHub::Broadcast { .. } | ToHub::Rename { .. } => {}
            other => panic!("{other:?} was refused: {}", fault.message),
        }
    }

    /// The channel is told to push.
    fn push(&mut self, i: usize, conn: ConnId, parcel: Parcel) {
        let peer = &mut self.peers[i];
        assert!(peer.channel.as_ref().expect("it hears").registered, "pushed before it was registered");
        if parcel.path == Path::Hook {
            // A waiter has handed it over; the channel keeps what the hub might forget.
            let key = key(i, &parcel);
            peer.woken.retain(|k| *k != key);
            self.keep(i, &parcel);
            return self.say(conn, ToHub::Pushed { push: parcel.push, error: None });
        }
        let place = (parcel.kind, parcel.ask_id.clone());
        let channel = peer.channel.as_ref().expect("it hears");
        if channel.had.contains(&place) && !channel.given.contains_key(&place) {
            // From before a connection was lost. Whether the client has taken it up by now is not known here.
            return self.say(conn, ToHub::Seen { pushes: Vec::new(), accepted: vec![parcel.push] });
        }
        let way = match parcel.path {
            Path::Channel => peer.ways[0],
            Path::Inbox => peer.ways[1],
            _ => Way::Works,
        };
        if way == Way::Fails {
            return self.say(conn, ToHub::Pushed { push: parcel.push, error: Some("no way".to_owned()) });
        }
        self.hand(i, &parcel);
        self.keep(i, &parcel);
        match way {
            Way::Late(shows) => {
                let due = self.now + 1_000 + self.rng.below(20_000) as Ms;
                self.peers[i].client.late.push((due, shows, parcel.clone()));
            }
            Way::Swallows if !parcel.receipt => self.give_up(&parcel),
            Way::Swallows => {}
            _ => self.offer(i, parcel.clone()),
        }
        let done = ToHub::Pushed { push: parcel.push.clone(), error: None };
        if parcel.path == Path::Socket {
            if self.rng.chance(50) {
                self.say(conn, done);
            }
            return self.say(conn, ToHub::Seen { pushes: vec![parcel.push], accepted: Vec::new() });
        }
        if way == Way::Stutters {
            self.say(conn, done.clone());
        }
        self.say(conn, done);
    }

    /// Nobody can know that this text is lost.
    fn give_up(&mut self, parcel: &Parcel) {
        if let Some(truth) = self.truths.get_mut(&parcel.ask_id) {
            truth.lost = true;
        }
        if parcel.kind == Kind::Summary {
            self.lost_summaries.insert(parcel.ask_id.clone());
        }
    }

    /// What the channel remembers of a text that it handed over.
    fn keep(&mut self, i: usize, parcel: &Parcel) {
        let now = self.now;
        let peer = &mut self.peers[i];
        let Some(channel) = peer.channel.as_mut() else { return };
        channel.hooked |= parcel.receipt && parcel.path != Path::Socket;
        let id = &parcel.ask_id;
        if parcel.kind != Kind::Ask {
            channel.had.insert((parcel.kind, id.clone()));
            if parcel.kind != Kind::Summary && !parcel.late {
                channel.had.insert((Kind::Ask, id.clone())); // the ask has ended
            }
            // Whoever still waits for the answer to the request itself has it.
            let of = |r: &ToHub| match r {
                ToHub::Ask { ask_id: asking, .. } | ToHub::Broadcast { broadcast_id: asking, .. } => {
                    asking == id
                }
                _ => false,
            };
            channel.requests.retain(|_, (_, r)| !of(r));
        }
        match parcel.kind {
            Kind::Ask => {}
            Kind::Reply => {
                let ended = channel.asked.remove(id);
                if let Some(all) = ended.filter(|a| !a.timed_out).and_then(|a| a.broadcast)
                    && let Some(outcomes) = channel.outcomes.get_mut(&all)
                {
                    outcomes.push(Outcome { ask_id: id.clone(), to: parcel.from.clone(), code: None });
                }
                peer.saved.remove(id);
            }
            Kind::Failed => {
                if parcel.code == Some(Code::Timeout) {
                    if let Some(asked) = channel.asked.get_mut(id) {
                        asked.timed_out = true;
                    }
                } else {
                    channel.asked.remove(id);
                }
                peer.saved.remove(id);
            }
            Kind::Summary => {
                channel.outcomes.remove(id);
                // A waiter may have brought an answer of which the channel has not heard yet.
                channel.asked.retain(|_, a| a.broadcast.as_ref() != Some(id) || a.timed_out);
                peer.saved.retain(|_, a| a.broadcast.as_ref() != Some(id));
            }
        }
        if parcel.kind == Kind::Ask || parcel.receipt {
            let new = || Given { parcel: parcel.clone(), state: State::Pushed, pushes: Vec::new(), at: now };
            let given = channel.given.entry((parcel.kind, id.clone())).or_insert_with(new);
            given.pushes.push((parcel.push.clone(), parcel.path));
            if parcel.path == Path::Socket {
                given.state = State::Seen; // it shows what it gets by itself
            }
        }
    }

    /// The channel is told how far a text got.
    fn told(&mut self, i: usize, kind: Kind, id: String, state: State, code: Option<Code>) {
        let peer = &mut self.peers[i];
        let channel = peer.channel.as_mut().expect("it hears");
        if kind == Kind::Reply && channel.replied.contains_key(&id) {
            if state == State::Ended && code == Some(Code::PeerGone) {
                channel.unwanted.insert(id); // until another hub is asked
            } else if state >= State::Pushed {
                channel.replied.remove(&id);
            }
            return;
        }
        if matches!(kind, Kind::Reply | Kind::Failed) && state == State::Seen {
            // By another process, or by a waiter.
            channel.asked.retain(|known, asked| *known != id || asked.timed_out);
            peer.saved.remove(&id);
        }
        if kind == Kind::Summary && state == State::Ended {
            channel.outcomes.remove(&id);
        }
        let Some(asked) = channel.asked.get_mut(&id).filter(|_| kind == Kind::Ask) else {
            let place = (kind, id);
            match (state, kind) {
                (State::Ended, Kind::Ask) => {
                    // Its asker may still wait for it, and another hub may ask. But it will not be pushed again.
                    if let Some(given) = channel.given.get_mut(&place) {
                        given.parcel.text.clear();
                    }
                }
                (State::Ended, _) => drop(channel.given.remove(&place)),
                (State::Seen, Kind::Ask) => {
                    if let Some(given) = channel.given.get_mut(&place) {
                        given.state = State::Seen;
                        given.parcel.text.clear();
                    }
                }
                (State::Seen, _) => drop(channel.given.remove(&place)),
                _ => {}
            }
            return;
        };
        if state < State::Replied {
            asked.state = state;
            return;
        }
        if asked.timed_out {
            return;
        }
        let (to, all) = (asked.to.clone(), asked.broadcast.clone());
        peer.saved.remove(&id);
        if code == Some(Code::Timeout) {
            asked.timed_out = true; // a late answer is welcome
        } else {
            channel.asked.remove(&id);
        }
        let Some(all) = all else { return };
        if let Some(outcomes) = channel.outcomes.get_mut(&all) {
            outcomes.push(Outcome { ask_id: id.clone(), to, code });
        }
        if let Some(code) = code {
            self.end(&id, End::Told(nth(code)));
        }
    }

    /// The client takes a text in its own time.
    pub fn offer(&mut self, i: usize, parcel: Parcel) {
        let peer = &mut self.peers[i];
        if peer.client.busy && peer.is_session() {
            return peer.client.queue.push_back(parcel);
        }
        let prompts = peer.hooks && parcel.path != Path::Hook;
        peer.client.busy = peer.is_session();
        self.take(i, &parcel);
        if prompts {
            self.fire(i, HookEvent::Prompt, vec![parcel.push]);
        }
    }

    /// The text is in the conversation.
    pub fn take(&mut self, i: usize, parcel: &Parcel) {
        self.log(|| format!("peer{i} HAS {:?} {} late={}", parcel.kind, parcel.ask_id, parcel.late));
        let key = key(i, parcel);
        self.peers[i].client.transcript.push(parcel.push.clone());
        let times = self.got.entry(key.clone()).or_insert(0);
        *times += 1;
        if *times > 1 {
            let forgiven = self.forgiven.contains(&key);
            let peer = &self.peers[i];
            let late = peer.ways.iter().any(|w| matches!(w, Way::Late(_)));
            let double = self.counts.crashes > 0 && peer.kills > 0;
            assert!(forgiven || late || double, "twice in the conversation: {key:?}");
            self.counts.forgiven += 1;
            return;
        }
        match parcel.kind {
            Kind::Ask => {
                let asker = parcel.peer.clone().expect("an ask names its asker");
                self.peers[i].client.asks.push((parcel.ask_id.clone(), asker, parcel.from.clone()));
            }
            Kind::Reply if parcel.late => self.end(&parcel.ask_id, End::LateReply),
            Kind::Reply => self.end(&parcel.ask_id, End::Reply),
            Kind::Failed => self.end(&parcel.ask_id, End::Failed(nth(parcel.code.expect("a code")))),
            Kind::Summary => {
                self.counts.summaries += 1;
            }
        }
    }

    /// A text comes to where a client could take it. Nobody gets what was not meant for it.
    pub fn hand(&mut self, i: usize, parcel: &Parcel) {
        self.handed.insert(key(i, parcel));
        let id = &parcel.ask_id;
        if parcel.kind == Kind::Summary {
            assert!(parcel.text.contains("broadcast is closed"));
            return assert_eq!(
                self.broadcasts.get(id).map_or(i, |asker| *asker),
                i,
                "a summary of another's broadcast"
            );
        }
        if let Some(all) = &parcel.broadcast
            && !self.truths.contains_key(id)
        {
            let asker = parcel.peer.as_ref().expect("an ask").trim_start_matches("peer").parse();
            let truth = self.truths.entry(id.clone()).or_default();
            (truth.asker, truth.broadcast) = (asker.expect("an identity"), Some(all.clone()));
        }
        let truth = self.truths.get_mut(id).unwrap_or_else(|| panic!("an ask of nobody: {id}"));
        if parcel.kind == Kind::Ask {
            assert!(parcel.text.contains(parcel.broadcast.as_ref().unwrap_or(id)), "another ask's text");
            // A request that died with a hub is sent again, and another may have the name by then. What the asker is told
            // then is whom it asked, whoever else was given it before.
            let before = self.counts.crashes > 0 && truth.given.contains(&i);
            assert!(before || truth.target.is_none_or(|t| t == i), "an ask for another");
            if !truth.counts || truth.target.is_none() {
                truth.target = Some(i);
                truth.given.insert(i); // a member of a broadcast was not known before
            }
        } else {
            assert_eq!(truth.asker, i, "{:?} of an ask of another", parcel.kind);
        }
        if parcel.kind == Kind::Reply {
            let by = |no: usize| truth.answers.contains(&(no, parcel.text.clone()));
            let target = truth.target.filter(|_| truth.counts);
            let asked = target.map_or_else(|| truth.given.iter().any(|no| by(*no)), by);
            assert!(asked, "an answer that nobody gave who was asked: {}", parcel.text);
        }
    }
}
