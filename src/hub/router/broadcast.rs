//! A question to many, and its closing summary.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ask::{Ask, check_id, check_text, check_timeout};
use super::ended::Tombstone;
use super::{ConnId, Id, PeerNo, Reply, Router};
use crate::wire::{Answer, Code, Fault, Kind, Member, Scope, State, Who, fault};

/// A question to many that is not summed up yet.
#[derive(Serialize, Deserialize)]
pub(super) struct Broadcast {
    pub asker: PeerNo,
    members: Vec<Member>,
    open: BTreeSet<Id>,
    outcomes: Vec<Outcome>,
}

/// How one of its asks ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub to: String,
    /// `None` when it was answered.
    pub code: Option<Code>,
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
        let all = Id::from(broadcast_id);
        if let Some(asks) = self.broadcast_before(me, &all)? {
            let broadcast_id = broadcast_id.to_owned();
            return Ok(Some(Answer::Broadcast { broadcast_id, asks }));
        }
        let targets = self.in_scope(me, scope)?;
        self.room_for_ask(me)?;
        let members: Vec<Member> = targets.iter().map(|no| self.member(broadcast_id, *no)).collect();
        let open: BTreeSet<Id> = members.iter().map(|m| Id::from(m.ask_id.as_str())).collect();
        if open.iter().any(|id| self.asks.contains_key(id) || self.ended.get(id).is_some()) {
            return taken();
        }
        // The answer goes out first: an ask may end while it is being opened.
        let answer = Answer::Broadcast { broadcast_id: broadcast_id.to_owned(), asks: members.clone() };
        self.answer(conn, id, Ok(answer));
        if members.is_empty() {
            return Ok(None);
        }
        self.peer_mut(me).broadcasts.insert(all.clone());
        let new = Broadcast { asker: me, members: members.clone(), open, outcomes: Vec::new() };
        self.broadcasts.insert(all.clone(), new);
        for (target, member) in targets.into_iter().zip(members) {
            let ask = self.new_ask(me, target, all.to_string(), Some(all.clone()), timeout_ms);
            let id = Id::from(member.ask_id);
            match self.room_for_text(target).and_then(|()| self.within_rate(me, target)) {
                Ok(()) => self.open_ask(&id, ask, text.clone(), None),
                Err(refused) => {
                    self.tell_asker(me, &id, State::Ended, None, Some(refused.code));
                    self.count_outcome(&id, &ask, Some(refused.code));
                }
            }
        }
        Ok(None)
    }

    /// The asks of a broadcast that this peer has made already: requests are idempotent.
    fn broadcast_before(&self, me: PeerNo, all: &Id) -> Result<Option<Vec<Member>>, Fault> {
        if let Some(known) = self.broadcasts.get(all) {
            return if known.asker == me { Ok(Some(known.members.clone())) } else { taken() };
        }
        match self.ended.get(all) {
            Some(ended) if ended.asker == self.peer(me).who.peer => Ok(Some(ended.members.clone())),
            Some(_) => taken(),
            None => Ok(None),
        }
    }

    fn member(&self, broadcast_id: &str, no: PeerNo) -> Member {
        let who = &self.peer(no).who;
        Member { ask_id: format!("{broadcast_id}-{}", who.peer), to: who.name.clone() }
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
        let within = |other: &Who| match scope {
            Scope::Machine => true,
            Scope::Repo => other.repo == own.repo,
            Scope::Directory => other.cwd == own.cwd,
        };
        let found = self.by_name.values().filter(|no| {
            let who = &self.peer(**no).who;
            **no != me && who.listens && within(who)
        });
        Ok(found.copied().collect())
    }

    /// An ask has ended; after the last one of its broadcast the asker gets the summary.
    pub(super) fn count_outcome(&mut self, id: &Id, ask: &Ask, code: Option<Code>) {
        let Some(all) = &ask.broadcast else { return };
        let Some(broadcast) = self.broadcasts.get_mut(all) else { return };
        if broadcast.open.remove(id) {
            broadcast.outcomes.push(Outcome { to: ask.to.clone(), code });
        }
        if broadcast.open.is_empty()
            && let Some(done) = self.end_broadcast(all)
        {
            let text = super::roster::summary(&done.outcomes);
            let mut parcel = self.parcel(Kind::Summary, all, done.asker, text, all);
            parcel.from.clear(); // the relay's own words
            self.tell_asker(done.asker, all, State::Replied, None, None);
            let no = self.deliver(done.asker, parcel, None);
            self.dispatch(no);
        }
    }

    /// Nobody waits for its answers any more.
    pub(super) fn drop_broadcast(&mut self, all: &Id) {
        let Some(dropped) = self.end_broadcast(all) else { return };
        for id in dropped.open {
            self.drop_ask(&id);
        }
    }

    fn end_broadcast(&mut self, all: &Id) -> Option<Broadcast> {
        let done = self.broadcasts.remove(all)?;
        self.peer_mut(done.asker).broadcasts.remove(all);
        let who = &self.peer(done.asker).who;
        let tombstone = Tombstone {
            asker: who.peer.clone(),
            target: String::new(),
            from: who.name.clone(),
            to: String::new(),
            thread: all.to_string(),
            broadcast: None,
            code: None,
            answer: None,
            lost: false,
            members: done.members.clone(),
        };
        self.ended.insert(self.now, self.limits.late, all.clone(), tombstone);
        Some(done)
    }
}

fn taken<T>() -> Result<T, Fault> {
    Err(fault(Code::BadMsg, "`broadcast_id` is taken; every broadcast needs a new one"))
}
