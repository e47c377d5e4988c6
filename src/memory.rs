//! What a session's channel must not forget: its open asks, what it was handed, its answers that the asker is not known to
//! have. That is what rebuilds a hub that died. For a channel that dies itself there is the [`diary`](crate::diary).

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::diary::{Diary, Line};
use crate::router::MAX_TIMEOUT;
use crate::token::Tokens;
use crate::wire::{self, Answer, Code, Fault, Held, Kind, Member, Outcome, Parcel, State, ToHub};

/// How long an ask that timed out may still be answered.
const LATE: Duration = Duration::from_secs(3600);
/// How many ended asks are remembered, so that no answer reaches the model twice.
const ENDED: usize = 4096;
/// How many answers are remembered that found nobody, in case the asker turns up at another hub.
const UNWANTED: usize = 64;

/// What is to be done with a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Take {
    /// It is news: push it, then say how that went to [`Memory::done`].
    Push,
    /// It is being pushed: how that goes is told of this push as well.
    UnderWay,
    /// The session has it already.
    Known,
}

/// An ask of this session that has not ended, or timed out lately.
#[derive(Debug)]
struct Asked {
    peer: String,
    to: String,
    /// `None` when an earlier process of this session asked it.
    text: Option<String>,
    state: State,
    at: Instant,
    deadline: Instant,
    broadcast: Option<String>,
}

/// A parcel that was handed to this session.
#[derive(Debug)]
struct Given {
    parcel: Parcel,
    state: State,
    pushes: Vec<(String, wire::Path)>,
    under_way: bool,
    at: Instant,
    /// When a hub last said that the question is over. It may be answered late, and its asker may turn up at another hub.
    over: Option<Instant>,
}

/// An answer that the asker is not known to have.
#[derive(Debug)]
struct Answered {
    /// The asker: identity and name.
    peer: String,
    to: String,
    text: String,
    /// When a hub said that nobody waits for it. Only that one knows nobody.
    unwanted: Option<Instant>,
}

/// The ids of the latest asks that ended.
#[derive(Default)]
struct Ended {
    known: HashSet<String>,
    order: VecDeque<String>,
}

impl Ended {
    fn contains(&self, id: &str) -> bool {
        self.known.contains(id)
    }

    fn insert(&mut self, id: String) {
        if self.order.len() >= ENDED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(id.clone());
        self.known.insert(id);
    }
}

/// See the module.
pub struct Memory {
    /// The session's public identity, and what proves it.
    pub peer: String,
    pub secret: String,
    /// The name that it last had.
    pub name: Option<String>,
    /// Whether hooks were ever heard of.
    pub hooked: bool,
    /// Whether an earlier process of this session may have been handed what this one does not know of.
    pub inherited: bool,
    diary: Option<Diary>,
    /// Requests that are not answered yet, with the deadline of what they ask.
    asking: HashMap<String, Instant>,
    asks: HashMap<String, Asked>,
    given: HashMap<(Kind, String), Given>,
    replied: HashMap<String, Answered>,
    outcomes: HashMap<String, Vec<Outcome>>,
    ended: Ended,
}

impl Memory {
    /// A session without a past, and without a file to leave one.
    ///
    /// # Errors
    /// There are no random numbers to be had.
    pub fn new(tokens: &mut Tokens) -> io::Result<Self> {
        let (peer, secret) = (tokens.id("p")?, tokens.secret()?);
        Ok(Memory {
            peer,
            secret,
            name: None,
            hooked: false,
            inherited: false,
            diary: None,
            asking: HashMap::new(),
            asks: HashMap::new(),
            given: HashMap::new(),
            replied: HashMap::new(),
            outcomes: HashMap::new(),
            ended: Ended::default(),
        })
    }

    /// The session that the file at `path` is about, or a new one that will be kept there. Where the file can't be had the
    /// session is without one: see [`Diary::open`].
    ///
    /// # Errors
    /// There are no random numbers to be had.
    pub fn open(path: &Path, tokens: &mut Tokens) -> io::Result<Self> {
        let mut memory = Memory::new(tokens)?;
        if let Some((diary, lines)) = Diary::open(path) {
            lines.into_iter().for_each(|line| memory.recall(line));
            memory.diary = Some(diary);
            memory.write_anew();
        }
        Ok(memory)
    }

    fn recall(&mut self, line: Line) {
        match line {
            Line::Session { peer, secret } if is_identity(&peer) && is_identity(&secret) => {
                (self.peer, self.secret, self.inherited) = (peer, secret, true);
            }
            Line::Session { .. } => {} // not of ours
            Line::Name { name } => self.name = Some(crate::name::slug(&name)),
            Line::Ended { ask_id, code } => {
                self.end_ask(&ask_id, code);
            }
            Line::Over { ask_id } => {
                self.asks.remove(&ask_id);
                self.given.remove(&(Kind::Ask, ask_id));
            }
            Line::Given { ask_id, peer, from, state, push, path } => {
                let key = (Kind::Ask, ask_id.clone());
                let given = Given::recalled(ask_id, peer, from, state, push, path);
                self.given.insert(key, given);
            }
            Line::Outcomes { broadcast_id, outcomes } => drop(self.outcomes.insert(broadcast_id, outcomes)),
            Line::Summed { broadcast_id } => drop(self.outcomes.remove(&broadcast_id)),
            Line::Asked { ask_id, peer, to, broadcast, state, until_ms } => {
                let (text, at) = (None, Instant::now());
                let left = Duration::from_millis(until_ms.saturating_sub(unix_ms()).min(MAX_TIMEOUT));
                self.asks.insert(ask_id, Asked { peer, to, text, state, at, deadline: at + left, broadcast });
            }
        }
    }

    /// Leaves in the diary only what still matters.
    fn write_anew(&mut self) {
        let Some(diary) = &mut self.diary else { return };
        let mut lines = vec![Line::Session { peer: self.peer.clone(), secret: self.secret.clone() }];
        lines.extend(self.name.clone().map(|name| Line::Name { name }));
        for (id, outcomes) in &self.outcomes {
            lines.push(Line::Outcomes { broadcast_id: id.clone(), outcomes: outcomes.clone() });
        }
        lines.extend(self.asks.iter().map(|(id, ask)| ask.line(id)));
        lines.extend(self.given.values().filter_map(Given::line));
        for id in &self.ended.order {
            let code = self.asks.get(id).map(|_| Code::Timeout); // what else has ended is not among them
            lines.push(Line::Ended { ask_id: id.clone(), code });
        }
        diary.write_anew(&lines);
    }

    fn write(&mut self, line: &Line) {
        if self.diary.as_mut().is_some_and(|diary| diary.write(line)) {
            self.write_anew();
        }
    }

    /// Removes the file: the session has said goodbye for good.
    pub fn forget(&mut self) {
        if let Some(diary) = self.diary.take() {
            diary.remove();
        }
    }

    pub fn named(&mut self, name: &str) {
        if self.name.as_deref() != Some(name) {
            self.name = Some(name.to_owned());
            self.write(&Line::Name { name: name.to_owned() });
        }
    }

    /// The hub took the question. It may have ended already.
    fn asked(&mut self, member: &Member, text: &str, state: State) {
        if let Some(deadline) = self.asking.remove(&member.ask_id) {
            self.note(member, text, state, None, deadline);
        }
    }

    /// The hub took a broadcast.
    fn broadcast(&mut self, id: &str, text: &str, members: &[Member]) {
        let Some(deadline) = self.asking.remove(id) else { return };
        if !members.is_empty() {
            self.outcomes.insert(id.to_owned(), Vec::new());
            self.write(&Line::Outcomes { broadcast_id: id.to_owned(), outcomes: Vec::new() });
        }
        for member in members {
            self.note(member, text, State::Queued, Some(id), deadline);
        }
    }

    fn note(&mut self, member: &Member, text: &str, state: State, all: Option<&str>, deadline: Instant) {
        let id = &member.ask_id;
        if state >= State::Replied || self.ended.contains(id) {
            return;
        }
        let ask = Asked {
            peer: member.peer.clone().unwrap_or_default(),
            to: member.to.clone(),
            text: Some(text.to_owned()),
            state,
            at: Instant::now(),
            deadline,
            broadcast: all.map(str::to_owned),
        };
        let line = ask.line(id);
        self.asks.insert(id.clone(), ask);
        self.write(&line);
    }

    /// The request failed: there is no such ask.
    fn unask(&mut self, id: &str) {
        self.asking.remove(id);
    }

    /// The ask has ended. One that timed out is remembered, as it may be answered late.
    fn end_ask(&mut self, ask_id: &str, code: Option<Code>) {
        if self.ended.contains(ask_id) {
            return;
        }
        if let Some(mut ask) = self.asks.remove(ask_id) {
            if let Some(all) = ask.broadcast.as_ref().and_then(|b| self.outcomes.get_mut(b))
                && !all.iter().any(|o| o.ask_id == ask_id)
            {
                all.push(Outcome { ask_id: ask_id.to_owned(), to: ask.to.clone(), code });
            }
            if code == Some(Code::Timeout) {
                (ask.state, ask.deadline) = (State::Ended, Instant::now() + LATE);
                self.asks.insert(ask_id.to_owned(), ask);
            }
        }
        self.ended.insert(ask_id.to_owned());
        self.write(&Line::Ended { ask_id: ask_id.to_owned(), code });
    }

    /// A parcel has come that is to be pushed, unless the session has it.
    pub fn take(&mut self, parcel: &Parcel) -> Take {
        let key = (parcel.kind, parcel.ask_id.clone());
        let push = (parcel.push.clone(), parcel.path);
        self.hooked |= parcel.receipt;
        if let Some(given) = self.given.get_mut(&key) {
            given.pushes.push(push); // the same once more by another path, or from another hub
            if given.state < State::Seen && given.over.take().is_some() {
                given.parcel.text.clone_from(&parcel.text);
            }
            return match given.state < State::Seen {
                true if std::mem::replace(&mut given.under_way, true) => Take::UnderWay,
                true => Take::Push,
                false => Take::Known,
            };
        }
        let news = match parcel.kind {
            Kind::Ask => true,
            Kind::Reply if parcel.late => self.asks.contains_key(&parcel.ask_id),
            Kind::Reply | Kind::Failed => !self.ended.contains(&parcel.ask_id),
            Kind::Summary => self.outcomes.contains_key(&parcel.ask_id),
        };
        if !news {
            return Take::Known;
        }
        let (parcel, state, pushes, at) = (parcel.clone(), State::Queued, vec![push], Instant::now());
        self.given.insert(key, Given { parcel, state, pushes, under_way: true, at, over: None });
        Take::Push
    }

    /// The parcel was pushed, or with `handed` false could not be. Only now it counts as known: a process that dies before
    /// has it pushed by the next one. Gives the pushes that this is the end of.
    pub fn done(&mut self, parcel: &Parcel, handed: bool) -> Vec<String> {
        let (kind, id) = (parcel.kind, &parcel.ask_id);
        let Some(given) = self.given.get_mut(&(kind, id.clone())) else { return vec![parcel.push.clone()] };
        given.under_way = false;
        let since = given.pushes.iter().position(|(push, _)| *push == parcel.push).unwrap_or(0);
        let pushes = given.pushes[since..].iter().map(|(push, _)| push.clone()).collect();
        if !handed {
            return pushes;
        }
        given.state = given.state.max(State::Pushed);
        let line = given.line();
        if kind != Kind::Ask && !parcel.receipt {
            self.given.remove(&(kind, id.clone()));
        }
        match kind {
            Kind::Ask => line.map_or((), |line| self.write(&line)),
            Kind::Reply if parcel.late => {
                self.asks.remove(id);
                self.write(&Line::Over { ask_id: id.clone() });
            }
            Kind::Reply | Kind::Failed => self.end_ask(id, parcel.code),
            Kind::Summary => {
                self.outcomes.remove(id);
                self.write(&Line::Summed { broadcast_id: id.clone() });
            }
        }
        pushes
    }

    /// A request goes out; until it is answered nobody knows what became of it.
    pub fn requested(&mut self, request: &ToHub) {
        match request {
            ToHub::Ask { ask_id: id, timeout_ms, .. }
            | ToHub::Broadcast { broadcast_id: id, timeout_ms, .. } => {
                self.asking.insert(id.clone(), Instant::now() + Duration::from_millis(*timeout_ms));
            }
            ToHub::Reply { ask_id, text, .. } => {
                if let Some(given) = self.given.get(&(Kind::Ask, ask_id.clone())) {
                    // Another answer to the same is refused: what counts is the first.
                    self.replied.entry(ask_id.clone()).or_insert_with(|| given.answer(text));
                }
            }
            _ => {}
        }
    }

    /// The asker has the answer, and nobody needs us to remember it.
    fn handed(&mut self, ask_id: &str) {
        self.replied.remove(ask_id);
        self.forget_given(Kind::Ask, ask_id);
    }

    /// The hub took the answer. The next process of this session would still owe it, for the text would be lost.
    fn taken(&mut self, ask_id: &str, text: &str) {
        if let Some(given) = self.given.get_mut(&(Kind::Ask, ask_id.to_owned())) {
            given.state = State::Replied;
            // The answer may have been faster than the copy of what a waiter brought.
            self.replied.entry(ask_id.to_owned()).or_insert_with(|| given.answer(text));
            given.parcel.text = String::new();
        }
    }

    /// Nobody waits for the answer, as far as this hub knows. Were it forgotten, another hub to which the asker comes back
    /// would take it that the question never arrived, and deliver it once more.
    fn unwanted(&mut self, ask_id: &str) {
        let Some(answer) = self.replied.get_mut(ask_id) else { return };
        answer.unwanted.get_or_insert_with(Instant::now);
        let unwanted = self.replied.iter().filter_map(|(id, answer)| Some((answer.unwanted?, id)));
        if unwanted.clone().count() > UNWANTED
            && let Some(oldest) = unwanted.min().map(|(_, id)| id.clone())
        {
            self.handed(&oldest);
        }
    }

    fn forget_given(&mut self, kind: Kind, id: &str) {
        if self.given.remove(&(kind, id.to_owned())).is_some() && kind == Kind::Ask {
            self.write(&Line::Over { ask_id: id.to_owned() });
        }
    }

    /// The tool call that answered failed.
    fn unreply(&mut self, ask_id: &str, text: &str) {
        if self.replied.get(ask_id).is_some_and(|answer| answer.text == text) {
            self.replied.remove(ask_id);
        }
    }

    /// A request has its answer.
    pub fn answered(&mut self, request: &ToHub, reply: &Result<Answer, Fault>) {
        match (request, reply) {
            (ToHub::Ask { text, .. }, Ok(Answer::Asked { ask_id, to, peer, state })) => {
                let member = Member { ask_id: ask_id.clone(), to: to.clone(), peer: Some(peer.clone()) };
                self.asked(&member, text, *state);
            }
            (ToHub::Broadcast { text, .. }, Ok(Answer::Broadcast { broadcast_id, asks })) => {
                self.broadcast(broadcast_id, text, asks);
            }
            (ToHub::Reply { ask_id, text, .. }, Ok(Answer::Replied { state, .. })) => {
                match *state >= State::Pushed {
                    true => self.handed(ask_id),
                    false => self.taken(ask_id, text),
                }
            }
            (ToHub::Rename { .. }, Ok(Answer::Renamed { name })) => self.named(name),
            (ToHub::Ask { ask_id: id, .. } | ToHub::Broadcast { broadcast_id: id, .. }, Err(_)) => {
                self.unask(id);
            }
            (ToHub::Reply { ask_id, text, .. }, Err(_)) => self.unreply(ask_id, text),
            _ => {}
        }
    }

    /// The hub says how far something got.
    pub fn told(&mut self, kind: Kind, ask_id: &str, state: State, code: Option<Code>) {
        match (kind, state) {
            (Kind::Ask, State::Replied | State::Ended) if self.asks.contains_key(ask_id) => {
                self.end_ask(ask_id, code);
            }
            (Kind::Ask, _) if self.asks.contains_key(ask_id) => {
                if let Some(ask) = self.asks.get_mut(ask_id).filter(|a| a.state != State::Ended) {
                    let first = ask.state == State::Queued && state > State::Queued;
                    ask.state = state;
                    if let Some(line) = first.then(|| ask.line(ask_id)) {
                        self.write(&line);
                    }
                }
            }
            (Kind::Reply, State::Ended)
                if code == Some(Code::PeerGone) && self.replied.contains_key(ask_id) =>
            {
                self.unwanted(ask_id);
            }
            (Kind::Reply, State::Pushed | State::Seen | State::Ended)
                if self.replied.contains_key(ask_id) =>
            {
                self.handed(ask_id);
            }
            (Kind::Ask, State::Seen | State::Ended) => {
                if let Some(given) = self.given.get_mut(&(kind, ask_id.to_owned())) {
                    given.parcel.text = String::new(); // it will not be pushed again
                    (given.state, given.over) = match state {
                        State::Ended => (given.state, Some(Instant::now())),
                        _ => (given.state.max(state), given.over),
                    };
                    if let Some(line) = given.line() {
                        self.write(&line);
                    }
                }
            }
            (_, State::Seen | State::Ended) => self.forget_given(kind, ask_id),
            _ => {}
        }
    }

    /// Everything, for a hub that may have forgotten it.
    pub fn held(&mut self) -> Vec<Held> {
        let now = Instant::now();
        self.asks.retain(|_, a| a.state != State::Ended || a.deadline > now);
        let lately = |at: Option<Instant>| at.is_none_or(|at| at + LATE > now);
        self.given.retain(|_, given| lately(given.over));
        self.replied.retain(|_, answer| lately(answer.unwanted));
        let ms = |d: Duration| d.as_millis() as u64;
        let outcomes = self
            .outcomes
            .iter()
            .map(|(id, outcomes)| Held::Outcomes { broadcast_id: id.clone(), outcomes: outcomes.clone() });
        let asked = self.asks.iter().map(|(id, ask)| Held::Asked {
            ask_id: id.clone(),
            peer: ask.peer.clone(),
            to: ask.to.clone(),
            text: ask.text.clone().filter(|_| ask.state < State::Seen),
            state: ask.state,
            age_ms: ms(now - ask.at),
            left_ms: if ask.state == State::Ended {
                0
            } else {
                ms(ask.deadline.saturating_duration_since(now))
            },
            broadcast: ask.broadcast.clone(),
        });
        let owed = |g: &&Given| g.state > State::Queued && g.state != State::Replied;
        let given = self.given.values().filter(owed).map(|given| Held::Given {
            parcel: given.parcel.clone(),
            peer: given.parcel.peer.clone(),
            state: given.state,
            pushes: given.pushes.clone(),
            age_ms: ms(now - given.at),
        });
        let replied = self.replied.iter().map(|(id, answer)| Held::Replied {
            ask_id: id.clone(),
            peer: answer.peer.clone(),
            to: answer.to.clone(),
            text: answer.text.clone(),
        });
        let asking = self.asking.iter().map(|(id, deadline)| Held::Asking {
            id: id.clone(),
            left_ms: ms(deadline.saturating_duration_since(now)),
        });
        outcomes.chain(asking).chain(asked).chain(given).chain(replied).collect()
    }
}

impl Asked {
    fn line(&self, ask_id: &str) -> Line {
        let (peer, to, broadcast) = (self.peer.clone(), self.to.clone(), self.broadcast.clone());
        let left = self.deadline.saturating_duration_since(Instant::now()).as_millis() as u64;
        // Of one that has timed out another line tells.
        let state = if self.state == State::Ended { State::Seen } else { self.state };
        Line::Asked { ask_id: ask_id.to_owned(), peer, to, broadcast, state, until_ms: unix_ms() + left }
    }
}

impl Given {
    /// What an earlier process of this session was asked.
    fn recalled(
        ask_id: String,
        peer: String,
        from: String,
        state: State,
        push: String,
        path: wire::Path,
    ) -> Self {
        let pushes = vec![(push.clone(), path)];
        let (kind, peer, text) = (Kind::Ask, Some(peer), String::new());
        let (cwd, code, broadcast, late, receipt) = Default::default();
        let parcel =
            Parcel { push, path, kind, ask_id, from, peer, cwd, text, code, broadcast, late, receipt };
        Given { parcel, state, pushes, under_way: false, at: Instant::now(), over: None }
    }

    fn answer(&self, text: &str) -> Answered {
        let (peer, to) = (self.parcel.peer.clone().unwrap_or_default(), self.parcel.from.clone());
        Answered { peer, to, text: text.to_owned(), unwanted: None }
    }

    fn line(&self) -> Option<Line> {
        let (push, path) = self.pushes.last().filter(|_| self.parcel.kind == Kind::Ask)?.clone();
        let (ask_id, peer) = (self.parcel.ask_id.clone(), self.parcel.peer.clone()?);
        (self.state > State::Queued).then(|| Line::Given {
            ask_id,
            peer,
            from: self.parcel.from.clone(),
            state: self.state.min(State::Seen),
            push,
            path,
        })
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// Whether the hub would take this for an identity or a secret.
fn is_identity(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Memory {
        let mut tokens = Tokens::new().expect("random numbers");
        let mut memory = Memory::new(&mut tokens).expect("random numbers");
        for id in ["ask_1", "ask_2"] {
            let push = format!("push of {id}");
            let mut given = Given::recalled(
                id.into(),
                "p-a".into(),
                "a".into(),
                State::Queued,
                push,
                wire::Path::Channel,
            );
            (given.parcel.text, given.parcel.receipt) = ("?".to_owned(), true);
            assert_eq!(memory.take(&given.parcel), Take::Push);
            memory.done(&given.parcel, true);
        }
        memory
    }

    fn reply(memory: &mut Memory, text: &str, answer: Result<State, Code>) {
        let request = ToHub::Reply { id: 1, ask_id: "ask_1".to_owned(), text: text.to_owned() };
        memory.requested(&request);
        let (ask_id, to, message) = ("ask_1".to_owned(), "a".to_owned(), String::new());
        let answer =
            answer.map(|state| Answer::Replied { ask_id, to, state }).map_err(|code| Fault { code, message });
        memory.answered(&request, &answer);
    }

    fn replied(memory: &mut Memory) -> Vec<String> {
        let text = |held| if let Held::Replied { text, .. } = held { Some(text) } else { None };
        memory.held().into_iter().filter_map(text).collect()
    }

    fn given(memory: &mut Memory, id: &str) -> Option<(String, State)> {
        let of = |held| match held {
            Held::Given { parcel, state, .. } if parcel.ask_id == id => Some((parcel.text, state)),
            _ => None,
        };
        memory.held().into_iter().find_map(of)
    }

    #[test]
    fn an_answer_that_found_nobody_is_kept_for_the_next_hub() {
        let mut memory = asked();
        reply(&mut memory, "first", Ok(State::Queued));
        memory.told(Kind::Reply, "ask_1", State::Ended, Some(Code::PeerGone));
        memory.told(Kind::Ask, "ask_1", State::Ended, Some(Code::PeerGone));
        assert_eq!((replied(&mut memory), given(&mut memory, "ask_1")), (vec!["first".to_owned()], None));
        reply(&mut memory, "second", Err(Code::UnknownAsk));
        assert_eq!(replied(&mut memory), ["first"]);
        memory.told(Kind::Reply, "ask_1", State::Pushed, None);
        assert!(replied(&mut memory).is_empty());
    }

    #[test]
    fn what_found_nobody_does_not_pile_up() {
        let mut memory = asked();
        for n in 0..UNWANTED + 9 {
            let (peer, to, text) = ("p-a".to_owned(), "a".to_owned(), "!".to_owned());
            memory.replied.insert(format!("ask-{n}"), Answered { peer, to, text, unwanted: None });
            memory.told(Kind::Reply, &format!("ask-{n}"), State::Ended, Some(Code::PeerGone));
        }
        assert_eq!(replied(&mut memory).len(), UNWANTED);
    }

    #[test]
    fn of_a_question_that_is_over_the_id_stays_without_the_text() {
        for code in [Code::Timeout, Code::PeerGone] {
            let mut memory = asked();
            memory.told(Kind::Ask, "ask_1", State::Ended, Some(code));
            assert_eq!(given(&mut memory, "ask_1"), Some((String::new(), State::Pushed)));
            assert_eq!(given(&mut memory, "ask_2"), Some(("?".to_owned(), State::Pushed)));
            memory.told(Kind::Ask, "ask_2", State::Seen, None);
            assert_eq!(given(&mut memory, "ask_2"), Some((String::new(), State::Seen)));
        }
    }
}
