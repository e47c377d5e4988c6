//! Logging: the sinks behind the `log` macros. `log::info!(version = "1.0"; "hub_started")` logs the event `hub_started` with
//! one field. Fields never hold message text.
//!
//! Every process of a data directory appends JSON lines to the same `logs/relay-YYYY-MM-DD.log` (date in UTC). `relay hub` in
//! the foreground and `relay channel` also write readable lines to stderr; Claude Code keeps those of a channel in `mcp-logs`.
//! Errors while logging are ignored: logging must never stop or delay what it reports.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use log::{LevelFilter, Log, Metadata, Record, kv};
use serde_json::json;
use simplelog::{CombinedLogger, Config, SharedLogger};
use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;

use crate::datadir::make_private;
use crate::process;
use crate::repository::open_regular;
use crate::threads::{SMALL, spawn};

/// Size limit of one day's file in bytes.
const MAX_FILE_BYTES: u64 = 50_000_000;
/// How long a file is kept after its last line.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// Lines that wait for a slow reader of stderr before further lines are dropped.
const STDERR_BACKLOG: usize = 256;
/// How long [`Log::flush`] waits for a slow reader of stderr.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(100);

/// A time in UTC with milliseconds, as RFC 3339 and JavaScript write it.
pub const TIMESTAMP: &[FormatItem] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
const TIME: &[FormatItem] = format_description!("[hour]:[minute]:[second]");
const FILE_NAME: &[FormatItem] = format_description!("relay-[year]-[month]-[day].log");

/// Installs the loggers of this process, of kind `proc` (`hub`, `channel`), and logs panics. `RELAY_LOG` sets the level:
/// `debug`, `info` (the default, also for unknown values), `warn`, `error` or `off`. Touches no file before the first event.
pub fn init(dir: &Path, proc: &'static str, stderr: bool) {
    let level = std::env::var("RELAY_LOG").ok().and_then(|level| level.parse().ok());
    let level = level.unwrap_or(LevelFilter::Info);
    let stderr = (stderr && level != LevelFilter::Off).then(readable_lines);
    let sink = Sink { level, dir: dir.to_owned(), proc, stderr };
    let _ = CombinedLogger::init(vec![Box::new(sink)]); // fails only if a logger is installed already, which then stays
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // Without the message, which may quote input.
        log::error!(at = info.location().map(ToString::to_string).unwrap_or_default(); "panic");
        default_hook(info);
    }));
}

/// The logger: JSON lines in the file of the day and, if `stderr` is set, readable lines on stderr. A JSON line has `ts`,
/// `level`, `proc`, `pid`, `event`, then the fields in their order.
struct Sink {
    level: LevelFilter,
    dir: PathBuf,
    proc: &'static str,
    /// Sends lines to the thread that writes them, which may block: a client may never read our stderr.
    stderr: Option<Sender<String>>,
}

impl Log for Sink {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= self.level
    }

    fn log(&self, record: &Record) {
        let now = OffsetDateTime::now_utc();
        let _ = self.write(now, record); // see the module
        if let Some(stderr) = &self.stderr {
            let _ = stderr.try_send(readable_line(now, record)); // dropped if the backlog is full
        }
    }

    fn flush(&self) {
        let Some(stderr) = &self.stderr else { return };
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        // Once the thread has taken an empty line, all lines before it are written.
        let _ = stderr.send_deadline(String::new(), deadline);
        while !stderr.is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

impl SharedLogger for Sink {
    fn level(&self) -> LevelFilter {
        self.level
    }

    fn config(&self) -> Option<&Config> {
        None
    }

    fn as_log(self: Box<Self>) -> Box<dyn Log> {
        self
    }
}

impl Sink {
    fn write(&self, now: OffsetDateTime, record: &Record) -> io::Result<()> {
        // Opened for each event: the file may have been removed, and tomorrow's is another one.
        let path = self.dir.join(now.format(FILE_NAME).map_err(io::Error::other)?);
        let open = || open_regular(OpenOptions::new().append(true).create(true).mode(0o600), &path);
        let mut file = open().or_else(|_| {
            make_private(&self.dir)?; // without its parents: a data directory that was removed must not come back
            open()
        })?;
        match file.metadata()?.len() {
            0 => process::sweep(&self.dir, KEPT), // the first event of the day
            length if length >= MAX_FILE_BYTES => return Ok(()),
            _ => {}
        }
        file.write_all(self.line(now, record).as_bytes())
    }

    fn line(&self, now: OffsetDateTime, record: &Record) -> String {
        let ts = now.format(TIMESTAMP).unwrap_or_default();
        let level = record.level().as_str().to_ascii_lowercase();
        let (proc, pid, event) = (self.proc, std::process::id(), json!(record.args().to_string()));
        let fields = Fields::of(record).json;
        format!(r#"{{"ts":"{ts}","level":"{level}","proc":"{proc}","pid":{pid},"event":{event}{fields}}}"#)
            + "\n"
    }
}

/// Starts the thread that writes to stderr. Without it, every line is dropped.
fn readable_lines() -> Sender<String> {
    let (lines, to_write) = bounded::<String>(STDERR_BACKLOG);
    let write = move || {
        for line in to_write {
            let _ = io::stderr().write_all(line.as_bytes()); // see the module
        }
    };
    let _ = spawn("stderr", SMALL, write);
    lines
}

/// `12:34:56 INFO hub_started version="0.1.0"`. Strings are escaped so that they can't control a terminal.
fn readable_line(now: OffsetDateTime, record: &Record) -> String {
    let time = now.format(TIME).unwrap_or_default();
    format!("{time} {} {}{}\n", record.level(), record.args(), Fields::of(record).readable)
}

/// The key-value pairs of a record, each as `,"KEY":VALUE` and as ` KEY=VALUE`. A pair whose value is empty is left out.
#[derive(Default)]
struct Fields {
    json: String,
    readable: String,
}

impl Fields {
    fn of(record: &Record) -> Fields {
        let mut fields = Fields::default();
        let _ = record.key_values().visit(&mut fields); // our visitor returns no errors
        fields
    }
}

impl<'kvs> kv::VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let text = value.to_string();
        let (json, readable) = match value.to_u64() {
            _ if text.is_empty() => return Ok(()),
            Some(_) => (text.clone(), text),
            None => (json!(text).to_string(), format!("{text:?}")),
        };
        self.json += &format!(",{}:{json}", json!(key.as_str()));
        self.readable += &format!(" {key}={readable}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::tests::dir;
    use std::fs::{self, File};
    use std::os::unix::fs::PermissionsExt;
    use std::time::SystemTime;
    use time::macros::datetime;

    const NOW: OffsetDateTime = datetime!(2026-11-23 06:58:00.123 UTC);
    const TODAY: &str = "relay-2026-11-23.log";

    fn day_files(test: &str) -> Sink {
        let dir = dir(&format!("logging-{test}")).join("logs");
        Sink { level: LevelFilter::Info, dir, proc: "test", stderr: None }
    }

    fn remove(files: &Sink) {
        fs::remove_dir_all(files.dir.parent().expect("the test's directory")).expect("removed");
    }

    fn names(files: &Sink) -> Vec<String> {
        let entries = fs::read_dir(&files.dir).expect("the log's directory");
        let mut names: Vec<_> =
            entries.map(|e| e.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    }

    /// Passes a record of an event at level `warn` to `use_record`.
    fn with_record<T>(event: &str, fields: &dyn kv::Source, use_record: impl FnOnce(&Record) -> T) -> T {
        let mut builder = Record::builder();
        builder.level(log::Level::Warn).key_values(&fields);
        use_record(&builder.args(format_args!("{event}")).build())
    }

    fn write(files: &Sink, now: OffsetDateTime, event: &str) {
        let _ = with_record(event, &("conn", 7), |record| files.write(now, record));
    }

    #[test]
    fn line_has_its_keys_in_order_and_one_type_per_value() {
        let files = day_files("line");
        let fields: [(&str, kv::Value); 4] = [
            ("peer", "x\u{1b}".into()),
            ("count", 3_u64.into()),
            ("code", "".into()),
            ("error", kv::Value::from_dyn_display(&io::ErrorKind::NotFound)),
        ];
        let _ = with_record("a\n\"b\"", &fields, |record| files.write(NOW, record));
        let text = fs::read_to_string(files.dir.join(TODAY)).expect("the file");
        let start = r#"{"ts":"2026-11-23T06:58:00.123Z","level":"warn","proc":"test","pid":"#;
        let end = r#","event":"a\n\"b\"","peer":"x\u001b","count":3,"error":"entity not found"}"#;
        assert!(text.starts_with(start) && text.ends_with(&format!("{end}\n")), "{text}");
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON");
        remove(&files);

        let line = with_record("event", &fields, |record| readable_line(NOW, record));
        let want = r#"06:58:00 WARN event peer="x\u{1b}" count=3 error="entity not found""#;
        assert_eq!(line, format!("{want}\n"));
    }

    #[test]
    fn file_is_private_and_made_again_after_its_directory_was_removed() {
        let files = day_files("removed");
        for event in ["first", "again"] {
            assert!(!files.dir.exists());
            write(&files, NOW, event);
            assert_eq!(names(&files), [TODAY]);
            let mode = fs::metadata(files.dir.join(TODAY)).expect("the file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            fs::remove_dir_all(&files.dir).expect("removed");
        }
        remove(&files);
    }

    #[test]
    fn first_event_of_a_day_removes_files_of_seven_days_ago() {
        let files = day_files("day");
        fs::create_dir(&files.dir).expect("the directory");
        let [old, kept] = ["relay-2026-11-15.log", "relay-2026-11-17.log"];
        for (name, age) in [(old, KEPT), (kept, KEPT - Duration::from_secs(60))] {
            let file = File::create(files.dir.join(name)).expect("a file");
            file.set_modified(SystemTime::now() - age).expect("a time");
        }
        write(&files, NOW, "today");
        assert_eq!(names(&files), [kept, TODAY]);
        let file = File::options().append(true).open(files.dir.join(kept)).expect("the file");
        file.set_modified(SystemTime::now() - KEPT).expect("a time");
        write(&files, NOW, "later");
        assert_eq!(names(&files), [kept, TODAY]);
        write(&files, NOW + time::Duration::DAY, "tomorrow");
        assert_eq!(names(&files), [TODAY, "relay-2026-11-24.log"]);
        remove(&files);
    }

    #[test]
    fn full_file_takes_no_line() {
        let files = day_files("full");
        fs::create_dir(&files.dir).expect("the directory");
        let path = files.dir.join(TODAY);
        File::create(&path).and_then(|f| f.set_len(MAX_FILE_BYTES - 10)).expect("a sparse file");
        write(&files, NOW, "last");
        let text = fs::read(&path).expect("the file");
        assert!(text.ends_with(b"\"event\":\"last\",\"conn\":7}\n"));
        write(&files, NOW, "more");
        assert_eq!(fs::metadata(&path).expect("the file").len(), text.len() as u64);
        remove(&files);
    }

    #[test]
    fn directory_that_cannot_be_made_is_an_error() {
        let mut files = day_files("nowhere");
        remove(&files);
        files.dir = PathBuf::from("/dev/null/logs");
        assert!(with_record("lost", &("conn", 7), |record| files.write(NOW, record)).is_err());
    }
}
