//! The hub's way to one connection: lines go out as far as the peer takes them at once; what it is too slow for waits in a
//! backlog, bounded in bytes, with a thread of its own.

use std::io::{self, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::{Sender, unbounded};

/// The most bytes that wait to be written to one connection.
const MAX_QUEUE: usize = 16 << 20;

/// See the module.
pub struct Writer {
    pub stream: Arc<UnixStream>,
    /// Lines that go out together when the inputs that are there have been routed.
    pub unwritten: Vec<u8>,
    /// Whether the connection is closed when all is written.
    pub closing: bool,
    /// For a peer that once did not take everything at once.
    pub backlog: Option<Backlog>,
}

/// What a slow peer has not taken yet; a thread writes it. When the sender is gone, that closes the connection.
pub struct Backlog {
    lines: Sender<Vec<u8>>,
    /// Bytes that wait.
    pub queued: Arc<AtomicUsize>,
}

impl Writer {
    pub fn new(stream: Arc<UnixStream>) -> Self {
        Writer { stream, unwritten: Vec::new(), closing: false, backlog: None }
    }

    /// Bytes that wait in the backlog.
    pub fn queued(&self) -> usize {
        self.backlog.as_ref().map_or(0, |b| b.queued.load(Ordering::Acquire))
    }

    /// Writes the fresh lines, as far as the peer takes them at once; the rest goes to the backlog.
    ///
    /// # Errors
    /// The connection is lost, or (`OutOfMemory`) the backlog is full.
    pub fn write(&mut self) -> io::Result<()> {
        let mut lines = std::mem::take(&mut self.unwritten);
        let queued = self.queued();
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
        let backlog = match self.backlog.take() {
            Some(backlog) => backlog,
            None => start_backlog(self.stream.clone())?,
        };
        backlog.queued.fetch_add(lines.len(), Ordering::Relaxed);
        let sent = backlog.lines.send(lines).map_err(|_| io::ErrorKind::BrokenPipe.into());
        self.backlog = Some(backlog);
        sent
    }
}

/// Writes what the socket takes without waiting. Its reader, who shares the mode, may be told `WouldBlock` meanwhile and
/// tries again: see [`Lines`].
fn write_now(stream: &UnixStream, bytes: &[u8]) -> io::Result<usize> {
    stream.set_nonblocking(true)?;
    let written = { stream }.write(bytes);
    stream.set_nonblocking(false)?;
    written
}

/// Starts the thread that writes to one slow peer. It ends, and closes the connection, when the sender is gone.
fn start_backlog(stream: Arc<UnixStream>) -> io::Result<Backlog> {
    let (lines, queue) = unbounded::<Vec<u8>>();
    let queued = Arc::new(AtomicUsize::new(0));
    let left = queued.clone();
    let write = move || {
        for lines in queue {
            let wrote = (&*stream).write_all(&lines);
            left.fetch_sub(lines.len(), Ordering::Release);
            if wrote.is_err() {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
    };
    thread::Builder::new().name("writer".into()).stack_size(64 << 10).spawn(write)?;
    Ok(Backlog { lines, queued })
}
