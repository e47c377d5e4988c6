//! Asks, and the one end of each.

use serde::{Deserialize, Serialize};

use super::delivery::Delivery;
use super::ended::Tombstone;
use super::limits::overloaded;
use super::peer::MAX_LOST;
use super::{ConnId, DeliveryNo, Id, Ms, PeerNo, Reply, Router, Starter, Timer};
use crate::fence::label;
use crate::wire::{
    Answer, AskRequest, Code, Fault, Kind, MAX_TEXT, MAX_THREAD, MAX_TIMEOUT_MS, Note, Parcel, Path,
    PeerKind, State, ToClient, What, place, refused,
};

/// How much of a question its answer quotes, in characters.
const MAX_ABOUT: usize = 100;

/// A question that has not ended.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Ask {
    pub asker: PeerNo,
    pub target: PeerNo,
    /// The target's name when it was asked.
    pub to: String,
    pub thread: String,
    /// The beginning of the question, in one line.
    pub about: String,
    pub broadcast: Option<Id>,
    pub asked_at: Ms,
    pub deadline: Ms,
    pub state: State,
    /// The path of its last push.
    pub path: Option<Path>,
    /// When it reached its state.
    pub since: Ms,
    /// The delivery of the question; `None` once it is confirmed.
    pub delivery: Option<DeliveryNo>,
    /// Why it will probably not be answered, and why the answer was declined or the turn failed.
    pub note: Option<Note>,
    pub reason: Option<String>,
    /// Whether the model was reminded, at the end of a turn or by a push: once is enough.
    pub reminded: bool,
    /// Whether it is for a person.
    #[serde(default)]
    pub person: bool,
    /// The form for the consent that it waits for.
    #[serde(default)]
    pub consent: Option<DeliveryNo>,
}

impl Router {
    pub(super) fn ask(&mut self, conn: ConnId, question: AskRequest) -> Reply {
        let me = self.me(conn)?;
        check_id(&question.ask_id)?;
        check_text("question", &question.text)?;
        check_timeout(question.timeout_ms)?;
        // What a message cannot show as it is would begin another conversation when it is passed back.
        if question.thread.as_ref().is_some_and(|t| t.is_empty() || t.len() > MAX_THREAD || label(t) != *t) {
            let why = format!(
                "`thread_id` has to have 1 to {MAX_THREAD} bytes on one line, without quotes and brackets; pass the one of an \
                 earlier message"
            );
            return refused(Code::BadArgs, why);
        }
        if let Some(known) = self.asked_before(me, &question.ask_id)? {
            self.fail_lost_ask(me, &question.ask_id); // it may have ended while nobody was told
            return Ok(Some(known));
        }
        let target = self.find(me, &question.to)?;
        if target == me {
            return refused(Code::BadArgs, "`to` is this session itself; ask another peer");
        }
        if question.person {
            self.check_person(target, &question.text)?;
        }
        self.room_for_ask(me)?;
        self.room_for_text(target)?;
        self.within_rate(me, target)?;
        if self.is_by_form(question.person, target) {
            self.within_form_rate(me, target)?;
        }
        let thread = question.thread.unwrap_or_else(|| self.ids.draw().replacen("push_", "thr_", 1));
        let (to, person, deadline) = (self.name(target), question.person, self.now + question.timeout_ms);
        let ask = Ask { asker: me, target, to, thread, person, deadline, ..Ask::default() };
        self.open_ask(&Id::from(question.ask_id), ask, question.text, Some((conn, question.id)));
        Ok(None)
    }

    /// The answer to a repeated `ask` request: requests are idempotent.
    fn asked_before(&self, me: PeerNo, ask_id: &str) -> Result<Option<Answer>, Fault> {
        let (asker, to, state, thread) = match (self.asks.get(ask_id), self.ended.get(ask_id)) {
            (Some(ask), _) => (&self.peer(ask.asker).who.peer, &ask.to, ask.state, &ask.thread),
            (None, Some(t)) => {
                let is_answered = t.code.is_none() && t.answer.is_some();
                let state = if is_answered { State::Replied } else { State::Ended };
                (&t.asker, &t.to, state, &t.thread)
            }
            (None, None) => return Ok(None),
        };
        if *asker != self.peer(me).who.peer {
            return refused(Code::BadMsg, "`ask_id` is taken; every ask needs a new one");
        }
        let (ask_id, to, thread) = (ask_id.to_owned(), to.clone(), thread.clone());
        Ok(Some(Answer::Asked { ask_id, to, state, thread }))
    }

    /// Whether `me` may open another ask: it must not have too many open asks or undelivered texts.
    pub(super) fn room_for_ask(&self, me: PeerNo) -> Result<(), Fault> {
        self.room_in_inbox(me)?;
        let (most, peer) = (self.limits.open_asks, self.peer(me));
        let single = |id: &&Id| self.asks.get(*id).is_some_and(|a| a.broadcast.is_none());
        if peer.broadcasts.len() + peer.asked.iter().filter(single).take(most).count() < most {
            return Ok(());
        }
        overloaded(format!("this session has {most} open asks"), "when one has ended")
    }

    /// Whether another text to `target` is within the limits.
    pub(super) fn room_for_text(&self, target: PeerNo) -> Result<(), Fault> {
        if self.text >= self.limits.text {
            let what = format!("{} MiB of text for all peers is undelivered", self.limits.text >> 20);
            return overloaded(what, "when some was delivered");
        }
        self.room_in_inbox(target)
    }

    fn room_in_inbox(&self, no: PeerNo) -> Result<(), Fault> {
        let (most, peer) = (self.limits.undelivered, self.peer(no));
        if peer.inbox.len() < most {
            return Ok(());
        }
        let what = format!("{most} messages to \"{}\" are undelivered", peer.who.name);
        overloaded(what, "when some were delivered")
    }

    /// Opens an ask and starts the delivery of its question. `starter` is the request to answer.
    pub(super) fn open_ask(&mut self, id: &Id, ask: Ask, text: String, starter: Option<Starter>) {
        let (asker, target) = (ask.asker, ask.target);
        let mut parcel = self.parcel(Kind::Ask, id, asker, text, &ask.thread);
        self.report(self.event_of(What::Ask, &parcel, target));
        parcel.broadcast = ask.broadcast.as_ref().map(|b| b.to_string());
        if self.is_by_form(ask.person, target) {
            parcel.path = Path::Form;
        }
        self.peer_mut(asker).asked.insert(id.clone());
        self.peer_mut(target).owes.insert(id.clone());
        self.arm(ask.deadline, Timer::Timeout(id.clone()));
        let about = label(parcel.text.trim().lines().next().unwrap_or_default());
        let about = about.chars().take(MAX_ABOUT).collect();
        let no = self.deliver(target, parcel, starter);
        let (asked_at, since, delivery) = (self.now, self.now, Some(no));
        self.asks.insert(id.clone(), Ask { asked_at, since, delivery, about, ..ask });
        self.seek_consent(id, no);
        self.dispatch(no);
    }

    /// A parcel with the text of `from`; the delivery fills in its push.
    pub(super) fn parcel(&self, kind: Kind, ask_id: &Id, from: PeerNo, text: String, thread: &str) -> Parcel {
        let who = &self.peer(from).who;
        let is_theirs = matches!(kind, Kind::Ask | Kind::Reply | Kind::Consent);
        Parcel {
            kind,
            ask_id: ask_id.to_string(),
            from: who.name.clone(),
            from_kind: Some(who.kind).filter(|_| is_theirs),
            by: Some(who.kind).filter(|by| kind == Kind::Reply && *by == PeerKind::Person),
            cwd: Some(place(who.host.as_deref(), &who.cwd)).filter(|_| is_theirs),
            text,
            thread: Some(thread.to_owned()).filter(|t| !t.is_empty()),
            ..Parcel::default()
        }
    }

    pub(super) fn reply(&mut self, conn: ConnId, id: u64, ask_id: &str, text: String) -> Reply {
        let me = self.me(conn)?;
        check_text("answer", &text)?;
        // A question to the person is not the model's.
        if self.asks.get(ask_id).is_some_and(|ask| ask.target == me && !self.is_by_form(ask.person, me)) {
            self.replied(&Id::from(ask_id), text, Some((conn, id)));
            return Ok(None);
        }
        self.reply_late(me, (conn, id), ask_id, text, false)
    }

    /// Handles an answer to an ask that has ended: by the model, or by the person if it was asked by a form.
    pub(super) fn reply_late(
        &mut self,
        me: PeerNo,
        starter: Starter,
        ask_id: &str,
        text: String,
        by_form: bool,
    ) -> Reply {
        let identity = &self.peer(me).who.peer;
        // For other peers the ask does not exist.
        let is_mine = |t: &&Tombstone| t.target == *identity && !identity.is_empty() && t.by_form == by_form;
        let Some(ended) = self.ended.get(ask_id).filter(is_mine) else {
            return unknown("this session was not asked anything with that ask_id");
        };
        let asker = self.by_identity.get(&ended.asker).copied();
        match (ended.code, ended.answer, asker) {
            (_, Some(before), _) if before != digest(&text) => {
                unknown("that ask has been answered already; an ask takes one answer")
            }
            (_, Some(_), _) if ended.lost => refused(Code::PeerGone, ANSWER_NOT_NEEDED),
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
                let (thread, broadcast) = (ended.thread.clone(), ended.broadcast.clone());
                self.ended.get_mut(ask_id).into_iter().for_each(|ended| ended.answer = Some(digest(&text)));
                let mut parcel = self.parcel(Kind::Reply, &Id::from(ask_id), me, text, &thread);
                (parcel.late, parcel.broadcast) = (true, broadcast.map(|b| b.to_string()));
                parcel.by = parcel.by.or(by_form.then_some(PeerKind::Person));
                self.report(self.event_of(What::Reply, &parcel, asker));
                self.post(asker, parcel, Some(starter));
                Ok(None)
            }
            _ => refused(Code::PeerGone, ANSWER_NOT_NEEDED),
        }
    }

    /// Ends an ask with an answer.
    pub(super) fn replied(&mut self, id: &Id, text: String, starter: Option<Starter>) {
        self.confirm_question(id); // the answer proves that the model has seen it
        let Some(ask) = self.end(id, None, Some(digest(&text))) else { return };
        if ask.broadcast.as_ref().is_some_and(|all| self.collect(all, ask.target, &text)) {
            if let Some((conn, request)) = starter {
                let (ask_id, to) = (id.to_string(), self.name(ask.asker));
                self.answer(conn, request, Ok(Answer::Replied { ask_id, to, state: State::Queued }));
            }
            return self.count_outcome(&ask, None);
        }
        let mut parcel = self.parcel(Kind::Reply, id, ask.target, text, &ask.thread);
        parcel.broadcast = ask.broadcast.as_ref().map(|b| b.to_string());
        parcel.about = Some(ask.about.clone());
        parcel.by = parcel.by.or(ask.person.then_some(PeerKind::Person));
        self.report(self.event_of(What::Reply, &parcel, ask.asker));
        self.post(ask.asker, parcel, starter);
        self.count_outcome(&ask, None);
    }

    /// Ends an ask with an error, and notifies the asker, by a push or with the summary of the broadcast.
    pub(super) fn fail(&mut self, id: &Id, code: Code) {
        let Some(ask) = self.asks.get(id) else { return };
        let message = self.failure(ask, code);
        let Some(ask) = self.end(id, Some(code), None) else { return };
        self.send_to(ask.target, ToClient::Over { ask_id: id.to_string(), code });
        let mut parcel = self.parcel(Kind::Failed, id, ask.target, message, &ask.thread);
        parcel.code = Some(code);
        self.report(self.event_of(What::Failed, &parcel, ask.asker));
        if ask.broadcast.is_some() {
            return self.count_outcome(&ask, Some(code));
        }
        self.post(ask.asker, parcel, None);
    }

    /// Withdraws an ask or a broadcast by its id.
    pub(super) fn withdraw(&mut self, conn: ConnId, id: &str) -> Reply {
        let me = self.me(conn)?;
        if self.asks.get(id).is_some_and(|ask| ask.asker == me) {
            self.drop_ask(&Id::from(id));
        } else if self.broadcasts.get(id).is_some_and(|b| b.asker == me) {
            self.drop_broadcast(&Id::from(id));
        }
        Ok(Some(Answer::Done))
    }

    /// Ends an ask without notifying its asker, which has left or has withdrawn it.
    pub(super) fn drop_ask(&mut self, id: &Id) {
        let Some(ask) = self.end(id, None, None) else { return };
        self.send_to(ask.target, ToClient::Over { ask_id: id.to_string(), code: Code::PeerGone });
        self.count_outcome(&ask, Some(Code::HubUnreachable));
    }

    /// Ends an ask or a broadcast that this peer takes to be open, if the hub lost it with an earlier epoch, or dropped it or
    /// its end while the peer was gone.
    pub(super) fn fail_lost_ask(&mut self, me: PeerNo, id: &str) {
        let id = Id::from(id);
        let who = &self.peer(me).who;
        let is_over = match self.ended.get(&id) {
            Some(t) => !t.untold || t.asker != who.peer,
            None => check_id(&id).is_err(),
        };
        // A client has far fewer open asks; one that invents them on every registration must not fill the memory.
        let is_full = self.peer(me).inbox.len() >= MAX_LOST;
        if is_over || is_full || self.asks.contains_key(&id) || self.broadcasts.contains_key(&id) {
            return;
        }
        let (asker, from) = (who.peer.clone(), who.name.clone());
        let new = || Tombstone { asker, from, ..Tombstone::default() };
        let mut tombstone = self.ended.get(&id).cloned().unwrap_or_else(new);
        (tombstone.code, tombstone.untold) = (Some(Code::HubUnreachable), false);
        let mut parcel = self.parcel(Kind::Failed, &id, me, LOST.to_owned(), "");
        // Another end may have come.
        (parcel.from, parcel.code, parcel.again) = (tombstone.to.clone(), tombstone.code, true);
        self.ended.insert(self.now, id, tombstone);
        self.post(me, parcel, None);
    }

    /// Removes an ask from all tables, stops the delivery of its question, and leaves a tombstone.
    fn end(&mut self, id: &Id, code: Option<Code>, answer: Option<u64>) -> Option<Ask> {
        let ask = self.asks.remove(id)?;
        self.disarm(ask.deadline, Timer::Timeout(id.clone()));
        self.peer_mut(ask.asker).asked.remove(id);
        self.peer_mut(ask.target).owes.remove(id);
        let (asker, target) = (&self.peer(ask.asker).who, &self.peer(ask.target).who);
        let tombstone = Tombstone {
            asker: asker.peer.clone(),
            target: target.peer.clone(),
            from: asker.name.clone(),
            to: ask.to.clone(),
            thread: ask.thread.clone(),
            broadcast: ask.broadcast.clone(),
            by_form: self.is_by_form(ask.person, ask.target),
            code,
            answer,
            ..Tombstone::default()
        };
        self.ended.insert(self.now, id.clone(), tombstone);
        for no in [ask.delivery, ask.consent].into_iter().flatten() {
            self.remove_delivery(no);
        }
        let state = if answer.is_some() { State::Replied } else { State::Ended };
        self.notify_asker(ask.asker, id, state, None, code);
        Some(ask)
    }

    /// Sends the state of an ask to its asker, if that is connected; while the ask is open, also in words.
    pub(super) fn notify_asker(
        &mut self,
        asker: PeerNo,
        id: &str,
        state: State,
        path: Option<Path>,
        code: Option<Code>,
    ) {
        let (ask_id, ask) = (id.to_owned(), self.asks.get(id));
        let (note, detail) = (ask.and_then(|a| a.note), ask.map(|a| self.state_words(a, "")));
        self.send_to(asker, ToClient::State { ask_id, state, path, code, note, detail });
    }
}

const LOST: &str = "hub_unreachable: the relay or this session was away for too long, and this question or its answer was lost; \
                    ask again if it still matters";
const ANSWER_NOT_NEEDED: &str = "the asker has left or has withdrawn the ask; the answer is not needed";

fn unknown(why: &str) -> Reply {
    refused(Code::UnknownAsk, format!("{why}; relay_peers lists the asks that this session owes"))
}

/// A digest by which a text is recognised, also by hubs of later versions: FNV-1a with 64 bits.
pub fn digest(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

pub(super) fn check_id(id: &str) -> Result<(), Fault> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if (8..=48).contains(&id.len()) && id.bytes().all(plain) {
        return Ok(());
    }
    refused(Code::BadMsg, "invalid id; an id has 8 to 48 letters, digits, `_` and `-`")
}

pub(super) fn check_text(what: &str, text: &str) -> Result<(), Fault> {
    if text.trim().is_empty() {
        return refused(Code::BadArgs, format!("`{what}` is empty; give a text"));
    }
    if text.len() > MAX_TEXT {
        let why = format!(
            "`{what}` exceeds the limit of {MAX_TEXT} bytes (512 KiB); shorten it or name a file to read"
        );
        return refused(Code::BadArgs, why);
    }
    Ok(())
}

pub(super) fn check_timeout(timeout: Ms) -> Result<(), Fault> {
    if (1..=MAX_TIMEOUT_MS).contains(&timeout) {
        return Ok(());
    }
    refused(Code::BadArgs, "the timeout is out of range; give 1s to 24h")
}
