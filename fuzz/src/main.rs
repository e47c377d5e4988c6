//! The targets without `cargo fuzz`, for stable Rust: `cargo run --release --no-default-features -- TARGET SECONDS [SEED]`.
//! Inputs are the target's seeds, cut, spliced and altered at random; the same SEED gives the same inputs. There is no
//! feedback from coverage, so this finds less in the same time.

use std::path::Path;
use std::time::{Duration, Instant};

use targets::TARGETS;

/// A repeatable generator of random numbers (xorshift64*).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n.max(1)
    }
}

/// Bytes that have a meaning for the parsers.
const PIECES: [&[u8]; 24] = [
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"null",
    b"1e999",
    b"18446744073709551616",
    b"-0",
    b"\x1b[31m",
    b"</channel>",
    b"[relay kind=ask]",
    b"push_0123456789abcdef01234567",
    b"{\"ask\":{",
    b"\xe2\x80\xae",
];

fn mutate(dice: &mut Dice, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut data = if dice.below(16) == 0 { Vec::new() } else { seeds[dice.below(seeds.len())].clone() };
    for _ in 0..=dice.below(8) {
        let at = dice.below(data.len() + 1);
        match dice.below(7) {
            0 => data.truncate(at),
            1 if at < data.len() => data[at] = dice.next() as u8,
            2 if at < data.len() => data[at] ^= 1 << dice.below(8),
            3 => drop(data.splice(at..at, PIECES[dice.below(PIECES.len())].iter().copied())),
            4 => {
                let to = at + dice.below(data.len() - at + 1);
                drop(data.drain(at..to));
            }
            5 => {
                let other = &seeds[dice.below(seeds.len())];
                let from = dice.below(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
            _ => {
                let to = at + dice.below((data.len() - at).min(64) + 1);
                let again = data[at..to].to_vec();
                let times = dice.below(20);
                drop(data.splice(at..at, again.repeat(times)));
            }
        }
        data.truncate(1 << 16);
    }
    for _ in 0..dice.below(32) {
        data.push(dice.next() as u8);
    }
    data
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let named = args.first().and_then(|name| TARGETS.iter().find(|(n, _)| n == name));
    let (Some((name, target)), Some(seconds)) = (named, args.get(1).and_then(|s| s.parse().ok())) else {
        let names: Vec<&str> = TARGETS.iter().map(|(n, _)| *n).collect();
        eprintln!("usage: plain {} SECONDS [SEED]", names.join("|"));
        std::process::exit(2);
    };
    let seed = args.get(2).and_then(|s| s.parse().ok()).unwrap_or(1_u64);
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
    let mut seeds: Vec<Vec<u8>> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|f| std::fs::read(f.path()).ok())
        .collect();
    seeds.sort();
    seeds.push(b"{}".to_vec());
    let mut dice = Dice(seed.max(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut runs = 0_u64;
    while Instant::now() < until {
        for _ in 0..64 {
            let data = mutate(&mut dice, &seeds);
            if std::panic::catch_unwind(|| target(&data)).is_err() {
                let at = format!("found-{name}-{seed}-{runs}");
                std::fs::write(&at, &data).expect("a file for what was found");
                eprintln!("{name}: run {runs} of seed {seed} failed; its input is in {at}");
                std::process::exit(1);
            }
            runs += 1;
        }
    }
    println!("{name}: {runs} runs in {seconds} s with seed {seed}, nothing found");
}
