//! Limits of the router.

use std::collections::BTreeMap;
use std::fmt::Display;

use serde::{Deserialize, Serialize};

use super::Ms;
use crate::span::span;
use crate::wire::{Code, Fault, refused};

/// The most keys of a [`Rate`].
const MAX_KEYS: usize = 1_024;

/// Limits of counts and times. Times are in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default)] // a snapshot of an earlier version lacks some
pub struct Limits {
    pub peers: usize,
    /// Open asks per asker; a broadcast counts as one.
    pub open_asks: usize,
    /// Texts per target that are not known to have arrived.
    pub undelivered: usize,
    /// Undelivered text of all peers, in bytes.
    pub text: usize,
    /// Asks per minute from one peer to another; 0 for no limit.
    pub asks_per_minute: u32,
    /// How long a peer that lost its connection has to reconnect.
    pub grace: Ms,
    /// The same for a peer in a container or on another machine, whose link may come back.
    pub remote_grace: Ms,
    /// How long the hub runs without peers.
    pub idle_exit: Ms,
    /// How long an idle session has to confirm a push before the next path is tried.
    pub confirm: Ms,
    /// How long an idle session that has seen a question may take to begin a turn.
    pub begin_turn: Ms,
    /// How long after a turn failed the session is reminded of what it left unanswered.
    pub nudge: Ms,
    /// How long a session must have been idle before a form is opened, and how long after one another.
    pub form_quiet: Ms,
    /// How long after the person closed a form it is opened once more.
    pub form_again: Ms,
}

/// Refuses a request because of a limit: `what` has reached it, `retry` says when to retry.
///
/// # Errors
/// Always.
pub(super) fn overloaded<T>(what: impl Display, retry: impl Display) -> Result<T, Fault> {
    refused(Code::Overloaded, format!("{what}, which is the limit; retry {retry}"))
}

/// How often something happened within a window of time, per key: the start of the window and the number.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Rate(BTreeMap<String, (Ms, u32)>);

impl Rate {
    /// Counts one more, of at most `most` per `window` milliseconds; 0 for no limit.
    ///
    /// # Errors
    /// The limit is reached: so many times `what`.
    pub fn count(&mut self, key: String, most: u32, window: Ms, now: Ms, what: &str) -> Result<(), Fault> {
        self.0.retain(|_, (start, _)| now.saturating_sub(*start) < window);
        if self.0.len() >= MAX_KEYS && !self.0.contains_key(&key) {
            self.0.pop_first(); // many that come once must not keep out the others
        }
        let (start, count) = self.0.entry(key).or_insert((now, 0));
        if most != 0 && *count >= most {
            let wait = span(window.saturating_sub(now.saturating_sub(*start)).div_ceil(1_000));
            return overloaded(
                format!("{most} {what} within {}", span(window / 1_000)),
                format!("in {wait}"),
            );
        }
        *count += 1;
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            peers: 1024,
            open_asks: 64,
            undelivered: 256,
            text: 256 << 20,
            asks_per_minute: 30,
            grace: 5_000,
            remote_grace: 60_000,
            idle_exit: 300_000,
            confirm: 4_000,
            begin_turn: 10_000,
            nudge: 60_000,
            form_quiet: 5_000,
            form_again: 600_000,
        }
    }
}
