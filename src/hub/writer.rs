//! The hub's output to one connection. Lines are written as far as the socket takes them without blocking; the rest
//! goes to a backlog, bounded in bytes, with a thread of its own.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Sender, unbounded};

use crate::threads::{SMALL, spawn};

/// The limit of a backlog, in bytes.
const MAX_QUEUE: usize = 16 << 20;

/// The output side of one connection. When it is dropped, its connection is closed once the backlog is written.
pub struct Writer {
    pub stream: Arc<UnixStream>,
    /// Whether to close the connection once everything is written.
    pub closing: bool,
    /// The lines that the socket did not take, on their way to a thread that writes them.
    pub backlog: Option<Sender<Vec<u8>>>,
    /// The size of the backlog in bytes.
    pub queued: Arc<AtomicUsize>,
}

impl Writer {
    pub fn new(stream: Arc<UnixStream>) -> Self {
        Writer { stream, closing: false, backlog: None, queued: Arc::default() }
    }

    /// Writes lines as far as the socket takes them; the rest goes to the backlog.
    ///
    /// # Errors
    /// The connection is lost, or (`OutOfMemory`) the backlog is full.
    pub fn write(&mut self, mut lines: Vec<u8>) -> io::Result<()> {
        let queued = self.queued.load(Ordering::Acquire);
        if queued == 0 && !lines.is_empty() {
            match write_now(&self.stream, &lines) {
                Ok(n) => drop(lines.drain(..n)),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
        }
        if lines.is_empty() {
            return Ok(());
        }
        if queued + lines.len() > MAX_QUEUE {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.queued.fetch_add(lines.len(), Ordering::Relaxed);
        let backlog = match &self.backlog {
            Some(backlog) => backlog,
            None => self.backlog.insert(start_backlog(self.stream.clone(), self.queued.clone())?),
        };
        backlog.send(lines).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Writes what the socket takes without blocking. The reader thread shares the mode: it may get `WouldBlock` meanwhile
/// and tries again.
fn write_now(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    let written = { stream }.write(bytes);
    stream.set_nonblocking(false)?;
    written
}

/// Starts the thread that writes to one slow peer. It ends, and closes the connection, when the sender is dropped.
fn start_backlog(stream: Arc<UnixStream>, queued: Arc<AtomicUsize>) -> io::Result<Sender<Vec<u8>>> {
    let (backlog, queue) = unbounded::<Vec<u8>>();
    let write = move || {
        for lines in queue {
            let wrote = (&*stream).write_all(&lines);
            queued.fetch_sub(lines.len(), Ordering::Release);
            if wrote.is_err() {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
    };
    spawn("writer", SMALL, write)?;
    Ok(backlog)
}
