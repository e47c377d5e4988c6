//! What happens to a session by itself: turns, hooks, waiters, and the ends of its processes.

use super::super::{ConnId, Ms};
use super::peer::{Asked, Channel};
use super::world::{Owner, World};
use crate::wire::{Activity, HookEvent, Parcel, Path, ToClient, ToHub};
use std::collections::BTreeMap;

impl World {
    /// A hook fires. The client waits for one hook before it goes on to the next.
    pub fn fire(&mut self, i: usize, event: HookEvent, seen: Vec<String>) {
        if self.peers[i].hooks {
            self.peers[i].hook_queue.push_back((event, seen));
            self.next_hook(i);
        }
    }

    fn next_hook(&mut self, i: usize) {
        while self.peers[i].hook_link.is_none() {
            let Some((event, pushes)) = self.peers[i].hook_queue.pop_front() else { return };
            if self.now < self.down_until {
                continue; // no hub: the hook does not wait
            }
            let conn = self.connect(Owner::Hook(i));
            self.peers[i].hook_link = Some(conn);
            let claude = self.peers[i].who.claude.clone().expect("a session has a process");
            self.say(conn, ToHub::Hook { id: 1, claude, event, age_ms: None });
            if !pushes.is_empty() {
                self.say(conn, ToHub::Seen { pushes, accepted: Vec::new() });
            }
        }
    }

    pub fn start_waiter(&mut self, i: usize) {
        if self.peers[i].hooks && self.peers[i].alive && self.now >= self.down_until {
            let conn = self.connect(Owner::Waiter(i));
            let claude = self.peers[i].who.claude.clone().expect("a session has a process");
            self.say(conn, ToHub::Wait { id: 1, claude });
            self.peers[i].waiters.push(conn);
        }
    }

    /// The waiter hands over what it has been told by now, and is used up.
    pub fn wake(&mut self, i: usize, conn: ConnId, first: Parcel) {
        let mut parcels = vec![first];
        let more = self.rng.below(3);
        if let Some(link) = self.links.get_mut(&conn) {
            while parcels.len() <= more
                && let Some(ToClient::Push(_)) = link.down.front()
                && let Some(ToClient::Push(parcel)) = link.down.pop_front()
            {
                parcels.push(parcel);
            }
        }
        for parcel in parcels {
            assert_eq!(parcel.path, Path::Hook, "a waiter has one path");
            let key = (i, parcel.kind, parcel.ask_id.clone());
            self.hand(i, &parcel);
            // Where the hub is dead already nobody will ever know.
            if self.links.get(&conn).is_none_or(|l| !l.open) {
                self.forgiven.insert(key.clone());
            }
            self.peers[i].woken.push(key);
            self.offer(i, parcel.clone());
            self.say(conn, ToHub::Pushed { push: parcel.push, error: None });
        }
        self.hang_up(conn, false);
    }

    /// A connection is over, and its owner knows.
    pub fn link_ended(&mut self, conn: ConnId, owner: Owner) {
        match owner {
            Owner::Channel(i) => {
                if let Some(channel) = self.peers[i].channel.as_mut().filter(|c| c.conn == Some(conn)) {
                    (channel.conn, channel.registered) = (None, false);
                }
            }
            Owner::Waiter(i) => {
                self.peers[i].waiters.retain(|w| *w != conn);
            }
            Owner::Hook(i) => {
                self.peers[i].hook_link = None;
                self.next_hook(i);
            }
            Owner::Watcher => {}
        }
    }

    /// The session's turn goes on, ends, or begins.
    pub fn turn(&mut self, i: usize) {
        let peer = &mut self.peers[i];
        if !peer.alive || !peer.is_session() {
            return;
        }
        if !peer.client.busy {
            peer.client.busy = true;
            return self.fire(i, HookEvent::Prompt, Vec::new());
        }
        if peer.client.queue.is_empty() {
            peer.client.busy = false;
            if self.peers[i].polls && self.rng.chance(10) {
                return; // interrupted: no hook tells
            }
            self.fire(i, HookEvent::Stop, Vec::new());
            return self.start_waiter(i);
        }
        while let Some(parcel) = self.peers[i].client.queue.pop_front() {
            self.take(i, &parcel);
            if self.peers[i].modern {
                self.fire(i, HookEvent::Prompt, vec![parcel.push]);
            }
        }
    }

    /// Texts whose time has come are taken up at last.
    pub fn take_late(&mut self, i: usize, all: bool) {
        let now = self.now;
        let late = std::mem::take(&mut self.peers[i].client.late);
        let (due, rest) = late.into_iter().partition(|(at, ..)| all || *at <= now);
        self.peers[i].client.late = rest;
        let due: Vec<(Ms, bool, Parcel)> = due;
        for (_, _, parcel) in due {
            self.offer(i, parcel);
        }
    }

    /// The channel looks into the session's file.
    pub fn poll(&mut self, i: usize) {
        let peer = &mut self.peers[i];
        let activity = if peer.client.busy { Activity::Busy } else { Activity::Idle };
        let Some(channel) = peer.channel.as_mut().filter(|c| c.registered) else { return };
        if !peer.polls || peer.who.claude.is_none() || channel.told_activity == Some(activity) {
            return;
        }
        channel.told_activity = Some(activity);
        if let Some(conn) = channel.conn {
            self.say(
                conn,
                ToHub::Activity { activity: Some(activity), age_ms: None, branch: None, paths: None },
            );
        }
    }

    /// The channel's connection breaks; the channel lives.
    pub fn vanish(&mut self, i: usize) {
        let Some(channel) = self.peers[i].channel.as_mut() else { return };
        channel.registered = false;
        if let Some(conn) = channel.conn.take() {
            self.log(|| format!("peer{i} loses its connection"));
            self.hang_up(conn, true);
        }
    }

    /// The channel's process dies and leaves the ids of its open asks.
    pub fn kill(&mut self, i: usize, goodbye: bool) {
        let Some(channel) = self.peers[i].channel.take() else { return };
        self.counts.kills += 1;
        self.peers[i].kills += 1;
        self.log(|| format!("peer{i}'s CHANNEL DIES, goodbye={goodbye}"));
        for (_, request) in channel.requests.values() {
            match request {
                ToHub::Ask { ask_id, .. } => {
                    self.truths.get_mut(ask_id).expect("a known ask").ambiguous = true;
                }
                ToHub::Reply { .. } | ToHub::Broadcast { .. } => {}
                _ => {}
            }
        }
        // Without receipts nobody can tell whether the last texts were handed over.
        let asks = channel
            .given
            .values()
            .filter(|g| !g.parcel.receipt)
            .map(|g| (g.parcel.kind, g.parcel.ask_id.clone()));
        let news = channel.had.iter().filter(|_| !channel.hooked).cloned();
        self.forgiven.extend(asks.chain(news).map(|(kind, id)| (i, kind, id)));
        if let Some(conn) = channel.conn {
            if goodbye {
                self.say(conn, ToHub::Bye);
            }
            let lose = !goodbye && self.rng.chance(20);
            self.hang_up(conn, lose);
        }
    }

    /// A new process of the same session.
    pub fn restart(&mut self, i: usize) {
        let peer = &mut self.peers[i];
        if peer.channel.is_some() || !peer.alive {
            return;
        }
        let asked: BTreeMap<String, Asked> = peer.saved.clone();
        peer.channel = Some(Channel { fresh: true, asked, ..Channel::default() });
        self.log(|| format!("peer{i}'s channel is back"));
    }

    /// The session ends, one way or another.
    pub fn leave(&mut self, i: usize) {
        if !self.peers[i].alive {
            return;
        }
        self.log(|| format!("peer{i} LEAVES"));
        self.peers[i].alive = false;
        let tells = self.rng.chance(80);
        if tells {
            self.fire(i, HookEvent::End, Vec::new());
        }
        self.kill(i, tells);
        for waiter in std::mem::take(&mut self.peers[i].waiters) {
            self.hang_up(waiter, false);
        }
    }

    /// Somebody says what it should not.
    pub fn nuisance(&mut self, i: usize) {
        let Some(conn) = self.peers[i].channel.as_ref().filter(|c| c.registered).and_then(|c| c.conn) else {
            return;
        };
        let nth = self.rng.below(self.pushes.len().max(1));
        let Some(push) = self.pushes.keys().nth(nth).cloned() else { return };
        let own = self.pushes.get(&push).is_some_and(|k| k.0 == i);
        match self.rng.below(4) {
            0 if !own => self.say(conn, ToHub::Seen { pushes: vec![push], accepted: Vec::new() }),
            1 if !own => self.say(conn, ToHub::Seen { pushes: Vec::new(), accepted: vec![push] }),
            2 if !own => self.say(conn, ToHub::Pushed { push, error: Some("no".to_owned()) }),
            3 if !own => self.say(conn, ToHub::Pushed { push, error: None }),
            _ => {
                self.request(i, |id| ToHub::Status { id });
            }
        }
    }

    /// For a connection that is of no session.
    pub fn watch(&mut self) {
        let conn = self.connect(Owner::Watcher);
        self.say(conn, ToHub::Watch { id: 1 });
    }
}
