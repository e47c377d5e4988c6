//! A question to many, and its closing summary.

use std::collections::BTreeSet;

use super::ask::{Ask, check_id, check_text, check_timeout};
use super::graveyard::Tombstone;
use super::{ConnId, Fault, Id, Ms, PeerNo, Reply, Router, fault};
use crate::wire::{Answer, Code, Kind, Member, Outcome, Path, Scope, State};

/// An ask to many that is not summed up yet.
pub(super) struct Broadcast {
    pub asker: PeerNo,
    pub open: BTreeSet<Id>,
    pub outcomes: Vec<Outcome>,
}

impl Broadcast {
    /// An ask of it has ended; counts once.
    pub fn add(&mut self, outcome: Outcome) {
        if !self.outcomes.iter().any(|known| known.ask_id == outcome.ask_id) {
            self.outcomes.push(outcome);
        }
    }
}

impl Router {
    pub(super) fn broadcast(
        &mut self,
        conn: ConnId,
        id: u64,
        broadcast_id: &str,
        text: String,
        scope: Scope,
        timeout_ms: u64,
    ) -> Reply {
        let me = self.me(conn)?;
        check_id(broadcast_id)?;
        check_text("question", &text)?;
        check_timeout(timeout_ms)?;
        let targets = self.in_scope(me, scope)?;
        let all = Id::from(broadcast_id);
        let members: Vec<(PeerNo, Member)> =
            targets.into_iter().map(|no| (no, self.member(broadcast_id, no))).collect();
        if self.is_repeated(me, &all, &members)? {
            self.answer_again(conn, id, me, &all, &members);
            return Ok(None);
        }
        self.room_for_ask(me)?;
        if !members.is_empty() {
            let open = members.iter().map(|(_, m)| Id::from(m.ask_id.as_str()));
            self.broadcast_of(&all, me).open.extend(open);
        }
        // The answer goes out first: an ask may end while it is being opened.
        let asks = members.iter().map(|(_, m)| m.clone()).collect();
        self.answer(conn, id, Ok(Answer::Broadcast { broadcast_id: broadcast_id.to_owned(), asks }));
        for (target, member) in members {
            let known = Id::from(member.ask_id.as_str());
            match self.stone(&known).map(|stone| (stone.told, stone.code)) {
                Some((true, code)) => {
                    self.tell_end(me, &known, code);
                    self.count_outcome(&all, &known, &member.to, code);
                }
                Some((false, _)) => self.claim_by_request(me, &known, timeout_ms, Some(&all)),
                None if self.asks.contains_key(&known) => {
                    self.claim_by_request(me, &known, timeout_ms, Some(&all));
                }
                None => self.open_member(me, target, &all, member, text.clone(), timeout_ms),
            }
        }
        Ok(None)
    }

    /// Whether this hub has had the same request before. It has not if all that is known of it is what targets brought
    /// back from an earlier hub.
    fn is_repeated(&self, me: PeerNo, all: &Id, members: &[(PeerNo, Member)]) -> Result<bool, Fault> {
        let taken = || Err(fault(Code::BadMsg, "`broadcast_id` is taken; every broadcast needs a new one"));
        if let Some(known) = self.broadcasts.get(all) {
            return if known.asker == me { Ok(true) } else { taken() };
        }
        if let Some(stone) = self.answered.get(all) {
            return if stone.asker == self.peer(me).who.peer { Ok(true) } else { taken() };
        }
        let own = &self.peer(me).who.peer;
        for id in members.iter().map(|(_, m)| m.ask_id.as_str()) {
            let asker = self.asks.get(id).map(|ask| &self.peer(ask.asker).who.peer);
            let stone = self.answered.get(id).or_else(|| self.unanswered.get(id));
            if asker.or(stone.map(|s| &s.asker)).is_some_and(|asker| asker != own) {
                return taken();
            }
        }
        Ok(false)
    }

    /// The answer to the request was lost: the same again, and how those went that have ended meanwhile.
    fn answer_again(&mut self, conn: ConnId, id: u64, me: PeerNo, all: &Id, members: &[(PeerNo, Member)]) {
        let mut asks = Vec::new();
        let mut ended = Vec::new();
        if let Some(known) = self.broadcasts.get(all) {
            for (id, ask) in known.open.iter().filter_map(|id| self.asks.get(id).map(|ask| (id, ask))) {
                let peer = Some(self.peer(ask.target).who.peer.clone());
                asks.push(Member { ask_id: id.to_string(), to: ask.to.clone(), peer });
            }
            for Outcome { ask_id, to, code } in known.outcomes.clone() {
                let peer = self.stone(&ask_id).map(|stone| stone.target.clone());
                ended.push((Member { ask_id, to, peer }, code));
            }
        } else {
            for (_, member) in members {
                if let Some(stone) = self.stone(&member.ask_id) {
                    ended.push((member.clone(), stone.code));
                }
            }
        }
        asks.extend(ended.iter().map(|(m, _)| m.clone()));
        self.answer(conn, id, Ok(Answer::Broadcast { broadcast_id: all.to_string(), asks }));
        self.resuming = Some(me);
        for (Member { ask_id, .. }, code) in &ended {
            if code.is_none() && self.waits_in_inbox(me, Kind::Reply, ask_id) {
                continue; // it ends when it is handed over
            }
            match self.stone(ask_id).is_some_and(|s| !s.told) {
                true => self.claim_by_request(me, &Id::from(ask_id.as_str()), 0, Some(all)),
                false => self.tell_end(me, ask_id, *code),
            }
        }
        self.resuming = None;
        if let Some(stone) = self.answered.get_mut(all).filter(|stone| !stone.told) {
            // So was the summary.
            stone.told = true;
            for (Member { ask_id, to, .. }, code) in ended {
                self.broadcast_of(all, me).add(Outcome { ask_id, to, code });
            }
        }
        self.sum_up(all);
    }

    /// The ask's id is made of both ids, so that a broadcast sent again to another hub asks nobody twice.
    fn member(&self, broadcast_id: &str, target: PeerNo) -> Member {
        let who = &self.peer(target).who;
        let ask_id = format!("{broadcast_id}-{}", who.peer);
        Member { ask_id, to: who.name.clone(), peer: Some(who.peer.clone()) }
    }

    /// Everyone in `scope` who listens, by name.
    fn in_scope(&self, me: PeerNo, scope: Scope) -> Result<Vec<PeerNo>, Fault> {
        let own = &self.peer(me).who;
        if scope == Scope::Repo && own.repo.is_none() {
            return Err(fault(
                Code::BadArgs,
                "`scope` is \"repo\", but this session is in no git repository; use \"directory\" or \"machine\"",
            ));
        }
        let within = |other: &crate::wire::Who| match scope {
            Scope::Machine => true,
            Scope::Repo => other.repo == own.repo,
            Scope::Directory => other.cwd == own.cwd,
        };
        let others = self.peers.iter().filter(|(no, p)| **no != me && p.who.listens && within(&p.who));
        let mut found: Vec<(&str, PeerNo)> = others.map(|(no, p)| (p.who.name.as_str(), *no)).collect();
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, no)| no).collect())
    }

    pub(super) fn broadcast_of(&mut self, id: &Id, asker: PeerNo) -> &mut Broadcast {
        self.peer_mut(asker).broadcasts.insert(id.clone());
        let new = || Broadcast { asker, open: BTreeSet::new(), outcomes: Vec::new() };
        self.broadcasts.entry(id.clone()).or_insert_with(new)
    }

    fn open_member(
        &mut self,
        me: PeerNo,
        target: PeerNo,
        all: &Id,
        member: Member,
        text: String,
        timeout: Ms,
    ) {
        let id = Id::from(member.ask_id.as_str());
        let refused = self.room_for_text(target).and_then(|()| self.within_rate(me, target)).err();
        let Some(refused) = refused else {
            return self.open_ask(me, target, &id, text, timeout, Some(all.clone()), None);
        };
        let stone = Tombstone {
            asker: self.peer(me).who.peer.clone(),
            target: member.peer.unwrap_or_default(),
            to: member.to.clone(),
            broadcast: Some(all.clone()),
            code: Some(refused.code),
            answer: None,
            told: true,
            wasted: false,
            printed: false,
        };
        self.unanswered.bury(self.now, id.clone(), stone);
        self.tell(me, Kind::Ask, &id, State::Ended, None::<Path>, Some(refused.code));
        self.count_outcome(all, &id, &member.to, Some(refused.code));
    }

    /// An ask has ended; if it was the last of its broadcast, the asker gets the summary.
    pub(super) fn outcome(&mut self, id: &Id, ask: &Ask, code: Option<Code>) {
        if let Some(all) = &ask.broadcast {
            self.count_outcome(all, id, &ask.to, code);
        }
    }

    pub(super) fn count_outcome(&mut self, all: &Id, id: &Id, to: &str, code: Option<Code>) {
        let Some(broadcast) = self.broadcasts.get_mut(all) else { return };
        if broadcast.open.remove(id) {
            broadcast.outcomes.push(Outcome { ask_id: id.to_string(), to: to.to_owned(), code });
        }
        self.sum_up(all);
    }

    /// Closes the broadcast if nothing of it is open.
    pub(super) fn sum_up(&mut self, all: &Id) {
        let open = |b: &Broadcast| !b.open.is_empty() || self.resuming == Some(b.asker);
        if self.broadcasts.get(all).is_none_or(open) {
            return;
        }
        let Some(done) = self.broadcasts.remove(all) else { return };
        self.peer_mut(done.asker).broadcasts.remove(all);
        self.bury_broadcast(all, done.asker, true);
        let text = super::roster::summary(&done.outcomes);
        let mut parcel = self.parcel(Kind::Summary, all, done.asker, text, None);
        parcel.from.clear(); // nobody's words but the relay's
        let no = self.deliver(done.asker, parcel, None, None);
        self.dispatch(no);
    }

    /// A broadcast that is over is remembered like an ask, so that the request for it counts once.
    pub(super) fn bury_broadcast(&mut self, all: &Id, asker: PeerNo, told: bool) {
        let asker = self.peer(asker).who.peer.clone();
        let (target, to, code, answer) = (String::new(), String::new(), None, None);
        let stone = Tombstone {
            asker,
            target,
            to,
            broadcast: None,
            code,
            answer,
            told,
            wasted: false,
            printed: false,
        };
        self.answered.bury(self.now, all.clone(), stone);
    }
}
