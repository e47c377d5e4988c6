//! Forms: questions to the person in front of a session, and the consent of that person to questions of peers. A form takes
//! the keyboard, so here is decided when one may be opened.

use super::ask::check_text;
use super::delivery::Delivery;
use super::peer::MAX_LOST;
use super::{ConnId, DeliveryNo, Id, Ms, PeerNo, Reply, Router, Starter, Timer};
use crate::fence::clean;
use crate::span::span;
use crate::wire::{
    Answer, Code, Consent, Fault, FormEnd, Kind, Note, Path, PeerKind, State, ToClient, refused,
};

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
    /// Checks that a question can be put to the person behind `target`.
    pub(super) fn check_person(&self, target: PeerNo, text: &str) -> Result<(), Fault> {
        // Cleaned, a text has more lines: some control characters end one.
        if text.len() > MAX_TEXT || clean(text).lines().count() > MAX_LINES {
            let limit = format!(
                "a question to a person has at most {MAX_TEXT} bytes and {MAX_LINES} lines; shorten it, or name a file to read"
            );
            return refused(Code::BadArgs, limit);
        }
        let who = &self.peer(target).who;
        let why = match who.kind {
            PeerKind::Person if who.listens => return Ok(()),
            PeerKind::Session if who.person_off => {
                "its user does not want questions by peers (RELAY_PERSON=off)"
            }
            PeerKind::Session if who.forms => return Ok(()),
            PeerKind::Session => {
                "its user cannot be shown a form there: it runs without a terminal, or its client shows no forms"
            }
            PeerKind::Person | PeerKind::Script => "no person answers there",
        };
        let name = &who.name;
        let instead = "ask that peer itself instead, or your own user";
        refused(Code::Declined, format!("\"{name}\": {why}; {instead}"))
    }

    /// Counts a form against the limit per asker and session. Scripts and people at a shell have a new identity each time,
    /// and count as one asker.
    pub(super) fn within_form_rate(&mut self, asker: PeerNo, target: PeerNo) -> Result<(), Fault> {
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

    /// Whether a question reaches its target by a form.
    pub(super) fn is_by_form(&self, person: bool, target: PeerNo) -> bool {
        person && self.peer(target).who.kind == PeerKind::Session
    }

    /// Begins to ask for the consent of the target's user, if the question with this delivery needs it.
    pub(super) fn seek_consent(&mut self, id: &Id, question: DeliveryNo) {
        let (Some(ask), Some(question)) = (self.asks.get(id), self.deliveries.get(&question)) else { return };
        let (asker, target, thread) = (ask.asker, ask.target, ask.thread.clone());
        // The beginning of the question. What is not shown must not be overlooked.
        let is_whole = ask.about == question.parcel.text.trim();
        let text = format!("{}{}", ask.about, if is_whole { "" } else { "…" });
        if ask.person || !self.needs_consent(asker, target) {
            return;
        }
        if !self.peer(target).who.forms || self.within_form_rate(asker, target).is_err() {
            let why =
                "its user wants to be asked first, and cannot be shown a form there, or was asked too often";
            return self.decline(id, why);
        }
        let mut parcel = self.parcel(Kind::Consent, id, asker, text, &thread);
        parcel.path = Path::Form;
        let no = self.deliver(target, parcel, None);
        self.asks.get_mut(id).into_iter().for_each(|ask| ask.consent = Some(no));
        self.dispatch(no);
    }

    fn needs_consent(&self, asker: PeerNo, target: PeerNo) -> bool {
        let (from, to) = (&self.peer(asker).who, self.peer(target));
        let is_near = from.repo == to.who.repo
            && (from.repo.is_some() || from.cwd == to.who.cwd)
            && from.is_at(&to.who); // a path elsewhere is another directory
        let applies = to.who.consent.is_some_and(|whose| whose == Consent::All || !is_near);
        applies && asker != target && !to.always.contains(&self.asker_key(asker))
    }

    /// Whether a delivery is not to be handed over by any other path: it is a form, or waits for consent.
    pub(super) fn is_held_back(&self, delivery: &Delivery) -> bool {
        let ask = || self.asks.get(delivery.parcel.ask_id.as_str());
        delivery.is_form() || delivery.parcel.kind == Kind::Ask && ask().is_some_and(|a| a.consent.is_some())
    }

    /// The connection to open a form on, if it may be opened now.
    pub(super) fn form_route(&self, delivery: &Delivery) -> Option<(Path, ConnId)> {
        let is_due = self.form_time(delivery).is_some_and(|at| at <= self.now);
        let conn = self.peer(delivery.to).conn.filter(|_| is_due && !self.has_open_form(delivery.to))?;
        Some((Path::Form, conn))
    }

    /// The earliest time to open a form. `None` while the session is not idle: the end of its turn dispatches again.
    fn form_time(&self, delivery: &Delivery) -> Option<Ms> {
        let quiet = self.session_of(delivery.to).quiet_since()? + self.limits.form_quiet;
        Some(quiet.max(self.peer(delivery.to).form_after).max(delivery.not_before))
    }

    fn has_open_form(&self, peer: PeerNo) -> bool {
        let mut deliveries = self.of_same_session(peer).into_iter().flat_map(|no| self.deliveries_to(no));
        deliveries.any(|d| d.is_form() && d.is_under_way())
    }

    /// Waits for the time to open a form, if it is known.
    pub(super) fn arm_form(&mut self, no: DeliveryNo) {
        let Some(delivery) = self.deliveries.get(&no).filter(|d| d.is_form()) else { return };
        let to = delivery.to;
        if let Some(at) = self.form_time(delivery).filter(|at| *at > self.now) {
            self.arm(at, Timer::Dispatch(to));
        }
    }

    /// A form was closed, or not opened since its user is typing: the session's next one may be opened in a while.
    pub(super) fn free_form(&mut self, peer: PeerNo) {
        let at = self.now + self.limits.form_quiet;
        for no in self.of_same_session(peer) {
            let peer = self.peer_mut(no);
            peer.form_after = peer.form_after.max(at);
            if self.deliveries_to(no).any(Delivery::is_form) {
                self.arm(at, Timer::Dispatch(no));
            }
        }
    }

    /// Closes the forms of a peer that comes back which are not open any more.
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
        let form = self.pushes.get(push).copied().filter(|no| {
            self.deliveries.get(no).is_some_and(|d| d.to == me && d.is_form() && d.parcel.ask_id == ask_id)
        });
        let (id, done) = (Id::from(ask_id), Ok(Some(Answer::Done)));
        let Some(no) = form else {
            return match end {
                FormEnd::Answered { text } if check_text("answer", &text).is_ok() => {
                    self.reply_late(me, starter, ask_id, text, true).or(done)
                }
                _ => done,
            };
        };
        let is_consent = self.deliveries.get(&no).is_some_and(|d| d.parcel.kind == Kind::Consent);
        match end {
            FormEnd::Answered { text } if !is_consent && check_text("answer", &text).is_ok() => {
                self.replied(&id, text, None);
            }
            FormEnd::Allowed { always } if is_consent => self.allowed(&id, always),
            FormEnd::PutOff => self.put_off(no, &id),
            FormEnd::Failed => self.decline(&id, "its client could not show its user the form"),
            _ if is_consent => self.decline(&id, "its user does not let this peer ask"),
            _ => self.decline(&id, "its user does not want to answer"),
        }
        done
    }

    /// The user lets a peer ask.
    fn allowed(&mut self, id: &Id, always: bool) {
        let Some(ask) = self.asks.get(id) else { return };
        let (target, key) = (ask.target, self.asker_key(ask.asker));
        let is_theirs = |id: &Id| self.asks.get(id).is_some_and(|ask| self.asker_key(ask.asker) == key);
        let owes = self.peer(target).owes.iter();
        let allowed: Vec<Id> =
            owes.filter(|owed| *owed == id || always && is_theirs(owed)).cloned().collect();
        if always {
            self.peer_mut(target).always.insert(key);
        }
        for id in allowed {
            let Some(ask) = self.asks.get_mut(&id) else { continue };
            let (consent, question) = (ask.consent.take(), ask.delivery);
            consent.into_iter().for_each(|no| self.remove_delivery(no)); // the only form that was open is closed
            question.into_iter().for_each(|no| self.dispatch(no));
        }
    }

    /// The user closed a form without a decision: it is opened once more. The time until then does not count towards the
    /// timeout.
    fn put_off(&mut self, no: DeliveryNo, id: &Id) {
        let (now, again) = (self.now, self.limits.form_again);
        let Some(delivery) = self.deliveries.get_mut(&no) else { return };
        let is_second = std::mem::replace(&mut delivery.is_put_off, true);
        delivery.not_before = now + again;
        let Some(ask) = self.asks.get_mut(id) else { return };
        if is_second || ask.broadcast.is_some() {
            return self.decline(id, "its user closed the form without an answer");
        }
        let (before, target) = (ask.deadline, ask.target);
        ask.deadline = before.saturating_add(again);
        let deadline = ask.deadline;
        self.disarm(before, Timer::Timeout(id.clone()));
        self.arm(deadline, Timer::Timeout(id.clone()));
        self.forget_attempt(no);
        self.free_form(target);
        self.progress(no, State::Queued, None);
        self.set_note(id, Note::PutOff, None);
        self.arm_form(no);
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
        let when = match form.not_before.checked_sub(self.now) {
            _ if form.is_under_way() => return format!("{what}; it is open on that terminal"),
            Some(left @ 1..) if form.is_put_off => {
                format!("once more in {}, after it was closed without an answer", span(left / 1000))
            }
            _ => "when the session is idle, shows no form, and nothing was typed there for some seconds"
                .to_owned(),
        };
        format!("{what} {when}")
    }
}
