//! A session's inbox socket, as Claude Code 2.1.224 and later have one.

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use serde_json::Value;

use super::{DataDir, LONG, Watched};

/// Records what it is sent.
pub struct Inbox {
    path: PathBuf,
    /// The lines of each connection.
    heard: Arc<Watched<Vec<Vec<Value>>>>,
    /// How many have connected.
    met: Arc<Watched<usize>>,
    /// Held while nobody is to be served.
    gate: Arc<Mutex<()>>,
    over: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Inbox {
    pub fn new(dir: &DataDir, name: &str) -> Self {
        let path = dir.root().join(format!("{name}.inbox"));
        let listener = UnixListener::bind(&path).expect("an inbox socket");
        let (heard, over) =
            (Arc::new(Watched::<Vec<Vec<Value>>>::default()), Arc::new(AtomicBool::new(false)));
        let (met, gate) = (Arc::new(Watched::<usize>::default()), Arc::new(Mutex::new(())));
        let (all, stop, count, closed) = (heard.clone(), over.clone(), met.clone(), gate.clone());
        let server = thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                count.change(|n| *n += 1);
                let _served = closed.lock().unwrap_or_else(PoisonError::into_inner);
                stream.set_read_timeout(Some(LONG)).expect("a socket");
                let mut text = String::new();
                let whole = stream.read_to_string(&mut text).is_ok();
                if whole && !text.is_empty() {
                    let lines =
                        text.lines().map(|l| serde_json::from_str(l).expect("a line of JSON")).collect();
                    all.change(|h| h.push(lines));
                }
            }
        });
        Inbox { path, heard, met, gate, over, server: Some(server) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Serves nobody until what is returned is dropped.
    pub fn hold(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until somebody has connected, at any time.
    pub fn wait_for_connection(&self) {
        self.met.wait("a connection to the inbox", |n| n.to_string(), |n| (*n > 0).then_some(()));
    }

    /// Waits for the first connection of which a message contains `text`, and takes its lines out.
    pub fn take(&self, text: &str) -> Vec<Value> {
        self.heard.wait(
            &format!("{text:?} in the inbox"),
            |h| format!("{h:?}"),
            |h| {
                let has = |lines: &Vec<Value>| {
                    let contents = lines.iter().filter_map(|l| l["message"]["content"].as_str());
                    contents.into_iter().any(|c| c.contains(text))
                };
                h.iter().position(has).map(|at| h.remove(at))
            },
        )
    }

    /// What has come and was not taken.
    pub fn left(&self) -> Vec<Vec<Value>> {
        self.heard.change(|h| h.clone())
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = UnixStream::connect(&self.path); // so that it looks
        let _ = self.server.take().map(JoinHandle::join);
    }
}
