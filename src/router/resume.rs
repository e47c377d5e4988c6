//! What peers bring back. The hub's state is soft: after its death each peer says which asks it has open, which it owes,
//! and what it was handed, and a new hub puts the two sides of each ask together. Whoever has not come back yet is stood
//! in for by a ghost, for as long as any peer that vanished has to return.

use std::collections::HashSet;

use super::ask::Ask;
use super::delivery::{Doubt, NOBODY, Progress, Stage, Try};
use super::graveyard::Tombstone;
use super::{Id, MAX_TIMEOUT, Ms, PeerNo, Router, Timer};
use crate::wire::{Code, Held, Kind, MAX_TEXT, Outcome, Parcel, Path, State};

/// A question that its asker brings back.
struct Claim {
    id: Id,
    /// The target's identity and name.
    peer: String,
    to: String,
    text: Option<String>,
    state: State,
    asked_at: Ms,
    left: Ms,
    broadcast: Option<Id>,
}

impl Router {
    /// Takes what `me` still holds into account. `live`: this hub has known the peer all along, and its word goes.
    pub(super) fn commit(&mut self, me: PeerNo, held: Vec<Held>, live: bool) {
        let mut listed: HashSet<Id> = HashSet::new();
        let mut waits: HashSet<Id> = HashSet::new();
        self.resuming = Some(me);
        for held in held {
            match held {
                Held::Asked { ask_id, peer, to, text, state, age_ms, left_ms, broadcast } => {
                    let claim = Claim {
                        id: Id::from(ask_id),
                        peer,
                        to,
                        text: text.filter(|t| t.len() <= MAX_TEXT && left_ms > 0),
                        state,
                        asked_at: self.now.saturating_sub(age_ms),
                        left: left_ms.min(MAX_TIMEOUT),
                        broadcast: broadcast.map(Id::from),
                    };
                    waits.insert(claim.id.clone());
                    self.claim(me, claim, live);
                }
                Held::Given { parcel, peer, state, pushes, .. } => {
                    if parcel.kind == Kind::Ask {
                        listed.insert(Id::from(parcel.ask_id.as_str()));
                    }
                    self.given(me, parcel, peer, state, pushes, live);
                }
                Held::Replied { ask_id, peer, to, text } => {
                    let id = Id::from(ask_id);
                    listed.insert(id.clone());
                    self.replied_before(me, &id, &peer, &to, text, live);
                }
                Held::Outcomes { broadcast_id, outcomes } => {
                    self.outcomes_before(me, &Id::from(broadcast_id), outcomes, live);
                }
                Held::Asking { id, left_ms } => {
                    self.still_asking(me, &id, left_ms.min(MAX_TIMEOUT));
                    waits.insert(Id::from(id));
                }
            }
        }
        self.resuming = None;
        if live {
            self.withdraw_unlisted(me, &waits);
            self.settle_sent(me);
        } else {
            self.settle_unlisted(me, &listed);
        }
        self.dispatch_all(me);
        for all in self.peer(me).broadcasts.iter().cloned().collect::<Vec<_>>() {
            self.sum_up(&all);
        }
    }

    /// A broadcast of `me` that it has had no summary of.
    fn outcomes_before(&mut self, me: PeerNo, all: &Id, outcomes: Vec<Outcome>, live: bool) {
        if self.broadcasts.get(all).is_some_and(|b| live || b.asker != me) {
            return;
        }
        let told = self.answered.get(all).is_some_and(|stone| stone.told);
        if (told || live) && self.under_way(me, Kind::Summary, all).is_none() {
            return self.tell(me, Kind::Summary, all, State::Ended, None, None); // by a waiter, perhaps
        }
        if !told && !live {
            let broadcast = self.broadcast_of(all, me);
            outcomes.into_iter().for_each(|outcome| broadcast.add(outcome));
        }
    }

    /// An ask that ended before the summary of its broadcast got lost with its asker belongs in the next one.
    fn outcome_of_lost_summary(&mut self, me: PeerNo, all: &Id, id: &Id, to: &str, code: Option<Code>) {
        if self.answered.get(all).is_some_and(|stone| !stone.told) {
            let outcome = Outcome { ask_id: id.to_string(), to: to.to_owned(), code };
            self.broadcast_of(all, me).add(outcome);
        }
    }

    /// The asker waits for this ask.
    fn claim(&mut self, me: PeerNo, claim: Claim, live: bool) {
        let id = claim.id.clone();
        if self.asks.get(&id).is_some_and(|ask| ask.asker == me) {
            self.bind(&id, &claim.peer);
        }
        if claim.state == State::Ended {
            return self.claim_ended(me, claim);
        }
        if let Some(ask) = self.asks.get(&id) {
            match (ask.asker == me, ask.claimed) {
                (true, false) => self.claim_known(claim),
                (true, true) if ask.progress.state != claim.state => {
                    let Progress { state, path, .. } = ask.progress;
                    self.tell(me, Kind::Ask, &id, state, path, None);
                }
                _ => {}
            }
            return;
        }
        let own = self.peer(me).who.peer.clone();
        if let Some(stone) = self.stone(&id).filter(|s| s.asker == own) {
            if !std::mem::replace(&mut stone.told, true) {
                // It was dropped because this session was out of touch for too long.
                let code = *stone.code.get_or_insert(Code::HubUnreachable);
                // What became of another that was given it says nothing of the one that was asked.
                let own = claim.peer.is_empty() || stone.target == claim.peer;
                let code = if own { code } else { Code::HubUnreachable };
                return self.lost(me, claim, code);
            }
            let code = stone.code;
            if let Some(all) = &claim.broadcast {
                self.outcome_of_lost_summary(me, all, &id, &claim.to, code);
            }
            let news = if code.is_some() { Kind::Failed } else { Kind::Reply };
            if self.under_way(me, news, &id).is_none() {
                self.tell_end(me, &id, code);
            }
            return;
        }
        if live {
            return self.tell_end(me, &id, Some(Code::HubUnreachable)); // so long ago that it is forgotten
        }
        if self.stone(&id).is_some() {
            return self.lost(me, claim, Code::HubUnreachable); // the id is another's
        }
        self.reopen(me, claim);
    }

    /// Whether one ask more is more than `me` can have had open, or than can have been on their way to `target`. The latter
    /// is not known exactly: it may have got some of which their askers did not hear.
    fn is_more_than_was(&self, me: PeerNo, target: PeerNo, all: Option<&Id>) -> bool {
        let (own, most) = (self.peer(me), self.limits.open_asks);
        let single = |id: &&Id| self.asks.get(*id).is_some_and(|a| a.claimed && a.broadcast.is_none());
        let open = match all {
            Some(all) if self.broadcasts.contains_key(all) => 0,
            Some(_) => own.broadcasts.len(),
            None => own.asked.iter().filter(single).count(),
        };
        open >= most || self.peer(target).inbox.len() >= 2 * self.limits.undelivered
    }

    /// The asker waits for an ask that this hub has not heard of.
    fn reopen(&mut self, me: PeerNo, claim: Claim) {
        let id = claim.id.clone();
        let Some(target) = self.ghost(&claim.peer, &claim.to).filter(|t| *t != me) else {
            return self.lost(me, claim, Code::HubUnreachable);
        };
        if self.is_more_than_was(me, target, claim.broadcast.as_ref()) {
            return self.lost(me, claim, Code::HubUnreachable);
        }
        let ghost = self.peer(target).ghost;
        // A target that is here and did not bring the ask never got it, unless its process is a new one.
        let arrived = claim.state >= State::Seen
            || (!ghost && self.peer(target).who.fresh && claim.state >= State::Pushed);
        let text = if arrived { None } else { claim.text.clone() };
        if text.is_none() && !arrived && !ghost && claim.left > 0 {
            return self.lost(me, claim, Code::HubUnreachable);
        }
        let deadline = self.now + claim.left;
        if let Some(all) = &claim.broadcast {
            self.broadcast_of(all, me).open.insert(id.clone());
        }
        let ask = Ask {
            asker: me,
            target,
            to: claim.to,
            broadcast: claim.broadcast.clone(),
            asked_at: claim.asked_at,
            deadline,
            progress: Progress { state: claim.state, path: None, since: self.now },
            delivery: None,
            claimed: true,
            answer: None,
        };
        self.insert_ask(id.clone(), ask);
        if let Some(text) = text {
            let parcel = self.parcel(Kind::Ask, &id, me, text, claim.broadcast.as_ref());
            let no = self.deliver(target, parcel, Some(me), None);
            if let Some(ask) = self.asks.get_mut(&id) {
                ask.delivery = Some(no);
                if !ghost {
                    ask.progress = Progress::queued(self.now); // else the target's return will tell
                }
            }
        }
        if !ghost {
            self.dispatch_all(target);
        }
    }

    /// The request for an ask has come again that its target brought back, or that was dropped while `me` was away.
    pub(super) fn claim_by_request(&mut self, me: PeerNo, id: &Id, left: Ms, broadcast: Option<&Id>) {
        let (to, state) = match self.asks.get(id) {
            Some(ask) if ask.claimed => return,
            Some(ask) => (ask.to.clone(), ask.progress.state),
            None => match self.stone(id).filter(|stone| !stone.told) {
                Some(stone) => (stone.to.clone(), State::Queued),
                None => return,
            },
        };
        let (id, broadcast) = (id.clone(), broadcast.cloned());
        let claim =
            Claim { id, peer: String::new(), to, text: None, state, asked_at: self.now, left, broadcast };
        self.claim(me, claim, true);
    }

    /// A request of `me` was lost with the old hub and will be sent again; what its target brought of it is claimed, so
    /// that an answer need not wait. (The asks of a broadcast wait for the request, which tells them all.)
    fn still_asking(&mut self, me: PeerNo, request: &str, left: Ms) {
        if self.asks.get(request).is_some_and(|ask| ask.asker == me) {
            self.claim_by_request(me, &Id::from(request), left, None);
        }
    }

    /// The target brought this ask before its asker did.
    fn claim_known(&mut self, claim: Claim) {
        let deadline = self.now + claim.left;
        let Some(ask) = self.asks.get_mut(&claim.id) else { return };
        let old = std::mem::replace(&mut ask.deadline, deadline);
        ask.claimed = true;
        ask.asked_at = claim.asked_at;
        ask.broadcast = claim.broadcast.clone();
        let (answer, asker, delivery) = (ask.answer.take(), ask.asker, ask.delivery);
        if delivery.is_none() {
            ask.progress.state = ask.progress.state.max(claim.state);
        }
        let Progress { state, path, .. } = ask.progress;
        self.disarm(old, Timer::Timeout(claim.id.clone()));
        self.arm(deadline, Timer::Timeout(claim.id.clone()));
        if let Some(all) = &claim.broadcast {
            self.broadcast_of(all, asker).open.insert(claim.id.clone());
        }
        if let Some(text) = answer {
            return self.replied(&claim.id, text, None);
        }
        match delivery {
            Some(no) if claim.state >= State::Seen => self.already_seen(no),
            _ if state != claim.state => self.tell(asker, Kind::Ask, &claim.id, state, path, None),
            _ => {}
        }
    }

    /// The asker remembers an ask that timed out: a late answer is still worth something.
    fn claim_ended(&mut self, me: PeerNo, claim: Claim) {
        let stone = Tombstone {
            asker: self.peer(me).who.peer.clone(),
            target: claim.peer,
            to: claim.to,
            broadcast: claim.broadcast,
            code: Some(Code::Timeout),
            answer: None,
            told: true,
            wasted: false,
            printed: false,
        };
        let answer = match self.asks.get_mut(&claim.id) {
            Some(ask) if ask.asker == me && !ask.claimed => {
                let (target, text) = (ask.target, ask.answer.take());
                self.drop_ask(&claim.id);
                text.map(|text| (target, text))
            }
            Some(_) => return,
            None => None,
        };
        // Only its asker's: another could have a late answer by it.
        let mine = self.stone(&claim.id).is_none_or(|known| known.asker == stone.asker);
        if mine && self.answered.get(&claim.id).is_none() {
            self.unanswered.bury(self.now, claim.id.clone(), stone);
        }
        if let Some((target, text)) = answer {
            self.late_reply(&claim.id, target, me, text, None);
        }
    }

    /// Only the id of the ask survived, or nothing that could go on: an honest end.
    fn lost(&mut self, me: PeerNo, claim: Claim, code: Code) {
        let name = &claim.to;
        if let Some(all) = &claim.broadcast {
            self.broadcast_of(all, me).open.insert(claim.id.clone());
            self.tell(me, Kind::Ask, &claim.id, State::Ended, None, Some(code));
            return self.count_outcome(all, &claim.id, name, Some(code));
        }
        let message = super::roster::lost(name, code);
        let mut parcel = self.parcel(Kind::Failed, &claim.id, me, message, None);
        parcel.from = claim.to;
        parcel.code = Some(code);
        let no = self.deliver(me, parcel, None, None);
        self.dispatch(no);
    }

    /// Whether a peer has been back for so long that it has said of what it waits for.
    fn has_spoken(&self, identity: &str) -> bool {
        let peer = self.by_identity.get(identity).and_then(|no| self.peers.get(no));
        peer.is_some_and(|p| !p.ghost && self.now >= p.since + self.limits.grace)
    }

    /// `me` was handed this parcel.
    pub(super) fn given(
        &mut self,
        me: PeerNo,
        parcel: Parcel,
        asker: Option<String>,
        state: State,
        pushes: Vec<(String, Path)>,
        live: bool,
    ) {
        if parcel.kind != Kind::Ask {
            return self.news_before(me, parcel, state, &pushes, live);
        }
        // That an earlier hub ended it does not say that it was seen, nor that its asker does not wait.
        let state = if state > State::Seen { State::Pushed } else { state };
        let id = Id::from(parcel.ask_id.as_str());
        if let Some(ask) = self.asks.get(&id) {
            if ask.target != me {
                // The name had moved on when the asker sent its request again.
                let asker = asker.unwrap_or_default();
                if self.contend(me, &id, &asker, Some((parcel, state, pushes)), None) {
                    return;
                }
                return self.tell(me, Kind::Ask, &id, State::Ended, None, Some(Code::PeerGone));
            }
            let (no, progress) = (ask.delivery, ask.progress);
            if let Some(no) = no.filter(|_| state >= State::Seen) {
                return self.already_seen(no);
            }
            self.hand_over(me, no.filter(|_| !live), &pushes);
            if progress.state == State::Seen && state < State::Seen {
                self.tell(me, Kind::Ask, &id, State::Seen, progress.path, None);
            }
            return;
        }
        let asker = asker.unwrap_or_default();
        let over = live || self.stone(&id).is_some() || self.has_spoken(&asker);
        if over || asker.is_empty() {
            return self.tell(me, Kind::Ask, &id, State::Ended, None, Some(Code::PeerGone));
        }
        if let Some(from) = self.ghost(&asker, &parcel.from).filter(|no| *no != me) {
            self.insert_unclaimed(from, me, &id, state);
            // A process that died took the text with it.
            if state < State::Seen && self.is_hooked(me) && !parcel.text.is_empty() {
                let no = self.deliver(me, parcel, Some(from), None);
                if let Some(ask) = self.asks.get_mut(&id) {
                    ask.delivery = Some(no);
                }
                self.hand_over(me, Some(no), &pushes);
            }
        }
    }

    /// `me` was handed news and is not known to have seen it.
    fn news_before(
        &mut self,
        me: PeerNo,
        parcel: Parcel,
        state: State,
        pushes: &[(String, Path)],
        live: bool,
    ) {
        let printed = self.stone(&parcel.ask_id).is_some_and(|stone| {
            stone.told = true;
            stone.printed
        });
        match pushes.iter().find(|(push, _)| self.recipient_of(push) == Some(me)) {
            Some((push, _)) if state >= State::Seen => self.confirm_push(push),
            Some(_) => self.hand_over(me, None, pushes),
            None if live || printed || state >= State::Seen => {
                self.tell(me, parcel.kind, &parcel.ask_id, State::Ended, None, None);
            }
            None => self.restore_news(me, parcel, pushes),
        }
    }

    /// An ask of which only the target has told yet.
    fn insert_unclaimed(&mut self, asker: PeerNo, target: PeerNo, id: &Id, state: State) {
        let ask = Ask {
            asker,
            target,
            to: self.peer(target).who.name.clone(),
            broadcast: None,
            asked_at: self.now,
            deadline: self.unclaimed_until(asker),
            progress: Progress { state, path: None, since: self.now },
            delivery: None,
            claimed: false,
            answer: None,
        };
        self.insert_ask(id.clone(), ask);
    }

    /// How long an asker may take to claim an ask: as long as it may be away, and then as long again.
    fn unclaimed_until(&self, asker: PeerNo) -> Ms {
        let peer = self.peer(asker);
        if peer.ghost { self.now + MAX_TIMEOUT } else { self.now.max(peer.since) + self.limits.grace }
    }

    /// News that was pushed and not confirmed when the old hub died.
    fn restore_news(&mut self, me: PeerNo, parcel: Parcel, pushes: &[(String, Path)]) {
        if self.is_hooked(me) && !pushes.is_empty() {
            let no = self.deliver(me, parcel, None, None);
            self.hand_over(me, Some(no), pushes);
        }
    }

    /// Notes that these pushes were done: of deliveries that this hub knows by them, or of `no`, which it just made.
    fn hand_over(&mut self, me: PeerNo, no: Option<u64>, pushes: &[(String, Path)]) {
        let conn = self.peer(me).conn.unwrap_or(NOBODY); // a rival may be away when its turn comes
        let at = self.now;
        for (push, path) in pushes.iter().take(8) {
            if let Some(known) = self.pushes.get(push).copied() {
                let found = self.deliveries.get_mut(&known).filter(|d| d.to == me);
                let tried = found.and_then(|d| d.tries.iter_mut().find(|t| t.push == *push));
                if let Some(tried) = tried.filter(|t| matches!(t.stage, Stage::Sent | Stage::Woken)) {
                    tried.conn = conn;
                    self.pushed(conn, push, None);
                }
            } else if let Some(no) = no
                && push.len() <= 64
                && let Some(delivery) = self.deliveries.get_mut(&no)
            {
                let (push, path) = (push.clone(), *path);
                self.pushes.insert(push.clone(), no);
                let (stage, doubt) = (Stage::Handed(at), Doubt::OldHub);
                delivery.tries.push(Try { push, path, conn, sent: at, stage, doubt });
                self.progress(no, State::Pushed, Some(path));
                self.arm(at + self.limits.confirm, Timer::Confirm(no));
            }
        }
        if let Some(no) = no.filter(|_| !pushes.is_empty() && !self.is_hooked(me)) {
            self.settle_at_pushed(no);
        }
    }

    fn already_seen(&mut self, no: u64) {
        self.progress(no, State::Seen, None);
        let id = self.deliveries.get(&no).map(|d| Id::from(d.parcel.ask_id.as_str()));
        if let Some(ask) = id.and_then(|id| self.asks.get_mut(&id)) {
            ask.delivery = None;
        }
        self.remove_delivery(no);
    }

    /// `me` has answered this ask, and its asker is not known to have the answer.
    pub(super) fn replied_before(
        &mut self,
        me: PeerNo,
        id: &Id,
        asker: &str,
        to: &str,
        text: String,
        live: bool,
    ) {
        if text.len() > MAX_TEXT {
            return self.tell(me, Kind::Reply, id, State::Ended, None, None);
        }
        if let Some(ask) = self.asks.get_mut(id) {
            match ask.target == me {
                true if ask.claimed => self.replied(id, text, None),
                true => ask.answer = Some(text),
                false if self.contend(me, id, asker, None, Some(text)) => {}
                // Another hub may know better whose the ask is.
                false => self.tell(me, Kind::Reply, id, State::Ended, None, Some(Code::PeerGone)),
            }
            return;
        }
        let identity = &self.peer(me).who.peer;
        if self.answered.get(id).is_some_and(|s| s.target == *identity) {
            let to = self.by_identity.get(asker).copied();
            return match self.answer_under_way(me, to, id) {
                State::Queued => {} // it will hear
                State::Ended => self.tell(me, Kind::Reply, id, State::Ended, None, Some(Code::PeerGone)),
                state => self.tell(me, Kind::Reply, id, state, None, None),
            };
        }
        let stone = self.unanswered.get(id);
        if stone.is_some_and(|s| s.code == Some(Code::Timeout) && s.target == *identity && s.asker == asker)
            && let Some(to) = self.by_identity.get(asker).copied()
        {
            return self.late_reply(id, me, to, text, None);
        }
        let spoken = self.has_spoken(asker);
        if live || self.stone(id).is_some() || spoken {
            // An asker that is away may come to another hub and still wait: then the answer is worth keeping.
            let code = if spoken { None } else { Some(Code::PeerGone) };
            return self.tell(me, Kind::Reply, id, State::Ended, None, code);
        }
        if let Some(from) = self.ghost(asker, to).filter(|no| *no != me) {
            self.insert_unclaimed(from, me, id, State::Seen);
            if let Some(ask) = self.asks.get_mut(id) {
                ask.answer = Some(text);
            }
        }
    }

    /// This hub told the peer's last connection to push, and was never told that it was done.
    fn settle_sent(&mut self, me: PeerNo) {
        let Some(conn) = self.peer(me).conn else { return };
        let unsure = self.peer(me).who.fresh && self.is_hooked(me);
        let now = self.now;
        for no in self.peer(me).inbox.clone() {
            let conns = &self.conns;
            let Some(delivery) = self.deliveries.get_mut(&no) else { continue };
            let waits = |t: &Try| conns.get(&t.conn).is_some_and(|c| c.waiter.is_some());
            let open = |t: &Try| matches!(t.stage, Stage::Sent | Stage::Woken);
            let lost = delivery.tries.iter_mut().find(|t| open(t) && t.conn != conn && !waits(t));
            let Some(tried) = lost else { continue };
            match tried.path {
                Path::Hook => {
                    let push = tried.push.clone();
                    self.leave_a_copy(no, &push);
                }
                Path::Channel | Path::Inbox | Path::Tool if unsure => {
                    // The process died with it, perhaps after it had pushed: a receipt will tell.
                    (tried.conn, tried.stage, tried.doubt) = (conn, Stage::Handed(now), Doubt::Died);
                    self.arm(now + self.limits.confirm, Timer::Confirm(no));
                }
                _ => self.untry(no, |t| t.conn != conn),
            }
        }
    }

    /// What `me` asked and does not wait for any more: its tool call gave up before it was answered. A new process is
    /// taken to have forgotten rather than to have given up.
    fn withdraw_unlisted(&mut self, me: PeerNo, waits: &HashSet<Id>) {
        if self.peer(me).who.fresh {
            return;
        }
        for id in self.peer(me).asked.iter().cloned().collect::<Vec<_>>() {
            let Some(ask) = self.asks.get(&id).filter(|ask| ask.claimed && !waits.contains(&id)) else {
                continue;
            };
            if ask.broadcast.as_ref().is_none_or(|all| !waits.contains(all)) {
                self.drop_ask(&id);
            }
        }
    }

    /// What others remembered of this peer and it did not bring itself.
    fn settle_unlisted(&mut self, me: PeerNo, listed: &HashSet<Id>) {
        for id in self.peer(me).asked.iter().cloned().collect::<Vec<_>>() {
            // Its asker has its end, or does not wait any more; or it is about to ask again.
            let until = self.unclaimed_until(me);
            let Some(ask) = self.asks.get_mut(&id).filter(|a| !a.claimed) else { continue };
            let old = std::mem::replace(&mut ask.deadline, until);
            self.disarm(old, Timer::Timeout(id.clone()));
            self.arm(until, Timer::Timeout(id));
        }
        let fresh = self.peer(me).who.fresh;
        for id in self.peer(me).owes.iter().cloned().collect::<Vec<_>>() {
            let Some(ask) = self.asks.get(&id).filter(|_| !listed.contains(&id)) else { continue };
            let arrived = ask.progress.state >= State::Seen || (fresh && ask.progress.state >= State::Pushed);
            match ask.delivery {
                Some(no) if arrived => {
                    if let Some(ask) = self.asks.get_mut(&id) {
                        ask.delivery = None;
                    }
                    self.remove_delivery(no);
                }
                Some(_) => {
                    if let Some(ask) = self.asks.get_mut(&id) {
                        ask.progress = Progress::queued(self.now);
                    }
                }
                None if !arrived => self.fail(&id, Code::HubUnreachable),
                None => {}
            }
        }
    }
}
