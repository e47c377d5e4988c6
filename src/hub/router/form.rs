//! Forms: questions to the person in front of a session, and the consent of that person to questions of peers. A form takes
//! the keyboard; this module decides when one may be opened.

use super::ask::Ask;
use super::delivery::Delivery;
use super::peer::MAX_LOST;
use super::{ConnId, DeliveryNo, Id, Ms, PeerNo, Reply, Router, Starter, Timer};
use crate::fence::clean;
use crate::span::span;
use crate::wire::{Answer, Code, Consent, Fault, FormEnd, Kind, Note, PeerKind, ToClient, refused};

/// The longest question to a person, in bytes and in lines: a form shows no more on a small terminal.
const MAX_TEXT: usize = 1_000;
const MAX_LINES: usize = 12;

/// How many milliseconds after the start of a channel no form is opened. Claude Code closes what comes within about 0.3 s
/// unseen (measured).
pub(super) const FORM_START: Ms = 2_000;
/// The limit of forms per hour from one asker at one session.
const FORMS_PER_HOUR: u32 = 6;
const HOUR: Ms = 3_600_000;

impl Router {
    /// Checks that a question can be put to the person behind `target`. Returns whether that takes a form, and counts it.
    pub(super) fn check_person(&mut self, asker: PeerNo, target: PeerNo, text: &str) -> Result<bool, Fault> {
        // Cleaning can add lines, because some control characters end a line.
        if text.len() > MAX_TEXT || clean(text).lines().count() > MAX_LINES {
            let limit = format!(
                "a question to a person has at most {MAX_TEXT} bytes and {MAX_LINES} lines; shorten it, or name a file to read"
            );
            return refused(Code::BadArgs, limit);
        }
        let who = &self.peer(target).who;
        let why = match who.kind {
            PeerKind::Person if who.listens => return Ok(false),
            PeerKind::Session if who.person_off => {
                "its user does not want questions by peers (RELAY_PERSON=off)"
            }
            PeerKind::Session if who.forms => return self.within_form_rate(asker, target).map(|()| true),
            PeerKind::Session => {
                "its user cannot be shown a form there: it runs without a terminal, or its client shows no forms"
            }
            PeerKind::Person | PeerKind::Script => "no person answers there",
        };
        let why = format!("\"{}\": {why}; ask that peer itself instead, or your own user", who.name);
        refused(Code::Declined, why)
    }

    /// Counts a form against the limit per asker and session. Scripts and people at a shell have a new identity each time,
    /// and count as one asker.
    fn within_form_rate(&mut self, asker: PeerNo, target: PeerNo) -> Result<(), Fault> {
        let (now, key) = (self.now, self.asker_key(asker));
        self.peer_mut(target).forms.count(key, FORMS_PER_HOUR, HOUR, now, "questions went to its user")
    }

    fn asker_key(&self, asker: PeerNo) -> String {
        let who = &self.peer(asker).who;
        match who.kind {
            PeerKind::Session => who.peer.clone(),
            PeerKind::Person | PeerKind::Script => format!("shell, remote: {}", who.remote),
        }
    }

    /// Begins to ask for the consent of the target's user, if the question needs it.
    pub(super) fn seek_consent(&mut self, id: &Id) {
        let Some(ask) = self.asks.get(id).filter(|ask| self.needs_consent(ask)) else { return };
        let (asker, target) = (ask.asker, ask.target);
        let parcel = self.parcel(Kind::Consent, id, asker, ask.about.clone(), &ask.record);
        if !self.peer(target).who.forms || self.within_form_rate(asker, target).is_err() {
            let why =
                "its user wants to be asked first, and cannot be shown a form there, or was asked too often";
            return self.decline(id, why);
        }
        let no = self.deliver(target, parcel, None);
        self.asks.get_mut(id).into_iter().for_each(|ask| ask.consent = Some(no));
        self.dispatch(no);
    }

    fn needs_consent(&self, ask: &Ask) -> bool {
        let (from, to) = (&self.peer(ask.asker).who, self.peer(ask.target));
        let is_near = from.repo == to.who.repo
            && (from.repo.is_some() || from.cwd == to.who.cwd)
            && from.is_at(&to.who); // a path elsewhere is another directory
        let applies = to.who.consent.is_some_and(|whose| whose == Consent::All || !is_near);
        let is_other = !ask.record.by_form && ask.asker != ask.target;
        applies && is_other && !to.always.contains(&self.asker_key(ask.asker))
    }

    /// Whether a delivery is not to be handed over by any other path: it is a form, or waits for consent.
    pub(super) fn is_held_back(&self, delivery: &Delivery) -> bool {
        let ask = || self.asks.get(delivery.parcel.ask_id.as_str());
        delivery.is_form() || delivery.parcel.kind == Kind::Ask && ask().is_some_and(|a| a.consent.is_some())
    }

    /// The earliest time to open a form. `None` while the session is not idle or shows another one: the end of either
    /// dispatches again.
    pub(super) fn form_time(&self, form: &Delivery) -> Option<Ms> {
        let quiet = self.session_of(form.to).quiet_since()? + self.limits.form_quiet;
        let mut others = self.of_same_session(form.to).into_iter().flat_map(|no| self.deliveries_to(no));
        let is_free = !others.any(|other| other.is_form() && other.is_under_way());
        is_free.then_some(quiet.max(self.peer(form.to).form_after).max(form.put_off_until.unwrap_or(0)))
    }

    /// Delays the next form of a session in which a form was closed, or was not opened because the user is typing.
    pub(super) fn free_form(&mut self, peer: PeerNo) {
        let at = self.now + self.limits.form_quiet;
        for no in self.of_same_session(peer) {
            self.peer_mut(no).form_after = at;
            self.arm(at, Timer::Dispatch(no));
        }
    }

    /// Tells a peer that comes back which of the forms that it shows have ended meanwhile, so that it closes them.
    pub(super) fn close_stale_forms(&mut self, me: PeerNo, conn: ConnId, open: Vec<String>) {
        for ask_id in open.into_iter().take(MAX_LOST) {
            let is_it = |d: &Delivery| d.is_form() && d.is_under_way() && d.parcel.ask_id == ask_id;
            if !self.deliveries_to(me).any(is_it) {
                self.send(conn, ToClient::Over { ask_id, code: Code::HubUnreachable });
            }
        }
    }

    /// Handles the end of a form. `starter` is the request.
    pub(super) fn form_closed(&mut self, starter: Starter, push: &str, ask_id: &str, end: FormEnd) -> Reply {
        let me = self.me(starter.0)?;
        let (id, done) = (Id::from(ask_id), Ok(Some(Answer::Done)));
        let ask = self.asks.get(ask_id).filter(|ask| ask.target == me);
        let consent = ask.and_then(|ask| ask.consent);
        let form = consent.or(ask.filter(|ask| ask.record.by_form).map(|ask| ask.delivery));
        match (end, form.filter(|no| self.pushes.get(push) == Some(no))) {
            (FormEnd::Answered { text }, _) if consent.is_none() => {
                return self.reply(starter, ask_id, text, true).or(done);
            }
            (_, None) => {} // it is closed already
            (FormEnd::Allowed { always }, _) if consent.is_some() => self.allowed(&id, always),
            (FormEnd::PutOff, Some(no)) => self.put_off(no, &id),
            (FormEnd::Failed, _) => self.decline(&id, "its client could not show its user the form"),
            _ if consent.is_some() => self.decline(&id, "its user does not let this peer ask"),
            _ => self.decline(&id, "its user does not want to answer"),
        }
        done
    }

    /// The user lets a peer ask: this question, or, with `always`, all that it asks.
    fn allowed(&mut self, id: &Id, always: bool) {
        let Some(Ask { asker, target, .. }) = self.asks.get(id) else { return };
        let (target, key) = (*target, self.asker_key(*asker));
        if always {
            self.peer_mut(target).always.insert(key);
        }
        for owed in self.peer(target).owes.clone() {
            let is_next = |ask: &Ask| owed == *id || !self.needs_consent(ask);
            if !self.asks.get(&owed).is_some_and(is_next) {
                continue;
            }
            let Some(ask) = self.asks.get_mut(&owed) else { continue };
            let (consent, question) = (ask.consent.take(), ask.delivery);
            consent.into_iter().for_each(|no| self.remove_delivery(no)); // the only form that was open is closed
            self.dispatch(question);
        }
    }

    /// The user closed a form without a decision: it is opened once more. The time until then does not count towards the
    /// timeout.
    fn put_off(&mut self, no: DeliveryNo, id: &Id) {
        let again = self.limits.form_again;
        let (Some(delivery), Some(ask)) = (self.deliveries.get_mut(&no), self.asks.get_mut(id)) else {
            return;
        };
        let before = delivery.put_off_until.replace(self.now + again);
        if before.is_some() || ask.record.broadcast.is_some() {
            return self.decline(id, "its user closed the form without an answer");
        }
        let (target, deadline) = (ask.target, ask.deadline);
        ask.deadline += again;
        self.disarm(deadline, Timer::Timeout(id.clone()));
        self.arm(deadline + again, Timer::Timeout(id.clone()));
        self.forget_attempt(no);
        self.free_form(target);
        self.dispatch(no); // queues it again
        self.set_note(id, Note::PutOff, None);
    }

    fn decline(&mut self, id: &Id, why: &str) {
        self.asks.get_mut(id).into_iter().for_each(|ask| ask.reason = Some(why.to_owned()));
        self.fail(id, Code::Declined);
    }

    /// Why a question to a person, or one that waits for consent, is not answered yet.
    pub(super) fn form_reason(&self, form: &Delivery) -> String {
        let what = match form.parcel.kind {
            Kind::Consent => "its user is asked for consent",
            _ => "its user is asked by a form",
        };
        let left = form.put_off_until.unwrap_or(0).saturating_sub(self.now);
        let when = match left {
            _ if form.is_under_way() => "right now".to_owned(),
            0 => "when the session is idle, shows no form, and nothing was typed for some seconds".to_owned(),
            left => format!("once more in {}, after it was closed without an answer", span(left / 1000)),
        };
        format!("{what} {when}")
    }
}
