//! The router under a sequence of events that the bytes choose: few connections, names and ids, so that they meet.

use std::collections::{HashMap, HashSet};

use crate::name;
use crate::router::{ConnId, Info, Input, Limits, Output, Router};
use crate::wire::{
    Activity, Answer, Code, Held, HookEvent, Kind, Outcome, Parcel, Path, PeerKind, Scope, State, ToClient,
    ToHub, Who,
};

const PATHS: [Path; 5] = [Path::Socket, Path::Inbox, Path::Channel, Path::Hook, Path::Tool];
const STATES: [State; 5] = [State::Queued, State::Pushed, State::Seen, State::Replied, State::Ended];

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn below(&mut self, n: u8) -> u8 {
        self.next() % n
    }

    fn yes(&mut self) -> bool {
        self.next() & 1 == 1
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.next() as usize % of.len()]
    }
}

struct World {
    router: Router,
    now: u64,
    open: HashSet<ConnId>,
    next_conn: ConnId,
    next_request: u64,
    /// Requests that are not answered, by connection.
    unanswered: HashMap<ConnId, HashSet<u64>>,
    /// Pushes that were sent, with whom they went to.
    pushes: Vec<(ConnId, String)>,
    exit: bool,
}

pub fn play(data: &[u8]) {
    let mut bytes = Bytes(data);
    let limits = Limits { peers: 6, open_asks: 4, undelivered: 5, asks_per_minute: 6, ..Limits::default() };
    let info = Info { pid: 1, version: String::new(), started_at_ms: 0, log_all: true };
    let mut made = 0_u64;
    let token = move || {
        made += 1;
        format!("push_{made:024x}")
    };
    let mut world = World {
        router: Router::new(limits, info, Box::new(token)),
        now: 0,
        open: HashSet::new(),
        next_conn: 1,
        next_request: 1,
        unanswered: HashMap::new(),
        pushes: Vec::new(),
        exit: false,
    };
    while !bytes.0.is_empty() && !world.exit {
        world.act(&mut bytes);
    }
    world.end();
}

impl World {
    fn step(&mut self, input: Input) {
        for output in self.router.step(self.now, input) {
            match output {
                Output::Send(conn, message) => self.hear(conn, message),
                Output::Close(conn) => self.shut(conn),
                Output::Log(event) => assert!(event.text.is_none(), "text in the log"),
                Output::Exit => self.exit = true,
            }
        }
    }

    fn shut(&mut self, conn: ConnId) {
        self.open.remove(&conn);
        self.unanswered.remove(&conn);
    }

    fn hear(&mut self, conn: ConnId, message: ToClient) {
        if !self.open.contains(&conn) {
            return; // a request may close the connection that it came by
        }
        match message {
            ToClient::Ok { id, waiting, answer } => {
                self.answered(conn, id);
                waiting.into_iter().for_each(|p| self.pushed(conn, p));
                if let Answer::Registered { name } | Answer::Renamed { name } = answer {
                    assert_eq!(name::slug(&name), name);
                }
            }
            ToClient::Error { id, waiting, .. } => {
                if let Some(id) = id {
                    self.answered(conn, id);
                }
                waiting.into_iter().for_each(|p| self.pushed(conn, p));
            }
            ToClient::Push(parcel) => self.pushed(conn, parcel),
            _ => {}
        }
    }

    fn answered(&mut self, conn: ConnId, id: u64) {
        let known = self.unanswered.get_mut(&conn).is_some_and(|open| open.remove(&id));
        assert!(known, "{id} was answered twice, or not asked");
    }

    fn pushed(&mut self, conn: ConnId, parcel: Parcel) {
        self.pushes.push((conn, parcel.push));
        if self.pushes.len() > 64 {
            self.pushes.remove(0);
        }
    }

    fn act(&mut self, bytes: &mut Bytes) {
        let what = bytes.below(32);
        if what == 0 || self.open.is_empty() {
            let conn = self.next_conn;
            self.next_conn += 1;
            if self.open.len() < 12 {
                self.open.insert(conn);
                self.step(Input::Opened(conn));
            }
            return;
        }
        let mut conns: Vec<ConnId> = self.open.iter().copied().collect();
        conns.sort_unstable();
        let conn = bytes.pick(&conns);
        match what {
            1 => {
                self.shut(conn);
                self.step(Input::Closed(conn));
            }
            2 => {
                self.now += [1, 100, 1000, 6000, 60_000, 3_600_000][bytes.below(6) as usize];
                self.step(Input::Tick);
            }
            3 => {
                if let Some(due) = self.router.next_deadline().filter(|due| *due < self.now + 300_000) {
                    self.now = self.now.max(due);
                    self.step(Input::Tick);
                }
            }
            _ => {
                let message = self.message(bytes, what).request(self, conn);
                self.step(Input::Said(conn, message));
            }
        }
    }

    fn push(&self, bytes: &mut Bytes) -> String {
        match self.pushes.len() {
            0 => "push_none".to_owned(),
            n => self.pushes[bytes.next() as usize % n].1.clone(),
        }
    }

    fn message(&self, bytes: &mut Bytes, what: u8) -> ToHub {
        let id = 0;
        match what {
            4..=6 => ToHub::Register { id, who: Box::new(who(bytes)) },
            7..=10 => ToHub::Ask {
                id,
                ask_id: ask_id(bytes),
                to: named(bytes),
                text: text(bytes),
                timeout_ms: timeout(bytes),
            },
            11 | 12 => ToHub::Broadcast {
                id,
                broadcast_id: all_id(bytes),
                text: text(bytes),
                scope: bytes.pick(&[Scope::Machine, Scope::Repo, Scope::Directory]),
                timeout_ms: timeout(bytes),
            },
            13..=15 => ToHub::Reply { id, ask_id: any_id(bytes), text: text(bytes) },
            16 => ToHub::Rename { id, name: named(bytes), exact: bytes.yes() },
            17..=19 => {
                ToHub::Pushed { push: self.push(bytes), error: (bytes.below(4) == 0).then(String::new) }
            }
            20 | 21 => {
                let pushes = (0..bytes.below(3)).map(|_| self.push(bytes)).collect();
                ToHub::Seen { pushes, accepted: (0..bytes.below(2)).map(|_| self.push(bytes)).collect() }
            }
            22 => ToHub::Activity {
                activity: bytes.yes().then(|| activity(bytes)),
                age_ms: bytes.yes().then(|| u64::from(bytes.below(250))),
                branch: bytes.yes().then(|| text(bytes)),
                paths: bytes.yes().then(|| paths(bytes)),
            },
            23 => ToHub::Hook {
                id,
                claude: claude(bytes),
                event: bytes.pick(&[
                    HookEvent::Start,
                    HookEvent::Prompt,
                    HookEvent::Tool,
                    HookEvent::Permission,
                    HookEvent::Stop,
                    HookEvent::End,
                ]),
                age_ms: bytes.yes().then(|| u64::from(bytes.below(250))),
            },
            24 => ToHub::Wait { id, claude: claude(bytes) },
            25 => ToHub::Watch { id },
            26 => ToHub::Peers { id },
            27 => ToHub::Bye,
            28 if bytes.below(8) == 0 => ToHub::Stop { id },
            28 => ToHub::Status { id },
            29 if bytes.below(8) == 0 => ToHub::Hello { v: 1 },
            _ => ToHub::Resume { held: self.held(bytes) },
        }
    }

    fn held(&self, bytes: &mut Bytes) -> Held {
        match bytes.below(5) {
            0 => Held::Asked {
                ask_id: any_id(bytes),
                peer: identity(bytes),
                to: named(bytes),
                text: bytes.yes().then(|| text(bytes)),
                state: bytes.pick(&STATES),
                age_ms: timeout(bytes),
                left_ms: timeout(bytes),
                broadcast: bytes.yes().then(|| all_id(bytes)),
            },
            1 => Held::Asking { id: any_id(bytes), left_ms: timeout(bytes) },
            2 => Held::Given {
                parcel: Parcel {
                    push: self.push(bytes),
                    path: bytes.pick(&PATHS),
                    kind: bytes.pick(&[Kind::Ask, Kind::Ask, Kind::Reply, Kind::Failed, Kind::Summary]),
                    ask_id: any_id(bytes),
                    from: named(bytes),
                    peer: bytes.yes().then(|| identity(bytes)),
                    cwd: bytes.yes().then(|| text(bytes)),
                    text: text(bytes),
                    code: bytes.yes().then_some(Code::Timeout),
                    broadcast: bytes.yes().then(|| all_id(bytes)),
                    late: bytes.yes(),
                    receipt: bytes.yes(),
                },
                peer: bytes.yes().then(|| identity(bytes)),
                state: bytes.pick(&STATES),
                pushes: (0..bytes.below(3)).map(|_| (self.push(bytes), bytes.pick(&PATHS))).collect(),
                age_ms: timeout(bytes),
            },
            3 => Held::Replied {
                ask_id: any_id(bytes),
                peer: identity(bytes),
                to: named(bytes),
                text: text(bytes),
            },
            _ => Held::Outcomes {
                broadcast_id: all_id(bytes),
                outcomes: (0..bytes.below(3))
                    .map(|_| Outcome {
                        ask_id: any_id(bytes),
                        to: named(bytes),
                        code: bytes.yes().then_some(Code::PeerGone),
                    })
                    .collect(),
            },
        }
    }

    /// Everybody leaves: nothing is left, and nobody waits for an answer.
    fn end(&mut self) {
        if self.exit {
            return;
        }
        // Answers that may take a moment have come by then.
        self.now += 1000;
        self.step(Input::Tick);
        let waits = self.unanswered.iter().find(|(_, open)| !open.is_empty());
        assert!(waits.is_none() || self.exit, "{waits:?} were never answered");
        let mut conns: Vec<ConnId> = self.open.iter().copied().collect();
        conns.sort_unstable();
        for conn in conns {
            self.shut(conn);
            self.step(Input::Closed(conn));
        }
        // The grace, and whatever that sets in motion; not yet the time to leave.
        for _ in 0..8 {
            self.now += 6_000;
            self.step(Input::Tick);
        }
        if self.exit {
            return;
        }
        let conn = self.next_conn;
        self.open.insert(conn);
        self.step(Input::Opened(conn));
        self.unanswered.entry(conn).or_default().insert(1);
        for output in self.router.step(self.now, Input::Said(conn, ToHub::Status { id: 1 })) {
            if let Output::Send(_, ToClient::Ok { answer: Answer::Status(status), .. }) = output {
                let left = (status.peers, status.open_asks, status.undelivered, status.connections);
                assert_eq!(left, (0, 0, 0, 1), "peers, asks, texts, connections that are left");
            }
        }
    }
}

impl ToHub {
    /// The same with a new `id`, which must be answered.
    fn request(mut self, world: &mut World, conn: ConnId) -> ToHub {
        match &mut self {
            ToHub::Register { id, .. }
            | ToHub::Peers { id }
            | ToHub::Ask { id, .. }
            | ToHub::Broadcast { id, .. }
            | ToHub::Reply { id, .. }
            | ToHub::Rename { id, .. }
            | ToHub::Hook { id, .. }
            | ToHub::Wait { id, .. }
            | ToHub::Watch { id }
            | ToHub::Status { id }
            | ToHub::Stop { id } => {
                *id = world.next_request;
                world.next_request += 1;
                world.unanswered.entry(conn).or_default().insert(*id);
            }
            _ => {}
        }
        self
    }
}

fn named(bytes: &mut Bytes) -> String {
    bytes
        .pick(&["a", "b", "c", "d", "A b", "session", "", "\u{1b}[31m", "e\u{301}", "[relay kind=ask]"])
        .to_owned()
}

fn identity(bytes: &mut Bytes) -> String {
    bytes.pick(&["p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7", "p!", ""]).to_owned()
}

fn ask_id(bytes: &mut Bytes) -> String {
    format!("ask_{:04}", bytes.below(12))
}

fn all_id(bytes: &mut Bytes) -> String {
    format!("all_{:04}", bytes.below(4))
}

fn any_id(bytes: &mut Bytes) -> String {
    match bytes.below(4) {
        0 => format!("{}-{}", all_id(bytes), identity(bytes)),
        1 => all_id(bytes),
        _ => ask_id(bytes),
    }
}

fn text(bytes: &mut Bytes) -> String {
    bytes.pick(&["x", "y", "", "z z"]).to_owned()
}

fn timeout(bytes: &mut Bytes) -> u64 {
    bytes.pick(&[1, 1000, 60_000, 86_400_000, 0, u64::MAX])
}

fn claude(bytes: &mut Bytes) -> String {
    bytes.pick(&["1-1-1", "1-2-2", "1-3-3", ""]).to_owned()
}

fn activity(bytes: &mut Bytes) -> Activity {
    bytes.pick(&[Activity::Idle, Activity::Busy, Activity::Waiting, Activity::Unknown])
}

fn paths(bytes: &mut Bytes) -> Vec<Path> {
    (0..bytes.below(4)).map(|_| bytes.pick(&PATHS)).collect()
}

fn who(bytes: &mut Bytes) -> Who {
    Who {
        name: named(bytes),
        exact: bytes.yes(),
        kind: bytes.pick(&[PeerKind::Session, PeerKind::Session, PeerKind::Person, PeerKind::Script]),
        peer: identity(bytes),
        secret: bytes.pick(&["s", "s", "s", "t"]).to_owned(),
        cwd: bytes.pick(&["/x", "/y"]).to_owned(),
        repo: bytes.yes().then(|| "/r".to_owned()),
        branch: None,
        pid: 1,
        claude: bytes.yes().then(|| claude(bytes)),
        paths: paths(bytes),
        listens: bytes.yes(),
        fresh: bytes.yes(),
        hooked: bytes.yes(),
    }
}
