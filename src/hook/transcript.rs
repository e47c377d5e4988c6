//! Receipts in the transcript of a session, the file of JSON lines in which Claude Code keeps the conversation. Its format
//! is not documented: lines of another form prove nothing, and a missing file proves nothing either.
//!
//! What each line proves was measured with Claude Code 2.1.197, 2.1.330 and 2.1.332; see `docs/reliability.md`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use serde::Deserialize;
use serde_json::Value;

use super::RETRY;
use crate::wire::{Proof, Receipt};

/// The most that one search reads, in bytes, and so the longest line that proves something. The client takes messages of
/// 1 MiB characters of up to 3 bytes, and writes each twice in one line.
const MAX_SEARCH: u64 = 16 << 20;
/// How much of the end of a transcript is searched at first, in bytes. A message of 512 KiB stands in it four times: when it is
/// accepted, twice when the conversation has it, and in the request.
const MAX_END: u64 = 8 << 20;
/// The limit of receipts per search.
const MAX_RECEIPTS: usize = 4096;
/// The limit of identifiers per text.
const MAX_PUSHES: usize = 256;
/// The prefix of the identifier of a push, and the number of hex digits after it.
const MARK: &str = "push_";
const DIGITS: usize = 24;
/// The beginning of the client's note on a prompt that a hook refused.
const REFUSED: &str = "UserPromptSubmit operation blocked by hook";

/// A session's transcript, and how far it was searched.
pub struct Transcript {
    path: PathBuf,
    /// Where the next search begins.
    at: u64,
}

impl Transcript {
    /// A transcript of which the last 8 MiB are searched, and everything that is appended later.
    pub fn end(path: impl Into<PathBuf>) -> Transcript {
        let path = path.into();
        let at = fs::metadata(&path).map_or(0, |m| m.len().saturating_sub(MAX_END));
        Transcript { path, at }
    }

    /// Searches until there is a receipt, or until `late`.
    pub fn search_until(&mut self, late: Instant) -> Vec<Receipt> {
        loop {
            let found = self.search().unwrap_or_default();
            if !found.is_empty() || Instant::now() >= late {
                return found;
            }
            thread::sleep(RETRY);
        }
    }

    /// The receipts in what was appended since the last search, the newest at the end; `None` if nothing was, which
    /// costs one `stat`.
    pub fn search(&mut self) -> Option<Vec<Receipt>> {
        let (mut found, before) = (Vec::new(), self.at);
        let meta = fs::metadata(&self.path).ok()?;
        // Opening or reading a special file could block.
        if !meta.is_file() || meta.len() <= self.at {
            return None;
        }
        let mut file = File::open(&self.path).ok()?;
        file.seek(SeekFrom::Start(self.at)).ok()?;
        let mut lines = BufReader::with_capacity(64 << 10, file.take(MAX_SEARCH));
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).ok()? > 0 {
            let pushes = pushes_in(&line);
            if !pushes.is_empty()
                && let Some(proof) = proof(&line)
            {
                // What was refused is not in the queue any more. What the model has it keeps: a refused prompt may quote it.
                let is_old = |known: &Proof| matches!(known, Proof::Queued | Proof::Refused);
                found.retain(|(push, known)| !is_old(known) || !pushes.contains(push));
                found.extend(pushes.into_iter().map(|push| (push, proof)));
            }
            // A line that is half written is read again, unless it is too long for that.
            let length = line.len() as u64;
            self.at += if line.ends_with(b"\n") || length == MAX_SEARCH { length } else { 0 };
            line.clear();
        }
        found.drain(..found.len().saturating_sub(MAX_RECEIPTS)); // earlier hooks have reported the others
        (self.at != before).then_some(found)
    }
}

/// The fields of a transcript line that are used.
#[derive(Deserialize)]
struct Line {
    r#type: String,
    operation: Option<String>,
    content: Option<Value>,
    attachment: Option<Kind>,
    origin: Option<Kind>,
}

/// An attachment has a `type`, an origin a `kind`.
#[derive(Deserialize)]
struct Kind {
    #[serde(alias = "type")]
    kind: Option<String>,
}

/// What one line of a transcript proves for the pushes in it.
pub fn proof(line: &[u8]) -> Option<Proof> {
    let line: Line = serde_json::from_slice(line).ok()?; // the last line may be half written: next time
    let kind = |k: &Option<Kind>| k.as_ref().and_then(|k| k.kind.clone());
    match line.r#type.as_str() {
        "user" => match kind(&line.origin).as_deref() {
            Some("human") => None, // the user pasted it
            Some(_) => Some(Proof::Seen),
            None => Some(Proof::InToolResult),
        },
        "attachment" => (kind(&line.attachment).as_deref() == Some("queued_command")).then_some(Proof::Seen),
        "queue-operation" => (line.operation.as_deref() == Some("enqueue")).then_some(Proof::Queued),
        "system" => {
            let text = line.content.as_ref().and_then(Value::as_str).unwrap_or_default();
            text.starts_with(REFUSED).then_some(Proof::Refused)
        }
        _ => None,
    }
}

/// The identifiers of pushes in `text`, each once, in order, [`MAX_PUSHES`] at most. A peer's text cannot contain one:
/// see [`crate::fence::clean`].
pub fn pushes_in(text: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    let Ok(text) = std::str::from_utf8(text) else { return found }; // the client writes UTF-8, except for a cut line
    // Most texts contain none, and this check is fast.
    if !text.contains(MARK) {
        return found;
    }
    for rest in text.split(MARK).skip(1) {
        let digits = rest.bytes().take_while(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')).count();
        let push = format!("{MARK}{}", &rest[..digits]);
        if digits == DIGITS && found.len() < MAX_PUSHES && !found.contains(&push) {
            found.push(push);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fence;
    use crate::repository::tests::dir;

    const A: &str = "push_0123456789abcdef01234567";
    const B: &str = "push_ffffffffffffffffffffffff";

    #[test]
    fn only_complete_identifiers_are_found() {
        let text = format!("x [relay push={A}] push_123 push_{A} <channel push=\\\"{B}\\\"> {B}0 pushpush_");
        assert_eq!(pushes_in(text.as_bytes()), [A, B]);
        let many: String = (0..MAX_PUSHES * 2).map(|n| format!(" push_{n:024x}")).collect();
        assert_eq!(pushes_in(many.as_bytes()).len(), MAX_PUSHES);
        assert!(pushes_in(fence::clean(&many).as_bytes()).is_empty());
        assert!(pushes_in(b"push_0123456789ABCDEF01234567").is_empty());
        assert!(pushes_in(b"").is_empty());
    }

    #[test]
    fn transcript_lines_are_classified_by_their_type() {
        for (line, expected) in [
            (r#"{"type":"user","message":{},"origin":{"kind":"peer","from":"unknown"}}"#, Some(Proof::Seen)),
            (r#"{"type":"user","origin":{"kind":"channel"}}"#, Some(Proof::Seen)),
            (r#"{"type":"user","origin":{"kind":"task-notification"}}"#, Some(Proof::Seen)),
            (r#"{"type":"user","origin":{"kind":"human"}}"#, None),
            (r#"{"type":"user","message":{"content":[{"type":"tool_result"}]}}"#, Some(Proof::InToolResult)),
            (
                r#"{"type":"attachment","attachment":{"type":"queued_command","prompt":"x"}}"#,
                Some(Proof::Seen),
            ),
            (r#"{"type":"attachment","attachment":{"type":"hook_additional_context"}}"#, None),
            (r#"{"type":"queue-operation","operation":"enqueue","content":"x"}"#, Some(Proof::Queued)),
            (r#"{"type":"queue-operation","operation":"remove","content":"x"}"#, None),
            (
                r#"{"type":"system","subtype":"informational","content":"UserPromptSubmit operation blocked by hook:\nx"}"#,
                Some(Proof::Refused),
            ),
            (r#"{"type":"system","content":"other"}"#, None),
            (r#"{"type":"assistant","message":{}}"#, None),
            (r#"{"type":"user","mess"#, None),
            ("", None),
        ] {
            assert_eq!(proof(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn complete_lines_are_read_once_and_incomplete_ones_again() {
        let path = dir("transcript").join("file");
        let line = format!(r#"{{"type":"user","origin":{{"kind":"peer"}},"message":"{A}"}}"#);
        fs::write(&path, &line[..20]).expect("written");
        let mut transcript = Transcript::end(&path);
        assert_eq!(transcript.search(), None);
        fs::write(&path, format!("{line}\n")).expect("written");
        assert_eq!(transcript.search(), Some(vec![(A.to_owned(), Proof::Seen)]));
        assert_eq!(transcript.search(), None);
        fs::remove_dir_all(path.parent().expect("a directory")).expect("removed");
    }

    #[test]
    fn a_refused_prompt_that_quotes_a_text_does_not_take_it_from_the_model() {
        let path = dir("transcript-refused").join("file");
        let queued = format!(r#"{{"type":"queue-operation","operation":"enqueue","content":"{A}"}}"#);
        let seen = format!(r#"{{"type":"user","origin":{{"kind":"peer"}},"message":"{A}"}}"#);
        let refused = format!(r#"{{"type":"system","content":"{REFUSED}: {A}"}}"#);
        for (lines, is_seen) in
            [([&queued, &refused], false), ([&seen, &refused], true), ([&refused, &seen], true)]
        {
            fs::write(&path, format!("{}\n{}\n", lines[0], lines[1])).expect("written");
            let found = Transcript::end(&path).search().expect("it grew");
            let first = if is_seen { Proof::Seen } else { Proof::Refused };
            assert_eq!(found.first(), Some(&(A.to_owned(), first)), "{lines:?}");
        }
        fs::remove_dir_all(path.parent().expect("a directory")).expect("removed");
    }

    #[test]
    fn long_lines_prove_too() {
        let path = dir("transcript-long").join("file");
        let text = "日\n".repeat(1 << 20);
        let message = serde_json::json!({"type": "user", "origin": {"kind": "peer", "body": text}, "message": [text, A]});
        let mut transcript = Transcript::end(&path);
        fs::write(&path, format!("{message}\n{{}}\n")).expect("written");
        assert!(fs::metadata(&path).expect("it is there").len() > 10 << 20);
        assert_eq!(transcript.search(), Some(vec![(A.to_owned(), Proof::Seen)]));
        fs::remove_dir_all(path.parent().expect("a directory")).expect("removed");
    }
}
