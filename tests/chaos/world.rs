//! The sessions, those who kill, and what everybody heard.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::driver::{Channel, DataDir, Push, Raw, Result, signal, until};

pub const SESSIONS: usize = 20;

/// How fast things die.
pub struct Pace {
    /// How long a hub lives, in milliseconds: at least, and less than.
    pub hub_ms: (usize, usize),
    /// How many of the last pushes of a channel that is killed may come again: the hub may not have heard that they were made.
    pub repeats: usize,
}

/// What a question says of its answer: most are to be answered, and must be; some come late, and some never.
const MANNERS: [&str; 20] = {
    let mut all = ["now"; 20];
    (all[16], all[17], all[18], all[19]) = ("later", "later", "later", "never");
    all
};
/// How long an ask waits for its answer, in seconds. One that is to be answered does not end before that, however slow this
/// machine is: whether answers come is seen in the calm after the run.
fn timeout(manner: &str) -> u64 {
    if manner == "now" { 3600 } else { 3 }
}
/// Asks and broadcasts that one session has open at most.
const OPEN: usize = 24;

/// Numbers that depend on nothing but the seed.
struct Dice(u64);

impl Dice {
    fn new(of: u64) -> Self {
        let seed = std::env::var("RELAY_CHAOS_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1_u64);
        let mut dice =
            Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(of.wrapping_mul(0x2545_f491)) | 1);
        for _ in 0..8 {
            dice.roll(2);
        }
        dice
    }

    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }

    fn ms(&mut self, least: usize, most: usize) -> Duration {
        Duration::from_millis((least + self.roll(most - least)) as u64)
    }
}

/// What the tools said they took.
#[derive(Default)]
pub struct Taken {
    /// The asks: who asked.
    pub asks: HashMap<String, usize>,
    /// The broadcasts: who asked, and the asks of each.
    pub broadcasts: HashMap<String, (usize, Vec<String>)>,
    /// The asks and broadcasts that are answered as soon as they are heard.
    pub prompt: HashSet<String>,
    /// The answers, by ask.
    pub answers: HashMap<String, String>,
    /// How many of them were handed to their asker at once.
    pub handed: u64,
    /// Why others were not taken.
    pub refused: HashMap<String, String>,
    /// How the calls went.
    pub calls: BTreeMap<String, u64>,
    /// How long the longest took.
    pub longest: Duration,
}

/// What a session's model has got.
#[derive(Default)]
pub struct Model {
    /// In order, and in which life of its channel.
    pub got: Vec<(u64, Push)>,
    /// Its asks and broadcasts that wait for their end.
    open: HashSet<String>,
    /// Those that have it.
    ended: HashSet<String>,
    /// The identifiers of the pushes in its transcript, and how many of them hooks need not report again.
    transcript: Vec<String>,
    reported: usize,
}

impl Model {
    fn hear(&mut self, life: u64, push: Push) {
        if push.kind != "ask" {
            self.open.remove(&push.id);
            self.ended.insert(push.id.clone());
        }
        self.transcript.push(push.meta("push").to_owned());
        self.got.push((life, push));
    }

    fn wait_for(&mut self, id: &str) {
        if !self.ended.contains(id) {
            self.open.insert(id.to_owned());
        }
    }
}

pub struct Session {
    name: String,
    /// Locked before `model`.
    channel: RwLock<Channel>,
    model: Mutex<Model>,
    /// How often its channel was started again.
    life: AtomicU64,
}

impl Session {
    fn channel(&self) -> RwLockReadGuard<'_, Channel> {
        self.channel.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn model(&self) -> MutexGuard<'_, Model> {
        lock(&self.model)
    }

    /// Gives the model what its channel has pushed.
    fn listen(&self) {
        self.take_from(&self.channel());
    }

    fn take_from(&self, channel: &Channel) {
        let life = self.life.load(Ordering::SeqCst);
        let mut model = self.model();
        channel.take_all().into_iter().for_each(|push| model.hear(life, push));
    }

    /// What found no other way comes with the result of a tool call.
    fn hear_result(&self, result: Option<&Result>) {
        let messages = result.and_then(|r| r.data["messages"].as_array()).into_iter().flatten();
        let life = self.life.load(Ordering::SeqCst);
        for message in messages {
            let text = message.as_str().expect("text");
            let (header, content) = text.split_once('\n').expect("a header");
            let fields = header.trim_matches(['[', ']']).split(' ').filter_map(|f| f.split_once('='));
            let meta: serde_json::Map<String, Value> =
                fields.map(|(k, v)| (k.to_owned(), json!(v))).collect();
            self.model().hear(life, Push::new(&json!({"content": content, "meta": meta})));
        }
    }

    /// A hook of the session fires, and does what `relay hook` would: it reports the pushes that came with the prompt,
    /// and where the hub misses receipts those of the transcript. A hub that is away hears nothing of it.
    fn hook(&self, dir: &DataDir, event: &str, met: &[String]) {
        let Ok(mut hub) = Raw::try_connect(dir) else { return };
        let claude = format!("named-{}", self.name);
        hub.say(&json!({"type": "hello", "v": 2}));
        let of =
            |pushes: &[String], proof: &str| pushes.iter().map(|p| json!([p, proof])).collect::<Vec<_>>();
        let report = |id: u64, receipts: Vec<Value>| json!({"type": "hook", "id": id, "claude": claude, "event": event, "receipts": receipts});
        hub.say(&report(1, of(met, "prompted")));
        while let Some(answer) = hub.hear() {
            if answer["type"] == "ok" {
                let mut model = self.model();
                if answer["answer"]["unconfirmed"] == 0 {
                    model.reported = model.transcript.len();
                }
                hub.say(&report(2, of(&model.transcript[model.reported..], "seen")));
                return;
            }
        }
    }

    /// SIGKILL, also to the hub if that is given, and the next life.
    fn restart(&self, hub: Option<u32>) {
        signal(self.channel().pid(), "KILL");
        hub.into_iter().for_each(|hub| signal(hub, "KILL"));
        // Whoever calls a tool sees the end of the process and lets go.
        let mut channel = self.channel.write().unwrap_or_else(PoisonError::into_inner);
        channel.wait();
        self.take_from(&channel);
        self.life.fetch_add(1, Ordering::SeqCst);
        channel.start_again();
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct World {
    pub pace: Pace,
    pub sessions: Vec<Session>,
    pub taken: Mutex<Taken>,
    /// No more asks, no more killing.
    calm: AtomicBool,
    /// No more answers.
    over: AtomicBool,
    pub hub_kills: AtomicU64,
    pub channel_kills: AtomicU64,
    /// Last, so that it looks for processes that are left when the channels are gone.
    pub dir: DataDir,
}

impl World {
    pub fn new(pace: Pace) -> Self {
        let level = if std::env::var_os("RELAY_CHAOS_LOG").is_some() { "debug" } else { "info" };
        let (rate, grace, confirm) =
            (("RELAY_ASKS_PER_MIN", "0"), ("RELAY_GRACE_S", "60"), ("RELAY_CONFIRM_S", "1"));
        let dir = DataDir::with(&[rate, grace, confirm, ("RELAY_LOG", level)]);
        let start = |n| dir.launch(&format!("c{n}")).start();
        let channels: Vec<Channel> = (0..SESSIONS).map(start).collect();
        let session = |channel: Channel| {
            channel.initialize();
            channel.peers();
            Session {
                name: channel.session.clone(),
                channel: RwLock::new(channel),
                model: Mutex::default(),
                life: AtomicU64::new(0),
            }
        };
        World {
            pace,
            sessions: channels.into_iter().map(session).collect(),
            taken: Mutex::default(),
            calm: AtomicBool::new(false),
            over: AtomicBool::new(false),
            hub_kills: AtomicU64::new(0),
            channel_kills: AtomicU64::new(0),
            dir,
        }
    }

    fn is_calm(&self) -> bool {
        self.calm.load(Ordering::SeqCst)
    }

    /// A tool call of a session; `None` if its channel died before it had answered.
    fn call(&self, who: usize, tool: &str, arguments: &Value) -> Option<Result> {
        let channel = self.sessions[who].channel();
        let called = Instant::now();
        let id = channel.begin_call(tool, arguments);
        let result = channel.end_call(id);
        let took = called.elapsed();
        self.sessions[who].hear_result(result.as_ref());
        drop(channel);
        let how = match &result {
            None => "died".to_owned(),
            Some(result) if result.is_error => result.clone().code(),
            Some(_) => "ok".to_owned(),
        };
        let mut taken = lock(&self.taken);
        *taken.calls.entry(format!("{tool}: {how}")).or_default() += 1;
        taken.longest = taken.longest.max(took);
        drop(taken);
        if how != "ok" {
            thread::sleep(Duration::from_millis(1)); // a model does not try again at once
        }
        result
    }

    /// A model that asks.
    fn ask_on(&self, who: usize) {
        let mut dice = Dice::new(who as u64);
        while !self.is_calm() {
            if self.sessions[who].model().open.len() >= OPEN {
                thread::sleep(Duration::from_millis(2)); // nor does it ask faster than it is answered
                continue;
            }
            match dice.roll(100) {
                0..86 => self.ask(who, &mut dice),
                86..92 => self.broadcast(who, &mut dice),
                92..96 => drop(self.call(who, "relay_peers", &json!({}))),
                _ => {
                    for name in [format!("c{who}-{}", dice.roll(3)), format!("c{who}")] {
                        self.call(who, "relay_rename", &json!({"name": name}));
                    }
                }
            }
        }
    }

    fn ask(&self, who: usize, dice: &mut Dice) {
        let to = (who + 1 + dice.roll(SESSIONS - 1)) % SESSIONS;
        let (manner, length) = (MANNERS[dice.roll(MANNERS.len())], 1 + dice.roll(2000));
        let text = format!("{manner}{}", "?".repeat(length));
        let question = json!({"to": format!("c{to}"), "question": text, "timeout_s": timeout(manner)});
        if let Some(result) = self.call(who, "relay_ask", &question).filter(|r| !r.is_error) {
            let ask_id = result.data["ask_id"].as_str().expect("an id").to_owned();
            self.sessions[who].model().wait_for(&ask_id);
            let mut taken = lock(&self.taken);
            taken.asks.insert(ask_id.clone(), who);
            if manner == "now" {
                taken.prompt.insert(ask_id);
            }
        }
    }

    fn broadcast(&self, who: usize, dice: &mut Dice) {
        let manner = MANNERS[dice.roll(MANNERS.len())];
        let question =
            json!({"question": format!("{manner}, all?"), "collect": false, "timeout_s": timeout(manner)});
        let Some(result) = self.call(who, "relay_broadcast", &question).filter(|r| !r.is_error) else {
            return;
        };
        let id = result.data["broadcast_id"].as_str().expect("an id").to_owned();
        let asks = result.data["asks"].as_array().expect("asks").iter();
        let asks: Vec<String> = asks.map(|a| a["ask_id"].as_str().expect("an id").to_owned()).collect();
        if !asks.is_empty() {
            self.sessions[who].model().wait_for(&id);
            let mut taken = lock(&self.taken);
            taken.broadcasts.insert(id.clone(), (who, asks));
            if manner == "now" {
                taken.prompt.insert(id);
            }
        }
    }

    /// A model that answers as the question says: at once, later, or never.
    fn answer_on(&self, who: usize) {
        let mut dice = Dice::new(1000 + who as u64);
        let (mut due, mut heard): (Vec<(Instant, String)>, usize) = (Vec::new(), 0);
        let mut known = HashSet::new();
        while !self.over.load(Ordering::SeqCst) {
            self.sessions[who].listen();
            let new: Vec<Push> = {
                let model = self.sessions[who].model();
                let new = model.got[heard..].iter().map(|(_, p)| p.clone()).collect();
                heard = model.got.len();
                new
            };
            let hooked = who % 2 == 1 && (!new.is_empty() || dice.roll(100) == 0);
            if hooked {
                let met: Vec<String> = new.iter().map(|p| p.meta("push").to_owned()).collect();
                self.sessions[who].hook(&self.dir, "prompt", &met);
            }
            let asked = new.into_iter().filter(|p| p.kind == "ask");
            for Push { id, content, .. } in asked.filter(|p| known.insert(p.id.clone())) {
                if content.starts_with("> now") {
                    due.push((Instant::now(), id));
                } else if content.starts_with("> later") {
                    due.push((Instant::now() + dice.ms(5, 5000), id));
                }
            }
            let now = Instant::now();
            let (ready, later): (Vec<_>, Vec<_>) = due.into_iter().partition(|(at, _)| *at <= now);
            due = later;
            for (_, ask_id) in ready {
                if !self.answer(who, &ask_id) {
                    due.push((Instant::now(), ask_id));
                }
            }
            if hooked {
                self.sessions[who].hook(&self.dir, "stop", &[]);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether that is settled; what has failed for want of a hub or a channel is tried again.
    fn answer(&self, who: usize, ask_id: &str) -> bool {
        let text = format!("c{who} answers {ask_id}");
        match self.call(who, "relay_reply", &json!({"ask_id": ask_id, "answer": text})) {
            None => false,
            Some(result) if result.is_error => {
                let code = result.code();
                let again = code == "hub_unreachable";
                lock(&self.taken).refused.insert(ask_id.to_owned(), code);
                !again
            }
            Some(result) => {
                let mut taken = lock(&self.taken);
                taken.handed += u64::from(result.data["state"] != "queued");
                taken.answers.insert(ask_id.to_owned(), text);
                true
            }
        }
    }

    fn kill_hubs(&self) {
        let mut dice = Dice::new(2000);
        while !self.is_calm() {
            thread::sleep(dice.ms(self.pace.hub_ms.0, self.pace.hub_ms.1));
            if let Some(hub) = self.dir.hub_in_lock() {
                signal(hub, "KILL");
                self.hub_kills.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn kill_channels(&self) {
        let mut dice = Dice::new(3000);
        while !self.is_calm() {
            thread::sleep(dice.ms(20, 300));
            let hub = self.dir.hub_in_lock().filter(|_| dice.roll(3) == 0);
            self.sessions[dice.roll(SESSIONS)].restart(hub);
            self.hub_kills.fetch_add(u64::from(hub.is_some()), Ordering::Relaxed);
            self.channel_kills.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs for the given time, then waits until everything that was asked has ended.
    pub fn run(&self, length: Duration) {
        thread::scope(|threads| {
            let askers: Vec<_> = (0..SESSIONS).map(|who| threads.spawn(move || self.ask_on(who))).collect();
            (0..SESSIONS).for_each(|who| drop(threads.spawn(move || self.answer_on(who))));
            let killers = [threads.spawn(|| self.kill_hubs()), threads.spawn(|| self.kill_channels())];
            thread::sleep(length);
            self.calm.store(true, Ordering::SeqCst);
            let ended = askers.into_iter().chain(killers).all(|thread| thread.join().is_ok());
            let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.wait_for_the_end()));
            self.over.store(true, Ordering::SeqCst);
            assert!(ended, "a thread has failed");
            if let Err(panic) = waited {
                std::panic::resume_unwind(panic);
            }
        });
        // What the hub had sent before it answers here has come.
        for session in &self.sessions {
            session.channel().peers();
            session.listen();
        }
    }

    fn wait_for_the_end(&self) {
        for (who, session) in self.sessions.iter().enumerate() {
            until(&format!("the end of what c{who} asked"), || session.model().open.is_empty().then_some(()));
        }
        until("the end of every ask at the hub", || {
            self.sessions.iter().all(|s| s.channel().peers()["asks"] == json!([])).then_some(())
        });
        // Answers of a broadcast, and what is in doubt until the next hook.
        let status = || self.dir.raw().call(json!({"type": "status"})).expect("a status");
        until("the delivery of every text", || (status()["undelivered"] == 0).then_some(()));
    }
}
