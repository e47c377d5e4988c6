//! An ask that two peers say they were given. A request that dies with a hub is sent again to the next one, where another
//! may have the name by then; a third hub hears of the ask from both. Only the asker knows which of them it was told of,
//! so until it comes whoever was the first to tell of the ask stands for its target, and what the others bring is kept.

use super::{Id, MAX_HELD_BY_ALL, PeerNo, Router};
use crate::wire::{Code, Kind, Parcel, Path, State};

/// The most peers besides the first that are listened to about one ask.
const MAX_RIVALS: usize = 8;

/// A peer that has an ask of which another told before, and what it brought.
pub(super) struct Rival {
    peer: PeerNo,
    given: Option<Handed>,
    answer: Option<String>,
}

/// A question that was handed to a peer: how far it got, and by which pushes.
pub(super) type Handed = (Parcel, State, Vec<(String, Path)>);

impl Rival {
    fn size(&self) -> usize {
        let given = self.given.as_ref().map_or(0, |(parcel, ..)| parcel.text.len());
        given + self.answer.as_ref().map_or(0, String::len)
    }
}

impl Router {
    /// `me` brings an ask of which another told before. `false` if it is settled whose it is, and then it is not `me`'s.
    pub(super) fn contend(
        &mut self,
        me: PeerNo,
        id: &Id,
        asker: &str,
        given: Option<Handed>,
        answer: Option<String>,
    ) -> bool {
        let open = |no: &PeerNo| *no != me && self.peer(*no).who.peer == asker;
        if !self.asks.get(id).is_some_and(|ask| !ask.claimed && open(&ask.asker)) {
            return false;
        }
        let mut new = Rival { peer: me, given, answer };
        let known = self.rivals.get(id).map_or(&[][..], Vec::as_slice);
        let place = known.iter().position(|rival| rival.peer == me);
        let room = self.held_text + new.size() <= MAX_HELD_BY_ALL;
        if !room || (place.is_none() && known.len() >= MAX_RIVALS) {
            return place.is_some(); // what it brought before still stands
        }
        let rivals = self.rivals.entry(id.clone()).or_default();
        if let Some(before) = place.map(|at| rivals.remove(at)) {
            self.held_text -= before.size();
            new.given = new.given.or(before.given);
            new.answer = new.answer.or(before.answer);
        }
        self.held_text += new.size();
        rivals.push(new);
        true
    }

    /// An answer of one that has yet to hear whether the ask is its own. `None` if it is not among those, else whether this
    /// is its first answer or the same again.
    pub(super) fn rival_answers(&mut self, me: PeerNo, id: &str, text: &str) -> Option<bool> {
        let rival = self.rivals.get_mut(id)?.iter_mut().find(|rival| rival.peer == me)?;
        if let Some(before) = &rival.answer {
            return Some(before == text);
        }
        rival.answer = Some(text.to_owned());
        self.held_text += text.len();
        Some(true)
    }

    /// The asker has come and says whom it was told that it asked; `target` is empty if it was told nothing yet, and then
    /// it was whoever told of the ask first. The ask goes on with that one, and the others hear that it is not theirs.
    pub(super) fn bind(&mut self, id: &Id, target: &str) {
        let Some(ask) = self.asks.get(id).filter(|ask| !ask.claimed) else { return };
        let (asker, first) = (ask.asker, ask.target);
        let meant = |router: &Router, no: PeerNo| router.peer(no).who.peer == target;
        let rivals = self.take_rivals(id);
        if target.is_empty() || meant(self, first) {
            return self.turn_away(id, rivals);
        }
        self.retract(id);
        let (own, others) = rivals.into_iter().partition(|rival| meant(self, rival.peer));
        self.turn_away(id, others);
        for rival in own {
            self.restore_rival(asker, id, rival);
        }
    }

    /// Whoever was the first to tell of this ask is gone before its asker came: the next one stands for the target now.
    /// `false` if there is none.
    pub(super) fn next_rival(&mut self, id: &Id) -> bool {
        let Some(asker) = self.asks.get(id).filter(|ask| !ask.claimed).map(|ask| ask.asker) else {
            return false;
        };
        let rivals = self.take_rivals(id);
        if rivals.is_empty() {
            return false;
        }
        self.retract(id);
        for rival in rivals {
            self.restore_rival(asker, id, rival); // those after the first contend with it
        }
        true
    }

    /// A peer is gone, and with it what it brought.
    pub(super) fn forget_rival(&mut self, peer: PeerNo) {
        for rivals in self.rivals.values_mut() {
            let held_text = &mut self.held_text;
            rivals.retain(|rival| {
                let stays = rival.peer != peer;
                *held_text -= if stays { 0 } else { rival.size() };
                stays
            });
        }
        self.rivals.retain(|_, rivals| !rivals.is_empty());
    }

    /// The ask has ended, for all who were given it.
    pub(super) fn dismiss_rivals(&mut self, id: &Id) {
        let rivals = self.take_rivals(id);
        self.turn_away(id, rivals);
    }

    fn take_rivals(&mut self, id: &Id) -> Vec<Rival> {
        let rivals = self.rivals.remove(id).unwrap_or_default();
        self.held_text -= rivals.iter().map(Rival::size).sum::<usize>();
        rivals
    }

    fn turn_away(&mut self, id: &Id, rivals: Vec<Rival>) {
        for Rival { peer, answer, .. } in rivals {
            self.tell_not_yours(peer, id, answer.is_some());
        }
    }

    /// Nobody waits for this peer's answer, as far as this hub knows.
    fn tell_not_yours(&mut self, peer: PeerNo, id: &Id, answered: bool) {
        self.tell(peer, Kind::Ask, id, State::Ended, None, Some(Code::PeerGone));
        if answered {
            self.tell(peer, Kind::Reply, id, State::Ended, None, Some(Code::PeerGone));
        }
    }

    /// Takes the ask from the one that told of it first. That is no end of it.
    fn retract(&mut self, id: &Id) {
        if let Some(ask) = self.end(id) {
            self.tell_not_yours(ask.target, id, ask.answer.is_some());
        }
    }

    /// What a rival brought counts as if it came now.
    fn restore_rival(&mut self, asker: PeerNo, id: &Id, rival: Rival) {
        let who = &self.peer(asker).who;
        let (identity, name) = (who.peer.clone(), who.name.clone());
        if let Some((parcel, state, pushes)) = rival.given {
            self.given(rival.peer, parcel, Some(identity.clone()), state, pushes, false);
        }
        if let Some(text) = rival.answer {
            self.replied_before(rival.peer, id, &identity, &name, text, false);
        }
    }
}
