//! Asks, and the one end of each.

use serde::{Deserialize, Serialize};

use super::delivery::Delivery;
use super::ended::Record;
use super::limits::overloaded;
use super::peer::{MAX_LOST, Peer};
use super::{ConnId, DeliveryNo, Id, Ms, PeerNo, Reply, Router, Starter, Timer};
use crate::fence::label;
use crate::wire::{
    Answer, AskRequest, Code, Fault, Kind, MAX_TEXT, MAX_THREAD, MAX_TIMEOUT_MS, Note, Parcel, Path,
    PeerKind, State, ToClient, What, Who, place, refused,
};

/// How much of a question its answer quotes, in characters.
const MAX_ABOUT: usize = 100;

/// A question that has not ended.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Ask {
    pub asker: PeerNo,
    pub target: PeerNo,
    pub record: Record,
    /// The beginning of the question, in one line.
    pub about: String,
    pub asked_at: Ms,
    pub deadline: Ms,
    pub state: State,
    /// The path of its last push.
    pub path: Option<Path>,
    /// When it reached its state.
    pub since: Ms,
    /// The delivery of the question, which exists until it is confirmed.
    pub delivery: DeliveryNo,
    /// Why it will probably not be answered.
    pub note: Option<Note>,
    /// Why the answer was declined or the turn failed.
    pub reason: Option<String>,
    /// Whether the model was reminded, at the end of a turn or by a push: once is enough.
    pub reminded: bool,
    /// The form for the consent that it waits for.
    pub consent: Option<DeliveryNo>,
}

impl Router {
    pub(super) fn ask(&mut self, conn: ConnId, question: AskRequest) -> Reply {
        let me = self.me(conn)?;
        check_question(&question.ask_id, &question.text, question.timeout_ms)?;
        // A message would show such a thread in another form, which would name another conversation when it is passed back.
        if question.thread.as_ref().is_some_and(|t| t.is_empty() || t.len() > MAX_THREAD || label(t) != *t) {
            let why = format!(
                "`thread_id` has 1 to {MAX_THREAD} bytes on one line, without quotes and brackets; pass that of a message"
            );
            return refused(Code::BadArgs, why);
        }
        if let Some(known) = self.asked_before(me, &question.ask_id)? {
            self.fail_lost_ask(me, &question.ask_id); // it may have ended without a notice to the asker
            return Ok(Some(known));
        }
        let target = self.find(me, &question.to)?;
        if target == me {
            return refused(Code::BadArgs, "`to` is this session itself; ask another peer");
        }
        self.room_for_ask(me)?;
        self.room_for_text(target)?;
        self.within_rate(me, target)?;
        let by_form = question.person && self.check_person(me, target, &question.text)?;
        let thread = question.thread.unwrap_or_else(|| self.draw().replacen("push_", "thr_", 1));
        let mut ask = self.new_ask(me, target, thread, question.timeout_ms);
        ask.record.by_form = by_form;
        self.open_ask(&Id::from(question.ask_id), ask, question.text, Some((conn, question.id)));
        Ok(None)
    }

    /// The answer to a repeated `ask` or `broadcast` request: requests are idempotent.
    pub(super) fn asked_before(&self, me: PeerNo, id: &str) -> Result<Option<Answer>, Fault> {
        let open = self.asks.get(id).map(|ask| (ask.state, &ask.record));
        let open = open.or_else(|| self.broadcasts.get(id).map(|all| (State::Queued, &all.record)));
        let ended = || self.ended.by_id.get(id).map(|record| (record.state(), record));
        let Some((state, record)) = open.or_else(ended) else { return Ok(None) };
        if record.asker != self.peer(me).who.peer {
            return refused(Code::BadMsg, TAKEN);
        }
        let (id, to, thread) = (id.to_owned(), record.to.clone(), record.thread.clone());
        Ok(Some(match record.members.as_slice() {
            [] => Answer::Asked { ask_id: id, to, state, thread },
            members => Answer::Broadcast { broadcast_id: id, asks: members.to_vec() },
        }))
    }

    /// Whether `me` may open another ask: it must not have too many open asks or undelivered texts.
    pub(super) fn room_for_ask(&self, me: PeerNo) -> Result<(), Fault> {
        self.room_for_text(me)?;
        let most = self.limits.open_asks;
        if self.peer(me).asked.len() < most {
            return Ok(());
        }
        overloaded(format!("this session has {most} open asks"), "when one has ended")
    }

    /// Whether another text to `target` is within the limits.
    pub(super) fn room_for_text(&self, target: PeerNo) -> Result<(), Fault> {
        let (most, peer) = (self.limits.undelivered, self.peer(target));
        let what = if self.text >= self.limits.text {
            format!("{} MiB of text for all peers is undelivered", self.limits.text >> 20)
        } else if peer.inbox.len() >= most {
            format!("{most} messages to \"{}\" are undelivered", peer.who.name)
        } else {
            return Ok(());
        };
        overloaded(what, "when some were delivered")
    }

    /// An ask that is not open yet.
    pub(super) fn new_ask(&self, asker: PeerNo, target: PeerNo, thread: String, timeout: Ms) -> Ask {
        let Who { peer, name, .. } = &self.peer(target).who;
        let asked = Record::of(&self.peer(asker).who);
        let record = Record { target: peer.clone(), to: name.clone(), thread, ..asked };
        Ask { asker, target, record, deadline: self.now + timeout, ..Ask::default() }
    }

    /// Opens an ask and starts the delivery of its question. `starter` is the request to answer.
    pub(super) fn open_ask(&mut self, id: &Id, ask: Ask, text: String, starter: Option<Starter>) {
        let (asker, target) = (ask.asker, ask.target);
        let parcel = self.parcel(Kind::Ask, id, asker, text, &ask.record);
        self.report(self.event_of(What::Ask, &parcel, target));
        if ask.record.broadcast.is_none() {
            self.peer_mut(asker).asked.insert(id.clone());
        }
        self.peer_mut(target).owes.insert(id.clone());
        self.arm(ask.deadline, Timer::Timeout(id.clone()));
        let about = about(&parcel.text);
        let delivery = self.deliver(target, parcel, starter);
        self.asks.insert(id.clone(), Ask { asked_at: self.now, since: self.now, delivery, about, ..ask });
        self.seek_consent(id);
        self.dispatch(delivery);
    }

    /// A parcel about the ask or broadcast of `record`, with the text of `from`; the delivery fills in its push.
    pub(super) fn parcel(&self, kind: Kind, id: &str, from: PeerNo, text: String, record: &Record) -> Parcel {
        let (who, is_reply) = (&self.peer(from).who, kind == Kind::Reply);
        let is_theirs = is_reply || matches!(kind, Kind::Ask | Kind::Consent);
        let is_person = record.by_form || who.kind == PeerKind::Person;
        let is_form = kind == Kind::Consent || kind == Kind::Ask && record.by_form;
        Parcel {
            path: if is_form { Path::Form } else { Path::default() },
            kind,
            ask_id: id.to_owned(),
            from: who.name.clone(),
            from_kind: Some(who.kind).filter(|_| is_theirs),
            by: Some(PeerKind::Person).filter(|_| is_reply && is_person),
            cwd: Some(place(who.host.as_deref(), &who.cwd)).filter(|_| is_theirs),
            text,
            broadcast: record.broadcast.as_ref().map(|all| all.to_string()),
            thread: Some(record.thread.clone()).filter(|thread| !thread.is_empty()),
            late: is_reply && record.code.is_some(),
            ..Parcel::default()
        }
    }

    /// Handles an answer: by the model of the session, or by its person if `by_form`.
    pub(super) fn reply(&mut self, starter: Starter, ask_id: &str, text: String, by_form: bool) -> Reply {
        let me = self.me(starter.0)?;
        check_text("answer", &text)?;
        if self.asks.get(ask_id).is_some_and(|ask| ask.target == me && ask.record.by_form == by_form) {
            self.replied(&Id::from(ask_id), text, starter);
            return Ok(None);
        }
        let identity = &self.peer(me).who.peer;
        // For other peers the ask does not exist.
        let is_mine = |t: &&Record| t.target == *identity && t.by_form == by_form;
        let Some(ended) = self.ended.by_id.get(ask_id).filter(is_mine) else {
            return unknown("this session was not asked anything with that ask_id");
        };
        let asker = self.by_identity.get(&ended.asker).copied();
        match (ended.code, ended.answer, asker) {
            (_, Some(before), _) if before != digest(&text) => {
                unknown("that ask has been answered already; an ask takes one answer")
            }
            (_, Some(_), asker) => {
                // The same answer again: the confirmation of the first one got lost.
                let (ask_id, to) = (ask_id.to_owned(), ended.from.clone());
                let is_it = |d: &&Delivery| d.parcel.kind == Kind::Reply && d.parcel.ask_id == ask_id;
                let delivery = asker.and_then(|asker| self.deliveries_to(asker).find(is_it));
                let state = delivery.map_or(State::Pushed, |d| d.state);
                Ok(Some(Answer::Replied { ask_id, to, state }))
            }
            (Some(Code::Timeout), None, Some(asker)) => {
                self.room_for_text(asker)?;
                let answer = Some(digest(&text));
                let parcel = self.parcel(Kind::Reply, ask_id, me, text, ended);
                self.ended.by_id.get_mut(ask_id).into_iter().for_each(|ended| ended.answer = answer);
                self.report(self.event_of(What::Reply, &parcel, asker));
                self.post(asker, parcel, Some(starter));
                Ok(None)
            }
            _ => refused(Code::PeerGone, "the asker has left or withdrew the ask; the answer is not needed"),
        }
    }

    /// Ends an ask with an answer.
    fn replied(&mut self, id: &Id, text: String, starter: Starter) {
        self.confirm_question(id); // the answer proves that the model has seen it
        let Some(ask) = self.end(id, None, Some(digest(&text))) else { return };
        if ask.record.broadcast.as_ref().is_some_and(|all| self.collect(all, ask.target, &text)) {
            let (ask_id, to) = (id.to_string(), self.name(ask.asker));
            self.answer(starter.0, starter.1, Ok(Answer::Replied { ask_id, to, state: State::Queued }));
        } else {
            let mut parcel = self.parcel(Kind::Reply, id, ask.target, text, &ask.record);
            parcel.about = Some(ask.about.clone());
            self.report(self.event_of(What::Reply, &parcel, ask.asker));
            self.post(ask.asker, parcel, Some(starter));
        }
        self.count_outcome(&ask, None);
    }

    /// Ends an ask with an error, and notifies the asker, by a push or with the summary of the broadcast.
    pub(super) fn fail(&mut self, id: &Id, code: Code) {
        let Some(ask) = self.asks.get(id) else { return };
        let message = self.failure(ask, code);
        let Some(ask) = self.end(id, Some(code), None) else { return };
        let mut parcel = self.parcel(Kind::Failed, id, ask.target, message, &ask.record);
        parcel.code = Some(code);
        self.report(self.event_of(What::Failed, &parcel, ask.asker));
        if ask.record.broadcast.is_none() {
            self.post(ask.asker, parcel, None);
        }
    }

    pub(super) fn withdraw(&mut self, conn: ConnId, id: &str) -> Reply {
        let me = self.me(conn)?;
        if self.peer(me).asked.contains(id) {
            self.drop_asked(&Id::from(id));
        }
        Ok(Some(Answer::Done))
    }

    /// Ends an ask or a broadcast without notifying its asker, which has left or has withdrawn it.
    pub(super) fn drop_asked(&mut self, id: &Id) {
        self.end(id, None, None);
        for member in self.end_broadcast(id).into_iter().flat_map(|all| all.record.members) {
            self.end(&Id::from(member.ask_id), None, None);
        }
    }

    /// Ends an ask or a broadcast that this peer takes to be open, if the hub lost it with an earlier epoch, or dropped it or
    /// its end while the peer was gone.
    pub(super) fn fail_lost_ask(&mut self, me: PeerNo, id: &str) {
        let Peer { who, inbox, .. } = self.peer(me);
        let (new, code) = (Record::of(who), Some(Code::HubUnreachable));
        // A client has far fewer open asks; one that invents them on every registration must not fill the memory.
        let has_room = inbox.len() < MAX_LOST && check_id(id).is_ok();
        let is_new = has_room && matches!(self.asked_before(me, id), Ok(None));
        let from = match self.ended.by_id.get_mut(id) {
            Some(ended) if ended.untold && ended.asker == new.asker => {
                (ended.code, ended.untold) = (code, false);
                ended.to.clone()
            }
            None if is_new => {
                self.ended.insert(self.now, Id::from(id), Record { code, ..new });
                String::new()
            }
            _ => return,
        };
        // The client may have received another end before: see `again`.
        let parcel = self.parcel(Kind::Failed, id, me, LOST.to_owned(), &Record::default());
        self.post(me, Parcel { from, code, again: true, ..parcel }, None);
    }

    /// Removes an ask from all tables, stops the delivery of its question, and leaves a tombstone.
    fn end(&mut self, id: &Id, code: Option<Code>, answer: Option<u64>) -> Option<Ask> {
        let ask = self.asks.remove(id)?;
        self.disarm(ask.deadline, Timer::Timeout(id.clone()));
        self.peer_mut(ask.asker).asked.remove(id);
        self.peer_mut(ask.target).owes.remove(id);
        self.ended.insert(self.now, id.clone(), Record { code, answer, ..ask.record.clone() });
        ask.consent.into_iter().chain([ask.delivery]).for_each(|no| self.remove_delivery(no));
        let over = code.or(answer.is_none().then_some(Code::PeerGone));
        self.notify_end(ask.asker, id, None, over);
        if let Some(code) = over {
            self.send_to(ask.target, ToClient::Over { ask_id: id.to_string(), code });
            self.count_outcome(&ask, Some(code));
        }
        Some(ask)
    }

    /// Sends the state of an open ask to its asker, also in words.
    pub(super) fn notify(&mut self, id: &str) {
        let Some(ask) = self.asks.get(id) else { return };
        let &Ask { asker, state, path, note, .. } = ask;
        let (ask_id, detail) = (id.to_owned(), Some(self.state_words(ask, "")));
        self.send_to(asker, ToClient::State { ask_id, state, path, code: None, note, detail });
    }

    /// Tells the asker that an ask or a broadcast has ended, with the error if it failed, or, with a path, that its end was
    /// handed over.
    pub(super) fn notify_end(&mut self, asker: PeerNo, id: &str, path: Option<Path>, code: Option<Code>) {
        let state = if code.is_some() { State::Ended } else { State::Replied };
        let (ask_id, note, detail) = (id.to_owned(), None, None);
        self.send_to(asker, ToClient::State { ask_id, state, path, code, note, detail });
    }
}

pub(super) const TAKEN: &str = "the id is taken; every ask and broadcast needs a new one";
const LOST: &str = "hub_unreachable: the relay or this session was away for too long, and this question or its answer was lost; \
                    ask again if it still matters";

/// The beginning of a question, in one line.
pub(super) fn about(text: &str) -> String {
    let first = label(text.trim().lines().next().unwrap_or_default());
    let about: String = first.chars().take(MAX_ABOUT).collect();
    // What is not shown must not be overlooked.
    if about == text.trim() { about } else { about + "…" }
}

fn unknown(why: &str) -> Reply {
    refused(Code::UnknownAsk, format!("{why}; relay_peers lists the asks that this session owes"))
}

/// A digest by which a text is recognised, also by hubs of later versions: FNV-1a with 64 bits.
pub fn digest(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

fn check_id(id: &str) -> Result<(), Fault> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if (8..=48).contains(&id.len()) && id.bytes().all(plain) {
        return Ok(());
    }
    refused(Code::BadMsg, "invalid id; an id has 8 to 48 letters, digits, `_` and `-`")
}

fn check_text(what: &str, text: &str) -> Result<(), Fault> {
    if !text.trim().is_empty() && text.len() <= MAX_TEXT {
        return Ok(());
    }
    let why =
        format!("`{what}` has to have 1 to {MAX_TEXT} bytes (512 KiB); shorten it or name a file to read");
    refused(Code::BadArgs, why)
}

pub(super) fn check_question(id: &str, text: &str, timeout: Ms) -> Result<(), Fault> {
    check_id(id)?;
    check_text("question", text)?;
    if (1..=MAX_TIMEOUT_MS).contains(&timeout) {
        return Ok(());
    }
    refused(Code::BadArgs, "the timeout is out of range; give 1s to 24h")
}
