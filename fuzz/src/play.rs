//! The router under a sequence of inputs that the bytes choose, with few connections, names and ids, so that they meet.
//! Every hub that dies is replaced by the replay of its journal, which must equal the router.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::hub::journal;
use crate::hub::router::{ConnId, Info, Input, Limits, Output, Router};
use crate::wire::{Answer, ToClient, ToHub};

/// Values by the letter that stands for them, and after an empty line the messages of a client, with `#` and such a letter.
const SCRIPT: &str = include_str!("play.txt");

struct World {
    router: Router,
    journal: Vec<u8>,
    now: u64,
    /// The last number of a connection, of a request and of a hub process.
    last_no: u64,
    /// The requests without an answer of each open connection.
    open: BTreeMap<ConnId, BTreeSet<u64>>,
    pushes: Vec<String>,
}

pub fn play(data: &[u8]) {
    let (limits, info, ids) = equipment(0, 0);
    let (mut router, pushes) = (Router::default(), vec!["push_none".to_owned()]);
    router.restart(limits, info, ids);
    let mut world = World { router, journal: Vec::new(), now: 0, last_no: 0, open: BTreeMap::new(), pushes };
    journal::write_header(&mut world.journal, &world.router).expect("a header");
    let mut bytes = data.iter().copied();
    while bytes.len() > 0 {
        world.act(&mut || usize::from(bytes.next().unwrap_or(0)));
    }
    world.end();
}

/// What hub process number `process`, which starts at `started`, gives its router.
fn equipment(process: u64, started: u64) -> (Limits, Info, Box<dyn FnMut() -> String + Send>) {
    let limits = Limits { peers: 6, open_asks: 4, undelivered: 5, asks_per_minute: 6, ..Limits::default() };
    let mut numbers = 0_u32..;
    let ids = move || format!("push_{process:016x}{:08x}", numbers.next().unwrap_or(0));
    (limits, Info { started, ..Info::default() }, Box::new(ids))
}

/// The state, without the time and the connections of inputs that change nothing, which are not recorded.
fn state(router: &Router) -> Value {
    let mut state = serde_json::to_value(router).expect("a router can be written");
    (state["now"], state["last_conn"]) = (Value::Null, Value::Null);
    state
}

impl World {
    fn step(&mut self, ms: u64, input: Input) {
        self.now += ms;
        let step = journal::step(&mut self.router, self.now, input, &mut self.journal);
        for output in step.outputs {
            match output {
                Output::Send(conn, message) => self.receive(conn, message),
                Output::Close(conn) => drop(self.open.remove(&conn)),
                Output::Log(event) => assert!(event.text.is_none(), "text in the log"),
                Output::Exit => {} // continuing must be harmless too
            }
        }
    }

    fn receive(&mut self, conn: ConnId, message: ToClient) {
        let Some(requests) = self.open.get_mut(&conn) else { return }; // its own request may have closed it
        let id = match message {
            ToClient::Ok { id, .. } => Some(id),
            ToClient::Error { id, .. } => id,
            ToClient::Push(parcel) => return self.pushes.push(parcel.push),
            _ => return,
        };
        assert!(id.is_none_or(|id| requests.remove(&id)), "{id:?} was answered twice, or is no request");
    }

    fn act(&mut self, next: &mut dyn FnMut() -> usize) {
        let (what, which) = (next() % 64, next());
        let conn = self.open.keys().copied().nth(which % self.open.len().max(1));
        let Some(conn) = conn.filter(|_| what > 0) else {
            self.last_no += 1;
            self.open.insert(self.last_no, BTreeSet::new());
            return self.step(0, Input::Opened(self.last_no));
        };
        match what {
            1 if self.open.remove(&conn).is_some() => self.step(0, Input::Closed(conn)),
            2..=5 => {
                let due = self.router.next_deadline().unwrap_or(0).saturating_sub(self.now);
                self.step([due, due, due, 1, 100, 1000, 6000, 60_000][which % 8], Input::Tick);
            }
            6 if which < 64 => self.restart(),
            _ => {
                let message = self.message(conn, what, next);
                self.step(0, Input::Said(conn, message));
            }
        }
    }

    fn message(&mut self, conn: ConnId, what: usize, next: &mut dyn FnMut() -> usize) -> ToHub {
        let (values, messages) = SCRIPT.split_once("\n\n").expect("two parts");
        let mut text = messages.lines().nth(what % messages.lines().count()).unwrap_or_default().to_owned();
        self.last_no += 1;
        self.open.entry(conn).or_default().extend(text.contains("#i").then_some(self.last_no));
        while let Some(at) = text.find('#') {
            let kind = &text[at + 1..at + 2];
            let values = values.lines().find_map(|line| line.strip_prefix(kind)).unwrap_or_default();
            let values: Vec<&str> = values.split_whitespace().collect();
            let value = match kind {
                "i" => self.last_no.to_string(),
                "u" => format!("\"{}\"", self.pushes[self.pushes.len().saturating_sub(1 + next() % 16)]),
                _ => values[next() % values.len()].to_owned(),
            };
            text.replace_range(at..at + 2, &value);
        }
        serde_json::from_str(&text).expect(&text)
    }

    /// The hub dies, and the next one replays its journal.
    fn restart(&mut self) {
        let (_, mut next, records) = journal::read(&self.journal[..]).expect("a journal");
        journal::replay(&mut next, records).expect("records");
        assert_eq!(state(&next), state(&self.router), "the replay differs from the router");
        self.last_no += 1;
        let (limits, info, ids) = equipment(self.last_no, self.now);
        next.restart(limits, info, ids);
        (self.router, self.journal, self.open) = (next, Vec::new(), BTreeMap::new());
        journal::write_header(&mut self.journal, &self.router).expect("a header");
    }

    /// By now every request is answered. When all peers have left, no state is left.
    fn end(&mut self) {
        self.step(1000, Input::Tick);
        assert!(self.open.values().all(BTreeSet::is_empty), "not answered: {:?}", self.open);
        self.restart();
        (0..8).for_each(|_| self.step(6000, Input::Tick)); // the time to reconnect, and its consequences
        self.step(0, Input::Opened(0));
        let step = self.router.step(self.now, Input::Said(0, ToHub::Status { id: 1 }));
        let [Output::Send(_, ToClient::Ok { answer: Answer::Status(status), .. })] = &step.outputs[..] else {
            panic!("no status: {step:?}");
        };
        let left = (status.peers, status.open_asks, status.undelivered, status.connections);
        assert_eq!(left, (0, 0, 0, 1), "peers, asks, texts, connections that are left");
    }
}
