//! `relay replay`: steps a journal through the router and prints each input and what the router did, so that a bug report
//! with its journal attached can be repeated step by step.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;
use serde_json::value::to_raw_value;

use super::journal::{self, Record};
use super::router::digest;

/// Prints what the router does with the journal at `path`.
///
/// # Errors
/// The file cannot be read or is not a journal, or `out` cannot be written.
pub fn replay(path: &Path, out: &mut impl Write) -> io::Result<()> {
    let (header, mut router, records) = journal::open(path)?;
    let (epoch, version, now) = (header.epoch, header.version, router.now);
    writeln!(out, "epoch {epoch}, written by relay {version}, snapshot at {now} ms")?;
    for (number, record) in (1..).zip(records) {
        let Record { at, ids, input } = record?;
        writeln!(out, "{number:>5} {at:>9} ms  {}", serde_json::to_string(&input)?)?;
        for output in router.replay(at, input, ids).outputs {
            writeln!(out, "{:18} -> {}", "", serde_json::to_string(&output)?)?;
        }
    }
    writeln!(out, "at the end: {}", serde_json::to_string(&router.status())?)
}

/// Prints the journal at `path` with every text and secret replaced by digits of the same length: equal ones stay equal and
/// different ones different, so that a replay does the same. Names, directories and branches stay.
///
/// # Errors
/// The file cannot be read or is not a journal, or `out` cannot be written.
pub fn redact(path: &Path, out: &mut impl Write) -> io::Result<()> {
    let key = RandomState::new();
    let blanked = |json: &str| {
        let mut value: Value = serde_json::from_str(json)?;
        blank(&mut value, &key);
        to_raw_value(&value)
    };
    let (mut header, _, records) = journal::open(path)?;
    header.snapshot = blanked(header.snapshot.get())?;
    header.digest = digest(header.snapshot.get());
    writeln!(out, "{}", serde_json::to_string(&header)?)?;
    for record in records {
        writeln!(out, "{}", blanked(&serde_json::to_string(&record?)?)?)?;
    }
    Ok(())
}

/// The fields that hold texts, parts of texts or what a client's model wrote about one, and secrets.
const TEXTS: [&str; 5] = ["text", "collected", "about", "reason", "secret"];

fn blank(value: &mut Value, key: &RandomState) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(|v| blank(v, key)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if TEXTS.contains(&name.as_str()) => {
                        let digits = format!("{:016x}", key.hash_one(&text));
                        *text = digits.chars().cycle().take(text.len()).collect();
                    }
                    value => blank(value, key),
                }
            }
        }
        _ => {}
    }
}
