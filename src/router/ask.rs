//! What was asked, and the one end that each ask has.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::delivery::Progress;
use super::graveyard::Tombstone;
use super::{ConnId, DeliveryNo, Fault, Id, MAX_TIMEOUT, Ms, PeerNo, Reply, Router, Timer, fault};
use crate::wire::{Answer, Code, Kind, MAX_TEXT, Parcel, Path, State, What};

/// The most bytes of text on their way to all peers together.
const MAX_TEXT_BY_ALL: usize = 256 << 20;

/// A question that has not ended.
pub(super) struct Ask {
    pub asker: PeerNo,
    pub target: PeerNo,
    /// The target's name when it was asked.
    pub to: String,
    pub broadcast: Option<Id>,
    pub asked_at: Ms,
    pub deadline: Ms,
    pub progress: Progress,
    /// The question on its way; `None` when it needs no more care.
    pub delivery: Option<DeliveryNo>,
    /// Whether the asker is known to wait for it. `false` while only the target remembers the ask and the asker has not
    /// come back to this hub yet.
    pub claimed: bool,
    /// The answer that came before the asker claimed the ask.
    pub answer: Option<String>,
}

impl Router {
    pub(super) fn ask(
        &mut self,
        conn: ConnId,
        id: u64,
        ask_id: &str,
        to: &str,
        text: String,
        timeout_ms: u64,
    ) -> Reply {
        let me = self.me(conn)?;
        check_id(ask_id)?;
        check_text("question", &text)?;
        check_timeout(timeout_ms)?;
        if let Some(known) = self.asked_before(me, ask_id)? {
            self.answer(conn, id, Ok(known));
            self.claim_by_request(me, &Id::from(ask_id), timeout_ms, None);
            return Ok(None);
        }
        let target = self.find(me, to)?;
        if target == me {
            return Err(fault(Code::BadArgs, "`to` is this session itself; ask another peer"));
        }
        self.room_for_ask(me)?;
        self.room_for_text(target)?;
        self.within_rate(me, target)?;
        let ask_id = Id::from(ask_id);
        self.open_ask(me, target, &ask_id, text, timeout_ms, None, Some((conn, id)));
        Ok(None)
    }

    /// Idempotency: the answer for an ask that this peer has made already.
    fn asked_before(&mut self, me: PeerNo, ask_id: &str) -> Result<Option<Answer>, Fault> {
        let taken = || Err(fault(Code::BadMsg, "`ask_id` is taken; every ask needs a new one"));
        let answer = |to: &str, peer: &str, state| {
            let (ask_id, to, peer) = (ask_id.to_owned(), to.to_owned(), peer.to_owned());
            Ok(Some(Answer::Asked { ask_id, to, peer, state }))
        };
        if let Some(ask) = self.asks.get(ask_id) {
            if ask.asker != me {
                return taken();
            }
            return answer(&ask.to, &self.peer(ask.target).who.peer, ask.progress.state);
        }
        let own = self.peer(me).who.peer.clone();
        let Some(stone) = self.stone(ask_id) else { return Ok(None) };
        if stone.asker != own {
            return taken();
        }
        let (to, target, told) = (stone.to.clone(), stone.target.clone(), stone.told);
        let (state, news) = match stone.code {
            Some(_) => (State::Ended, Kind::Failed),
            None => (State::Replied, Kind::Reply),
        };
        // While the news is still to be handed over, the asker is not done with it.
        let waits = !told || self.waits_in_inbox(me, news, ask_id);
        answer(&to, &target, if waits { State::Queued } else { state })
    }

    /// What is kept of an ask that has ended.
    pub(super) fn stone(&mut self, id: &str) -> Option<&mut Tombstone> {
        match self.answered.get_mut(id) {
            Some(stone) => Some(stone),
            None => self.unanswered.get_mut(id),
        }
    }

    /// Whether `me` may ask once more: not while it has too many asks open, nor while it does not take what it is sent.
    pub(super) fn room_for_ask(&self, me: PeerNo) -> Result<(), Fault> {
        if self.peer(me).inbox.len() >= self.limits.undelivered {
            let held = self.limits.undelivered;
            return Err(fault(
                Code::Overloaded,
                format!(
                    "{held} messages to this session are undelivered, which is the limit; retry when it has taken some"
                ),
            ));
        }
        let most = self.limits.open_asks;
        let peer = self.peer(me);
        if peer.asked.len() + peer.broadcasts.len() < most {
            return Ok(());
        }
        let single = |id: &&Id| self.asks.get(*id).is_some_and(|a| a.broadcast.is_none());
        if peer.asked.iter().filter(single).count() + peer.broadcasts.len() < most {
            return Ok(());
        }
        Err(fault(
            Code::Overloaded,
            format!("this session has {most} open asks, which is the limit; retry when one has ended"),
        ))
    }

    /// Whether one more text may be on its way to `target`.
    pub(super) fn room_for_text(&self, target: PeerNo) -> Result<(), Fault> {
        if self.text >= MAX_TEXT_BY_ALL {
            return Err(fault(
                Code::Overloaded,
                "undelivered messages to all peers have 256 MiB of text, which is the limit; retry when some were taken",
            ));
        }
        let most = self.limits.undelivered;
        if self.peer(target).inbox.len() < most {
            return Ok(());
        }
        let name = &self.peer(target).who.name;
        Err(fault(
            Code::Overloaded,
            format!(
                "{most} messages to \"{name}\" are undelivered, which is the limit; retry when it has taken some"
            ),
        ))
    }

    #[allow(clippy::too_many_arguments, reason = "each is one property of the new ask")]
    pub(super) fn open_ask(
        &mut self,
        asker: PeerNo,
        target: PeerNo,
        ask_id: &Id,
        text: String,
        timeout: Ms,
        broadcast: Option<Id>,
        starter: Option<(ConnId, u64)>,
    ) {
        let to = self.peer(target).who.name.clone();
        let (from, name) = (self.peer(asker).who.name.clone(), to.clone());
        let (id, said) = (ask_id.clone(), text.clone());
        self.happened(What::Ask, |e| {
            e.from = from;
            e.to = Some(name);
            e.ask_id = Some(id.to_string());
            e.text = Some(said);
        });
        let parcel = self.parcel(Kind::Ask, ask_id, asker, text, broadcast.as_ref());
        let deadline = self.now + timeout;
        let ask = Ask {
            asker,
            target,
            to,
            broadcast,
            asked_at: self.now,
            deadline,
            progress: Progress::queued(self.now),
            delivery: None,
            claimed: true,
            answer: None,
        };
        self.insert_ask(ask_id.clone(), ask);
        let no = self.deliver(target, parcel, Some(asker), starter);
        if let Some(ask) = self.asks.get_mut(ask_id) {
            ask.delivery = Some(no);
        }
        self.dispatch(no);
    }

    pub(super) fn insert_ask(&mut self, id: Id, ask: Ask) {
        self.have_met(ask.asker, ask.target);
        self.peer_mut(ask.asker).asked.insert(id.clone());
        self.peer_mut(ask.target).owes.insert(id.clone());
        self.arm(ask.deadline, Timer::Timeout(id.clone()));
        self.asks.insert(id, ask);
    }

    /// A parcel with the text of `from`; its push is filled in by the delivery.
    pub(super) fn parcel(
        &self,
        kind: Kind,
        ask_id: &Id,
        from: PeerNo,
        text: String,
        broadcast: Option<&Id>,
    ) -> Parcel {
        let who = &self.peer(from).who;
        Parcel {
            push: String::new(),
            path: Path::Socket,
            kind,
            ask_id: ask_id.to_string(),
            from: who.name.clone(),
            peer: (kind == Kind::Ask).then(|| who.peer.clone()),
            cwd: Some(who.cwd.clone()).filter(|_| matches!(kind, Kind::Ask | Kind::Reply)),
            text,
            code: None,
            broadcast: broadcast.map(|b| b.to_string()),
            late: false,
            receipt: false,
        }
    }

    pub(super) fn reply(&mut self, conn: ConnId, id: u64, ask_id: &str, text: String) -> Reply {
        let me = self.me(conn)?;
        check_text("answer", &text)?;
        let unknown = |why: &str| {
            Err(fault(Code::UnknownAsk, format!("{why}; relay_peers lists the asks that this session owes")))
        };
        if let Some(ask) = self.asks.get_mut(ask_id) {
            if ask.target != me {
                let to = ask.asker;
                return match self.rival_answers(me, ask_id, &text) {
                    None => unknown("the hub knows no ask of this session by that id"), // not even that there is one
                    Some(false) => unknown(ONE_ANSWER),
                    Some(true) => {
                        let (ask_id, to) = (ask_id.to_owned(), self.peer(to).who.name.clone());
                        Ok(Some(Answer::Replied { ask_id, to, state: State::Queued }))
                    }
                };
            }
            if !ask.claimed {
                if ask.answer.as_ref().is_some_and(|before| *before != text) {
                    return unknown(ONE_ANSWER);
                }
                ask.answer = Some(text);
                let (ask_id, to) = (ask_id.to_owned(), self.peer(self.asks[ask_id].asker).who.name.clone());
                return Ok(Some(Answer::Replied { ask_id, to, state: State::Queued }));
            }
            let id_of_ask = Id::from(ask_id);
            self.replied(&id_of_ask, text, Some((conn, id)));
            return Ok(None);
        }
        let identity = self.peer(me).who.peer.clone();
        if let Some(stone) = self.answered.get(ask_id).filter(|s| s.target == identity) {
            if stone.answer != Some(digest(&text)) {
                return unknown(ONE_ANSWER);
            }
            // The same answer once more: it was sent again because the first confirmation got lost.
            let asker = self.by_identity.get(&stone.asker).copied();
            let to = asker.map(|no| self.peer(no).who.name.clone()).unwrap_or_default();
            let state = self.answer_under_way(me, asker, ask_id);
            if state == State::Ended {
                return Err(fault(Code::PeerGone, NOBODY_WAITS));
            }
            return Ok(Some(Answer::Replied { ask_id: ask_id.to_owned(), to, state }));
        }
        let Some(stone) = self.unanswered.get(ask_id).filter(|s| s.target == identity) else {
            return unknown("the hub knows no ask of this session by that id");
        };
        match self.by_identity.get(&stone.asker).copied() {
            Some(asker) if stone.code == Some(Code::Timeout) => {
                self.room_for_text(asker)?;
                self.late_reply(&Id::from(ask_id), me, asker, text, Some((conn, id)));
                Ok(None)
            }
            _ => Err(fault(Code::PeerGone, NOBODY_WAITS)),
        }
    }

    /// An answer to an ask that has timed out: no second end, but it still holds work.
    pub(super) fn late_reply(
        &mut self,
        id: &Id,
        from: PeerNo,
        to: PeerNo,
        text: String,
        starter: Option<(ConnId, u64)>,
    ) {
        let Some(stone) = self.unanswered.exhume(id) else { return };
        let broadcast = stone.broadcast.clone();
        let stone = Tombstone { answer: Some(digest(&text)), wasted: false, ..stone };
        self.answered.bury(self.now, id.clone(), stone);
        self.carry_reply(id, from, to, text, broadcast, true, starter);
    }

    /// The ask's one good end.
    pub(super) fn replied(&mut self, id: &Id, text: String, starter: Option<(ConnId, u64)>) {
        let Some(ask) = self.end(id) else { return };
        let stone = self.tombstone(&ask, None, Some(digest(&text)));
        self.answered.bury(self.now, id.clone(), stone);
        self.carry_reply(id, ask.target, ask.asker, text, ask.broadcast.clone(), false, starter);
        self.outcome(id, &ask, None);
    }

    #[allow(clippy::too_many_arguments, reason = "each is one property of the reply")]
    fn carry_reply(
        &mut self,
        id: &Id,
        from: PeerNo,
        to: PeerNo,
        text: String,
        broadcast: Option<Id>,
        late: bool,
        starter: Option<(ConnId, u64)>,
    ) {
        let (sender, receiver) = (self.peer(from).who.name.clone(), self.peer(to).who.name.clone());
        let said = text.clone();
        self.happened(What::Reply, |e| {
            e.from = sender;
            e.to = Some(receiver);
            e.ask_id = Some(id.to_string());
            e.text = Some(said);
        });
        let mut parcel = self.parcel(Kind::Reply, id, from, text, broadcast.as_ref());
        parcel.late = late;
        let no = self.deliver(to, parcel, Some(from), starter);
        self.dispatch(no);
    }

    pub(super) fn time_out(&mut self, id: &Id) {
        match self.asks.get(id) {
            Some(ask) if !ask.claimed => self.drop_ask(id), // its asker is back and has not asked for it
            _ => self.fail(id, Code::Timeout),
        }
    }

    /// The ask's one bad end: the asker is told, by itself or with the summary of its broadcast.
    pub(super) fn fail(&mut self, id: &Id, code: Code) {
        if self.next_rival(id) {
            return; // its target is somebody else, perhaps
        }
        let Some(ask) = self.asks.get(id) else { return };
        let message = self.failure(ask, code);
        let Some(ask) = self.end(id) else { return };
        self.tell(ask.target, Kind::Ask, id, State::Ended, None, Some(code));
        if !ask.claimed {
            // Its asker is not back yet, and will bring it if it still waits.
            let stone = Tombstone { told: false, ..self.tombstone(&ask, Some(code), None) };
            return self.unanswered.bury(self.now, id.clone(), stone);
        }
        let stone = self.tombstone(&ask, Some(code), None);
        self.unanswered.bury(self.now, id.clone(), stone);
        let (from, to) = (self.peer(ask.target).who.name.clone(), self.peer(ask.asker).who.name.clone());
        self.happened(What::Failed, |e| {
            e.from = from;
            e.to = Some(to);
            e.ask_id = Some(id.to_string());
            e.code = Some(code);
        });
        if ask.broadcast.is_some() {
            self.tell(ask.asker, Kind::Ask, id, State::Ended, None, Some(code));
            return self.outcome(id, &ask, Some(code));
        }
        let mut parcel = self.parcel(Kind::Failed, id, ask.target, message, None);
        parcel.code = Some(code);
        let no = self.deliver(ask.asker, parcel, None, None);
        self.dispatch(no);
    }

    /// Nobody waits for the ask any more: it goes without an answer to its asker.
    pub(super) fn drop_ask(&mut self, id: &Id) {
        let Some(ask) = self.end(id) else { return };
        let stone = Tombstone { told: false, ..self.tombstone(&ask, Some(Code::HubUnreachable), None) };
        self.unanswered.bury(self.now, id.clone(), stone);
        self.tell(ask.target, Kind::Ask, id, State::Ended, None, Some(Code::PeerGone));
        if ask.answer.is_some() {
            self.tell(ask.target, Kind::Reply, id, State::Ended, None, Some(Code::PeerGone));
        }
    }

    /// Tells the asker that an ask is over of which it had the news before, or has it otherwise.
    pub(super) fn tell_end(&mut self, asker: PeerNo, id: &str, code: Option<Code>) {
        let state = if code.is_some() { State::Ended } else { State::Replied };
        self.tell(asker, Kind::Ask, id, state, None, code);
    }

    /// Takes an ask out of every table; its question goes no further.
    pub(super) fn end(&mut self, id: &Id) -> Option<Ask> {
        self.dismiss_rivals(id);
        let ask = self.asks.remove(id)?;
        self.disarm(ask.deadline, Timer::Timeout(id.clone()));
        self.peer_mut(ask.asker).asked.remove(id);
        self.peer_mut(ask.target).owes.remove(id);
        if let Some(no) = ask.delivery {
            self.remove_delivery(no);
        }
        Some(ask)
    }

    fn tombstone(&self, ask: &Ask, code: Option<Code>, answer: Option<u64>) -> Tombstone {
        Tombstone {
            asker: self.peer(ask.asker).who.peer.clone(),
            target: self.peer(ask.target).who.peer.clone(),
            to: ask.to.clone(),
            broadcast: ask.broadcast.clone(),
            code,
            answer,
            told: true,
            wasted: false,
            printed: false,
        }
    }
}

const ONE_ANSWER: &str = "that ask has been answered already, and an ask has one answer";
const NOBODY_WAITS: &str = "the asker is gone or has withdrawn the ask; nobody waits for this answer";

fn digest(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

pub(super) fn check_id(id: &str) -> Result<(), Fault> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if (8..=48).contains(&id.len()) && id.bytes().all(plain) {
        return Ok(());
    }
    Err(fault(Code::BadMsg, "an id is 8 to 48 letters, digits, `_` and `-`"))
}

pub(super) fn check_text(what: &str, text: &str) -> Result<(), Fault> {
    if text.trim().is_empty() {
        return Err(fault(Code::BadArgs, format!("`{what}` is empty; say something")));
    }
    if text.len() > MAX_TEXT {
        let size = text.len();
        return Err(fault(
            Code::BadArgs,
            format!(
                "`{what}` has {size} bytes, and {MAX_TEXT} (512 KiB) is the limit; shorten it or name a file to read"
            ),
        ));
    }
    Ok(())
}

pub(super) fn check_timeout(timeout: Ms) -> Result<(), Fault> {
    if (1..=MAX_TIMEOUT).contains(&timeout) {
        return Ok(());
    }
    Err(fault(Code::BadArgs, "the timeout is out of range; give 1 second to 1 day"))
}
