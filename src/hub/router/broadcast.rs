//! Broadcasts, and the summary that closes each.

use serde::{Deserialize, Serialize};

use super::ask::{Ask, check_id, check_text, check_timeout};
use super::ended::Tombstone;
use super::{ConnId, Id, Ms, PeerNo, Reply, Router, Timer};
use crate::fence::{label, quote};
use crate::wire::{Answer, BroadcastRequest, Code, Fault, Kind, Member, Path, Scope, State, Who, refused};

/// The limit of collected answers to a broadcast, in bytes.
const MAX_COLLECTED: usize = 256 << 10;
const TAKEN: &str = "`broadcast_id` is taken; every broadcast needs a new one";

/// An open broadcast.
#[derive(Serialize, Deserialize)]
pub(super) struct Broadcast {
    pub asker: PeerNo,
    members: Vec<Member>,
    /// The outcomes of the members whose asks have ended.
    outcomes: Vec<Outcome>,
    /// When the collected answers are delivered; `None` if each is delivered when it arrives.
    collect_until: Option<Ms>,
    /// The text of the answers so far, each quoted.
    collected: String,
}

/// How one ask of a broadcast ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub to: String,
    /// `None` when it was answered.
    pub code: Option<Code>,
}

impl Router {
    pub(super) fn broadcast(&mut self, conn: ConnId, call: BroadcastRequest) -> Reply {
        let me = self.me(conn)?;
        check_id(&call.broadcast_id)?;
        check_text("question", &call.text)?;
        check_timeout(call.timeout_ms)?;
        let all = Id::from(call.broadcast_id.as_str());
        if let Some(asks) = self.broadcast_before(me, &all)? {
            self.answer(conn, call.id, Ok(Answer::Broadcast { broadcast_id: call.broadcast_id, asks }));
            self.fail_lost_ask(me, &all); // it may have ended while nobody was told
            let is_delivered = !self.deliveries_to(me).any(|delivery| delivery.parcel.ask_id == *all);
            if is_delivered && !self.broadcasts.contains_key(&all) {
                self.notify_asker(me, &all, State::Replied, Some(Path::Tool), None); // else it stays open for the asker
            }
            return Ok(None);
        }
        let targets = self.in_scope(me, call.scope, call.include_self)?;
        self.room_for_ask(me)?;
        let whos = targets.iter().map(|no| &self.peer(*no).who);
        let member = |who: &Who| Member { ask_id: format!("{all}-{}", who.peer), to: who.name.clone() };
        let members: Vec<Member> = whos.map(member).collect();
        let is_known = |id: &str| self.asks.contains_key(id) || self.ended.get(id).is_some();
        if members.iter().any(|member| is_known(&member.ask_id)) {
            return refused(Code::BadMsg, TAKEN);
        }
        // The request is answered first, since an ask may end while it is being opened.
        let broadcast_id = call.broadcast_id;
        self.answer(conn, call.id, Ok(Answer::Broadcast { broadcast_id, asks: members.clone() }));
        if members.is_empty() {
            return Ok(None);
        }
        self.peer_mut(me).broadcasts.insert(all.clone());
        let collect_until = call.collect_ms.map(|ms| self.now + ms.min(call.timeout_ms));
        collect_until.into_iter().for_each(|at| self.arm(at, Timer::Collect(all.clone())));
        let (outcomes, collected) = (Vec::new(), String::new());
        let new = Broadcast { asker: me, members: members.clone(), outcomes, collect_until, collected };
        self.broadcasts.insert(all.clone(), new);
        for (target, member) in targets.into_iter().zip(members) {
            let (thread, broadcast, deadline) =
                (all.to_string(), Some(all.clone()), self.now + call.timeout_ms);
            let ask = Ask { asker: me, target, to: member.to, thread, broadcast, deadline, ..Ask::default() };
            let id = Id::from(member.ask_id);
            match self.room_for_text(target).and_then(|()| self.within_rate(me, target)) {
                Ok(()) => self.open_ask(&id, ask, call.text.clone(), None),
                Err(refused) => {
                    self.notify_asker(me, &id, State::Ended, None, Some(refused.code));
                    self.count_outcome(&ask, Some(refused.code));
                }
            }
        }
        Ok(None)
    }

    /// The asks of a repeated `broadcast` request: requests are idempotent.
    fn broadcast_before(&self, me: PeerNo, all: &Id) -> Result<Option<Vec<Member>>, Fault> {
        let identity = &self.peer(me).who.peer;
        match (self.broadcasts.get(all), self.ended.get(all)) {
            (Some(open), _) if open.asker == me => Ok(Some(open.members.clone())),
            (None, Some(ended)) if ended.asker == *identity => Ok(Some(ended.members.clone())),
            (None, None) => Ok(None),
            _ => refused(Code::BadMsg, TAKEN),
        }
    }

    /// The peers in `scope` that receive broadcasts, ordered by name.
    fn in_scope(&self, me: PeerNo, scope: Scope, include_self: bool) -> Result<Vec<PeerNo>, Fault> {
        let own = &self.peer(me).who;
        if scope == Scope::Repo && own.repo.is_none() {
            let why = "`scope` is \"repo\", but this session is in no git repository; use \"directory\" or \"machine\"";
            return refused(Code::BadArgs, why);
        }
        let within = |other: &Who| match scope {
            Scope::Machine => true,
            Scope::Repo => other.is_at(own) && other.repo == own.repo,
            Scope::Directory => other.is_at(own) && other.cwd == own.cwd,
        };
        let found = self.names.by_key.values().filter(|no| {
            let who = &self.peer(**no).who;
            let is_other = include_self || **no != me;
            is_other && who.listens && within(who) && self.stands_for_session(**no, Some(me))
        });
        Ok(found.copied().collect())
    }

    /// Counts the end of an ask. After the last one of the broadcast, delivers the summary.
    pub(super) fn count_outcome(&mut self, ask: &Ask, code: Option<Code>) {
        let Some(all) = &ask.broadcast else { return };
        let Some(broadcast) = self.broadcasts.get_mut(all) else { return };
        broadcast.outcomes.push(Outcome { to: ask.to.clone(), code });
        if broadcast.outcomes.len() == broadcast.members.len()
            && let Some(done) = self.end_broadcast(all)
        {
            let text = done.collected + &super::roster::summary(&done.outcomes);
            self.notify_asker(done.asker, all, State::Replied, None, None);
            self.post_answers(Kind::Summary, all, done.asker, text, &ask.about);
        }
    }

    /// Collects an answer; `false` if it has to be delivered alone.
    pub(super) fn collect(&mut self, all: &Id, from: PeerNo, text: &str) -> bool {
        let answer = format!("{} answers:\n{}\n\n", label(&self.name(from)), quote(text));
        let Some(broadcast) = self.broadcasts.get_mut(all) else { return false };
        let is_full = broadcast.collected.len() + answer.len() > MAX_COLLECTED;
        if broadcast.collect_until.is_none() || is_full {
            return false;
        }
        broadcast.collected += &answer;
        self.text += answer.len();
        true
    }

    /// Delivers the collected answers. Later ones are delivered one by one.
    pub(super) fn hand_over_collected(&mut self, all: &Id) {
        let Some(broadcast) = self.broadcasts.get_mut(all) else { return };
        broadcast.collect_until = None;
        let (asker, open) =
            (broadcast.asker, broadcast.members.len().saturating_sub(broadcast.outcomes.len()));
        let collected = std::mem::take(&mut broadcast.collected);
        let ask = self.asks.values().find(|ask| ask.broadcast.as_ref() == Some(all));
        let about = ask.map(|ask| ask.about.clone()).unwrap_or_default();
        if !collected.is_empty() {
            self.text -= collected.len();
            let text =
                format!("{collected}{open} more have not answered yet; their answers come one by one.");
            self.post_answers(Kind::Notice, all, asker, text, &about);
        }
    }

    fn post_answers(&mut self, kind: Kind, all: &Id, asker: PeerNo, text: String, about: &str) {
        let mut parcel = self.parcel(kind, all, asker, text, all);
        parcel.from.clear(); // a text of the hub
        parcel.about = Some(about.to_owned()).filter(|about| !about.is_empty());
        self.post(asker, parcel, None);
    }

    /// Withdraws a broadcast and its open asks.
    pub(super) fn drop_broadcast(&mut self, all: &Id) {
        let Some(dropped) = self.end_broadcast(all) else { return };
        for member in dropped.members {
            self.drop_ask(&Id::from(member.ask_id));
        }
    }

    fn end_broadcast(&mut self, all: &Id) -> Option<Broadcast> {
        let done = self.broadcasts.remove(all)?;
        self.text -= done.collected.len();
        done.collect_until.into_iter().for_each(|at| self.disarm(at, Timer::Collect(all.clone())));
        self.peer_mut(done.asker).broadcasts.remove(all);
        let who = &self.peer(done.asker).who;
        let tombstone = Tombstone {
            asker: who.peer.clone(),
            from: who.name.clone(),
            thread: all.to_string(),
            members: done.members.clone(),
            ..Tombstone::default()
        };
        self.ended.insert(self.now, all.clone(), tombstone);
        Some(done)
    }
}
