//! A seeded random simulation of the router and its clients. Sessions ask, answer, lose connections, swallow texts and die; if
//! the hub crashes, the next one replays its journal. Messages of one connection arrive in order, those of different connections
//! in any order. At the end, what the clients have in their conversations is compared with what the relay promises. Each world
//! has two phases, as TigerBeetle's simulator has them. In the second there are no more faults: every ask must end within its
//! deadline and a second, every request must be answered, and the router must come to rest.
//!
//! `RELAY_SIM_SEED` repeats one world of every plan, or of that in `RELAY_SIM_NAME`; `RELAY_SIM_STEPS` sets how many steps
//! each plan takes, `RELAY_SIM_TRACE` how many events before a failure are printed.

mod client;
mod crash;
mod judge;
mod screen;
mod session;
mod truth;
mod world;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::Timer;
use crate::wire::{AskRequest, BroadcastRequest, FormEnd, HookEvent, Proof, Scope, ToHub};
use client::Form;
use truth::Truth;
use world::{Counts, Plan, World};

thread_local! {
    static TRACE: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

fn note(line: String) {
    TRACE.with_borrow_mut(|t| t.push(line));
}

const NONE: Plan = Plan { crash: false, lose: false, kill: false, odd: false, late: false };
const CRASH: Plan = Plan { crash: true, ..NONE };
const KILL: Plan = Plan { kill: true, odd: true, ..NONE };

#[test]
fn lost_connections() {
    simulate("plain", 150_000, NONE);
}

#[test]
fn paths_that_swallow_and_delay() {
    simulate("odd", 100_000, Plan { odd: true, ..NONE });
    simulate("late", 50_000, Plan { odd: true, late: true, ..NONE });
}

#[test]
fn crashes() {
    simulate("crash", 200_000, CRASH);
    simulate("crash, odd", 150_000, Plan { odd: true, ..CRASH });
}

#[test]
fn killed_channels() {
    simulate("kill", 100_000, KILL);
}

#[test]
fn everything() {
    simulate("everything", 150_000, Plan { crash: true, late: true, ..KILL });
    simulate("lost journals", 100_000, Plan { crash: true, lose: true, ..KILL });
}

/// Seeds that broke a promise once.
#[test]
fn once_broken() {
    for seed in [1102, 1709, 6359] {
        run(seed, CRASH, false);
    }
    run(4500, KILL, false);
    for seed in [6076, 6603, 8861] {
        run(seed, Plan { odd: true, ..CRASH }, false);
    }
}

fn simulate(name: &str, steps: u64, plan: Plan) {
    if std::env::var("RELAY_SIM_NAME").is_ok_and(|only| !only.is_empty() && only != name) {
        return;
    }
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let started = std::time::Instant::now();
    let steps = number("RELAY_SIM_STEPS").unwrap_or(steps);
    let first = number("RELAY_SIM_SEED");
    let (mut total, mut worlds) = (Counts::default(), 0);
    let mut seed = first.unwrap_or(1);
    while total.steps < steps {
        let trace = first.is_some();
        match catch_unwind(AssertUnwindSafe(|| run(seed, plan, trace))) {
            Ok(counts) => add(&mut total, &counts),
            Err(panic) => {
                if !trace {
                    let _ = catch_unwind(AssertUnwindSafe(|| run(seed, plan, true)));
                }
                TRACE.with_borrow_mut(|t| {
                    let from = t.len().saturating_sub(number("RELAY_SIM_TRACE").unwrap_or(100) as usize);
                    t.iter().skip(from).for_each(|line| eprintln!("{line}"));
                });
                eprintln!("failed: RELAY_SIM_NAME=\"{name}\" RELAY_SIM_SEED={seed}");
                resume_unwind(panic);
            }
        }
        TRACE.with_borrow_mut(Vec::clear);
        (worlds, seed) = (worlds + 1, seed + 1);
        if first.is_some() {
            break;
        }
    }
    let Counts { steps, asks, replies, late, failed, summaries, crashes, kills, doubles, forms } = total;
    let took = started.elapsed();
    eprintln!(
        "{name}: {steps} steps in {worlds} worlds, {took:?}: {asks} asks, {replies} replies, {late} late, {failed} failed, {summaries} summaries, {crashes} crashes, {kills} kills, {doubles} doubles, {forms} forms"
    );
}

fn add(to: &mut Counts, of: &Counts) {
    to.steps += of.steps;
    to.asks += of.asks;
    to.replies += of.replies;
    to.late += of.late;
    to.failed += of.failed;
    to.summaries += of.summaries;
    to.crashes += of.crashes;
    to.kills += of.kills;
    to.doubles += of.doubles;
    to.forms += of.forms;
}

fn run(seed: u64, plan: Plan, trace: bool) -> Counts {
    let mut world = World::new(seed, plan, trace);
    if world.rng.chance(20) {
        world.watch();
    }
    for _ in 0..2 + world.rng.below(10) {
        world.spawn();
    }
    let steps = 200 + world.rng.below(800);
    for n in 0..steps {
        world.counts.steps += 1;
        act(&mut world);
        if n % 16 == 0 {
            world.check_limits();
        }
    }
    world.come_to_rest();
    world.judge();
    for i in 0..world.peers.len() {
        world.leave(i);
    }
    world.wait_until(world.now + 10_000);
    while let Some(at) = world.deadline().filter(|_| world.hub.timers.iter().any(|(_, t)| *t != Timer::Idle))
    {
        world.wait_until(at);
    }
    let left = world.hub.leftovers();
    assert!(left.is_empty(), "left behind: {left}");
    world.counts
}

/// Takes one random step.
fn act(world: &mut World) {
    let i = world.rng.below(world.peers.len());
    let plan = world.plan;
    let what = world.rng.below(1000);
    match what {
        0..80 => ask(world, i),
        80..230 => reply(world, i),
        230..240 => answer_form(world, i),
        240..248 => broadcast(world, i),
        248..258 => rename(world, i),
        258..340 => world.turn(i),
        340..350 => {
            if world.peers[i].alive && world.peers[i].conversation.busy {
                let event = *world.rng.pick(&[HookEvent::Tool, HookEvent::Permission, HookEvent::Denied]);
                world.fire(i, event, Vec::new());
            }
        }
        350..380 => world.now += world.rng.below(6) as u64,
        380..388 => pass_time(world),
        388..400 => world.reconnect_waiters(i),
        400..460 => world.reconnect(i),
        460..468 => world.vanish(i),
        468..474 if plan.kill && world.peers[i].is_session() => world.kill(i, false),
        474..476 if plan.kill && world.peers[i].is_session() => world.kill(i, true), // reloaded
        476..500 => world.restart(i),
        500..503 if plan.crash => world.crash(),
        503..510 => world.start_waiter(i),
        510..514 if plan.odd => world.kill_waiter(i),
        514..516 => {
            world.leave(i);
            if world.peers.len() < 20 {
                world.spawn();
            }
        }
        516..525 => world.disturb(i),
        525..535 if world.peers[i].alive => world.request(i, |id| ToHub::Peers { id }),
        535..545 => {
            world.poll(i);
            world.read_transcript(i);
        }
        545..550 => world.take_late(i, false),
        550..552 => withdraw(world, i),
        552..554 => world.compact(),
        554..558 if plan.late => world.toggle_screen(i),
        _ => drop(world.deliver()),
    }
}

fn pass_time(world: &mut World) {
    let at = match world.rng.below(4) {
        0 => world.now + 1 + world.rng.below(10_000) as u64,
        1 => world.now + 1 + world.rng.below(600) as u64,
        _ => world.deadline().unwrap_or(world.now + 100).min(world.now + 20_000),
    };
    world.wait_until(at);
    for i in 0..world.peers.len() {
        world.take_late(i, false);
    }
}

/// Whether peer `i` asks now: rarely while it is not registered.
fn is_asking(world: &mut World, i: usize) -> bool {
    match &world.peers[i].client {
        Some(client) => client.registered || world.rng.chance(10),
        None => false,
    }
}

fn ask(world: &mut World, i: usize) {
    if !is_asking(world, i) {
        return;
    }
    let to = world.rng.below(world.peers.len());
    let to = if world.rng.chance(4) { "nobody".to_owned() } else { world.peers[to].who.name.clone() };
    let timeout_ms = *world.rng.pick(&[400, 3_000, 20_000, 60_000, 600_000]);
    let ask_id = format!("ask_{:08}", world.number());
    let text = format!("question {ask_id}");
    let person = world.rng.chance(25);
    let truth = Truth { asker: i, is_for_person: person, ..Truth::default() };
    world.truths.insert(ask_id.clone(), truth);
    world.counts.asks += 1;
    world.request(i, |id| ToHub::Ask(AskRequest { id, ask_id, to, text, timeout_ms, thread: None, person }));
}

/// The person closes the form that is open.
fn answer_form(world: &mut World, i: usize) {
    let Some(form) = world.peers[i].client.as_mut().and_then(|client| client.forms.pop()) else { return };
    let Form { push, ask_id, is_consent } = form;
    world.counts.forms += 1;
    let end = match world.rng.below(8) {
        0 => FormEnd::Declined,
        1 | 2 => FormEnd::PutOff,
        3 if world.rng.chance(20) => FormEnd::Failed,
        _ if is_consent => FormEnd::Allowed { always: world.rng.chance(30) },
        n => FormEnd::Answered { text: format!("typed {n} for {ask_id}") },
    };
    let truth = world.truth(&ask_id);
    match &end {
        FormEnd::Answered { text } => drop(truth.answers.insert(text.clone())),
        FormEnd::Allowed { .. } => {}
        _ => truth.refusals += 1,
    }
    world.request(i, |id| ToHub::FormClosed { id, push, ask_id, end });
}

fn broadcast(world: &mut World, i: usize) {
    if !is_asking(world, i) {
        return;
    }
    let broadcast_id = format!("all_{:08}", world.number());
    let text = format!("question {broadcast_id}");
    let scope = *world.rng.pick(&[Scope::Machine, Scope::Repo, Scope::Directory]);
    let timeout_ms = *world.rng.pick(&[400, 3_000, 20_000, 60_000]);
    world.truths.insert(broadcast_id.clone(), Truth { asker: i, ..Truth::default() });
    world.request(i, |id| {
        ToHub::Broadcast(BroadcastRequest {
            id,
            broadcast_id,
            text,
            scope,
            include_self: false,
            collect_ms: None,
            timeout_ms,
        })
    });
}

fn reply(world: &mut World, i: usize) {
    if world.peers[i].client.is_none() {
        return;
    }
    let known = world.peers[i].conversation.asks.len();
    if known == 0 || world.rng.chance(3) {
        // Another peer's ask, or nobody's.
        let nth = world.rng.below(world.truths.len() + 1);
        let (ask_id, target) = match world.truths.iter().nth(nth) {
            Some((id, truth)) => (id.clone(), truth.target),
            None => ("ask_unknown".to_owned(), Some(usize::MAX)),
        };
        if target.is_some_and(|target| target != i) {
            world.request(i, |id| ToHub::Reply { id, ask_id, text: "not mine".to_owned() });
        }
        return;
    }
    let nth = world.rng.below(known);
    let again = world.rng.chance(8);
    let asks = &mut world.peers[i].conversation.asks;
    let ask_id = if again { asks[nth].clone() } else { asks.swap_remove(nth) };
    let n = if world.rng.chance(50) { 1 } else { world.now };
    let text = format!("answer {n} to {ask_id}");
    world.truth(&ask_id).answers.insert(text.clone());
    world.request(i, |id| ToHub::Reply { id, ask_id, text });
}

fn rename(world: &mut World, i: usize) {
    let name = (*world.rng.pick(&["api", "web", "new-name", "Docs!"])).to_owned();
    let exact = world.rng.chance(50);
    world.request(i, |id| ToHub::Rename { id, name, exact });
}

/// Ctrl-C of a script.
fn withdraw(world: &mut World, i: usize) {
    let Some(client) = &world.peers[i].client else { return };
    let nth = world.rng.below(client.open.len());
    let client = world.peers[i].client.as_ref().expect("looked at above");
    let Some(ask_id) = client.open.iter().nth(nth).cloned() else { return };
    let truth = world.truth(&ask_id);
    (truth.given_up, truth.excused) = (true, true);
    world.request(i, |id| ToHub::Withdraw { id, ask_id });
}

impl World {
    /// Sends receipts for pushes of others, a second `hello`, or a request that changes nothing.
    fn disturb(&mut self, i: usize) {
        let Some(conn) = self.peers[i].client.as_ref().filter(|c| c.registered).and_then(|c| c.conn) else {
            return;
        };
        let nth = self.rng.below(self.pushes.len());
        let (others, error) = match self.pushes.iter().nth(nth) {
            Some((push, of)) if of.key.0 != i => (vec![push.clone()], Some("no".to_owned())),
            _ => (vec!["push_unknown".to_owned()], None),
        };
        match self.rng.below(6) {
            n @ (0 | 1) => {
                let proof = if n == 0 { Proof::Seen } else { Proof::Queued };
                let receipts = others.into_iter().map(|push| (push, proof)).collect();
                self.say(conn, ToHub::Seen { receipts });
            }
            2 | 3 => others.into_iter().for_each(|push| {
                self.say(conn, ToHub::Pushed { push, error: error.clone() });
            }),
            4 => self.say(conn, ToHub::Hello { v: 2 }),
            _ => self.request(i, |id| ToHub::Status { id }),
        }
    }

    /// Opens a connection that watches events.
    fn watch(&mut self) {
        let conn = self.connect(world::Owner::Watcher);
        self.say(conn, ToHub::Watch { id: 1 });
    }
}
