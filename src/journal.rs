//! The hub's log, of which a flood gets no more than its share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::log::{Level, Log};

/// The most lines a second of one level, but for errors: what is usual can't crowd out a warning. Where the log is to tell
/// everything there is no limit.
const MOST: u64 = 200;

/// See the module.
pub struct Journal {
    pub log: Arc<Log>,
    start: Instant,
    /// Of `info` and `warn`.
    shares: [Share; 2],
}

impl Journal {
    pub fn new(log: Arc<Log>) -> Self {
        Journal { log, start: Instant::now(), shares: Default::default() }
    }

    pub fn wants(&self, level: Level) -> bool {
        self.log.wants(level)
    }

    /// Whether there is room for one more line; after a flood, tells how many were skipped.
    pub fn has_room(&self, level: Level) -> bool {
        if !self.wants(level) || level == Level::Error || self.wants(Level::Debug) {
            return self.wants(level);
        }
        let (fits, skipped) =
            self.shares[usize::from(level == Level::Warn)].take(self.start.elapsed().as_secs());
        if skipped > 0 {
            self.log.event(Level::Warn, "log_skipped", &[("lines", json!(skipped))]);
        }
        fits
    }

    /// As [`Log::event`], if there is room.
    pub fn event(&self, level: Level, event: &str, fields: &[(&str, Value)]) {
        if self.has_room(level) {
            self.log.event(level, event, fields);
        }
    }
}

/// What has been written in the current second. Two threads at the turn of a second may miscount by a line.
#[derive(Default)]
struct Share {
    second: AtomicU64,
    lines: AtomicU64,
}

impl Share {
    /// Whether one more line fits, and how many did not in an earlier second that nobody was told of.
    fn take(&self, second: u64) -> (bool, u64) {
        let turned = self.second.swap(second, Ordering::Relaxed) != second;
        let before = if turned { self.lines.swap(0, Ordering::Relaxed) } else { 0 };
        (self.lines.fetch_add(1, Ordering::Relaxed) < MOST, before.saturating_sub(MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_its_share_and_is_told_of() {
        let share = Share::default();
        let fit = (0..MOST + 50).filter(|_| share.take(7).0).count();
        assert_eq!(fit as u64, MOST);
        assert_eq!(share.take(9), (true, 50));
        assert_eq!(share.take(9), (true, 0));
    }
}
