//! The reader thread of a connection: parses lines and sends them to the router, within the connection's share of its
//! time.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};

use super::router::ConnId;
use super::writer::Writer;
use super::{Incoming, error_line, write_and_close};
use crate::datadir::{has_containers, host};
use crate::lines::Lines;
use crate::wire::{Code, Fault, HookReport, ToClient, ToHub, VERSION, fault, write_line};

/// How long a connection may take to send `hello`.
const HELLO: Duration = Duration::from_secs(10);
/// How many messages of one connection may be in the router's channel.
const CREDITS: usize = 8;
/// How much of the router's time one connection may use in a burst; over longer times it gets at most half.
const STRETCH: Duration = Duration::from_millis(1);
/// The longest pause of a reader.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The socket that a connection came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// `hub.sock`: for processes of this user.
    Hub,
    /// `peers.sock`: for peers in containers and on other machines.
    Peers,
}

/// Reads one connection to its end. A protocol error closes this connection only.
pub fn read(conn: ConnId, socket: Socket, stream: &Arc<UnixStream>, incoming: &Sender<Incoming>) {
    let mut lines = Lines::new(stream.clone());
    if let Err((code, refusal)) = hello(&mut lines) {
        log::warn!(conn, code = code.name(); "refused");
        return write_and_close(stream, &refusal);
    }
    // Sending fails only when the hub exits.
    let _ = incoming.send(Incoming::Opened(conn, Writer::new(stream.clone())));
    let (credit, credits) = bounded(CREDITS);
    let mut share = Share::new();
    for _ in 0..CREDITS {
        let _ = credit.try_send(Duration::ZERO); // the channel has exactly this capacity
    }
    let last = loop {
        let message = match lines.next(None) {
            Ok(Some(line)) => serde_json::from_slice::<ToHub>(line)
                .map_err(|e| format!("not a message of protocol {VERSION}: {e}")),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(e.to_string()),
            Ok(None) | Err(_) => break None,
        };
        let mut message = match message {
            Ok(message) => message,
            Err(why) => break Some(fault(Code::BadMsg, why)),
        };
        let Ok(used) = credits.recv() else { return };
        thread::sleep(share.pause(used));
        let message = admit(socket, &mut message).map_or(Ok(message), Err);
        if incoming.send(Incoming::Said(conn, message, credit.clone())).is_err() {
            return;
        }
    };
    let _ = incoming.send(Incoming::Closed(conn, last));
}

/// What the hub knows better than a client, and the limits of `peers.sock`. It refuses what a peer does not need; that is
/// the answer. The process keys of its clients get a prefix, so that none can name a process of this machine.
fn admit(socket: Socket, message: &mut ToHub) -> Option<ToClient> {
    let is_remote = socket == Socket::Peers;
    let id = match message {
        ToHub::Asks { id } | ToHub::Watch { id } | ToHub::Status { id } | ToHub::Stop { id } => *id,
        ToHub::Register { who, .. } => {
            who.remote = is_remote;
            who.host.take_if(|name| *name == host() || name.is_empty() || !(is_remote || has_containers()));
            return prefix(is_remote, who.claude.as_mut());
        }
        ToHub::Hook(HookReport { claude, .. }) | ToHub::Wait { claude, .. } => {
            return prefix(is_remote, Some(claude));
        }
        ToHub::Seen(receipts) => return prefix(is_remote, receipts.claude.as_mut()),
        _ => return None,
    };
    is_remote.then(|| ToClient::Error {
        id: Some(id),
        code: Code::NotAllowed,
        message: format!(
            "peers.sock, by which this client is connected, does not offer `relay tail`, `asks`, `status` or `stop`; \
             run the command on {}",
            host()
        ),
        waiting: Vec::new(),
    })
}

fn prefix(is_remote: bool, process: Option<&mut String>) -> Option<ToClient> {
    process.filter(|_| is_remote)?.insert_str(0, "peers:");
    None
}

/// The share of the router's time that a connection has used.
struct Share {
    /// Used time that was not compensated by pauses or idle time.
    used: Duration,
    since: Instant,
}

impl Share {
    fn new() -> Self {
        Share { used: Duration::ZERO, since: Instant::now() }
    }

    /// Adds `used` and returns how long the reader has to pause.
    fn pause(&mut self, used: Duration) -> Duration {
        let pause = self.owed(used, self.since.elapsed());
        self.since = Instant::now() + pause;
        pause
    }

    /// The same, with `elapsed` since the last pause as an argument.
    fn owed(&mut self, used: Duration, elapsed: Duration) -> Duration {
        self.used = (self.used + used).saturating_sub(elapsed / 2);
        let excess = self.used.saturating_sub(STRETCH);
        self.used -= excess;
        // The limit matters after a suspended hub continues.
        (2 * excess).min(LONGEST_PAUSE)
    }
}

/// The first line must be `hello` with our version. Returns the line that refuses another.
fn hello(lines: &mut Lines) -> Result<(), (Code, Vec<u8>)> {
    let refuse = |fault: Fault| {
        let (code, mut line) = (fault.code, Vec::new());
        write_line(&mut line, &error_line(fault));
        Err((code, line))
    };
    let bad = |why: String| refuse(fault(Code::BadMsg, why));
    let line = match lines.next(Some(Instant::now() + HELLO)) {
        Ok(Some(line)) => line,
        Ok(None) => return bad("the connection was closed before `hello`".into()),
        Err(e) => return bad(format!("no hello: {e}")),
    };
    let mismatch = |v: u32| {
        let why = format!(
            "the client speaks protocol {v}, this hub {VERSION}; run `relay stop`, or restart the older of the two"
        );
        fault(Code::ProtocolMismatch, why)
    };
    match serde_json::from_slice::<ToHub>(line) {
        Ok(ToHub::Hello { v: VERSION }) => Ok(()),
        Ok(ToHub::Hello { v }) => refuse(mismatch(v)),
        Ok(_) => bad("the first line must be `hello`".into()),
        Err(_) if is_hello_of_version_1(line) => {
            let Fault { code, message } = mismatch(1);
            let refusal = serde_json::json!({"type": "error", "code": code, "message": message});
            Err((code, format!("{refusal}\n").into_bytes()))
        }
        Err(e) => bad(format!("the first line must be `hello` with `v`: {e}")),
    }
}

/// Messages of version 1 are tagged by `type`; its clients are refused in that form.
fn is_hello_of_version_1(line: &[u8]) -> bool {
    let line: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
    line["type"] == "hello" && line["v"] == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_floods_gets_half_of_the_routers_time() {
        let (mut share, ms) = (Share::new(), Duration::from_millis);
        let mut clock = Duration::ZERO;
        for _ in 0..100 {
            let (used, pause) = (ms(3), share.owed(ms(3), ms(3)));
            clock += used + pause;
        }
        assert!(clock >= ms(590), "{clock:?}");
        assert_eq!(Share::new().owed(ms(1), ms(4)), Duration::ZERO, "who uses little never pauses");
        assert_eq!(Share::new().owed(ms(3_600_000), ms(0)), LONGEST_PAUSE);
    }
}
