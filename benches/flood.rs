//! What one peer that floods the hub costs the others: `cargo bench --bench flood`. Two peers ask and answer each other while
//! a third says as fast as it can what costs the hub most. Prints the time from an ask to its answer, alone and under each
//! flood, and fails if the median under a flood is over twice that without.
//!
//! `RELAY_BENCH_BIN` measures another binary, `RELAY_BENCH_QUICK=1` takes few samples and fails at nothing. The flooder, the
//! two peers and the hub share this machine's processors: on one or two of them part of what is measured is that.

#[path = "../tests/driver/flat.rs"]
mod flat;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use flat::{from_wire, to_wire};
use serde_json::{Value, json};

/// Peers that are there beside the three, so that lists of them have a usual length.
const OTHERS: usize = 27;

struct Peer {
    lines: BufReader<UnixStream>,
    name: String,
    next_id: u64,
}

impl Peer {
    fn connect(socket: &Path, name: &str) -> Peer {
        let stream = UnixStream::connect(socket).expect("a hub");
        let mut peer = Peer { lines: BufReader::new(stream), name: name.to_owned(), next_id: 1 };
        peer.say(&json!({"type": "hello", "v": 2}));
        let who = json!({"name": name, "kind": "script", "peer": format!("p-{name}"), "secret": "s", "cwd": "/",
            "pid": std::process::id(), "paths": ["socket"], "listens": true, "fresh": true});
        peer.say(&json!({"type": "register", "id": 1, "who": who}));
        peer.hear(|m| m["id"] == 1);
        peer
    }

    fn say(&mut self, message: &Value) {
        self.lines.get_mut().write_all(format!("{}\n", to_wire(message)).as_bytes()).expect("the hub reads");
    }

    fn hear(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(
                self.lines.read_line(&mut line).expect("a message") > 0,
                "the hub hung up on {}",
                self.name
            );
            let message = from_wire(serde_json::from_str(&line).expect("a message"));
            if wanted(&message) {
                return message;
            }
        }
    }

    fn take_push(&mut self, kind: &str) -> Value {
        let push = self.hear(|m| m["type"] == "push" && m["kind"] == kind);
        self.say(&json!({"type": "pushed", "push": push["push"]}));
        self.say(&json!({"type": "seen", "receipts": [[push["push"], "seen"]]}));
        push
    }
}

/// From the ask to the answer in the asker's hands.
fn round(ann: &mut Peer, ben: &mut Peer, text: &str) -> Duration {
    ann.next_id += 1;
    let ask_id = format!("ask_{:08}", ann.next_id);
    let started = Instant::now();
    ann.say(&json!({"type": "ask", "id": ann.next_id, "ask_id": ask_id, "to": ben.name, "text": text, "timeout_ms": 60_000}));
    ben.take_push("ask");
    ben.say(&json!({"type": "reply", "id": ann.next_id, "ask_id": ask_id, "text": text}));
    ann.take_push("reply");
    started.elapsed()
}

/// Median and 99th percentile, in microseconds.
fn measure(ann: &mut Peer, ben: &mut Peer, samples: usize) -> (f64, f64) {
    let text = "x".repeat(200);
    let mut times: Vec<Duration> = (0..samples).map(|_| round(ann, ben, &text)).collect();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    (at(0.5), at(0.99))
}

/// What a flooder says, by its count.
type Flood = fn(u64) -> Value;

const FLOODS: [(&str, Flood); 7] = [
    ("status requests", |n| json!({"type": "status", "id": n})),
    ("lists of peers", |n| json!({"type": "peers", "id": n})),
    (
        "asks to nobody",
        |n| json!({"type": "ask", "id": n, "ask_id": format!("ask_f{n:012}"), "to": "nobody-at-all", "text": "x", "timeout_ms": 9}),
    ),
    (
        "asks over the limit",
        |n| json!({"type": "ask", "id": n, "ask_id": format!("ask_f{n:012}"), "to": "other1", "text": "x", "timeout_ms": 9}),
    ),
    (
        "hook events",
        |n| json!({"type": "hook", "id": n, "claude": format!("1-{}-1", n % 100), "event": if n % 2 == 0 { "prompt" } else { "stop" }}),
    ),
    ("new names", |n| json!({"type": "rename", "id": n, "name": format!("eve {}", n % 50), "exact": false})),
    (
        "receipts of 2,000",
        |_| json!({"type": "seen", "receipts": vec![("push_000000000000000000000000", "seen"); 2000]}),
    ),
];

/// Says it until `over`, and reads what comes back; how many were said.
fn flood(socket: PathBuf, what: Flood, over: Arc<AtomicBool>, said: Arc<AtomicU64>) {
    let mut eve = Peer::connect(&socket, "eve");
    let mut stream = eve.lines.get_ref().try_clone().expect("a socket");
    let reading = over.clone();
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while !reading.load(Ordering::Relaxed) && eve.lines.read(&mut buffer).is_ok_and(|n| n > 0) {}
    });
    // Made before, so that the flooder's own work costs the others little.
    let lines: Vec<String> = (0..512).map(|n| format!("{}\n", to_wire(&what(n)))).collect();
    let chunks: Vec<String> = lines.chunks(32).map(|c| c.concat()).collect();
    'flood: loop {
        for chunk in &chunks {
            if over.load(Ordering::Relaxed) || stream.write_all(chunk.as_bytes()).is_err() {
                break 'flood;
            }
            said.fetch_add(32, Ordering::Relaxed);
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Both); // so that the reader ends
    let _ = reader.join();
}

/// Comes, says garbage, is thrown out, and comes again.
fn intrude(socket: PathBuf, over: Arc<AtomicBool>, said: Arc<AtomicU64>) {
    while !over.load(Ordering::Relaxed) {
        let Ok(mut stream) = UnixStream::connect(&socket) else { continue };
        let _ = stream.write_all(b"{\"hello\":{\"v\":2}}\n\xff\xff\n"); // it may be refused
        let _ = stream.read_to_end(&mut Vec::new());
        said.fetch_add(1, Ordering::Relaxed);
    }
}

fn main() -> ExitCode {
    let quick = std::env::var_os("RELAY_BENCH_QUICK").is_some() || std::env::args().any(|a| a == "--test");
    let samples = if quick { 200 } else { 4000 };
    let relay = std::env::var("RELAY_BENCH_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_relay").to_owned());
    let dir = std::env::temp_dir().join(format!("relay-flood-{}", std::process::id()));
    let hub = Command::new(&relay)
        .args(["hub", "--detach", "--data-dir"])
        .arg(&dir)
        .env("RELAY_ASKS_PER_MIN", "0")
        .status()
        .expect("relay hub");
    assert!(hub.success());
    let socket = dir.join("hub.sock");
    let (mut ann, mut ben) = (Peer::connect(&socket, "ann"), Peer::connect(&socket, "ben"));
    let others: Vec<Peer> = (0..OTHERS).map(|n| Peer::connect(&socket, &format!("other{n}"))).collect();

    println!(
        "{} processors, {samples} asks each, {OTHERS} other peers",
        thread::available_parallelism().map_or(0, usize::from)
    );
    println!("{:24} {:>10} {:>10} {:>8} {:>12}", "flood", "median µs", "99 % µs", "ratio", "messages/s");
    measure(&mut ann, &mut ben, samples); // to warm up
    let (calm, tail) = measure(&mut ann, &mut ben, samples);
    println!("{:24} {calm:10.0} {tail:10.0} {:8.2} {:>12}", "none", 1.0, "-");
    let mut worst = 1.0_f64;
    let mut floods: Vec<(&str, Option<Flood>)> =
        FLOODS.iter().map(|(name, what)| (*name, Some(*what))).collect();
    floods.push(("garbage and reconnects", None));
    for (name, what) in floods {
        let (over, said) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let flooder = {
            let (socket, over, said) = (socket.clone(), over.clone(), said.clone());
            thread::spawn(move || match what {
                Some(what) => flood(socket, what, over, said),
                None => intrude(socket, over, said),
            })
        };
        while said.load(Ordering::Relaxed) < 64 && !flooder.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        let (started, before) = (Instant::now(), said.load(Ordering::Relaxed));
        let (median, tail) = measure(&mut ann, &mut ben, samples);
        let rate = (said.load(Ordering::Relaxed) - before) as f64 / started.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        flooder.join().expect("the flooder");
        let ratio = median / calm;
        worst = worst.max(ratio);
        println!("{name:24} {median:10.0} {tail:10.0} {ratio:8.2} {rate:12.0}");
    }
    drop(others);
    let _ = Command::new(&relay)
        .args(["stop", "--data-dir"])
        .arg(&dir)
        .stdout(std::process::Stdio::null())
        .status();
    let _ = std::fs::remove_dir_all(&dir);
    println!("the worst median is {worst:.2} times that without a flood (2 at most)");
    if worst > 2.0 && !quick { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
