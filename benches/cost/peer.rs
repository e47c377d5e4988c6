//! A peer that speaks the wire protocol over a bare socket, as cheaply as can be: so that what is measured is the hub.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::process::Hub;

pub struct Peer {
    stream: UnixStream,
    buffer: Vec<u8>,
    start: usize,
    pub name: String,
    number: usize,
    asks: usize,
}

/// A push that a peer got.
pub struct Push {
    pub push: String,
    pub ask_id: String,
    pub bytes: usize,
}

impl Peer {
    /// Registers; with `listens` it gets broadcasts.
    pub fn new(hub: &Hub, listens: bool) -> Peer {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("peer-{number}");
        let mut peer = Peer { stream: hub.connect(), buffer: Vec::new(), start: 0, name, number, asks: 0 };
        let pid = std::process::id();
        let name = &peer.name;
        let lines = format!(
            "{{\"hello\":{{\"v\":2}}}}\n{{\"register\":{{\"id\":1,\"who\":{{\"name\":\"{name}\",\"kind\":\"script\",\
             \"peer\":\"p{pid:08x}{number:08x}\",\"secret\":\"{pid:012x}{number:012x}\",\"cwd\":\"/some/where\",\
             \"pid\":{pid},\"paths\":[\"socket\"],\"listens\":{listens},\"fresh\":true}}}}}}\n"
        );
        peer.write(lines.as_bytes());
        peer.wait_for(b"{\"ok\":");
        peer
    }

    pub fn write(&mut self, lines: &[u8]) {
        self.stream.write_all(lines).expect("the hub reads");
    }

    /// Waits for a line that begins so; an error ends the bench.
    pub fn wait_for(&mut self, begin: &[u8]) -> Vec<u8> {
        loop {
            let line = self.line();
            assert!(!line.starts_with(b"{\"error\":"), "{}", String::from_utf8_lossy(line));
            if line.starts_with(begin) {
                return line.to_vec();
            }
        }
    }

    pub fn push(&mut self) -> Push {
        let line = self.wait_for(b"{\"push\":");
        Push {
            push: field(&line, b"\"push\":\""),
            ask_id: field(&line, b"\"ask_id\":\""),
            bytes: line.len() + 1,
        }
    }

    /// Adds the line that asks `to` to `lines`; a timeout of an hour.
    pub fn ask(&mut self, to: &str, text: &str, lines: &mut Vec<u8>) {
        self.asks += 1;
        let (id, number) = (self.asks + 1, self.number);
        writeln!(
            lines,
            "{{\"ask\":{{\"id\":{id},\"ask_id\":\"ask_{number:08x}{id:08x}\",\"to\":\"{to}\",\"text\":\"{text}\",\"timeout_ms\":3600000}}}}"
        )
        .expect("memory");
    }

    pub fn broadcast(&mut self, text: &str) {
        self.asks += 1;
        let (id, number) = (self.asks + 1, self.number);
        let line = format!(
            "{{\"broadcast\":{{\"id\":{id},\"broadcast_id\":\"bc_{number:08x}{id:08x}\",\"text\":\"{text}\",\"scope\":\"machine\",\"timeout_ms\":600000}}}}\n"
        );
        self.write(line.as_bytes());
    }

    /// Adds the lines that say "seen", as a person's or a script's relay does, and, with `text`, that answer.
    pub fn take(&mut self, push: &Push, text: Option<&str>, lines: &mut Vec<u8>) {
        writeln!(lines, "{{\"seen\":{{\"seen\":[\"{}\"]}}}}", push.push).expect("memory");
        if let Some(text) = text {
            self.asks += 1;
            let (id, ask) = (self.asks + 1, &push.ask_id);
            writeln!(lines, "{{\"reply\":{{\"id\":{id},\"ask_id\":\"{ask}\",\"text\":\"{text}\"}}}}")
                .expect("memory");
        }
    }

    fn line(&mut self) -> &[u8] {
        let mut searched = self.start;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let line = self.start..searched + at;
                self.start = line.end + 1;
                return &self.buffer[line];
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            searched = self.buffer.len();
            let old = self.buffer.len();
            self.buffer.resize(old + (16 << 10), 0);
            let n = self.stream.read(&mut self.buffer[old..]).expect("the hub lives");
            assert!(n > 0, "the hub closed the connection");
            self.buffer.truncate(old + n);
        }
    }
}

fn field(line: &[u8], begin: &[u8]) -> String {
    let at = line.windows(begin.len()).position(|w| w == begin).expect("the field is there") + begin.len();
    let end = line[at..].iter().position(|b| *b == b'"').expect("a string ends");
    String::from_utf8_lossy(&line[at..at + end]).into_owned()
}
