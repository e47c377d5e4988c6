//! A Claude Code session around its channel: the conversation, turns, hooks, and waiters.

use std::collections::VecDeque;

use super::super::{ConnId, Ms};
use super::client::Peer;
use super::truth::{End, key};
use super::world::{Owner, World};
use crate::wire::{
    Activity, Answer, Changes, Consent, HookEvent, HookReport, Kind, Parcel, Path, PeerKind, Proof, Receipt,
    ToClient, ToHub, Who,
};

/// What a path does with a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    Works,
    Swallows,
    /// Takes it up some time later; with `true` the client's queue shows it.
    Late(bool),
    /// The user's settings hold it until the user releases it, as the hub knows.
    Holds,
    /// Accepts it as a prompt that begins no turn; with `true` the transcript tells that another hook refused it.
    Drops(bool),
    Fails,
    /// Reports twice that it is done.
    Stutters,
}

#[derive(Debug, Default)]
pub struct Conversation {
    pub busy: bool,
    /// Numbers the turns.
    pub turn: u64,
    pub queue: VecDeque<Parcel>,
    pub late: Vec<(Ms, bool, Parcel)>,
    /// How often the transcript told that the client has queued a text of `late`.
    pub enqueued: usize,
    /// Whether the client shows a screen of its own, and what came meanwhile.
    pub screen: bool,
    pub behind: Vec<Parcel>,
    /// The identifiers of pushes that the transcript tells were refused.
    pub refused: Vec<String>,
    /// The identifiers of pushes in the transcript; with `true` in the result of a tool call.
    transcript: Vec<(String, bool)>,
    /// Asks that may be answered.
    pub asks: Vec<String>,
}

impl Conversation {
    /// What the transcript from line `from` on and the queue tell.
    fn receipts(&self, from: usize) -> Vec<Receipt> {
        let in_transcript = self.transcript[from..]
            .iter()
            .map(|(push, by_tool)| (push.clone(), if *by_tool { Proof::InToolResult } else { Proof::Seen }));
        let shown = self.late.iter().filter(|(_, shows, _)| *shows).map(|(.., parcel)| parcel);
        let queued = self.queue.iter().chain(shown).map(|parcel| (parcel.push.clone(), Proof::Queued));
        let refused = self.refused.iter().map(|push| (push.clone(), Proof::Refused));
        in_transcript.chain(queued).chain(refused).collect()
    }
}

/// A hook that fired, and until when its process tries, once it runs: one after the other.
pub struct Hook {
    event: HookEvent,
    met: Vec<String>,
    turn: Option<String>,
    ask_id: Option<String>,
    until: Option<Ms>,
}

impl Hook {
    fn report(&self, id: u64, claude: String, receipts: Vec<Receipt>) -> ToHub {
        let (event, turn, ask_id) = (self.event, self.turn.clone(), self.ask_id.clone());
        ToHub::Hook(HookReport { id, claude, event, turn, ask_id, reason: None, age_ms: None, receipts })
    }
}

/// A hook's process.
pub struct RunningHook {
    conn: ConnId,
    hook: Hook,
    answered: bool,
}

/// A waiter's process, which comes back until it has printed something or is dismissed.
pub struct Waiter {
    process: u64,
    pub conn: Option<ConnId>,
    /// The hub has taken it, and it has read that much of the transcript.
    waits: bool,
    read: (usize, usize),
    dismissed: bool,
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
        let mut ways = [self.way(), self.way()];
        let held = self.plan.late && session && paths.contains(&Path::Inbox) && self.rng.chance(20);
        if held {
            paths.retain(|p| *p != Path::Hook);
            ways[1] = Way::Holds;
        }
        let directory = self.rng.below(3);
        let who = Who {
            kind: if session { PeerKind::Session } else { PeerKind::Script },
            peer: format!("peer{i}"),
            secret: format!("secret{i}"),
            cwd: format!("/dir{directory}"),
            repo: (directory > 0).then(|| "/repo".to_owned()),
            claude: session.then(|| format!("claude{i}")),
            paths,
            held,
            listens: session,
            forms: session && self.rng.chance(70),
            person_off: self.rng.chance(5),
            consent: (session && self.rng.chance(15)).then(|| *self.rng.pick(&[Consent::Repo, Consent::All])),
            ..Who::sample(["api", "web", "docs", "api-2"][self.rng.below(4)])
        };
        // No hook tells that a waiter has woken the session: the session's file must.
        let polls = !hooks || who.paths.contains(&Path::Hook) || self.rng.chance(50);
        let modern = self.rng.chance(60);
        let client = Some(self.new_client());
        self.peers.push(Peer {
            who,
            alive: true,
            hooks,
            polls,
            modern,
            ways,
            client,
            kills: 0,
            conversation: Conversation::default(),
            hook: None,
            hooks_queued: VecDeque::new(),
            waiters: Vec::new(),
        });
        if hooks {
            self.fire(i, HookEvent::Start, Vec::new());
            self.start_waiter(i);
        }
    }

    fn way(&mut self) -> Way {
        let (odd, late) = (self.plan.odd, self.plan.late);
        match self.rng.below(10) {
            0 | 1 if odd => Way::Swallows,
            2 if odd => Way::Fails,
            3 if odd => Way::Stutters,
            4 if late => Way::Late(false),
            5 if late => Way::Late(true),
            6 if late => Way::Drops(self.rng.chance(50)),
            _ => Way::Works,
        }
    }

    pub fn hear(&mut self, conn: ConnId, owner: Owner, message: ToClient) {
        match (owner, message) {
            (Owner::Channel(i), message) => {
                if self.peers[i].client.as_ref().is_some_and(|c| c.conn == Some(conn)) {
                    self.hear_client(i, message);
                }
            }
            (_, ToClient::Welcome { .. } | ToClient::Event(_)) => {}
            (Owner::Waiter(i), ToClient::Push(parcel)) => self.wake(i, conn, parcel),
            (Owner::Waiter(i), ToClient::Dismissed) => {
                for waiter in self.peers[i].waiters.iter_mut().filter(|w| w.conn == Some(conn)) {
                    waiter.dismissed = true;
                }
            }
            (Owner::Waiter(i), ToClient::Ok { .. }) => {
                self.peers[i]
                    .waiters
                    .iter_mut()
                    .filter(|w| w.conn == Some(conn))
                    .for_each(|w| w.waits = true);
            }
            (Owner::Watcher, ToClient::Ok { .. }) => {}
            (Owner::Hook(i), ToClient::Ok { answer, .. }) => self.hook_answered(i, conn, &answer),
            (owner, message) => panic!("{owner:?} hears {message:?}"),
        }
    }

    /// A hook fires. The client waits for one hook before it goes on to the next.
    pub fn fire(&mut self, i: usize, event: HookEvent, met: Vec<String>) {
        if self.peers[i].hooks {
            let Conversation { turn, asks, .. } = &self.peers[i].conversation;
            let (turn, nth) = (Some(format!("turn{turn}")), self.rng.below(asks.len() + 1));
            let ask_id = self.peers[i].conversation.asks.get(nth).cloned();
            self.peers[i].hooks_queued.push_back(Hook { event, met, turn, ask_id, until: None });
            self.next_hook(i);
        }
    }

    fn next_hook(&mut self, i: usize) {
        if self.peers[i].hook.is_some() {
            return;
        }
        let Some(mut hook) = self.peers[i].hooks_queued.pop_front() else { return };
        let patience = if hook.event == HookEvent::Prompt { 40 } else { 1_000 };
        hook.until.get_or_insert(self.now + patience);
        let conn = self.connect(Owner::Hook(i));
        let claude = self.peers[i].who.claude.clone().expect("a session has a process");
        let receipts = hook.met.iter().map(|push| (push.clone(), Proof::Prompted)).collect();
        self.say(conn, hook.report(1, claude, receipts));
        self.peers[i].hook = Some(RunningHook { conn, hook, answered: false });
    }

    fn hook_answered(&mut self, i: usize, conn: ConnId, answer: &Answer) {
        let peer = &mut self.peers[i];
        let claude = peer.who.claude.clone().expect("a session has a process");
        if let Some(running) = peer.hook.as_mut().filter(|h| h.conn == conn && !h.answered) {
            running.answered = true;
            if let Answer::Hooked { unconfirmed: 1.., remind } = answer {
                let tail = peer.conversation.transcript.len().saturating_sub(200);
                let receipts = peer.conversation.receipts(tail);
                if !remind.is_empty() {
                    running.hook.event = HookEvent::Tool;
                }
                let again = running.hook.report(2, claude, receipts);
                return self.say(conn, again);
            }
        }
        self.hang_up(conn, false);
    }

    pub fn start_waiter(&mut self, i: usize) {
        if self.peers[i].hooks && self.peers[i].alive {
            let process = self.number();
            let new = Waiter { process, conn: None, waits: false, read: (0, 0), dismissed: false };
            self.peers[i].waiters.push(new);
            self.reconnect_waiters(i);
        }
    }

    pub fn reconnect_waiters(&mut self, i: usize) {
        let claude = self.peers[i].who.claude.clone().unwrap_or_default();
        for n in 0..self.peers[i].waiters.len() {
            let Waiter { process, conn: None, .. } = self.peers[i].waiters[n] else { continue };
            let conn = self.connect(Owner::Waiter(i));
            self.say(conn, ToHub::Wait { id: 1, claude: claude.clone(), process: process.to_string() });
            self.peers[i].waiters[n].conn = Some(conn);
        }
    }

    /// A waiter's process is killed.
    pub fn kill_waiter(&mut self, i: usize) {
        if let Some(Waiter { process, conn, .. }) = self.peers[i].waiters.pop() {
            self.dead.insert(process);
            conn.into_iter().for_each(|conn| self.hang_up(conn, false));
        }
    }

    /// The waiter prints what it has been sent by now, and exits.
    fn wake(&mut self, i: usize, conn: ConnId, first: Parcel) {
        let at = self.peers[i].waiters.iter().position(|w| w.conn == Some(conn)).expect("a waiter");
        let Waiter { process, .. } = self.peers[i].waiters.remove(at);
        self.dead.insert(process);
        let mut parcels = vec![first];
        let more = self.rng.below(3);
        if let Some(link) = self.links.get_mut(&conn) {
            while parcels.len() <= more
                && let Some(ToClient::Push(_)) = link.down.front()
                && let Some(ToClient::Push(parcel)) = link.down.pop_front()
            {
                parcels.push(parcel);
            }
        }
        for parcel in parcels {
            assert_eq!(parcel.path, Path::Hook, "a waiter has one path");
            self.note_handed(i, process, &parcel);
            self.offer(i, parcel.clone());
            self.say(conn, ToHub::Pushed { push: parcel.push, error: None });
        }
        self.hang_up(conn, false);
    }

    /// A connection is over, and its owner knows.
    pub fn link_ended(&mut self, conn: ConnId, owner: Owner) {
        match owner {
            Owner::Channel(i) => {
                if self.peers[i].client.as_ref().is_some_and(|c| c.conn == Some(conn)) {
                    self.disconnected(i);
                }
            }
            Owner::Waiter(i) => {
                self.peers[i].waiters.retain(|w| !(w.conn == Some(conn) && w.dismissed));
                for waiter in self.peers[i].waiters.iter_mut().filter(|w| w.conn == Some(conn)) {
                    (waiter.conn, waiter.waits, waiter.read) = (None, false, (0, 0));
                }
            }
            Owner::Hook(i) => {
                if let Some(RunningHook { hook, answered: false, .. }) =
                    self.peers[i].hook.take_if(|h| h.conn == conn)
                    && hook.until.is_some_and(|until| self.now <= until)
                {
                    self.peers[i].hooks_queued.push_front(hook);
                }
                self.next_hook(i);
            }
            Owner::Watcher => {}
        }
    }

    /// The session's turn begins, goes on, or ends.
    pub fn turn(&mut self, i: usize) {
        let peer = &mut self.peers[i];
        if !peer.alive || !peer.is_session() || peer.conversation.screen {
            return;
        }
        if !peer.conversation.busy {
            if peer.is_in_hooks() {
                return;
            }
            peer.conversation.busy = true;
            peer.conversation.turn += 1;
            return self.fire(i, HookEvent::Prompt, Vec::new());
        }
        if peer.conversation.queue.is_empty() {
            peer.conversation.busy = false;
            if peer.polls && self.rng.chance(10) {
                return; // interrupted: no hook tells
            }
            let event =
                *self.rng.pick(&[HookEvent::Stop, HookEvent::Stop, HookEvent::StopAgain, HookEvent::Failed]);
            self.fire(i, event, Vec::new());
            return self.start_waiter(i);
        }
        while let Some(parcel) = self.peers[i].conversation.queue.pop_front() {
            self.take(i, &parcel);
            if self.peers[i].modern {
                self.fire(i, HookEvent::Prompt, vec![parcel.push]);
            }
        }
    }

    /// Texts whose time has come are taken up at last.
    pub fn take_late(&mut self, i: usize, all: bool) {
        let now = self.now;
        let late = std::mem::take(&mut self.peers[i].conversation.late);
        let (due, rest): (Vec<_>, Vec<_>) = late.into_iter().partition(|(at, ..)| all || *at <= now);
        self.peers[i].conversation.late = rest;
        due.into_iter().for_each(|(.., parcel)| self.offer(i, parcel));
    }

    /// The channel looks into the session's file.
    pub fn poll(&mut self, i: usize) {
        self.empty_inbox(i);
        let peer = &mut self.peers[i];
        let activity = Some(match &peer.conversation {
            Conversation { screen: true, .. } => Activity::Screen,
            Conversation { busy: true, .. } => Activity::Busy,
            _ => Activity::Idle,
        });
        let Some(client) = peer.client.as_mut().filter(|c| c.registered) else { return };
        if peer.polls && peer.who.claude.is_some() && client.told_activity != activity {
            client.told_activity = activity;
            self.tell(i, ToHub::Activity(Changes { activity, ..Changes::default() }));
        }
    }

    /// The session's waiters look into its transcript.
    pub fn read_transcript(&mut self, i: usize) {
        for n in 0..self.peers[i].waiters.len() {
            let peer = &mut self.peers[i];
            let Waiter { conn: Some(conn), waits: true, read, .. } = &mut peer.waiters[n] else { continue };
            let end = (peer.conversation.transcript.len(), peer.conversation.enqueued);
            let (conn, from) = (*conn, std::mem::replace(read, end));
            let receipts = peer.conversation.receipts(from.0);
            if from < end {
                self.say(conn, ToHub::Seen { receipts });
            }
        }
    }

    /// The client takes a text in its own time.
    pub fn offer(&mut self, i: usize, parcel: Parcel) {
        let peer = &mut self.peers[i];
        if peer.conversation.screen {
            return peer.conversation.behind.push(parcel);
        }
        if peer.conversation.busy && peer.is_session() {
            return peer.conversation.queue.push_back(parcel);
        }
        let prompts = peer.hooks && parcel.path != Path::Hook;
        peer.conversation.busy = peer.is_session();
        peer.conversation.turn += 1;
        self.take(i, &parcel);
        if prompts {
            self.fire(i, HookEvent::Prompt, vec![parcel.push]);
        }
    }

    /// The text is in the conversation.
    pub fn take(&mut self, i: usize, parcel: &Parcel) {
        self.log(|| format!("peer{i} HAS {:?} {} late={}", parcel.kind, parcel.ask_id, parcel.late));
        let key = key(i, parcel);
        let by_tool = parcel.path == Path::Tool;
        self.peers[i].conversation.transcript.push((parcel.push.clone(), by_tool));
        let times = self.got.entry(key.clone()).or_insert(0);
        *times += 1;
        let is_second = *times > 1;
        if parcel.again {
            self.again.insert(key.clone());
        }
        if is_second {
            let late = self.peers[i].ways.contains(&Way::Late(false));
            let lost = parcel.kind == Kind::Failed && self.truth(&parcel.ask_id).journal_lost;
            let doubtful = self.is_doubtful(&key);
            assert!(late || lost || doubtful, "twice in the conversation: {key:?}");
            assert!(self.again.contains(&key), "twice, and the second push did not say so: {key:?}");
            self.counts.doubles += 1;
            return;
        }
        match parcel.kind {
            Kind::Ask => {
                let is_for_model = !self.peers[i].is_session() || !self.truth(&parcel.ask_id).is_for_person;
                assert!(is_for_model, "the model has a question to its person");
                self.peers[i].conversation.asks.push(parcel.ask_id.clone());
            }
            Kind::Reply if parcel.late => self.end(&parcel.ask_id, End::LateReply),
            Kind::Reply => self.end(&parcel.ask_id, End::Reply),
            Kind::Failed => self.end(&parcel.ask_id, End::Failed(parcel.code.expect("a code"))),
            Kind::Summary => self.end(&parcel.ask_id, End::Summary),
            Kind::Notice => {}
            Kind::Consent => panic!("a form in the conversation"),
        }
    }

    /// A text comes to where a client could take it. Nobody gets what was not meant for it.
    pub fn note_handed(&mut self, i: usize, process: u64, parcel: &Parcel) {
        self.handed.insert(key(i, parcel));
        self.pushes.get_mut(&parcel.push).expect("a push of the hub").process = Some(process);
        let truth = self.truth(&parcel.ask_id);
        match parcel.kind {
            Kind::Ask => {
                assert_eq!(truth.target, Some(i), "an ask for another");
                let asked = parcel.broadcast.as_ref().unwrap_or(&parcel.ask_id);
                assert!(parcel.text.contains(asked), "another ask's text");
            }
            Kind::Reply => {
                assert!(truth.asker == i && truth.answers.contains(&parcel.text), "an answer of nobody");
            }
            Kind::Failed | Kind::Summary => assert_eq!(truth.asker, i, "news of another's ask"),
            Kind::Consent => assert_eq!(truth.target, Some(i), "a form for another"),
            Kind::Notice => assert!(truth.asker == i || truth.target == Some(i), "a notice for another"),
        }
    }

    /// The session ends, one way or another.
    pub fn leave(&mut self, i: usize) {
        if !self.peers[i].alive {
            return;
        }
        self.log(|| format!("peer{i} LEAVES"));
        self.peers[i].alive = false;
        let tells = self.rng.chance(80);
        if tells {
            self.fire(i, HookEvent::End, Vec::new());
        }
        self.kill(i, tells);
        while !self.peers[i].waiters.is_empty() {
            self.kill_waiter(i);
        }
    }
}
