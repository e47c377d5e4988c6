//! Notes on asks that will probably not be answered: no turn began, the turn ended without an answer, or the answer was
//! refused. The ask stays open, and an answer counts until the timeout, but the asker is notified at once.

use super::ask::Ask;
use super::{Id, PeerNo, Router, Timer};
use crate::fence::label;
use crate::wire::{Activity, Event, Kind, ListedAsk, Note, Path, PeerKind, State, What};

impl Router {
    /// Handles the end of a turn. Returns the asks of which the hook reminds the session's model: those that the model has seen
    /// and not answered, each once. An ask of which it was reminded before gets the note `unanswered`.
    ///
    /// `again`: a hook has prolonged this turn before, so every ask gets that note. The exception is an ask that came by the path
    /// `hook`: that hook may be the waiter that brought it.
    pub(super) fn turn_ended(&mut self, peers: &[PeerNo], again: bool) -> Vec<ListedAsk> {
        let mut remind = Vec::new();
        for id in self.owed_and_seen(peers) {
            let is_asked = |ask: &&mut Ask| ask.note != Some(Note::Declined);
            let Some(ask) = self.asks.get_mut(&id).filter(is_asked) else { continue };
            if ask.reminded || again && ask.path != Some(Path::Hook) {
                self.set_note(&id, Note::Unanswered, None);
            } else {
                ask.reminded = true;
                remind.extend(self.asks.get(&id).map(|ask| self.ask_line(&id, ask)));
            }
        }
        remind
    }

    /// Handles a failed turn: the model's server had an error.
    pub(super) fn turn_failed(&mut self, peers: &[PeerNo], reason: Option<&str>) {
        for id in self.owed_and_seen(peers) {
            self.set_note(&id, Note::TurnFailed, reason);
            self.arm(self.now + self.limits.nudge, Timer::Nudge(id));
        }
    }

    /// Handles a refused answer, by the client's classifier or its user. The model that wanted to answer has the question,
    /// whether or not a receipt for it has arrived yet.
    pub(super) fn declined(&mut self, peers: &[PeerNo], ask_id: &str, reason: &str) {
        let id = Id::from(ask_id);
        if self.asks.get(&id).is_some_and(|ask| peers.contains(&ask.target)) {
            self.confirm_question(&id);
            self.set_note(&id, Note::Declined, Some(reason));
        }
    }

    /// Starts the timer for a session that is idle, and has seen these questions, to begin a turn for them. Its last turn may
    /// have ended without a hook: it was interrupted, or the hook is late.
    pub(super) fn expect_turn(&mut self, peers: &[PeerNo]) {
        for id in self.owed_and_seen(peers) {
            if self.expects_turn(&id) {
                self.arm(self.now + self.limits.begin_turn, Timer::NoTurn(id));
            }
        }
    }

    /// Whether an idle session has seen a question and begun no turn since. It may have to be reminded soon, preferably by another
    /// path than that of the question.
    pub(super) fn expects_turn(&self, id: &Id) -> bool {
        self.asks.get(id).is_some_and(|Ask { target, note, reminded, state, .. }| {
            let is_idle = self.session_of(*target).activity == Activity::Idle;
            is_idle && *state == State::Seen && note.is_none() && !*reminded
        })
    }

    /// Handles the timer of [`expect_turn`](Self::expect_turn).
    pub(super) fn no_turn(&mut self, id: &Id) {
        let Some(ask) = self.asks.get(id) else { return };
        if !self.expects_turn(id) {
            return self.dismiss_idle_waiter(ask.target);
        }
        if self.session_of(ask.target).idle_since <= ask.since {
            self.set_note(id, Note::NoTurn, None);
            self.nudge(id);
        } else {
            self.set_note(id, Note::Unanswered, Some("the turn was interrupted"));
        }
    }

    /// Reminds a session of an ask by a push, unless it was reminded before. The push takes another path than the question did, if
    /// there is one.
    pub(super) fn nudge(&mut self, id: &Id) {
        let Some(ask) = self.asks.get_mut(id) else { return };
        if std::mem::replace(&mut ask.reminded, true) {
            return;
        }
        let (asker, target, record) = (ask.asker, ask.target, ask.record.clone());
        let text = format!(
            "\"{}\" still waits for the answer to {id}, which is in this conversation. Answer it with relay_reply and this \
             ask_id, even if only to say why you can't.",
            self.peer(asker).who.name
        );
        let parcel = self.parcel(Kind::Notice, id, asker, text, &record);
        self.post(target, parcel, None);
    }

    /// Notifies the people and scripts that wait for an answer of these peers, whose activity has changed.
    pub(super) fn activity_changed(&mut self, peers: &[PeerNo]) {
        for id in peers.iter().flat_map(|no| self.peer(*no).owes.clone()).collect::<Vec<_>>() {
            if self.asks.get(&id).is_some_and(|ask| !self.peer(ask.asker).who.listens) {
                self.notify(&id);
            }
        }
    }

    /// The remedy, if more time does not help.
    pub(super) fn help(&self, ask: &Ask) -> Option<&'static str> {
        match ask.note {
            Some(Note::Declined) => {
                Some("Its user can allow relay_reply there, for all sessions with `relay setup --allow`")
            }
            Some(Note::Unanswered) => Some("More time does not help: ask in other words, or ask its user"),
            _ if self.session_of(ask.target).activity == Activity::Waiting => {
                Some("Its user has to answer the permission dialog there first")
            }
            _ => None,
        }
    }

    /// Open asks to these peers that are in the conversation.
    fn owed_and_seen(&self, peers: &[PeerNo]) -> Vec<Id> {
        let owed = peers.iter().flat_map(|no| &self.peer(*no).owes);
        let seen = |id: &&Id| self.asks.get(*id).is_some_and(|ask| ask.state == State::Seen);
        owed.filter(seen).cloned().collect()
    }

    /// Sets a note, and notifies the asker if it is new.
    pub(super) fn set_note(&mut self, id: &Id, note: Note, reason: Option<&str>) {
        let Some(ask) = self.asks.get_mut(id).filter(|ask| ask.note != Some(note)) else { return };
        (ask.note, ask.reason) = (Some(note), reason.map(label));
        let (asker, target) = (ask.asker, ask.target);
        self.notify(id);
        let Some(ask) = self.asks.get(id) else { return };
        let (is_member, detail, to) =
            (ask.record.broadcast.is_some(), self.state_words(ask, ""), self.name(target));
        let help = self.help(ask).map(|help| format!(" {help}.")).unwrap_or_default();
        let text = format!(
            "{id} to \"{to}\": {detail}.{help} The ask stays open: an answer still counts until its timeout. Tell your user if \
             it matters; do not broadcast the question."
        );
        let parcel = self.parcel(Kind::Notice, id, target, text, &ask.record);
        let event = self.event_of(What::Note, &parcel, asker);
        // Not for a log: a reason may quote a text.
        self.report(Event { note: Some(note), text: Some(detail), ..event });
        // People and scripts see the state; a model gets a notice. For `NoTurn` the session is reminded first.
        let has_room = self.peer(asker).inbox.len() < self.limits.undelivered;
        let is_session = self.peer(asker).who.kind == PeerKind::Session;
        if is_session && has_room && note != Note::NoTurn && !is_member {
            self.post(asker, parcel, None);
        }
    }
}

/// A note as text for people.
pub(super) fn phrase(ask: &Ask) -> String {
    let because = ask.reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default();
    match ask.note {
        None => "no reply yet".to_owned(),
        Some(Note::NoTurn) => {
            "no turn begun: the idle session did not take it up and was reminded".to_owned()
        }
        Some(Note::Unanswered) => format!("unanswered: the session ended its turn without a reply{because}"),
        Some(Note::Declined) => format!("declined: the reply was refused there{because}"),
        Some(Note::PutOff) => "put off: its user closed the form without an answer".to_owned(),
        Some(Note::TurnFailed) => format!("turn failed: the session's model had an error{because}"),
    }
}

#[cfg(test)]
mod tests;
