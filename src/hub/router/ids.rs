//! Random identifiers, which a replay has to draw again.

use std::collections::VecDeque;

/// Draws the identifiers of pushes and threads: unguessable in the hub, counted in tests, read from the journal in a
/// replay.
#[derive(Default)]
pub(super) struct Ids {
    pub source: Option<Box<dyn FnMut() -> String + Send>>,
    /// Identifiers to draw before the source is asked.
    pub replayed: VecDeque<String>,
    /// Drawn in this step.
    pub drawn: Vec<String>,
}

impl Ids {
    /// The next identifier.
    pub fn draw(&mut self) -> String {
        let fresh = || self.source.as_mut().map(|source| source()).unwrap_or_default();
        let id = self.replayed.pop_front().unwrap_or_else(fresh);
        self.drawn.push(id.clone());
        id
    }
}
