//! Numbers, and how they are printed.

use std::fs;
use std::time::Duration;

/// Whether few samples are enough.
pub fn quick() -> bool {
    std::env::var_os("RELAY_BENCH_QUICK").is_some_and(|v| v != "0" && !v.is_empty())
}

/// How many samples to take where the whole truth takes `most`.
pub fn samples(most: usize) -> usize {
    if quick() { most.div_ceil(20).max(3) } else { most }
}

/// Times of one thing.
#[derive(Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub fn median(&self) -> Duration {
        self.quantile(0.5)
    }

    fn quantile(&self, q: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() as f64 * q) as usize;
        sorted[at.min(sorted.len() - 1)]
    }
}

/// Where and of what the numbers are.
pub fn machine() {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!(
        "{cores} × {}, {} {}",
        model.trim_start_matches([' ', '\t', ':']),
        std::env::consts::OS,
        kernel.trim()
    );
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load before: {}", load.split(' ').next().unwrap_or_default());
    let binary = super::process::relay();
    println!("{} ({} bytes)", binary.display(), fs::metadata(&binary).map_or(0, |m| m.len()));
    if quick() {
        println!("RELAY_BENCH_QUICK is set: these numbers show that the bench works, and little else");
    }
}

pub fn heading(what: &str) {
    println!("\n{what}");
    println!(
        "| {:<46} | {:>10} | {:>10} | {:>10} | {:>6} | {:<18} |",
        "what", "median", "p99", "floor", "ratio", "target"
    );
    println!("|{:-<48}|{:->11}:|{:->11}:|{:->11}:|{:->7}:|{:-<20}|", "", "", "", "", "", "");
}

/// One line of times; `floor` is what the same takes at least, `target` what we want and whether it is so.
pub fn times(what: &str, times: &Times, floor: Option<&Times>, target: Option<Target>) {
    let ratio = floor.map(|f| times.median().as_secs_f64() / f.median().as_secs_f64());
    let target = target.map(|target| match target {
        Target::Time(most) => verdict(times.median() <= most, &format!("≤ {}", time(most))),
        Target::Ratio(most) => verdict(ratio.is_some_and(|r| r <= most), &format!("≤ {most} × floor")),
        Target::Of(other, most) => {
            let ratio = times.median().as_secs_f64() / other.as_secs_f64();
            verdict(ratio <= most, &format!("{ratio:.2} ≤ {most} ×"))
        }
    });
    line(
        what,
        &time(times.median()),
        &time(times.quantile(0.99)),
        &floor.map(|f| time(f.median())).unwrap_or_default(),
        &ratio.map(|r| format!("{r:.2}")).unwrap_or_default(),
        &target.unwrap_or_default(),
    );
}

/// One line of something else than times.
pub fn value(what: &str, value: &str, floor: &str, ratio: Option<f64>, target: &str) {
    line(what, value, "", floor, &ratio.map(|r| format!("{r:.2}")).unwrap_or_default(), target);
}

pub fn verdict(met: bool, target: &str) -> String {
    format!("{target} {}", if met { "✓" } else { "✗" })
}

/// What a time is held against.
pub enum Target {
    Time(Duration),
    /// Times the floor.
    Ratio(f64),
    /// Times another median.
    Of(Duration, f64),
}

fn line(what: &str, median: &str, p99: &str, floor: &str, ratio: &str, target: &str) {
    println!("| {what:<46} | {median:>10} | {p99:>10} | {floor:>10} | {ratio:>6} | {target:<18} |");
}

fn time(time: Duration) -> String {
    match time.as_micros() {
        us if us < 1000 => format!("{us} µs"),
        us if us < 100_000 => format!("{:.2} ms", us as f64 / 1e3),
        us => format!("{:.0} ms", us as f64 / 1e3),
    }
}

pub fn bytes(bytes: u64) -> String {
    if bytes < 10 << 20 {
        format!("{} KB", bytes.div_ceil(1024))
    } else {
        format!("{:.1} MB", bytes as f64 / 1048576.0)
    }
}
