//! Threads with a name and a stack of their own: the default stack is 2 MiB with one C library and 128 KiB with another.

use std::io;
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;

/// The stack of a thread that parses JSON, in bytes. JSON may nest 128 levels deep; only what is used costs memory.
pub const PARSER: usize = 1 << 20;
/// The stack of a thread that does little, in bytes.
pub const SMALL: usize = 64 << 10;

/// Starts a thread that nobody joins.
///
/// # Errors
/// The system has no room for another thread.
pub fn spawn(name: &str, stack: usize, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).stack_size(stack).spawn(run).map(|_| ())
}

/// Runs `work` in a thread of its own, and waits for its result for up to `limit`.
///
/// # Errors
/// Those of `work`; `TimedOut` if it has not ended. It is not interrupted.
pub fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (done, result) = bounded(1);
    spawn("limited", SMALL, move || drop(done.send(work())))?;
    result.recv_timeout(limit).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
