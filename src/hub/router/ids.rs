//! Random identifiers, which a replay repeats.

use std::collections::VecDeque;

/// Draws the identifiers of pushes and threads: random in the hub, sequential in tests, from the journal in a replay.
#[derive(Default)]
pub(super) struct Ids {
    pub source: Option<Box<dyn FnMut() -> String + Send>>,
    /// Identifiers of a replay, drawn before the source is used.
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
