//! What the relay costs: time, memory, idle CPU, size. `cargo bench` runs all of it, `cargo bench -- start latency` the
//! sections named. It drives the real binary, as Claude Code and the shell do, and holds the times against a floor that it
//! measures in the same run: as many hops between processes, over the same kinds of pipes and sockets, by single-threaded
//! processes that block and parse nothing. It prints and asserts nothing: machines differ.
//!
//! `RELAY_BENCH_QUICK=1` takes few samples (to see that it works), `RELAY_BENCH_IDLE_S` changes the minute of idling,
//! `RELAY_BENCH_BIN` measures another binary.

mod channel;
mod floor;
mod journal;
mod load;
mod peer;
mod process;
mod report;
mod sections;

use std::os::unix::process::CommandExt;
use std::process::Command;

/// A thousand peers need more open files than the usual limit, and only a shell can raise it without unsafe code.
const RAISED: &str = "RELAY_BENCH_RAISED";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if arguments.first().is_some_and(|a| a == floor::FLAG) {
        return floor::run(&arguments[1..]);
    }
    if std::env::var_os(RAISED).is_none() {
        let me = std::env::current_exe().expect("this program has a path");
        let script = r#"ulimit -n 8192 2>/dev/null || ulimit -n "$(ulimit -Hn)"; exec "$0" "$@""#;
        let error =
            Command::new("/bin/sh").args(["-c", script]).arg(me).args(&arguments).env(RAISED, "1").exec();
        panic!("/bin/sh: {error}");
    }
    let known = sections::ALL.map(|(name, _)| name);
    if let Some(other) = arguments.iter().find(|a| !known.contains(&a.as_str())) {
        eprintln!("there is no section {other:?}; there are: {}", known.join(", "));
        std::process::exit(2);
    }
    report::machine();
    for (name, section) in sections::ALL {
        if arguments.is_empty() || arguments.iter().any(|a| a == name) {
            section();
        }
    }
}
