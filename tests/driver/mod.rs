//! Drives the built `relay` as real processes: a data directory with a hub of its own, channels that speak MCP, clients
//! that speak to the hub's socket, and a session's inbox. Everything waits for what is to happen, for a minute at most;
//! nothing is timed.

#![allow(dead_code, unused_imports, reason = "each test binary uses its part of this")]

#[path = "../binary/mod.rs"]
mod binary;
mod channel;
mod dir;
mod fake;
mod flat;
mod inbox;
mod raw;
mod schema;

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use binary::relay_path;
pub use channel::{Channel, Form, Launch, Push, Result, arguments};
pub use dir::DataDir;
pub use fake::{FakeHub, Reaction};
pub use flat::{from_wire, to_wire};
pub use inbox::Inbox;
pub use raw::Raw;
pub use schema::nonconformance;

/// How long anything may take before the test gives up. Not a measure of anything.
pub const LONG: Duration = Duration::from_secs(60);

/// A value that one thread changes and others wait for.
#[derive(Default)]
pub struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    pub fn change<R>(&self, with: impl FnOnce(&mut T) -> R) -> R {
        let result = with(&mut self.value.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
        result
    }

    /// Waits until `find` finds something. Panics with `what` and whatever `show` tells when it never does.
    pub fn wait<R>(
        &self,
        what: &str,
        show: impl Fn(&T) -> String,
        mut find: impl FnMut(&mut T) -> Option<R>,
    ) -> R {
        let until = Instant::now() + LONG;
        let mut value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = find(&mut value) {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {what}; there is: {}", show(&value));
            value = self.changed.wait_timeout(value, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Asks again and again, for what gives no sign when it happens: another process's death, a file.
pub fn until<R>(what: &str, mut find: impl FnMut() -> Option<R>) -> R {
    let until = Instant::now() + LONG;
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(3));
    }
}

/// How many processes were killed, which may leave half a line in a log.
pub static KILLED: AtomicUsize = AtomicUsize::new(0);

/// Sends a signal such as `KILL`. The process may be gone already.
pub fn signal(pid: u32, signal: &str) {
    KILLED.fetch_add(usize::from(signal == "KILL"), Ordering::Relaxed);
    let script = format!("kill -{signal} {pid} 2>/dev/null");
    let _ = Command::new("/bin/sh").args(["-c", &script]).status().expect("a shell"); // gone is gone
}

/// Whether the process is there and no zombie.
pub fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim().chars().next());
    // The other threads of a process that was killed may outlive the first one, and with them its sockets and locks.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    state.is_some_and(|s| s != 'Z' && s != 'X') || threads > 1
}
