//! `relay replay`: steps a journal through the router and prints each input and what the router did, so that a bug report
//! with its journal attached can be repeated step by step.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::Path;

use serde_json::Value;

use super::journal::{self, Record};

/// Prints what the router does with the journal at `path`.
///
/// # Errors
/// The file cannot be read or is not a journal, or `out` cannot be written.
pub fn replay(path: &Path, out: &mut impl Write) -> io::Result<()> {
    let (header, records) = journal::open(path)?;
    let mut router = header.snapshot;
    writeln!(
        out,
        "epoch {}, written by relay {}, snapshot at {} ms",
        header.epoch,
        header.version,
        router.now()
    )?;
    for (number, record) in (1..).zip(records) {
        let Record { at, ids, input } = record?;
        writeln!(out, "{number:>5} {at:>9} ms  {}", serde_json::to_string(&input)?)?;
        for output in router.replay(at, input, ids).outputs {
            writeln!(out, "{:18} -> {}", "", serde_json::to_string(&output)?)?;
        }
    }
    writeln!(out, "at the end: {}", serde_json::to_string(&router.status())?)
}

/// Prints the journal at `path` with every text and secret replaced by meaningless letters of the same length: equal ones
/// stay equal and different ones different, so that a replay does the same. Names, directories and branches stay.
///
/// # Errors
/// The file cannot be read or is not a journal, or `out` cannot be written.
pub fn redact(path: &Path, out: &mut impl Write) -> io::Result<()> {
    drop(journal::open(path)?); // checks that it is a journal
    let key = RandomState::new();
    // A torn last line may end within a character.
    let text = fs::read(path)?;
    for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let mut line: Value = serde_json::from_slice(line)?;
        blank(&mut line, &key);
        writeln!(out, "{line}")?;
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
                    Value::String(text) if TEXTS.contains(&name.as_str()) => *text = letters(text, key),
                    value => blank(value, key),
                }
            }
        }
        _ => {}
    }
}

/// As many letters as `text` has bytes, made from a keyed hash of it. White space stays.
fn letters(text: &str, key: &RandomState) -> String {
    let mut state = key.hash_one(text);
    let letter = |byte: u8| {
        state = key.hash_one(state);
        if byte.is_ascii_whitespace() { char::from(byte) } else { char::from(b'a' + (state % 26) as u8) }
    };
    text.bytes().map(letter).collect()
}
