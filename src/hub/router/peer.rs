//! Registered peers: registration and leaving.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::form::FORM_START;
use super::limits::{Rate, overloaded};
use super::session::Session;
use super::{ConnId, DeliveryNo, Id, Ms, PeerNo, Reply, Role, Router, Timer};
use crate::name;
use crate::wire::{Answer, Changes, Code, Event, Fault, MAX_LABEL, Path, ToClient, What, Who, refused};

/// The limit of lost asks in one registration, and of undelivered texts to a peer that is told of another one.
pub(super) const MAX_LOST: usize = 1_024;

/// A registered peer.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Peer {
    /// Its registration, with its present name.
    pub who: Who,
    /// The name that it wanted last, other than by its own model.
    pub wanted: String,
    /// `None` while it may reconnect.
    pub conn: Option<ConnId>,
    /// The time until which it may reconnect, if it has no connection.
    pub grace: Ms,
    pub since: Ms,
    /// Paths by which a push was confirmed, and when the last one was.
    pub proven: BTreeMap<Path, Ms>,
    /// Dead paths: a push by them was not confirmed.
    pub dead: BTreeSet<Path>,
    /// When its session's inbox is empty, at one text per 2.5 s.
    pub inbox_empty_at: Ms,
    /// Deliveries to it, oldest first.
    pub inbox: BTreeSet<DeliveryNo>,
    /// Its open asks and broadcasts. The asks of a broadcast are not listed.
    pub asked: BTreeSet<Id>,
    /// Open asks to it.
    pub owes: BTreeSet<Id>,
    /// Its asks per target.
    rate: Rate,
    /// Before that no form is opened: the channel has just started, or another form was closed.
    pub form_after: Ms,
    /// Forms at it per asker.
    pub forms: Rate,
    /// The askers that may always ask, if its user wants to be asked for consent.
    pub always: BTreeSet<String>,
}

impl Router {
    pub(super) fn register(&mut self, conn: ConnId, id: u64, mut who: Who, lost: Vec<String>) -> Reply {
        if self.roles.contains_key(&conn) {
            return refused(Code::AlreadyRegistered, "this connection is a peer or a waiter already");
        }
        check(&who)?;
        let known = self.by_identity.get(&who.peer).copied();
        let no = known.map_or_else(|| self.join(&who), Ok)?;
        let (now, fresh, open_forms) = (self.now, who.fresh, std::mem::take(&mut who.open_forms));
        let peer = self.peer_mut(no);
        if peer.who.secret != who.secret {
            return refused(Code::NameTaken, "this identity belongs to a session with another secret");
        }
        peer.who = Who { name: peer.who.name.clone(), ..who }; // one that comes back keeps its name
        let old = peer.conn.replace(conn);
        peer.dead.clear();
        if fresh {
            peer.form_after = now + FORM_START;
        }
        let open = peer.asked.iter().map(|id| id.to_string()).collect();
        let answer = Answer::Registered { name: peer.who.name.clone(), open };
        self.roles.insert(conn, Role::Peer(no));
        if let Some(old) = old {
            // The old connection is half open, or its process is exiting.
            self.roles.remove(&old);
            self.close(old);
        }
        if known.is_none() {
            self.report(Event { event: What::Joined, from: self.name(no), ..Event::default() });
        }
        // Answered before the deliveries that the registration starts.
        self.send(conn, ToClient::Ok { id, answer });
        self.close_stale_forms(no, conn, open_forms);
        self.settle_sent(no, conn, fresh);
        // A new process of a session that was given up does not know what its last one had asked.
        let untold = if fresh { self.ended.untold(&self.peer(no).who.peer) } else { Vec::new() };
        lost.iter().chain(&untold).take(MAX_LOST).for_each(|id| self.fail_lost_ask(no, id));
        self.dispatch_all(no);
        Ok(None)
    }

    /// A new peer.
    fn join(&mut self, who: &Who) -> Result<PeerNo, Fault> {
        if self.peers.len() >= self.limits.peers {
            let most = self.limits.peers;
            return overloaded(format!("the hub has {most} peers"), "when one has left");
        }
        let wanted = name::wish(&who.name);
        let name = match self.name_of_session(who.session.as_deref(), &wanted) {
            Some(kept) => kept,
            None => self.pick_name(&wanted, who.exact, None)?,
        };
        let no = self.no();
        self.names.by_key.insert(name::key(&name), no);
        self.by_identity.insert(who.peer.clone(), no);
        let who = Who { name, ..who.clone() };
        self.peers.insert(no, Peer { who, wanted, since: self.now, ..Peer::default() });
        self.arm_exit();
        Ok(no)
    }

    /// Counts an ask from `me` to `to` against the rate limit.
    pub(super) fn within_rate(&mut self, me: PeerNo, to: PeerNo) -> Result<(), Fault> {
        let (now, most, key) = (self.now, self.limits.asks_per_minute, self.peer(to).who.peer.clone());
        self.peer_mut(me).rate.count(key, most, 60_000, now, "asks went to this peer")
    }

    /// Applies what a channel has found changed in its session.
    pub(super) fn change(&mut self, conn: ConnId, changes: Changes) {
        let Some(no) = self.peer_on(conn) else { return };
        let Changes { activity, age_ms, branch, paths, session } = changes;
        if let Some(branch) = branch.filter(|b| b.len() <= MAX_LABEL) {
            self.peer_mut(no).who.branch = Some(branch).filter(|b| !b.is_empty());
        }
        if let Some(activity) = activity {
            self.observed(no, activity, age_ms.unwrap_or(0));
        }
        if let Some(session) = session.filter(|s| (1..=MAX_LABEL).contains(&s.len())) {
            self.continue_session(no, session);
        }
        if let Some(paths) = paths {
            self.peer_mut(no).who.paths = paths.into_iter().take(8).collect();
            self.dispatch_all(no);
        }
    }

    /// Starts the grace period of a peer that lost its connection.
    pub(super) fn vanished(&mut self, no: PeerNo) {
        let grace = if self.peer(no).who.remote { self.limits.remote_grace } else { self.limits.grace };
        let at = self.now + grace;
        let peer = self.peer_mut(no);
        (peer.conn, peer.grace) = (None, at);
        self.arm(at, Timer::Grace(no));
        if self.session_of(no).ended {
            self.gone(no);
        }
    }

    /// Handles `bye`: final, unless hooks show that the session is still running (its channel is being restarted).
    pub(super) fn bye(&mut self, conn: ConnId) {
        let leaves = |session: &Session| !session.hooked || session.ended;
        if let Some(no) = self.peer_on(conn).filter(|no| leaves(self.session_of(*no))) {
            self.roles.remove(&conn);
            self.gone(no);
        }
        self.close(conn);
    }

    pub(super) fn end_grace(&mut self, no: PeerNo) {
        if self.peers.get(&no).is_some_and(|peer| peer.conn.is_none() && peer.grace <= self.now) {
            self.gone(no);
        }
    }

    /// Removes a peer: asks to it fail, its own asks are dropped.
    pub(super) fn gone(&mut self, no: PeerNo) {
        for id in self.peer(no).owes.clone() {
            self.fail(&id, Code::PeerGone);
        }
        for id in self.peer(no).asked.clone() {
            self.drop_asked(&id);
            // If this session returns, it gets a failure notice.
            self.ended.by_id.get_mut(&id).into_iter().for_each(|tombstone| tombstone.untold = true);
        }
        for delivery in self.peer(no).inbox.clone() {
            self.undeliverable(delivery);
        }
        let Some(peer) = self.peers.remove(&no) else { return };
        if let Some(claude) = &peer.who.claude {
            self.forget_session(claude);
        }
        self.names.by_key.remove(&name::key(&peer.who.name));
        self.names.old.retain(|_, holder| *holder != no);
        self.by_identity.remove(&peer.who.peer);
        for other in self.peers.values_mut() {
            other.always.remove(&peer.who.peer); // whoever comes with its identity later is somebody else
        }
        self.report(Event { event: What::Left, from: peer.who.name, ..Event::default() });
        self.arm_exit();
    }

    /// Sends a message to a peer if it is connected.
    pub(super) fn send_to(&mut self, no: PeerNo, message: ToClient) {
        if let Some(conn) = self.peer(no).conn {
            self.send(conn, message);
        }
    }

    pub(super) fn name(&self, no: PeerNo) -> String {
        self.peer(no).who.name.clone()
    }

    /// Looks up a number from the router's own tables.
    pub(super) fn peer(&self, no: PeerNo) -> &Peer {
        self.peers.get(&no).expect("invariant: a peer number in a table names a peer")
    }

    pub(super) fn peer_mut(&mut self, no: PeerNo) -> &mut Peer {
        self.peers.get_mut(&no).expect("invariant: a peer number in a table names a peer")
    }
}

/// Checks the lengths and characters of a registration.
fn check(who: &Who) -> Result<(), Fault> {
    let sized = |s: &str, most: usize| (1..=most).contains(&s.len());
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let optional = [&who.repo, &who.branch, &who.claude, &who.session, &who.host];
    let is_good = sized(&who.name, MAX_LABEL)
        && sized(&who.cwd, MAX_LABEL)
        && sized(&who.secret, 64)
        && sized(&who.peer, 64)
        && who.peer.bytes().all(is_plain)
        && who.paths.len() <= 8
        && optional.into_iter().flatten().all(|text| text.len() <= MAX_LABEL);
    if is_good { Ok(()) } else { refused(Code::BadMsg, "a field of `who` is empty or too long") }
}
