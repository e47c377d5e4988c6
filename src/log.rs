//! The log: JSON lines in `logs/relay-YYYY-MM-DD.log` (the date is that of UTC), for people with `jq`. Every process of a
//! data directory appends to the same file. What goes wrong with logging is nobody's problem: it is left out.

use serde_json::{Value, json};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A file from which on nothing is written for the rest of its day, in bytes.
const FULL: u64 = 50_000_000;
/// Files of days longer ago are removed.
const KEPT_DAYS: u64 = 7;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// How much an event matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

/// The names of the levels, and what `RELAY_LOG` may be.
const LEVELS: [&str; 5] = ["debug", "info", "warn", "error", "off"];

/// One process's access to the log; shared by reference.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    proc: &'static str,
    /// The least level that is written, by its place in [`LEVELS`].
    least: usize,
}

impl Log {
    /// A log in `dir` for the process kind `proc` (`hub`, `channel`, …). Touches no file before the first event.
    /// `RELAY_LOG` says from which level on: `debug`, `info` (also when unset or unknown), `warn`, `error`, or `off`.
    pub fn open(dir: &Path, proc: &'static str) -> Log {
        let wanted = std::env::var("RELAY_LOG").unwrap_or_default();
        let least = LEVELS.iter().position(|level| *level == wanted).unwrap_or(Level::Info as usize);
        Log { dir: dir.to_owned(), proc, least }
    }

    /// Writes one line: `ts` (RFC 3339, UTC, milliseconds), `level`, `proc`, `pid`, `event`, then `fields` in their order,
    /// which must not be named like one of those and never hold a message's text. Never fails and never panics.
    pub fn event(&self, level: Level, event: &str, fields: &[(&str, Value)]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        let _ = self.event_at(now, level, event, fields); // see the module
    }

    /// Whether events of this level are written.
    pub fn wants(&self, level: Level) -> bool {
        level as usize >= self.least
    }

    fn event_at(&self, now_ms: u64, level: Level, event: &str, fields: &[(&str, Value)]) -> io::Result<()> {
        if !self.wants(level) {
            return Ok(());
        }
        let mut line = self.line(now_ms, level, event, fields);
        // Opened each time: it may have been removed, and is another one tomorrow.
        let mut file = self.file(now_ms / DAY_MS)?;
        let length = file.metadata()?.len();
        if length >= FULL {
            return Ok(());
        }
        if length + line.len() as u64 >= FULL {
            // In the same write, by whoever fills it: so it is there once.
            line += &self.line(now_ms, Level::Warn, "log_full", &[("until", "tomorrow, UTC".into())]);
        }
        file.write_all(line.as_bytes())
    }

    fn line(&self, now_ms: u64, level: Level, event: &str, fields: &[(&str, Value)]) -> String {
        let (ts, level, proc, pid) =
            (timestamp(now_ms), LEVELS[level as usize], self.proc, std::process::id());
        let mut line = format!(
            r#"{{"ts":"{ts}","level":"{level}","proc":"{proc}","pid":{pid},"event":{}"#,
            json!(event)
        );
        for (key, value) in fields {
            line += &format!(",{}:{value}", json!(key));
        }
        line + "}\n"
    }

    /// The file of a day. Its first writer removes what is old.
    fn file(&self, today: u64) -> io::Result<File> {
        let path = self.dir.join(file_name(today));
        if fs::symlink_metadata(&path).is_ok_and(|m| !m.is_file()) {
            return Err(io::ErrorKind::InvalidInput.into()); // a link would be followed, and a pipe waited for
        }
        let open = || OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        let file = open().or_else(|_| {
            // Not its parents: a data directory that was removed is not ours to bring back.
            DirBuilder::new().mode(0o700).create(&self.dir)?;
            open()
        })?;
        if file.metadata()?.len() == 0 {
            let first_kept = file_name(today.saturating_sub(KEPT_DAYS));
            for entry in fs::read_dir(&self.dir)?.flatten() {
                let name = entry.file_name();
                // Names of one shape with the year first: their order is that of the days.
                if name.to_str().is_some_and(|name| is_log(name) && name < &*first_kept) {
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
        Ok(file)
    }
}

fn file_name(day: u64) -> String {
    let (y, m, d) = civil(day);
    format!("relay-{y:04}-{m:02}-{d:02}.log")
}

/// Whether `name` has exactly the shape of a [`file_name`].
fn is_log(name: &str) -> bool {
    let shape = "relay-0000-00-00.log";
    let fits = |(b, s): (u8, u8)| b == s || s == b'0' && b.is_ascii_digit();
    name.len() == shape.len() && name.bytes().zip(shape.bytes()).all(fits)
}

/// Milliseconds since 1970 in RFC 3339: `2026-11-23T06:58:00.123Z`.
fn timestamp(ms: u64) -> String {
    let (y, m, d) = civil(ms / DAY_MS);
    let (s, ms) = (ms % DAY_MS / 1000, ms % 1000);
    let (h, min, s) = (s / 3600, s / 60 % 60, s % 60);
    format!("{y:04}-{m:02}-{d:02}T{h:02}:{min:02}:{s:02}.{ms:03}Z")
}

/// Year, month and day (from 1) of a day since 1970-01-01, in the Gregorian calendar. The years are counted from March
/// on, so that the leap day is a year's last, and in eras of 400, which are all alike.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468; // since 0000-03-01
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153; // from March
    let (y, m) = if month < 10 { (0, month + 3) } else { (1, month - 9) };
    (era * 400 + year + y, m, of_year - (153 * month + 2) / 5 + 1)
}

/// Lets a panic, which must not happen, leave a trace where no terminal is there to see it. Its message may quote what
/// came from outside, so only its place is written.
pub fn log_panics(log: &Arc<Log>) {
    let (log, usual) = (log.clone(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        let at = info.location().map(ToString::to_string);
        log.event(Level::Error, "panic", &[("at", json!(at))]);
        usual(info);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn log(test: &str) -> Log {
        let dir = std::env::temp_dir().join(format!("relay-log-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Log { dir, proc: "test", least: Level::Info as usize }
    }

    fn names(log: &Log) -> Vec<String> {
        let entries = fs::read_dir(&log.dir).expect("the log's directory");
        let mut names: Vec<_> =
            entries.map(|e| e.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    const NOW: u64 = 1_795_417_080_123; // 2026-11-23T06:58:00.123Z
    const TODAY: &str = "relay-2026-11-23.log";

    #[test]
    fn dates() {
        let (mut y, mut m, mut d) = (1970, 1, 1);
        for day in 0..400_000 {
            assert_eq!(civil(day), (y, m, d));
            let leap = y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
            let length = match m {
                2 => 28 + u64::from(leap),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            d += 1;
            if d > length {
                (m, d) = (m + 1, 1);
            }
            if m > 12 {
                (y, m) = (y + 1, 1);
            }
        }
        assert_eq!(timestamp(NOW), "2026-11-23T06:58:00.123Z");
        assert_eq!(timestamp(0), "1970-01-01T00:00:00.000Z");
        timestamp(u64::MAX);
    }

    #[test]
    fn names_of_files() {
        assert!(is_log(TODAY) && file_name(NOW / DAY_MS) == TODAY);
        for name in [
            "relay-2026-1-01.log",
            "relay-2026-11-23.log.gz",
            "xrelay-2026-11-23.log",
            "relay-.log",
            "relay-2026-11-+3.log",
            "relay-2026_11-23.log",
        ] {
            assert!(!is_log(name), "{name}");
        }
    }

    #[test]
    fn a_line() {
        let log = log("line");
        let _ = log.event_at(NOW, Level::Debug, "not this", &[]);
        assert!(!log.dir.exists(), "nothing is touched before the first event");
        let _ =
            log.event_at(NOW, Level::Warn, "a\n\"b\"", &[("peer", "x".into()), ("asks", json!([1, null]))]);
        let path = log.dir.join(TODAY);
        let text = fs::read_to_string(&path).expect("the file");
        let start = r#"{"ts":"2026-11-23T06:58:00.123Z","level":"warn","proc":"test","pid":"#;
        let end = r#","event":"a\n\"b\"","peer":"x","asks":[1,null]}"#;
        assert!(text.starts_with(start) && text.ends_with(&format!("{end}\n")), "{text}");
        serde_json::from_str::<Value>(&text).expect("JSON");
        assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(&log.dir).expect("removed");
        // The directory is gone while the file is open.
        let _ = log.event_at(NOW, Level::Info, "again", &[]);
        assert_eq!(names(&log), [TODAY]);
        fs::remove_dir_all(&log.dir).expect("removed");
    }

    #[test]
    fn a_new_day() {
        let log = log("day");
        fs::create_dir(&log.dir).expect("the directory");
        for name in [
            "relay-2026-11-15.log",
            "relay-2026-11-16.log",
            "relay-2026-11-17.log",
            "relay-2026-01-01.log.bak",
            "notes",
        ] {
            fs::write(log.dir.join(name), "").expect("a file");
        }
        let _ = log.event_at(NOW, Level::Info, "today", &[]);
        assert_eq!(
            names(&log),
            ["notes", "relay-2026-01-01.log.bak", "relay-2026-11-16.log", "relay-2026-11-17.log", TODAY]
        );
        let _ = log.event_at(NOW + DAY_MS, Level::Info, "tomorrow", &[]);
        assert_eq!(
            names(&log),
            ["notes", "relay-2026-01-01.log.bak", "relay-2026-11-17.log", TODAY, "relay-2026-11-24.log"]
        );
        fs::remove_dir_all(&log.dir).expect("removed");
    }

    #[test]
    fn a_full_day() {
        let log = log("full");
        fs::create_dir(&log.dir).expect("the directory");
        let path = log.dir.join(TODAY);
        File::create(&path).and_then(|f| f.set_len(FULL - 10)).expect("a sparse file");
        let _ = log.event_at(NOW, Level::Info, "last", &[]);
        let length = fs::metadata(&path).expect("the file").len();
        assert!(
            fs::read(&path)
                .expect("the file")
                .ends_with(b"\"event\":\"log_full\",\"until\":\"tomorrow, UTC\"}\n")
        );
        let _ = log.event_at(NOW, Level::Info, "more", &[]);
        assert_eq!(fs::metadata(&path).expect("the file").len(), length);
        fs::remove_dir_all(&log.dir).expect("removed");
    }

    #[test]
    fn nowhere_to_write() {
        let mut log = log("nowhere");
        log.dir = PathBuf::from("/dev/null/logs");
        let _ = log.event_at(NOW, Level::Error, "lost", &[]);
    }
}
