//! Chaos on real processes: twenty channels that speak MCP ask, broadcast and answer while hubs and channels are killed and
//! started again, each alone or a hub and a channel at the same moment. Then every ask that was taken must have ended exactly
//! once at its asker, every ask whose model answers at once must have been answered, every answer that was taken must have
//! arrived exactly once, no call may have taken longer than the 10 s that it is promised, and nothing may be left.
//!
//! Every other session runs hooks as the plugin does, so that the hub gets receipts; the others are bare.
//!
//! `RELAY_CHAOS_S` is the length of each test in seconds (default 10), `RELAY_CHAOS_SEED` what the choices are made of (default
//! 1). With `RELAY_CHAOS_LOG` everything is logged, and the log is copied to that file.

#[path = "chaos/verdict.rs"]
mod verdict;
#[path = "chaos/world.rs"]
mod world;

mod driver;

use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use verdict::{Verdict, report};
use world::{Pace, World, lock};

/// What a call may take, at most: twice what is promised, since this machine may be busy with other things.
const LONGEST_CALL: Duration = Duration::from_secs(20);

<<<<<<< HEAD
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
struct Taken {
    /// The asks: who asked.
    asks: HashMap<String, usize>,
    /// The broadcasts: who asked, and the asks of each.
    broadcasts: HashMap<String, (usize, Vec<String>)>,
    /// The asks and broadcasts that are answered as soon as they are heard.
    prompt: HashSet<String>,
    /// The answers that were handed to their asker, by ask.
    handed: HashMap<String, String>,
    /// Those that the relay only had, and would hand over.
    queued: HashMap<String, String>,
    /// Why others were not taken.
    refused: HashMap<String, String>,
    /// How the calls went.
    calls: BTreeMap<String, u64>,
}

/// What a session's model has got.
#[derive(Default)]
struct Model {
    /// In order, and in which life of its channel.
    got: Vec<(u64, Push)>,
    /// Its asks and broadcasts that wait for their end.
    open: HashSet<String>,
    /// Those that have it.
    ended: HashSet<String>,
    /// The identifiers of the pushes in its transcript.
    transcript: Vec<String>,
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

struct Session {
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

    fn model(&self) -> MutexGuard<'_, Model> {
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
        hub.say(&json!({"type": "hello", "v": 1}));
        hub.say(&json!({"type": "seen", "pushes": met}));
        hub.say(&json!({"type": "hook", "id": 1, "claude": format!("named-{}", self.name), "event": event}));
        while let Some(answer) = hub.hear() {
            if answer["type"] == "ok" {
                let model = self.model();
                let latest = &model.transcript[model.transcript.len().saturating_sub(256)..];
                if answer["answer"]["unconfirmed"] != 0 {
                    hub.say(&json!({"type": "seen", "pushes": latest}));
                }
                return;
            }
        }
    }

    /// SIGKILL, and the next life.
    fn restart(&self) {
        signal(self.channel().pid(), "KILL");
        // Whoever calls a tool sees the end of the process and lets go.
        let mut channel = self.channel.write().unwrap_or_else(PoisonError::into_inner);
        channel.wait();
        self.take_from(&channel);
        self.life.fetch_add(1, Ordering::SeqCst);
        channel.start_again();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct World {
    sessions: Vec<Session>,
    taken: Mutex<Taken>,
    /// No more asks, no more killing.
    calm: AtomicBool,
    /// No more answers.
    over: AtomicBool,
    hub_kills: AtomicU64,
    channel_kills: AtomicU64,
    /// Last, so that it looks for processes that are left when the channels are gone.
    dir: DataDir,
}

impl World {
    fn new() -> Self {
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
        let id = channel.begin_call(tool, arguments);
        let result = channel.end_call(id);
        self.sessions[who].hear_result(result.as_ref());
        drop(channel);
        let how = match &result {
            None => "died".to_owned(),
            Some(result) if result.is_error => result.clone().code(),
            Some(_) => "ok".to_owned(),
        };
        *lock(&self.taken).calls.entry(format!("{tool}: {how}")).or_default() += 1;
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
                let to =
                    if result.text.contains("was handed to") { &mut taken.handed } else { &mut taken.queued };
                to.insert(ask_id.to_owned(), text);
                true
            }
        }
    }

    fn kill_hubs(&self) {
        let mut dice = Dice::new(2000);
        while !self.is_calm() {
            thread::sleep(dice.ms(150, 700));
            if let Some(hub) = self.dir.hubs().first() {
                signal(*hub, "KILL");
                self.hub_kills.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn kill_channels(&self) {
        let mut dice = Dice::new(3000);
        while !self.is_calm() {
            thread::sleep(dice.ms(20, 300));
            self.sessions[dice.roll(SESSIONS)].restart();
            self.channel_kills.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Runs for the given time, then waits until everything that was asked has ended.
    fn run(&self, length: Duration) {
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
    }
}

/// What came out.
#[derive(Default)]
struct Verdict {
    /// How asks ended.
    ends: BTreeMap<String, u64>,
    late: u64,
    /// Answers that the relay had, and that died with it and with the one who had answered.
    lost: Vec<String>,
    /// Why asks have no answer though one was given, and not taken.
    refused: Vec<String>,
    /// What was pushed again because its first process was killed before it could say that it had pushed it.
    repeated: BTreeMap<String, u64>,
    wrong: Vec<String>,
}

impl Verdict {
    fn of(world: &World) -> Self {
        let mut verdict = Verdict::default();
        let taken = lock(&world.taken);
        let got: Vec<Vec<Push>> =
            world.sessions.iter().enumerate().map(|(who, s)| verdict.once(who, &s.model().got)).collect();
        let mut by_id: Vec<HashMap<&str, Vec<&Push>>> = Vec::new();
        for pushes in &got {
            let mut ids: HashMap<&str, Vec<&Push>> = HashMap::new();
            pushes.iter().filter(|p| p.kind != "ask").for_each(|p| ids.entry(&p.id).or_default().push(p));
            by_id.push(ids);
        }
        let at = |who: usize, id: &str| by_id[who].get(id).map_or(&[][..], |pushes| pushes);
        for (id, who) in &taken.asks {
            verdict.one_end(id, at(*who, id), taken.prompt.contains(id));
        }
        for (id, (who, asks)) in &taken.broadcasts {
            let asks: Vec<&[&Push]> = asks.iter().map(|ask| at(*who, ask)).collect();
            verdict.one_summary(id, at(*who, id), &asks, taken.prompt.contains(id));
        }
        let members = taken.broadcasts.values().flat_map(|(who, asks)| asks.iter().map(|ask| (ask, *who)));
        let askers: HashMap<&String, usize> =
            taken.asks.iter().map(|(id, who)| (id, *who)).chain(members).collect();
        for (id, text) in taken.handed.iter().chain(&taken.queued) {
            let Some(who) = askers.get(id) else { continue }; // the asker was never told that it had asked
            let replies =
                at(*who, id).iter().filter(|p| p.kind == "reply" && p.content.contains(text.as_str()));
            match replies.count() {
                1 => {}
                // Its text is kept in memory only, and who had it was killed: the channel that answered, and the hub.
                0 if !taken.handed.contains_key(id) => verdict.lost.push(format!("{id} ({text})")),
                _ => {
                    verdict.wrong.push(format!("c{who} was answered by {text:?} and got {:?}", at(*who, id)))
                }
            }
        }
        for (id, code) in taken.refused.iter().filter(|(id, _)| taken.asks.contains_key(*id)) {
            if at(taken.asks[id], id).iter().all(|p| p.kind != "reply") {
                verdict.refused.push(format!("{code} {id}"));
            }
        }
        for (who, ids) in by_id.iter().enumerate() {
            for id in
                ids.keys().filter(|id| askers.get(&(**id).to_owned()).is_some_and(|asker| *asker != who))
            {
                verdict.wrong.push(format!("c{who} got what belongs to another: {id}"));
            }
        }
        verdict
    }

    /// Takes out what came twice for the one excusable reason: that it was the last thing its process did.
    fn once(&mut self, who: usize, got: &[(u64, Push)]) -> Vec<Push> {
        let mut seen: HashMap<(&str, &str, bool), usize> = HashMap::new();
        let mut once = Vec::new();
        for (at, (life, push)) in got.iter().enumerate() {
            let late = push.meta("late") == "true";
            match seen.insert((&push.kind, &push.id, late), at) {
                None => once.push(push.clone()),
                Some(first) => {
                    let first_life = got[first].0;
                    let last_of_life = got[first..].iter().take_while(|(l, _)| *l == first_life).count();
                    *self.repeated.entry(push.kind.clone()).or_default() += 1;
                    if first_life == *life || last_of_life > 3 {
                        self.wrong.push(format!(
                            "c{who} got {} {} again, in life {first_life} ({last_of_life} before its end) and {life}",
                            push.kind, push.id
                        ));
                    }
                }
            }
        }
        once
    }

    fn one_end(&mut self, id: &str, pushes: &[&Push], prompt: bool) {
        let (late, ends): (Vec<&&Push>, Vec<&&Push>) = pushes.iter().partition(|p| p.meta("late") == "true");
        self.late += late.len() as u64;
        match ends[..] {
            [end] => {
                let how = if end.kind == "reply" { "reply" } else { end.meta("code") };
                *self.ends.entry(how.to_owned()).or_default() += 1;
                if prompt && how == "timeout" {
                    self.wrong.push(format!("{id} was to be answered at once and timed out: {pushes:?}"));
                }
                if !late.is_empty() && how != "timeout" {
                    self.wrong.push(format!("{id} ended in {how} and was answered late: {pushes:?}"));
                }
            }
            _ => self.wrong.push(format!("{id} has {} ends: {pushes:?}", ends.len())),
        }
    }

    fn one_summary(&mut self, id: &str, summaries: &[&Push], asks: &[&[&Push]], prompt: bool) {
        let [summary] = summaries[..] else {
            return self
                .wrong
                .push(format!("broadcast {id} has {} summaries: {summaries:?}", summaries.len()));
        };
        if prompt && summary.content.contains("(timeout)") {
            self.wrong.push(format!("broadcast {id} was to be answered at once: {}", summary.content));
        }
        let in_time =
            |pushes: &&&[&Push]| pushes.iter().any(|p| p.kind == "reply" && p.meta("late") != "true");
        let answered = asks.iter().filter(in_time).count();
        let expected = format!("{answered} of {} answered", asks.len());
        if !summary.content.contains(&expected) {
            self.wrong.push(format!(
                "broadcast {id}: {expected}, says the session, and the summary: {}",
                summary.content
            ));
        }
        if asks.iter().any(|pushes| pushes.iter().any(|p| p.kind != "reply")) {
            self.wrong.push(format!("broadcast {id}: a failure came by itself: {asks:?}"));
        }
    }
}

fn report(world: &World, verdict: &Verdict, ran: Duration) -> String {
    let taken = lock(&world.taken);
    let mut text = format!("\nchaos: {} channels for {} s\n", SESSIONS, ran.as_secs());
    let hubs = world.dir.logged("hub_started").len();
    let kills = (world.hub_kills.load(Ordering::Relaxed), world.channel_kills.load(Ordering::Relaxed));
    let mut line = |what: &str, value: String| {
        writeln!(text, "  {what:24}{value}").expect("a String takes what is written")
    };
    line("hubs killed", format!("{} ({hubs} started)", kills.0));
    line("channels killed", kills.1.to_string());
    let prompt = taken.asks.keys().filter(|id| taken.prompt.contains(*id)).count();
    line("asks taken", format!("{} ({prompt} to be answered at once)", taken.asks.len()));
    line("  ended in", format!("{:?}", verdict.ends));
    let members: usize = taken.broadcasts.values().map(|(_, asks)| asks.len()).sum();
    line("broadcasts taken", format!("{} with {members} asks", taken.broadcasts.len()));
    line("answers handed over", format!("{} ({} late)", taken.handed.len(), verdict.late));
    line(
        "answers queued",
        format!("{}, of which {} died with both that had them", taken.queued.len(), verdict.lost.len()),
    );
    line("answers refused", format!("{} to asks that had none", verdict.refused.len()));
    line("pushed again after a kill", format!("{:?}", verdict.repeated));
    line("calls", format!("{:?}", taken.calls));
    line("violations", verdict.wrong.len().to_string());
    text
}

#[test]
fn every_ask_ends_once_whatever_dies() {
=======
fn run(pace: Pace) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
>>>>>>> 32b506e2755faefef3a1ed433e1e3cd69f430f9e
    let length = std::env::var("RELAY_CHAOS_S").ok().and_then(|s| s.parse().ok()).unwrap_or(10);
    let world = World::new(pace);
    let start = Instant::now();
    world.run(Duration::from_secs(length));
    let verdict = Verdict::of(&world);
    let report = report(&world, &verdict, start.elapsed());
    let _ = std::io::stderr().write_all(report.as_bytes()); // to be seen also where the test succeeds
    if let Some(path) = std::env::var_os("RELAY_CHAOS_LOG") {
        let lines = world.dir.log().into_iter().map(|line| format!("{line}\n"));
        let wrong = verdict.refused.iter().chain(&verdict.wrong).map(|what| format!("{what}\n"));
        std::fs::write(path, lines.chain(wrong).collect::<String>()).expect("a log");
    }
    assert!(verdict.wrong.is_empty(), "{:#?}", &verdict.wrong[..verdict.wrong.len().min(20)]);
    let taken = lock(&world.taken);
    assert!(taken.longest < LONGEST_CALL, "a call took {:?}", taken.longest);
    assert!(!taken.asks.is_empty() && world.hub_kills.load(Ordering::Relaxed) > 0);
}

#[test]
fn every_ask_ends_once_whatever_dies() {
    run(Pace { hub_ms: (150, 700), repeats: 12 });
}

/// Most hubs die before all sessions are back.
#[test]
fn every_ask_ends_once_though_hubs_live_for_milliseconds() {
    run(Pace { hub_ms: (20, 100), repeats: 32 });
}
