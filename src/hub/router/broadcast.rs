//! Broadcasts, and the summary that closes each.

use serde::{Deserialize, Serialize};

use super::ask::{Ask, TAKEN, about, check_question};
use super::ended::Record;
use super::{ConnId, Id, Ms, PeerNo, Reply, Router, Timer};
use crate::fence::{label, quote};
use crate::wire::{Answer, BroadcastRequest, Code, Fault, Kind, Member, Parcel, Path, Scope, Who, refused};

/// The limit of collected answers to a broadcast, in bytes.
const MAX_COLLECTED: usize = 256 << 10;

/// An open broadcast.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Broadcast {
    pub asker: PeerNo,
    pub record: Record,
    /// The beginning of the question.
    about: String,
    /// How many members have answered.
    answered: usize,
    /// `NAME: answered` or `NAME: CODE` for each ask that has ended.
    ends: Vec<String>,
    /// When the collected answers are delivered; `None` if each is delivered when it arrives.
    collect_until: Option<Ms>,
    /// The text of the answers so far, each quoted.
    collected: String,
}

impl Broadcast {
    /// How many members have neither answered nor failed.
    fn open(&self) -> usize {
        self.record.members.len() - self.ends.len()
    }
}

impl Router {
    pub(super) fn broadcast(&mut self, conn: ConnId, call: BroadcastRequest) -> Reply {
        let me = self.me(conn)?;
        check_question(&call.broadcast_id, &call.text, call.timeout_ms)?;
        let all = Id::from(call.broadcast_id.as_str());
        if let Some(known) = self.asked_before(me, &all)? {
            self.answer(conn, call.id, Ok(known));
            self.fail_lost_ask(me, &all); // it may have ended without a notice to the asker
            let is_delivered = !self.deliveries_to(me).any(|delivery| delivery.parcel.ask_id == *all);
            if is_delivered && !self.broadcasts.contains_key(&all) {
                self.notify_end(me, &all, Some(Path::Tool), None); // else it stays open for the asker
            }
            return Ok(None);
        }
        let targets = self.in_scope(me, call.scope, call.include_self)?;
        self.room_for_ask(me)?;
        let ask = |target| self.new_ask(me, target, all.to_string(), call.timeout_ms);
        let asks: Vec<Ask> = targets.into_iter().map(ask).collect();
        let member = |of: &Record| Member { ask_id: format!("{all}-{}", of.target), to: of.to.clone() };
        let members: Vec<Member> = asks.iter().map(|ask| member(&ask.record)).collect();
        if members.iter().any(|member| !matches!(self.asked_before(me, &member.ask_id), Ok(None))) {
            return refused(Code::BadMsg, TAKEN);
        }
        // The request is answered first, since an ask may end while it is being opened.
        let answer = Answer::Broadcast { broadcast_id: call.broadcast_id, asks: members.clone() };
        self.answer(conn, call.id, Ok(answer));
        if members.is_empty() {
            return Ok(None);
        }
        self.peer_mut(me).asked.insert(all.clone());
        let collect_until = call.collect_ms.map(|ms| self.now + ms.min(call.timeout_ms));
        collect_until.into_iter().for_each(|at| self.arm(at, Timer::Collect(all.clone())));
        let thread = all.to_string();
        let record = Record { thread, members: members.clone(), ..Record::of(&self.peer(me).who) };
        let about = about(&call.text);
        let new = Broadcast { asker: me, record, about, collect_until, ..Broadcast::default() };
        self.broadcasts.insert(all.clone(), new);
        for (mut ask, member) in asks.into_iter().zip(members) {
            let target = ask.target;
            ask.record.broadcast = Some(all.clone());
            let id = Id::from(member.ask_id);
            match self.room_for_text(target).and_then(|()| self.within_rate(me, target)) {
                Ok(()) => self.open_ask(&id, ask, call.text.clone(), None),
                Err(refused) => {
                    self.notify_end(me, &id, None, Some(refused.code));
                    self.count_outcome(&ask, Some(refused.code));
                }
            }
        }
        Ok(None)
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
        let Record { broadcast: Some(all), to, .. } = &ask.record else { return };
        let Some(broadcast) = self.broadcasts.get_mut(all) else { return };
        broadcast.answered += usize::from(code.is_none());
        broadcast.ends.push(format!("{to}: {}", code.map_or("answered", Code::name)));
        if broadcast.open() == 0 {
            let (answered, of, ends) = (broadcast.answered, broadcast.ends.len(), broadcast.ends.join(", "));
            let summary = format!("The broadcast is closed: {answered} of {of} answered ({ends}).");
            self.notify_end(ask.asker, all, None, None);
            self.post_collected(Kind::Summary, all, &summary);
            self.end_broadcast(all);
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
        if !broadcast.collected.is_empty() {
            let open = broadcast.open();
            let rest = format!("{open} more have not answered yet; their answers come one by one.");
            self.post_collected(Kind::Notice, all, &rest);
        }
    }

    /// Delivers the answers so far and a text of the hub.
    fn post_collected(&mut self, kind: Kind, all: &Id, text: &str) {
        let Some(broadcast) = self.broadcasts.get_mut(all) else { return };
        let (asker, about) = (broadcast.asker, Some(broadcast.about.clone()));
        let (answers, record) = (std::mem::take(&mut broadcast.collected), broadcast.record.clone());
        self.text -= answers.len();
        let parcel = self.parcel(kind, all, asker, answers + text, &record);
        self.post(asker, Parcel { from: String::new(), about, ..parcel }, None);
    }

    /// Removes a broadcast and leaves a tombstone. Its asks stay.
    pub(super) fn end_broadcast(&mut self, all: &Id) -> Option<Broadcast> {
        let done = self.broadcasts.remove(all)?;
        self.text -= done.collected.len();
        done.collect_until.into_iter().for_each(|at| self.disarm(at, Timer::Collect(all.clone())));
        self.peer_mut(done.asker).asked.remove(all);
        self.ended.insert(self.now, all.clone(), done.record.clone());
        Some(done)
    }
}
