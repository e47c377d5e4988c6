//! What is measured, section by section.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::channel::{Channel, INITIALIZE};
use crate::floor::{Floor, line_of};
use crate::load::{ANSWER, QUESTION, pairs_per_second};
use crate::peer::Peer;
use crate::process::{self, Dir, Hub};
use crate::report::{Target, Times, bytes, heading, quick, samples, times, value, verdict};

pub const ALL: [(&str, fn()); 9] = [
    ("start", start),
    ("latency", latency),
    ("throughput", throughput),
    ("broadcast", broadcast),
    ("journal", crate::journal::journal),
    ("hook", hook),
    ("memory", memory),
    ("idle", idle),
    ("size", size),
];

const LAUNCHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/plugin/bin/relay-launcher");

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a session waits for when it starts.
fn start() {
    heading("Start of `relay channel`");
    let hub = Hub::start();
    let answer_size = {
        let mut channel = Channel::spawn(Channel::command(hub.dir.relay("channel"), &hub.dir, "first"));
        channel.write(INITIALIZE);
        channel.read().len()
    };
    let mut floor = Times::default();
    for _ in 0..samples(400) {
        let at = Instant::now();
        let mut echo = Floor::start(&["echo", &answer_size.to_string()]);
        echo.say(INITIALIZE.as_bytes());
        echo.hear();
        floor.push(at.elapsed());
    }
    let warm = |program: &Path| {
        let (mut answered, mut registered) = (Times::default(), Times::default());
        for n in 0..samples(400) {
            let command = hub.dir.command(program, "channel");
            let command = Channel::command(command, &hub.dir, &format!("warm-{n}"));
            let at = Instant::now();
            let mut channel = Channel::spawn(command);
            channel.initialize();
            answered.push(at.elapsed());
            channel.call("relay_peers", json!({}));
            registered.push(at.elapsed());
            channel.end();
        }
        (answered, registered)
    };
    let (answered, registered) = warm(&process::relay());
    times("warm hub: initialize answered", &answered, Some(&floor), Some(Target::Time(ms(3))));
    times("warm hub: first relay_peers answered", &registered, Some(&floor), None);
    let (answered, _) = warm(Path::new(LAUNCHER));
    times("warm hub, through the launcher: initialize", &answered, Some(&floor), None);

    let (mut answered, mut registered) = (Times::default(), Times::default());
    for n in 0..samples(60) {
        let dir = Dir::new();
        let mut command = Channel::command(dir.relay("channel"), &dir, &format!("cold-{n}"));
        command.env("RELAY_IDLE_EXIT_S", "0.01");
        let at = Instant::now();
        let mut channel = Channel::spawn(command);
        channel.initialize();
        answered.push(at.elapsed());
        channel.call("relay_peers", json!({}));
        registered.push(at.elapsed());
        channel.end();
        process::wait_for_no_hub(&dir);
    }
    times("cold: initialize answered", &answered, Some(&floor), Some(Target::Time(ms(15))));
    times("cold: hub spawned, relay_peers answered", &registered, Some(&floor), Some(Target::Time(ms(15))));
}

/// One ask at a time between two real channels: what two sessions feel.
fn latency() {
    heading("One ask between two channels");
    let (mut floor_push, mut floor_trip) = (Times::default(), Times::default());
    let (mut base_push, mut base_trip) = (ms(0), ms(0));
    for (at, peers) in [2, 1000].into_iter().enumerate() {
        let hub = Hub::start();
        let others: Vec<Peer> = (2..peers).map(|_| Peer::new(&hub, false)).collect();
        let (mut alice, mut bob) = (Channel::start(&hub.dir, "alice"), Channel::start(&hub.dir, "bob"));
        let (mut push, mut trip) = (Times::default(), Times::default());
        let mut sizes = [0; 4];
        for n in 0..samples(2000) + 20 {
            let ask = alice.call_line("relay_ask", json!({"to": "bob", "question": QUESTION}));
            let begin = Instant::now();
            alice.write(&ask);
            let pushed = bob.read();
            let there = begin.elapsed();
            let message: Value = serde_json::from_str(pushed).expect("JSON");
            let ask_id = message["params"]["meta"]["ask_id"].as_str().expect("an ask").to_owned();
            sizes[..2].copy_from_slice(&[ask.len(), pushed.len()]);
            let reply = bob.call_line("relay_reply", json!({"ask_id": ask_id, "answer": ANSWER}));
            alice.read(); // the result of the call, which comes once the question is handed over
            let begin = Instant::now();
            bob.write(&reply);
            let back = alice.read();
            let back_again = begin.elapsed();
            assert!(back.contains("notifications/claude/channel"), "{back}");
            sizes[2..].copy_from_slice(&[reply.len(), back.len()]);
            bob.read();
            if n >= 20 {
                push.push(there);
                trip.push(there + back_again);
            }
        }
        if at == 0 {
            (floor_push, floor_trip) = floor_latency(sizes);
        }
        let target = |base: Duration| match at {
            0 => Target::Ratio(2.5),
            _ => Target::Of(base, 1.5),
        };
        times(&format!("ask → push, {peers} peers"), &push, Some(&floor_push), Some(target(base_push)));
        let of = (at > 0).then(|| target(base_trip));
        times(&format!("ask → push, reply → push, {peers} peers"), &trip, Some(&floor_trip), of);
        if at == 0 {
            (base_push, base_trip) = (push.median(), trip.median());
        }
        drop(others);
    }
}

/// The same lines through as many processes, with the same kinds of pipes and sockets between them.
fn floor_latency(sizes: [usize; 4]) -> (Times, Times) {
    let dir = Dir::new();
    let socket = dir.path().join("floor");
    let _hub = Floor::serve("hub", &socket, &[]);
    let path = socket.to_str().expect("UTF-8");
    let mut asker = Floor::start(&["asker", path]);
    std::thread::sleep(ms(200)); // the asker comes first
    let mut asked = Floor::start(&["asked", path]);
    let (mut push, mut trip) = (Times::default(), Times::default());
    let (ask, reply) =
        (line_of(sizes[..2].iter().sum::<usize>() / 2), line_of(sizes[2..].iter().sum::<usize>() / 2));
    for n in 0..samples(2000) + 20 {
        let begin = Instant::now();
        asker.say(&ask);
        asked.hear();
        let there = begin.elapsed();
        let begin = Instant::now();
        asked.say(&reply);
        asker.hear();
        if n >= 20 {
            push.push(there);
            trip.push(there + begin.elapsed());
        }
    }
    (push, trip)
}

/// As many asks as one hub can carry.
fn throughput() {
    println!(
        "\nAsk and reply, pairs a second through one hub (each asked, pushed, seen, answered, pushed, seen)"
    );
    println!(
        "| {:<8} | {:>10} | {:>12} | {:>15} | {:<18} |",
        "peers", "pairs/s", "hub CPU/pair", "our CPU/pair", "target"
    );
    println!("|{:-<10}|{:->11}:|{:->13}:|{:->16}:|{:-<20}|", "", "", "", "", "");
    for peers in [2, 20, 200, 1000] {
        let hub = Hub::start();
        let me = std::process::id();
        let time = if quick() { ms(300) } else { ms(5000) };
        let before = (process::work(hub.pid()).cpu, process::work(me).cpu, Instant::now());
        let rate = pairs_per_second(&hub, peers, time);
        let took = before.2.elapsed().as_secs_f64() * rate;
        let per =
            |now: Duration, then: Duration| format!("{:.1} µs", (now - then).as_secs_f64() * 1e6 / took);
        println!(
            "| {peers:<8} | {rate:>10.0} | {:>12} | {:>15} | {:<18} |",
            per(process::work(hub.pid()).cpu, before.0),
            per(process::work(me).cpu, before.1),
            verdict(rate >= 30_000.0, "≥ 30000")
        );
    }
}

/// From the broadcast until each of a thousand peers has read its question.
fn broadcast() {
    heading("Broadcast");
    for peers in [100, 1000] {
        let hub = Hub::start();
        let mut asker = Peer::new(&hub, false);
        let mut all: Vec<Peer> = (0..peers).map(|_| Peer::new(&hub, true)).collect();
        let (mut reached, mut closed) = (Times::default(), Times::default());
        let mut lines = Vec::new();
        let mut size = 0;
        for _ in 0..samples(100) {
            let at = Instant::now();
            asker.broadcast(QUESTION);
            let pushes: Vec<_> = all.iter_mut().map(Peer::push).collect();
            reached.push(at.elapsed());
            size = pushes[0].bytes;
            for (peer, push) in all.iter_mut().zip(&pushes) {
                peer.take(push, Some(ANSWER), &mut lines);
                peer.write(&lines);
                lines.clear();
            }
            // Every answer and the summary.
            for _ in 0..=peers {
                let push = asker.push();
                asker.take(&push, None, &mut lines);
            }
            closed.push(at.elapsed());
            asker.write(&lines);
            lines.clear();
        }
        let floor = floor_broadcast(peers, size);
        let target = (peers == 1000).then_some(Target::Time(ms(30)));
        times(&format!("read by {peers} peers"), &reached, Some(&floor), target);
        times(&format!("answered by {peers} peers, and summed up"), &closed, None, None);
    }
}

fn floor_broadcast(peers: usize, size: usize) -> Times {
    let dir = Dir::new();
    let socket = dir.path().join("floor");
    let _hub = Floor::serve("broadcast", &socket, &[&peers.to_string()]);
    let connect = || UnixStream::connect(&socket).expect("the floor's hub");
    let mut asker = connect();
    let mut all: Vec<UnixStream> = (0..peers).map(|_| connect()).collect();
    let mut floor = Times::default();
    let (line, mut buffer) = (line_of(size), vec![0; size]);
    for _ in 0..samples(100) {
        let at = Instant::now();
        asker.write_all(&line).expect("it reads");
        all.iter_mut().for_each(|peer| peer.read_exact(&mut buffer).expect("a line"));
        floor.push(at.elapsed());
    }
    floor
}

/// What each prompt and each tool call of a session pays.
fn hook() {
    heading("Run of `relay hook` (process start to end)");
    let hub = Hub::start();
    let channel = Channel::start(&hub.dir, "hooked");
    let input = |event: &str| {
        format!(
            "{}\n",
            json!({"hook_event_name": event, "session_id": "6f1d3a9e", "transcript_path": "/nowhere/6f1d3a9e.jsonl",
                "cwd": "/some/where", "permission_mode": "default", "prompt": QUESTION})
        )
    };
    let run = |command: &mut Command, input: &str| {
        let at = Instant::now();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("it starts");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
        child.wait().expect("it ends");
        at.elapsed()
    };
    let measure = |make: &dyn Fn() -> Command, input: &str| {
        let mut all = Times::default();
        (0..samples(400)).for_each(|_| all.push(run(&mut make(), input)));
        all
    };
    let me = std::env::current_exe().expect("this program has a path");
    let floor = || {
        let mut command = Command::new(&me);
        command.args([crate::floor::FLAG, "echo", "100"]).env_clear();
        command
    };
    let floor = measure(&floor, &input("UserPromptSubmit"));
    let hook = |program: &Path, dir: &Dir| {
        let mut command = dir.command(program, "hook");
        command.env("RELAY_SESSION", "hooked");
        command
    };
    let relay = process::relay();
    let away = Dir::new();
    for event in ["UserPromptSubmit", "PostToolUse"] {
        let all = measure(&|| hook(&relay, &hub.dir), &input(event));
        times(event, &all, Some(&floor), None);
    }
    let all = measure(&|| hook(Path::new(LAUNCHER), &hub.dir), &input("UserPromptSubmit"));
    times("UserPromptSubmit, through the launcher", &all, Some(&floor), None);
    let all = measure(&|| hook(&relay, &away), &input("UserPromptSubmit"));
    times("UserPromptSubmit, hub away", &all, Some(&floor), Some(Target::Time(ms(50))));
    channel.end();
}

fn memory() {
    println!("\nMemory");
    println!(
        "| {:<34} | {:>13} | {:>10} | {:>10} | {:>7} | {:<18} |",
        "what", "private dirty", "PSS", "RSS", "threads", "target"
    );
    println!("|{:-<36}|{:->14}:|{:->11}:|{:->11}:|{:->8}:|{:-<20}|", "", "", "", "", "", "");
    let show = |what: &str, pid: u32, most: Option<u64>| {
        let m = process::memory(pid);
        let target = most.map(|most| verdict(m.private_dirty <= most, &format!("≤ {}", bytes(most))));
        println!(
            "| {what:<34} | {:>13} | {:>10} | {:>10} | {:>7} | {:<18} |",
            bytes(m.private_dirty),
            bytes(m.pss),
            bytes(m.rss),
            process::threads(pid),
            target.unwrap_or_default()
        );
    };
    let hub = Hub::start();
    let mut channels: Vec<Channel> = (0..20).map(|n| Channel::start(&hub.dir, &format!("s{n}"))).collect();
    std::thread::sleep(ms(300));
    show("a channel, registered (of 20)", channels[7].pid(), Some(1 << 20));
    for n in 0..samples(200) {
        let ask = channels[1].call("relay_ask", json!({"to": "s7", "question": format!("{n} {QUESTION}")}));
        channels[7].read();
        channels[7].call("relay_reply", json!({"ask_id": ask["ask_id"], "answer": ANSWER}));
        channels[1].read();
    }
    show("the same after 200 asks answered", channels[7].pid(), Some(1 << 20));
    show("the same after 200 asks asked", channels[1].pid(), Some(1 << 20));
    drop(channels);
    for peers in [1, 100, 1000] {
        let hub = Hub::start();
        let mut all: Vec<Peer> = (0..peers).map(|_| Peer::new(&hub, true)).collect();
        std::thread::sleep(ms(300));
        let most = (peers == 1000).then_some(25 << 20);
        show(&format!("a hub with {peers} peers"), hub.pid(), most);
        if peers == 1000 {
            let mut lines = Vec::new();
            all[0].broadcast(QUESTION);
            for peer in &mut all[1..] {
                let push = peer.push();
                peer.take(&push, Some(ANSWER), &mut lines);
                peer.write(&lines);
                lines.clear();
            }
            for _ in 0..peers {
                let push = all[0].push();
                all[0].take(&push, None, &mut lines);
            }
            all[0].write(&lines);
            std::thread::sleep(ms(500));
            show("the same after a broadcast to all", hub.pid(), most);
        }
    }
}

/// Sessions that do nothing.
fn idle() {
    const SESSIONS: u32 = 20;
    let seconds = std::env::var("RELAY_BENCH_IDLE_S").ok().and_then(|s| s.parse().ok());
    let seconds: u64 = seconds.unwrap_or(if quick() { 3 } else { 60 });
    println!("\n{SESSIONS} idle sessions over {seconds} s");
    let hub = Hub::start();
    let all: Vec<Channel> = (0..SESSIONS).map(|n| Channel::start(&hub.dir, &format!("idle-{n}"))).collect();
    std::thread::sleep(ms(1500));
    let mut pids: Vec<u32> = all.iter().map(Channel::pid).collect();
    pids.push(hub.pid());
    let before: Vec<_> = pids.iter().map(|pid| process::work(*pid)).collect();
    std::thread::sleep(Duration::from_secs(seconds));
    let after: Vec<_> = pids.iter().map(|pid| process::work(*pid)).collect();
    let spent = |from: usize, to: usize| {
        let pairs = || before[from..to].iter().zip(&after[from..to]);
        let cpu: Duration = pairs().map(|(b, a)| a.cpu - b.cpu).sum();
        (cpu.as_secs_f64(), pairs().map(|(b, a)| a.wakeups - b.wakeups).sum::<u64>())
    };
    println!(
        "| {:<12} | {:>12} | {:>10} | {:>12} | {:<18} |",
        "what", "CPU time", "CPU", "wake-ups/s", "target"
    );
    println!("|{:-<14}|{:->13}:|{:->11}:|{:->13}:|{:-<20}|", "", "", "", "", "");
    let show = |what: &str, (cpu, wakeups): (f64, u64), sessions: u32, most: Option<f64>| {
        let (cpu, wakeups) = (cpu / f64::from(sessions), wakeups as f64 / f64::from(sessions));
        let share = cpu / seconds as f64 * 100.0;
        let target = most.map(|most| verdict(share < most, &format!("< {most} %"))).unwrap_or_default();
        println!(
            "| {what:<12} | {:>9.3} ms | {share:>8.4} % | {:>12.2} | {target:<18} |",
            cpu * 1e3,
            wakeups / seconds as f64
        );
    };
    show("a session", spent(0, SESSIONS as usize), SESSIONS, Some(0.02));
    show("the hub", spent(SESSIONS as usize, pids.len()), 1, None);
}

fn size() {
    heading("Size");
    let size = |path: &Path| std::fs::metadata(path).map(|m| m.len()).ok();
    let show = |what: &str, size: u64, most: u64| {
        value(what, &bytes(size), "", None, &verdict(size <= most * 1000, &format!("≤ {most} KB")));
    };
    let relay = process::relay();
    show("the binary of this bench, stripped", size(&relay).unwrap_or(0), 1600);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target directory");
    for place in ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-musl", "x86_64-unknown-linux-gnu"] {
        if let Some(size) = size(&target.join(place).join("release/relay")) {
            show(&format!("static, {place}"), size, 2400);
        }
    }
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--edges", "normal", "--prefix", "none", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    if let Ok(tree) = tree {
        let text = String::from_utf8_lossy(&tree.stdout);
        let mut crates: Vec<&str> = text.lines().map(|line| line.trim_end_matches(" (*)")).collect();
        crates.sort_unstable();
        crates.dedup();
        value(
            "crates in `cargo tree -e normal`",
            &crates.len().to_string(),
            "",
            None,
            &verdict(crates.len() <= 30, "≤ 30"),
        );
    }
}
