//! A [`Journal`]: a list that threads append to and that a test can wait on.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a wait may take before the test fails: generous, because a wait ends as soon as what it waits for is there.
/// `RELAY_TEST_DEADLINE_S` changes it.
pub fn deadline() -> Duration {
    let seconds = std::env::var("RELAY_TEST_DEADLINE_S").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// Entries in the order of their arrival. Nothing is ever taken out, so a test can't miss what came before it looked.
pub struct Journal<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    entries: Vec<T>,
    closed: bool,
}

/// Why a wait ended without what it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// The deadline passed.
    Deadline,
    /// Nothing more will come.
    Closed,
}

impl std::fmt::Display for Missed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Missed::Deadline => write!(f, "not within {} s", deadline().as_secs()),
            Missed::Closed => write!(f, "it ended before that"),
        }
    }
}

impl<T> Default for Journal<T> {
    fn default() -> Self {
        Journal { state: Mutex::new(State { entries: Vec::new(), closed: false }), changed: Condvar::new() }
    }
}

impl<T: Clone> Journal<T> {
    /// Appends an entry and wakes who waits. Returns its index.
    pub fn push(&self, entry: T) -> usize {
        let mut state = self.lock();
        state.entries.push(entry);
        self.changed.notify_all();
        state.entries.len() - 1
    }

    /// Says that nothing more will come: waits that aren't satisfied end at once.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// All entries so far.
    pub fn entries(&self) -> Vec<T> {
        self.lock().entries.clone()
    }

    /// Blocks until `pick` finds what it wants among all entries, which it is shown again at every change.
    pub fn wait<R>(&self, pick: impl Fn(&[T]) -> Option<R>) -> Result<R, Missed> {
        let end = Instant::now() + deadline();
        let mut state = self.lock();
        loop {
            if let Some(found) = pick(&state.entries) {
                return Ok(found);
            }
            if state.closed {
                return Err(Missed::Closed);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Missed::Deadline);
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A predicate that panics inside a wait must not hide the entries from the dump that follows.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
