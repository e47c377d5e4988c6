//! The calls of `relay_wait` that are open, and what has arrived for them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::mcp::Id;
use crate::wire::Parcel;

/// How long a message is held back, so that messages that arrive together are handed over together.
const TOGETHER: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Default)]
pub struct Waits {
    /// The oldest first, each with its end.
    calls: VecDeque<(Id, Instant)>,
    arrived: Vec<Parcel>,
    /// When the messages that have arrived are handed over.
    due: Option<Instant>,
}

impl Waits {
    pub fn open(&mut self, call: Id, until: Instant) {
        self.calls.push_back((call, until));
    }

    pub fn is_open(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Closes a call that its client has given up. Returns the messages that have arrived, if no other call is open.
    pub fn cancel(&mut self, call: &Id) -> Vec<Parcel> {
        self.calls.retain(|(open, _)| open != call);
        if self.calls.is_empty() { self.take_arrived() } else { Vec::new() }
    }

    /// Keeps a text for the oldest call. One call must be open.
    pub fn arrive(&mut self, parcel: Parcel, now: Instant) {
        self.due.get_or_insert(now + TOGETHER);
        self.arrived.push(parcel);
    }

    /// When [`take_due`](Self::take_due) has something to return, unless something else happens first.
    pub fn deadline(&self) -> Option<Instant> {
        self.calls.iter().map(|(_, until)| *until).chain(self.due).min()
    }

    /// A call that has ended, with what it brings.
    pub fn take_due(&mut self, now: Instant) -> Option<(Id, Vec<Parcel>)> {
        if self.due.is_some_and(|due| due <= now) {
            let (call, _) = self.calls.pop_front()?;
            return Some((call, self.take_arrived()));
        }
        let over = self.calls.iter().position(|(_, until)| *until <= now)?;
        let (call, _) = self.calls.remove(over)?;
        Some((call, self.take_arrived()))
    }

    /// Any call, at the end of the client's requests.
    pub fn take_any(&mut self) -> Option<(Id, Vec<Parcel>)> {
        let (call, _) = self.calls.pop_front()?;
        Some((call, self.take_arrived()))
    }

    fn take_arrived(&mut self) -> Vec<Parcel> {
        self.due = None;
        std::mem::take(&mut self.arrived)
    }
}
