//! The world around the router: connections with a queue each way, a clock, a hub that may crash, and the truth about
//! every ask, against which whatever the hub says is checked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Write as _;

use super::super::{ConnId, Info, Input, Limits, Ms, Output, Router};
use super::peer::Sim;
use crate::wire::{Answer, Code, Kind, State, ToClient, ToHub};

/// Small, fast, and the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// What may go wrong in a world.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan {
    /// Hubs crash.
    pub crash: bool,
    /// Channels are killed.
    pub kill: bool,
    /// Paths swallow, fail, and confirm twice; waiters are killed.
    pub odd: bool,
    /// Paths take texts up after the hub has lost patience.
    pub late: bool,
}

/// Who is at the client's end of a connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Owner {
    Channel(usize),
    Waiter(usize),
    Hook(usize),
    Watcher,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly every one is of the large kind")]
pub enum Up {
    Open,
    Say(ToHub),
    Close,
}

/// A connection: a queue each way, each delivered in order and at its own pace.
#[derive(Debug)]
pub struct Link {
    pub owner: Owner,
    pub up: VecDeque<Up>,
    pub down: VecDeque<ToClient>,
    /// The router knows it.
    pub open: bool,
    /// The hub's end is closed: what is in `down` is the last.
    pub shut: bool,
    /// The client's end is closed.
    pub gone: bool,
    /// Requests that the router has taken and not answered.
    pub unanswered: BTreeSet<u64>,
}

/// What is known of an ask by somebody who sees everything.
#[derive(Debug, Default)]
pub struct Truth {
    pub asker: usize,
    pub target: Option<usize>,
    pub broadcast: Option<String>,
    /// The ends that the asker had, each once.
    pub ends: BTreeSet<End>,
    /// The asker knows that it has asked.
    pub counts: bool,
    /// The asker's process died before it knew whether it had asked.
    pub ambiguous: bool,
    /// Somebody swallowed an end of it and nobody could know.
    pub lost: bool,
    /// Whom a hub had it pushed to before the asker was told whom it asked: more than one, if a request that died with a hub
    /// was sent again when another had the name.
    pub given: BTreeSet<usize>,
    /// Answers that a model gave: its peer and the text.
    pub answers: HashSet<(usize, String)>,
    /// The one that a peer was told is on its way.
    pub accepted: BTreeMap<usize, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Reply,
    LateReply,
    Failed(u8),
    Told(u8),
    ToolError(u8),
}

/// A text and its recipient.
pub type Key = (usize, Kind, String);

#[derive(Default)]
pub struct Counts {
    pub steps: u64,
    pub asks: u64,
    pub replies: u64,
    pub late: u64,
    pub failed: u64,
    pub summaries: u64,
    pub crashes: u64,
    pub kills: u64,
    pub forgiven: u64,
}

pub struct World {
    pub rng: Rng,
    pub plan: Plan,
    pub now: Ms,
    /// The hub's time 0.
    pub born: Ms,
    /// Nobody reaches a hub before this.
    pub down_until: Ms,
    pub limits: Limits,
    pub hub: Router,
    pub generation: u64,
    pub links: BTreeMap<ConnId, Link>,
    pub next_conn: ConnId,
    pub next_id: u64,
    pub peers: Vec<Sim>,
    pub truths: BTreeMap<String, Truth>,
    /// Who asked the broadcasts that were answered.
    pub broadcasts: BTreeMap<String, usize>,
    /// Those of which somebody swallowed the summary and nobody could know.
    pub lost_summaries: HashSet<String>,
    /// Texts that were handed to a client, whatever became of them.
    pub handed: HashSet<Key>,
    /// Texts that are in a conversation, and how often.
    pub got: HashMap<Key, u32>,
    /// Texts that this hub was told are seen.
    pub seen: HashSet<Key>,
    /// Texts whose doubling is forgiven.
    pub forgiven: HashSet<Key>,
    /// The text of every push.
    pub pushes: BTreeMap<String, Key>,
    pub counts: Counts,
    pub trace: Option<VecDeque<String>>,
}

pub fn hub(limits: &Limits, generation: u64) -> Router {
    let mut n = 0;
    let info = Info { pid: 1, version: String::new(), started_at_ms: 0, log_all: false };
    let token = move || {
        n += 1;
        format!("push-{generation}-{n}")
    };
    Router::new(limits.clone(), info, Box::new(token))
}

impl World {
    pub fn new(seed: u64, plan: Plan, trace: bool) -> Self {
        let mut rng = Rng(seed);
        let mut limits = Limits { grace: 5_000, ..Limits::default() };
        if rng.chance(30) {
            limits.open_asks = 4;
            limits.undelivered = 6;
        }
        if rng.chance(50) {
            limits.asks_per_minute = 0;
        }
        World {
            rng,
            plan,
            now: 0,
            born: 0,
            down_until: 0,
            hub: hub(&limits, 0),
            limits,
            generation: 0,
            links: BTreeMap::new(),
            next_conn: 1,
            next_id: 1,
            peers: Vec::new(),
            truths: BTreeMap::new(),
            broadcasts: BTreeMap::new(),
            lost_summaries: HashSet::new(),
            handed: HashSet::new(),
            got: HashMap::new(),
            seen: HashSet::new(),
            forgiven: HashSet::new(),
            pushes: BTreeMap::new(),
            counts: Counts::default(),
            trace: trace.then(VecDeque::new),
        }
    }

    pub fn log(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() >= 100 {
                trace.pop_front();
            }
            let mut text = format!("{:>8} ", self.now);
            let _ = text.write_str(&line());
            super::note(text.clone());
            trace.push_back(text);
        }
    }

    pub fn id(&mut self, prefix: &str) -> String {
        self.next_id += 1;
        format!("{prefix}_{:08}", self.next_id)
    }

    pub fn connect(&mut self, owner: Owner) -> ConnId {
        let conn = self.next_conn;
        self.next_conn += 1;
        let link = Link {
            owner,
            up: VecDeque::from([Up::Open]),
            down: VecDeque::new(),
            open: false,
            shut: false,
            gone: false,
            unanswered: BTreeSet::new(),
        };
        self.links.insert(conn, link);
        conn
    }

    pub fn say(&mut self, conn: ConnId, message: ToHub) {
        if let Some(link) = self.links.get_mut(&conn).filter(|l| !l.shut && !l.gone) {
            link.up.push_back(Up::Say(message));
        }
    }

    /// The client's end closes. What it wrote still arrives, unless the hub is closing the connection too.
    pub fn hang_up(&mut self, conn: ConnId, lose: bool) {
        let keep = self.rng.below(8);
        let Some(link) = self.links.get_mut(&conn) else { return };
        if lose {
            link.up.truncate(keep.max(1));
        }
        link.up.push_back(Up::Close);
        link.gone = true;
        link.down.clear();
    }

    /// Delivers one message of one connection, one way. False when nothing is on its way.
    pub fn deliver(&mut self) -> bool {
        let ready = |l: &Link| (usize::from(!l.up.is_empty()), usize::from(!l.down.is_empty() || l.shut));
        let total: usize = self.links.values().map(ready).map(|(up, down)| up + down).sum();
        if total == 0 {
            return false;
        }
        let mut nth = self.rng.below(total);
        let mut chosen = None;
        for (conn, link) in &self.links {
            let (up, down) = ready(link);
            if nth < up + down {
                chosen = Some((*conn, nth < up));
                break;
            }
            nth -= up + down;
        }
        let (conn, up) = chosen.expect("one of them");
        if up {
            self.deliver_up(conn)
        } else {
            self.deliver_down(conn)
        }
        true
    }

    pub fn drain(&mut self) {
        let mut n = 0;
        while self.deliver() {
            n += 1;
            assert!(n < 200_000, "the world does not come to rest");
        }
    }

    fn deliver_up(&mut self, conn: ConnId) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        let Some(up) = link.up.pop_front() else { return };
        let (open, shut) = (link.open, link.shut);
        match up {
            Up::Open => {
                if !shut {
                    link.open = true;
                    self.step(Input::Opened(conn));
                }
            }
            Up::Say(message) if open => {
                self.log(|| format!("{conn} says {message:?}"));
                self.note_said(conn, &message);
                self.step(Input::Said(conn, message));
            }
            Up::Say(message) => {
                // The hub's reader may be ahead of its router.
                if self.rng.chance(50) {
                    self.step(Input::Said(conn, message));
                }
            }
            Up::Close => {
                self.log(|| format!("{conn} hung up"));
                self.step(Input::Closed(conn));
                self.remove_link(conn);
            }
        }
    }

    fn deliver_down(&mut self, conn: ConnId) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        let owner = link.owner;
        match link.down.pop_front() {
            Some(message) => {
                self.log(|| format!("{conn} ({owner:?}) hears {message:?}"));
                self.hear(conn, owner, message);
            }
            None if link.up.iter().any(|u| matches!(u, Up::Close)) && link.gone => link.shut = false,
            None => {
                self.log(|| format!("{conn} ({owner:?}) meets the end"));
                if self.rng.chance(50) {
                    self.step(Input::Closed(conn));
                }
                self.remove_link(conn);
            }
        }
    }

    fn remove_link(&mut self, conn: ConnId) {
        if let Some(link) = self.links.remove(&conn) {
            self.link_ended(conn, link.owner);
        }
    }

    /// What a request and a receipt mean for the checks.
    fn note_said(&mut self, conn: ConnId, message: &ToHub) {
        let id = match message {
            ToHub::Register { id, .. }
            | ToHub::Peers { id }
            | ToHub::Ask { id, .. }
            | ToHub::Broadcast { id, .. }
            | ToHub::Reply { id, .. }
            | ToHub::Rename { id, .. }
            | ToHub::Hook { id, .. }
            | ToHub::Wait { id, .. }
            | ToHub::Watch { id }
            | ToHub::Status { id } => *id,
            ToHub::Seen { pushes, .. } => {
                let speaker = self.links.get(&conn).map(|l| l.owner);
                for push in pushes {
                    // Only a receipt for what this hub knows counts, and only of somebody who may give it.
                    if let Some(Owner::Channel(i)) = speaker
                        && self.pushes.get(push).is_some_and(|k| k.0 != i)
                    {
                        continue;
                    }
                    if self.hub.pushes.contains_key(push)
                        && let Some(key) = self.pushes.get(push).filter(|k| self.got.contains_key(*k))
                    {
                        self.seen.insert(key.clone());
                    }
                }
                return;
            }
            _ => return,
        };
        if let Some(link) = self.links.get_mut(&conn) {
            assert!(link.unanswered.insert(id), "the world used the id {id} twice");
        }
    }

    pub fn step(&mut self, input: Input) {
        let outputs = self.hub.step(self.now - self.born, input);
        for output in outputs {
            match output {
                Output::Send(conn, message) => {
                    let Some(link) = self.links.get_mut(&conn) else {
                        panic!("sent to a connection that is not there: {conn} {message:?}")
                    };
                    assert!(link.open, "sent to a closed connection: {conn} {message:?}");
                    let answered = match &message {
                        ToClient::Ok { id, .. } | ToClient::Error { id: Some(id), .. } => Some(*id),
                        _ => None,
                    };
                    if let Some(id) = answered {
                        assert!(link.unanswered.remove(&id), "answered twice or unasked: {message:?}");
                    }
                    if !link.gone {
                        link.down.push_back(message.clone());
                    }
                    let owner = link.owner;
                    self.log(|| format!("    to {conn} ({owner:?}): {message:?}"));
                    self.check_said(owner, &message);
                }
                Output::Close(conn) => {
                    self.log(|| format!("the hub closes {conn}"));
                    let link = self.links.get_mut(&conn).expect("closed a connection that is not there");
                    assert!(link.open, "closed twice: {conn}");
                    link.open = false;
                    link.shut = true;
                    link.unanswered.clear();
                }
                Output::Log(event) => assert_eq!(event.text, None, "text in the log"),
                Output::Exit => {}
            }
        }
    }

    /// What the hub says must be so.
    fn check_said(&mut self, owner: Owner, message: &ToClient) {
        match message {
            ToClient::Ok { answer, waiting, .. } => {
                for parcel in waiting {
                    self.check_push(owner, &parcel.push, parcel.kind, &parcel.ask_id);
                }
                match answer {
                    Answer::Asked { ask_id, peer, state, .. } => {
                        let to = peer.trim_start_matches("peer").parse().expect("an identity");
                        self.check_state_at(to, Kind::Ask, ask_id, *state);
                    }
                    Answer::Replied { ask_id, state, .. } => {
                        self.check_state(owner, Kind::Reply, ask_id, *state)
                    }
                    _ => {}
                }
            }
            ToClient::Error { waiting, .. } => {
                for parcel in waiting {
                    self.check_push(owner, &parcel.push, parcel.kind, &parcel.ask_id);
                }
            }
            ToClient::Push(parcel) => self.check_push(owner, &parcel.push, parcel.kind, &parcel.ask_id),
            ToClient::State { kind, ask_id, state, .. } => self.check_state(owner, *kind, ask_id, *state),
            _ => {}
        }
    }

    fn check_push(&mut self, owner: Owner, push: &str, kind: Kind, id: &str) {
        let (Owner::Channel(to) | Owner::Waiter(to)) = owner else { panic!("pushed to {owner:?}") };
        let key = (to, kind, id.to_owned());
        if let Some(copy) = self.pushes.get(push) {
            assert_eq!(*copy, key, "one identifier for two texts");
            assert!(matches!(owner, Owner::Channel(_)), "the same push again");
            return;
        }
        if kind == Kind::Ask
            && let Some(truth) = self.truths.get_mut(id)
        {
            match truth.target.filter(|_| truth.counts) {
                None => drop(truth.given.insert(to)),
                Some(target) => {
                    assert!(target == to || truth.given.contains(&to), "an ask of peer{target} for peer{to}");
                }
            }
        }
        assert!(!self.seen.contains(&key), "pushed again though it was seen: {key:?}");
        self.pushes.insert(push.to_owned(), key);
    }

    fn check_state(&self, owner: Owner, kind: Kind, id: &str, state: State) {
        if !matches!(state, State::Pushed | State::Seen) {
            return;
        }
        let truth = self.truths.get(id);
        let to = match kind {
            Kind::Ask => truth.and_then(|t| {
                // Until the asker was told whom it asked, it is whom the hub takes it to be.
                let ask = self.hub.asks.get(id).filter(|_| !t.counts);
                let target = ask.map(|ask| self.hub.peers[&ask.target].who.peer.as_str());
                target.and_then(|peer| peer.trim_start_matches("peer").parse().ok()).or(t.target)
            }),
            Kind::Summary => {
                let has = |i: &usize| self.handed.contains(&(*i, kind, id.to_owned()));
                self.broadcasts.get(id).copied().or_else(|| (0..self.peers.len()).find(has))
            }
            _ => truth.map(|t| t.asker),
        };
        // The recipient is told as well.
        let own = match owner {
            Owner::Channel(i) => Some(i).filter(|i| self.handed.contains(&(*i, kind, id.to_owned()))),
            _ => None,
        };
        let Some(to) = own.or(to) else { panic!("{state:?} of {kind:?} {id}, which nobody has") };
        self.check_state_at(to, kind, id, state);
    }

    fn check_state_at(&self, to: usize, kind: Kind, id: &str, state: State) {
        let key = (to, kind, id.to_owned());
        match state {
            State::Pushed if self.handed.contains(&key) => {}
            State::Seen => assert!(self.got.contains_key(&key), "told seen on hope: {key:?}"),
            State::Pushed => panic!("told pushed on hope: {key:?}"),
            _ => {}
        }
    }

    /// The hub dies, and all that was on its way to it; what it had written may still be read.
    pub fn crash(&mut self) {
        self.counts.crashes += 1;
        self.log(|| "THE HUB CRASHES".to_owned());
        let mut waiters_texts = Vec::new();
        for link in self.links.values_mut() {
            link.up.retain(|u| matches!(u, Up::Close));
            let said = link.down.len();
            link.down.truncate(self.rng.below(said + 1).max(said / 2));
            if let Owner::Waiter(i) = link.owner {
                let pushed = link.down.iter().filter_map(|m| match m {
                    ToClient::Push(p) => Some((i, p.kind, p.ask_id.clone())),
                    _ => None,
                });
                waiters_texts.extend(pushed);
            }
            (link.open, link.shut) = (false, true);
            link.unanswered.clear();
        }
        // A waiter that has been told and a hub that has not been told that it was done: nobody else knows.
        self.forgiven.extend(waiters_texts);
        self.forgiven.extend(self.peers.iter().flat_map(|p| p.woken.iter().cloned()));
        self.seen.clear();
        self.generation += 1;
        self.born = self.now;
        self.hub = hub(&self.limits, self.generation);
        self.down_until = self.now + self.rng.below(300) as Ms;
    }

    /// Lets time pass: nothing is so slow that it is on its way for longer than a moment.
    pub fn wait_until(&mut self, at: Ms) {
        loop {
            self.drain();
            for i in 0..self.peers.len() {
                self.poll(i);
            }
            self.drain();
            let next = self.deadline().filter(|next| *next < at);
            self.now = self.now.max(next.unwrap_or(at));
            self.log(|| "time has passed".to_owned());
            self.step(Input::Tick);
            if next.is_none() {
                return;
            }
        }
    }

    pub fn deadline(&self) -> Option<Ms> {
        self.hub.next_deadline().map(|at| at + self.born)
    }

    pub fn end(&mut self, id: &str, end: End) {
        self.log(|| format!("END of {id}: {end:?}"));
        match end {
            End::Reply => self.counts.replies += 1,
            End::LateReply => self.counts.late += 1,
            _ => self.counts.failed += 1,
        }
        self.truths.entry(id.to_owned()).or_default().ends.insert(end);
    }
}

pub fn nth(code: Code) -> u8 {
    code as u8
}
