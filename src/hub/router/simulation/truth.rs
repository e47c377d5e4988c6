//! What really happened, as an observer who sees everything knows it, and the checks of what the hub says against it.

use std::collections::{BTreeSet, HashSet};

use super::super::{ConnId, Input};
use super::world::{Owner, World};
use crate::wire::{Answer, AskRequest, Code, HookReport, Kind, Parcel, Path, Proof, State, ToClient, ToHub};

/// What an observer who sees everything knows of an ask or a broadcast.
#[derive(Debug, Default)]
pub struct Truth {
    pub asker: usize,
    pub target: Option<usize>,
    pub broadcast: Option<String>,
    /// The ends that the asker had, each once.
    pub ends: BTreeSet<End>,
    /// The asker stopped waiting for it: one more end may have been on its way.
    pub given_up: bool,
    /// No live process knows of it any more, or a path that sends no receipts swallowed its end.
    pub excused: bool,
    /// It was open when a journal was lost.
    pub journal_lost: bool,
    /// Its asker was gone when it had no answer yet.
    pub gone: bool,
    /// It is for the person.
    pub is_for_person: bool,
    /// How often the person said no, or closed the form without a decision.
    pub refusals: u32,
    /// Answers that the target gave.
    pub answers: HashSet<String>,
    /// The answer that the hub confirmed.
    pub accepted: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Reply,
    LateReply,
    Summary,
    Failed(Code),
    /// The failure of a broadcast's ask, which no text reports but the summary.
    Told(Code),
    Refused(Code),
}

/// A text and its recipient.
pub type Key = (usize, Kind, String);

/// A push that the hub started.
#[derive(Debug)]
pub struct Push {
    pub key: Key,
    /// The process that handed it over.
    pub process: Option<u64>,
    /// The hub knows that.
    pub reported: bool,
    pub swallowed: bool,
}

/// What an input means for the checks, once its step counts.
#[derive(Default)]
pub struct Effects {
    asked: Option<String>,
    seen: Vec<Key>,
    pushed: Option<String>,
}

impl World {
    /// What an input is about to do to the router.
    pub fn effects(&self, input: &Input) -> Effects {
        let mut effects = Effects::default();
        let Input::Said(conn, message) = input else { return effects };
        let Some(owner) = self.links.get(conn).filter(|l| l.open).map(|l| l.owner) else { return effects };
        let known = |push: &&String| self.hub.pushes.contains_key(*push);
        match message {
            ToHub::Ask(AskRequest { ask_id, .. }) => effects.asked = Some(ask_id.clone()),
            ToHub::Pushed { push, error: None } => effects.pushed = Some(push.clone()).filter(|p| known(&p)),
            ToHub::Seen { receipts } | ToHub::Hook(HookReport { receipts, .. }) => {
                // Only a receipt for what this hub knows counts, and only of a client that may give it.
                let may = |key: &Key| match owner {
                    Owner::Channel(i) => key.0 == i,
                    Owner::Hook(i) | Owner::Waiter(i) => {
                        self.peers[key.0].who.claude == self.peers[i].who.claude
                    }
                    Owner::Watcher => false,
                };
                let seen = receipts.iter().filter(|(_, proof)| *proof == Proof::Seen).map(|(push, _)| push);
                let keys = seen.filter(known).filter_map(|p| self.pushes.get(p)).map(|p| &p.key);
                effects.seen = keys.filter(|k| may(k) && self.got.contains_key(*k)).cloned().collect();
            }
            _ => {}
        }
        effects
    }

    /// A step counts: the journal has it.
    pub fn apply(&mut self, effects: Effects) {
        if let Some(id) = effects.asked
            && let Some(ask) = self.hub.asks.get(id.as_str())
        {
            let target = index(&self.hub.peers[&ask.target].who.peer);
            let truth = self.truths.get_mut(&id).expect("a known ask");
            assert!(truth.target.is_none_or(|t| t == target), "an ask has moved to peer{target}");
            truth.target = Some(target);
        }
        self.seen.extend(effects.seen);
        if let Some(id) = effects.pushed
            && let Some(push) = self.pushes.get_mut(&id)
        {
            push.reported = true;
            let is_end = matches!(push.key.1, Kind::Reply | Kind::Failed | Kind::Summary);
            if push.swallowed && !self.hub.pushes.contains_key(&id) && is_end {
                let id = push.key.2.clone();
                self.truth(&id).excused = true; // nobody can know
            }
        }
    }

    /// What the hub says must be so.
    pub fn check(&mut self, conn: ConnId, owner: Owner, message: &ToClient) {
        match message {
            ToClient::Ok { answer, .. } => match answer {
                Answer::Asked { ask_id, state, .. } => self.check_state(Kind::Ask, ask_id, *state),
                Answer::Replied { ask_id, state, .. } => self.check_state(Kind::Reply, ask_id, *state),
                Answer::Broadcast { asks, .. } => {
                    for member in asks {
                        self.truth(&member.ask_id);
                    }
                }
                _ => {}
            },
            ToClient::Push(parcel) => {
                if parcel.path == Path::Form && !self.pushes.contains_key(&parcel.push) {
                    self.check_form(parcel);
                }
                self.check_push(conn, owner, parcel);
            }
            ToClient::State { ask_id, state, .. } => self.check_state(Kind::Ask, ask_id, *state),
            _ => {}
        }
    }

    fn check_push(&mut self, conn: ConnId, owner: Owner, parcel: &Parcel) {
        let (Owner::Channel(to) | Owner::Waiter(to)) = owner else { panic!("pushed to {owner:?}") };
        let key = key(to, parcel);
        if let Some(known) = self.pushes.get(&parcel.push) {
            assert_eq!(known.key, key, "one identifier for two texts");
            let is_dead = known.process.is_some_and(|process| self.dead.contains(&process));
            let same = matches!(owner, Owner::Channel(_)) && (!is_dead || self.links[&conn].gone);
            assert!(same, "the same push again to another process");
            return;
        }
        if parcel.kind == Kind::Ask {
            assert_eq!(self.truth(&parcel.ask_id).target, Some(to), "an ask for another");
        }
        assert!(!self.seen.contains(&key), "pushed again though it was seen: {key:?}");
        let push = Push { key, process: None, reported: false, swallowed: false };
        self.pushes.insert(parcel.push.clone(), push);
    }

    /// A form is opened only at an idle session. Where an input came with the timer, it may have begun a turn since.
    fn check_form(&self, parcel: &Parcel) {
        let no = self.hub.deliveries[&self.hub.pushes[&parcel.push]].to;
        let peer = &self.hub.peers[&no];
        assert!(peer.who.forms && (parcel.kind == Kind::Consent || !peer.who.person_off));
        if self.is_tick {
            let (now, quiet) = (self.now - self.born, self.limits.form_quiet);
            assert!(
                self.hub.session_of(no).quiet_since().is_some_and(|since| since + quiet <= now),
                "a form in a turn"
            );
            assert!(peer.form_after <= now, "a form too early");
        }
    }

    /// Nothing is called pushed or seen that is not.
    fn check_state(&self, kind: Kind, id: &str, state: State) {
        let truth = self.truths.get(id);
        let to = if kind == Kind::Ask { truth.and_then(|t| t.target) } else { truth.map(|t| t.asker) };
        let key = |to| (to, kind, id.to_owned());
        match state {
            State::Pushed => {
                assert!(to.is_some_and(|to| self.handed.contains(&key(to))), "{kind:?} {id} pushed on hope");
            }
            State::Seen => {
                assert!(to.is_some_and(|to| self.got.contains_key(&key(to))), "{kind:?} {id} seen on hope");
            }
            _ => {}
        }
    }

    /// The truth about an ask or a broadcast. The ask of a broadcast names the broadcast and the target.
    pub fn truth(&mut self, id: &str) -> &mut Truth {
        if !self.truths.contains_key(id) {
            let (all, target) = id.split_once('-').unwrap_or_else(|| panic!("an ask of nobody: {id}"));
            let (asker, target) = (self.truths[all].asker, Some(index(target)));
            let broadcast = Some(all.to_owned());
            self.truths.insert(id.to_owned(), Truth { asker, target, broadcast, ..Truth::default() });
        }
        self.truths.get_mut(id).expect("just looked at")
    }

    /// Asks that end in nothing because neither the hub nor a client knows of them any more: their asker was gone.
    pub fn excuse_unknown(&mut self) {
        let (hub, peers) = (&self.hub, &self.peers);
        let is_end = |p: &Parcel| matches!(p.kind, Kind::Reply | Kind::Failed | Kind::Summary);
        let on_its_way =
            |id: &str| hub.deliveries.values().any(|d| is_end(&d.parcel) && d.parcel.ask_id == id);
        // A path swallowed it, and the session left before a hook could notice.
        let unnoticed =
            |(id, p): &(&String, &Push)| p.swallowed && p.reported && !hub.pushes.contains_key(*id);
        let ends = |p: &Push| matches!(p.key.1, Kind::Reply | Kind::Failed | Kind::Summary);
        for (_, push) in self.pushes.iter().filter(unnoticed).filter(|(_, push)| ends(push)) {
            self.truths.get_mut(&push.key.2).into_iter().for_each(|truth| truth.excused = true);
        }
        for (id, truth) in &mut self.truths {
            let answered = truth.ends.contains(&End::Reply) || truth.ends.contains(&End::LateReply);
            truth.gone |= !answered && !hub.by_identity.contains_key(&peers[truth.asker].who.peer);
            if truth.excused || !truth.ends.is_empty() {
                continue;
            }
            let client = peers[truth.asker].client.as_ref();
            let waited = client.is_some_and(|c| c.waits_for(truth.broadcast.as_ref().unwrap_or(id)));
            let open = hub.asks.contains_key(id.as_str()) || hub.broadcasts.contains_key(id.as_str());
            truth.excused = !(waited || open || on_its_way(id));
        }
    }

    /// Whether a process died that had handed a text over and had not told the hub.
    pub fn is_doubtful(&self, key: &Key) -> bool {
        let unreported =
            |p: &Push| p.key == *key && !p.reported && p.process.is_some_and(|p| self.dead.contains(&p));
        self.pushes.values().any(unreported)
    }

    pub fn end(&mut self, id: &str, end: End) {
        self.log(|| format!("END of {id}: {end:?}"));
        let Truth { is_for_person, refusals, .. } = self.truth(id);
        let is_declined = *is_for_person && end == End::Failed(Code::Declined);
        assert!(!is_declined || *refusals > 0, "{id} was declined by nobody");
        match end {
            End::Reply => self.counts.replies += 1,
            End::LateReply => self.counts.late += 1,
            End::Summary => self.counts.summaries += 1,
            _ => self.counts.failed += 1,
        }
        self.truth(id).ends.insert(end);
    }
}

pub fn key(to: usize, parcel: &Parcel) -> Key {
    // There may be several notices about one ask.
    let id = if parcel.kind == Kind::Notice { &parcel.push } else { &parcel.ask_id };
    (to, parcel.kind, id.clone())
}

/// The number in the identity of a peer.
pub fn index(peer: &str) -> usize {
    peer.trim_start_matches("peer").parse().expect("an identity")
}
