//! The world around the router: connections with a queue each way, a clock, a journal, and the truth about every ask,
//! against which everything that the hub says is checked.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use super::super::{ConnId, Info, Input, Limits, Ms, Output, Router};
use super::client::Peer;
use super::truth::{Key, Push, Truth};
use crate::hub::journal;
use crate::wire::{AskRequest, BroadcastRequest, HookReport, ToClient, ToHub};

/// A pseudo-random number generator: the same numbers for the same seed everywhere.
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

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// Which faults a world has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan {
    /// Hubs crash.
    pub crash: bool,
    /// Some of them lose their journal.
    pub lose: bool,
    /// Channels are killed.
    pub kill: bool,
    /// Paths swallow texts, fail, and report twice; waiters are killed.
    pub odd: bool,
    /// Paths take texts up after the hub has given up on them, hold them, or accept and drop them; sessions show screens.
    pub late: bool,
}

/// The client at the other end of a connection.
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
    pub doubles: u64,
    pub forms: u64,
}

pub struct World {
    pub rng: Rng,
    pub plan: Plan,
    pub now: Ms,
    /// The hub's time 0.
    pub born: Ms,
    pub limits: Limits,
    pub hub: Router,
    pub epoch: u64,
    /// The content of the journal file.
    pub journal: Vec<u8>,
    pub links: BTreeMap<ConnId, Link>,
    pub next_conn: ConnId,
    pub next_id: u64,
    pub peers: Vec<Peer>,
    pub truths: BTreeMap<String, Truth>,
    /// Texts that were handed to a client, whether it took them or swallowed them.
    pub handed: HashSet<Key>,
    /// Texts that are in a conversation.
    pub got: HashMap<Key, u32>,
    /// Texts that came with the remark that they may have come already.
    pub again: HashSet<Key>,
    /// Texts that the hub knows to be seen.
    pub seen: HashSet<Key>,
    pub pushes: BTreeMap<String, Push>,
    /// Processes that have ended.
    pub dead: HashSet<u64>,
    pub counts: Counts,
    /// The last step was that of a timer.
    pub is_tick: bool,
    pub trace: bool,
}

/// Makes identifiers that differ between the hub processes of a world.
pub fn ids(process: u64) -> Box<dyn FnMut() -> String + Send> {
    let mut n = 0;
    Box::new(move || {
        n += 1;
        format!("push_{process}_{n}")
    })
}

pub fn info(epoch: u64) -> Info {
    Info { pid: 1, epoch: epoch.to_string(), ..Info::default() }
}

impl World {
    pub fn new(seed: u64, plan: Plan, trace: bool) -> Self {
        let mut rng = Rng(seed);
        let mut limits = Limits::default();
        if rng.chance(30) {
            limits.open_asks = 4;
        }
        if rng.chance(30) {
            limits.undelivered = 5;
        }
        let hub = Router::new(limits.clone(), info(0), ids(0));
        let mut world = World {
            rng,
            plan,
            now: 0,
            born: 0,
            limits,
            hub,
            epoch: 0,
            journal: Vec::new(),
            links: BTreeMap::new(),
            next_conn: 1,
            next_id: 1,
            peers: Vec::new(),
            truths: BTreeMap::new(),
            handed: HashSet::new(),
            got: HashMap::new(),
            again: HashSet::new(),
            seen: HashSet::new(),
            pushes: BTreeMap::new(),
            dead: HashSet::new(),
            counts: Counts::default(),
            is_tick: false,
            trace,
        };
        world.compact();
        world
    }

    pub fn log(&mut self, line: impl FnOnce() -> String) {
        if self.trace {
            super::note(format!("{:>8} {}", self.now, line()));
        }
    }

    pub fn number(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
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

    /// The client closes its end. What it wrote still arrives, with `lose` only a part of it.
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

    /// Delivers one message of one connection in one direction; `false` if nothing is on its way.
    pub fn deliver(&mut self) -> bool {
        let ready = |l: &Link| (usize::from(!l.up.is_empty()), usize::from(!l.down.is_empty() || l.shut));
        let total: usize = self.links.values().map(ready).map(|(up, down)| up + down).sum();
        if total == 0 {
            return false;
        }
        let mut nth = self.rng.below(total);
        for (conn, link) in &self.links {
            let (conn, (up, down)) = (*conn, ready(link));
            if nth < up {
                self.deliver_up(conn);
                return true;
            }
            if nth < up + down {
                self.deliver_down(conn);
                return true;
            }
            nth -= up + down;
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
        let is_close = self.links.get(&conn).is_some_and(|l| matches!(l.up.front(), Some(Up::Close)));
        if let Some(input) = self.next_input(conn) {
            self.step(input);
        }
        if is_close {
            self.remove_link(conn);
        }
    }

    /// The next input of a connection.
    pub fn next_input(&mut self, conn: ConnId) -> Option<Input> {
        let link = self.links.get_mut(&conn)?;
        match link.up.pop_front()? {
            Up::Open if link.shut => None,
            Up::Open => {
                link.open = true;
                Some(Input::Opened(conn))
            }
            Up::Say(message) if link.open => {
                if let Some(id) = request_id(&message) {
                    assert!(link.unanswered.insert(id), "the world used the id {id} twice");
                }
                self.log(|| format!("{conn} says {message:?}"));
                Some(Input::Said(conn, message))
            }
            // The hub's reader may be ahead of its router.
            Up::Say(message) => self.rng.chance(50).then_some(Input::Said(conn, message)),
            Up::Close => {
                self.log(|| format!("{conn} hung up"));
                Some(Input::Closed(conn))
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
            None if link.gone => link.shut = false, // its `Close` is on its way up
            None => {
                self.log(|| format!("{conn} ({owner:?}) meets the end"));
                if self.rng.chance(50) {
                    self.step(Input::Closed(conn));
                }
                self.remove_link(conn);
            }
        }
    }

    pub fn remove_link(&mut self, conn: ConnId) {
        if let Some(link) = self.links.remove(&conn) {
            self.link_ended(conn, link.owner);
        }
    }

    /// Appends to the journal, then sends.
    pub fn step(&mut self, input: Input) {
        let (effects, time) = (self.effects(&input), self.now - self.born);
        self.is_tick = matches!(input, Input::Tick);
        let step = journal::step(&mut self.hub, time, input, &mut self.journal);
        self.apply(effects);
        self.send(step.outputs);
    }

    /// Sends the hub's outputs, each after a check against the truth.
    pub fn send(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(conn, message) => {
                    let Some(link) = self.links.get_mut(&conn) else {
                        panic!("sent to a connection that is not there: {conn} {message:?}")
                    };
                    assert!(link.open, "sent to a closed connection: {conn} {message:?}");
                    if let ToClient::Ok { id, .. } | ToClient::Error { id: Some(id), .. } = &message {
                        assert!(link.unanswered.remove(id), "answered twice or unasked: {message:?}");
                    }
                    if !link.gone {
                        link.down.push_back(message.clone());
                    }
                    let owner = link.owner;
                    self.log(|| format!("    to {conn} ({owner:?}): {message:?}"));
                    self.check(conn, owner, &message);
                }
                Output::Close(conn) => {
                    self.log(|| format!("the hub closes {conn}"));
                    let link = self.links.get_mut(&conn).expect("closed a connection that is not there");
                    assert!(link.open, "closed twice: {conn}");
                    (link.open, link.shut) = (false, true);
                    link.unanswered.clear();
                }
                Output::Log(event) => {
                    assert_eq!(event.text, None, "text in the log");
                    if event.event == crate::wire::What::Left {
                        self.excuse_unknown();
                    }
                }
                Output::Exit => {}
            }
        }
    }

    /// Delivers messages and lets each peer react, until nothing is on its way.
    pub fn settle(&mut self) {
        loop {
            self.drain();
            for i in 0..self.peers.len() {
                self.poll(i);
                self.read_transcript(i);
            }
            if !self.deliver() {
                return;
            }
        }
    }

    /// Lets time pass. What is on its way arrives before the clock moves.
    pub fn wait_until(&mut self, at: Ms) {
        loop {
            for i in 0..self.peers.len() {
                self.expire(i);
            }
            self.settle();
            let clients = self.peers.iter().filter_map(|p| p.client.as_ref()?.deadline());
            let next = clients.chain(self.deadline()).min().filter(|next| *next < at);
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
}

fn request_id(message: &ToHub) -> Option<u64> {
    match message {
        ToHub::Register { id, .. }
        | ToHub::Peers { id }
        | ToHub::Asks { id }
        | ToHub::Ask(AskRequest { id, .. })
        | ToHub::FormClosed { id, .. }
        | ToHub::Broadcast(BroadcastRequest { id, .. })
        | ToHub::Reply { id, .. }
        | ToHub::Withdraw { id, .. }
        | ToHub::Rename { id, .. }
        | ToHub::Hook(HookReport { id, .. })
        | ToHub::Wait { id, .. }
        | ToHub::Watch { id }
        | ToHub::Status { id }
        | ToHub::Stop { id } => Some(*id),
        _ => None,
    }
}
