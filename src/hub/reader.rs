//! The reader thread of a connection: parses lines and sends them to the router, within the connection's share of the router's
//! time.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use serde_json::{Value, json};

use super::router::ConnId;
use super::writer::Writer;
use super::{Incoming, write_and_close};
use crate::lines::Lines;
use crate::process::HOST;
use crate::wire::{Code, HookReport, ToClient, ToHub, VERSION, fault};

/// How long a connection may take to send `hello`.
const HELLO: Duration = Duration::from_secs(10);
/// How many messages of one connection may be in the router's channel.
const CREDITS: usize = 8;
/// How much of the router's time one connection may use at once. Then it pauses, so that it gets at most half.
const STRETCH: Duration = Duration::from_millis(1);
/// The longest pause of a reader.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Reads one connection to its end. A protocol error closes this connection only. `is_remote`: it came by `peers.sock`.
pub fn read(conn: ConnId, is_remote: bool, stream: &Arc<UnixStream>, incoming: &Sender<Incoming>) {
    let mut lines = Lines::new(stream.clone());
    if let Err((code, refusal)) = hello(&mut lines) {
        log::warn!(conn, code = code.name(); "refused");
        return write_and_close(stream, &refusal);
    }
    // Sending fails only when the hub exits.
    let _ = incoming.send(Incoming::Opened(conn, Writer::new(stream.clone())));
    let (credit, credits) = bounded(CREDITS);
    let (mut used, mut since) = (Duration::ZERO, Instant::now());
    for _ in 0..CREDITS {
        let _ = credit.try_send(Duration::ZERO); // the channel has exactly this capacity
    }
    let last = loop {
        let message = match lines.next(None) {
            Ok(Some(line)) => serde_json::from_slice::<ToHub>(&line)
                .map_err(|e| format!("not a message of protocol {VERSION}: {e}")),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(e.to_string()),
            Ok(None) | Err(_) => break None,
        };
        let mut message = match message {
            Ok(message) => message,
            Err(why) => break Some(fault(Code::BadMsg, why)),
        };
        let Ok(spent) = credits.recv() else { return };
        used += spent;
        if used > STRETCH {
            thread::sleep(pause(used, since.elapsed()));
            (used, since) = (Duration::ZERO, Instant::now());
        }
        let message = admit(is_remote, &mut message).map_or(Ok(message), Err);
        if incoming.send(Incoming::Said(conn, message, credit.clone())).is_err() {
            return;
        }
    };
    let _ = incoming.send(Incoming::Closed(conn, last));
}

/// Corrects the fields that the hub knows better than the client, and applies the limits of `peers.sock`: returns the error to
/// answer with if that socket does not offer the request. The process keys that its clients name get a prefix, so that none of
/// them can name a process of this machine.
fn admit(is_remote: bool, message: &mut ToHub) -> Option<ToClient> {
    let process = match message {
        ToHub::Register { who, .. } => {
            who.remote = is_remote;
            // macOS renames itself with its network, and its containers are virtual machines.
            let is_elsewhere = is_remote || cfg!(target_os = "linux");
            who.host.take_if(|name| *name == *HOST || name.is_empty() || !is_elsewhere);
            who.claude.as_mut()
        }
        ToHub::Hook(HookReport { claude, .. }) | ToHub::Wait { claude, .. } => Some(claude),
        ToHub::Asks { id } | ToHub::Watch { id } | ToHub::Status { id } | ToHub::Stop { id } if is_remote => {
            let why = format!(
                "peers.sock, by which this client is connected, does not offer `relay tail`, `asks`, `status` or `stop`; run \
                 the command on {}",
                *HOST
            );
            return Some(ToClient::error(Some(*id), fault(Code::NotAllowed, why)));
        }
        _ => None,
    };
    process.filter(|_| is_remote).into_iter().for_each(|process| process.insert_str(0, "peers:"));
    None
}

/// How long a connection has to pause that used `used` of the router's time within `elapsed`: half of the time is for others.
fn pause(used: Duration, elapsed: Duration) -> Duration {
    (2 * used).saturating_sub(elapsed).min(LONGEST_PAUSE) // the limit matters after a suspended hub continues
}

/// The first line must be `hello` with our version. Returns the message that refuses another.
fn hello(lines: &mut Lines) -> Result<(), (Code, Value)> {
    let refuse = |code: Code, why: String| Err((code, json!(ToClient::error(None, fault(code, why)))));
    let line = match lines.next(Some(Instant::now() + HELLO)) {
        Ok(line) => line.unwrap_or_default(),
        Err(e) => return refuse(Code::BadMsg, format!("no hello: {e}")),
    };
    let hello: Value = serde_json::from_slice(&line).unwrap_or_default();
    // Messages of version 1 are tagged by `type`; its clients are refused in that form.
    let is_old = hello["type"] == "hello";
    let version = if is_old { &hello["v"] } else { &hello["hello"]["v"] };
    if *version == VERSION && !is_old {
        return Ok(());
    }
    if !version.is_u64() {
        return refuse(Code::BadMsg, "the first line must be `hello` with `v`".to_owned());
    }
    let code = Code::ProtocolMismatch;
    let why = format!(
        "the client speaks protocol {version}, this hub {VERSION}; run `relay stop`, or restart the older of the two"
    );
    match is_old {
        true => Err((code, json!({"type": "error", "code": code, "message": why}))),
        false => refuse(code, why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_floods_gets_half_of_the_routers_time() {
        let ms = Duration::from_millis;
        assert_eq!(pause(ms(3), ms(3)), ms(3));
        assert_eq!(pause(ms(1), ms(4)), Duration::ZERO, "who uses little never pauses");
        assert_eq!(pause(ms(3_600_000), ms(0)), LONGEST_PAUSE);
    }
}
