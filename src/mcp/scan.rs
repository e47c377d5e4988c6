//! Finds the id in a line that is no valid message, so that the error can be sent under the id that the client waits for.

/// The longest id that is found in a line that can't be kept whole, in bytes.
const MAX_ID: usize = 4096;

/// Finds the id of a JSON object without parsing it. Takes the line in pieces of any size and keeps at most one short token
/// of it, so a line may be longer than memory. Nothing outside the outermost object counts, and nothing inside a nested value.
/// Of two ids the last one counts, as in every JSON parser that accepts both.
#[derive(Default)]
pub struct IdScan {
    /// How many brackets are open.
    depth: usize,
    /// The outermost object has been closed.
    done: bool,
    in_string: bool,
    escaped: bool,
    /// What is read at depth 1: a member's name, or after its colon the value.
    in_value: bool,
    /// The string or number that is read at depth 1, as it is written.
    token: Vec<u8>,
    /// The current member is the id.
    is_id: bool,
    id: Vec<u8>,
    has_method: bool,
    has_outcome: bool,
}

impl IdScan {
    /// Reads the next piece of the line.
    pub fn feed(&mut self, piece: &[u8]) {
        for byte in piece {
            if self.done {
                return;
            }
            if self.in_string { self.string(*byte) } else { self.structure(*byte) }
        }
    }

    fn string(&mut self, byte: u8) {
        self.keep(byte);
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => self.in_string = false,
            _ => {}
        }
    }

    fn structure(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.in_string = true;
                self.keep(byte);
            }
            b'{' | b'[' => {
                self.done = self.depth == 0 && byte == b'['; // a message is an object
                self.depth += 1;
            }
            b'}' | b']' => {
                self.end_member();
                self.depth = self.depth.saturating_sub(1);
                self.done = self.depth == 0;
            }
            b':' if self.depth == 1 && !self.in_value => {
                let name = std::mem::take(&mut self.token);
                let name = name.trim_ascii_end();
                self.is_id = name == b"\"id\"";
                self.has_method |= name == b"\"method\"";
                self.has_outcome |= name == b"\"result\"" || name == b"\"error\"";
                self.in_value = true;
            }
            b',' => self.end_member(),
            // Inside a token it stays, for `1 2` is no id.
            _ if byte.is_ascii_whitespace() && self.token.is_empty() => {}
            _ => self.keep(byte),
        }
    }

    fn keep(&mut self, byte: u8) {
        // One byte more than an id may have shows that it is too long.
        if self.depth == 1 && self.token.len() <= MAX_ID {
            self.token.push(byte);
        }
    }

    fn end_member(&mut self) {
        if self.depth != 1 {
            return;
        }
        let token = std::mem::take(&mut self.token);
        if std::mem::take(&mut self.in_value) && std::mem::take(&mut self.is_id) {
            self.id = token;
        }
    }

    /// The id as the client wrote it, if the line has one; invalid UTF-8 in it is replaced. `None` for the answer to a
    /// request of ours, which must not be answered again.
    pub fn finish(mut self) -> Option<Option<String>> {
        self.end_member();
        if self.has_outcome && !self.has_method {
            return None;
        }
        let id = self.id.trim_ascii_end();
        Some((!id.is_empty() && id.len() <= MAX_ID).then(|| String::from_utf8_lossy(id).into_owned()))
    }
}

/// Replaces every lone surrogate escape (half of an emoji that was cut in two, such as `\ud83d`) in JSON text by U+FFFD,
/// which a UTF-8 string can hold.
pub fn replace_lone_surrogates(text: &str) -> String {
    let (mut repaired, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        let (kept, length) = match (unit(escape), escape.get(6..).and_then(unit)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => (&escape[..12], 12),
            (Some(0xD800..=0xDFFF), _) => ("\u{fffd}", 6),
            // Two characters, so that the second of `\\\\` begins no escape; one at the end of broken text.
            _ => {
                let length = escape.chars().take(2).map(char::len_utf8).sum();
                (&escape[..length], length)
            }
        };
        repaired.push_str(before);
        repaired.push_str(kept);
        rest = &escape[length..];
    }
    repaired + rest
}

/// The UTF-16 code unit of a `\uXXXX` at the beginning of `text`.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(line: &str) -> Option<Option<String>> {
        let mut by_byte = IdScan::default();
        line.bytes().for_each(|byte| by_byte.feed(&[byte]));
        let mut whole = IdScan::default();
        whole.feed(line.as_bytes());
        let found = whole.finish();
        assert_eq!(by_byte.finish(), found, "the pieces make no difference");
        found
    }

    #[test]
    fn id_is_found_wherever_it_stands_in_a_broken_line() {
        for (line, id) in [
            (r#"{"id":20,"method":"x","params":{oops}}"#, "20"),
            (r#"{"method":"x","params":{"a":"\"}{","id":7},"id": "a\"b" ,oops"#, r#""a\"b""#),
            (r#"{"id":18446744073709551616,"#, "18446744073709551616"),
            (r#"{"id" : -1.5e3 , x"#, "-1.5e3"),
            (r#"{"id":1,"id":2,x"#, "2"),
            (r#"{"method":"x","params":[[[{"id":1}]]],"id":3} {"id":4}"#, "3"),
            (r#"{"id":5"#, "5"),
            (r#"{"id":"\ud83d",x"#, r#""\ud83d""#),
            (r#"{"id":1 2,x"#, "1 2"),
        ] {
            assert_eq!(scan(line), Some(Some(id.to_owned())), "{line}");
        }
    }

    #[test]
    fn no_id_is_made_up() {
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(MAX_ID));
        for line in ["", "}", "]]]{", "42", r#""id":1"#, r#"[{"id":1}]"#, r#"{"params":{"id":1},x"#, &long] {
            assert_eq!(scan(line), Some(None), "{line}");
        }
    }

    #[test]
    fn answers_to_our_requests_are_told_from_requests() {
        assert_eq!(scan(r#"{"id":1,"result":{x"#), None);
        assert_eq!(scan(r#"{"error":{},"id":1,x"#), None);
        assert_eq!(scan(r#"{"id":1,"method":"x","result":y"#), Some(Some("1".to_owned())));
    }

    #[test]
    fn lone_surrogates_are_replaced_and_pairs_kept() {
        for (text, want) in [
            (r#""cut \ud83d""#, "\"cut \u{fffd}\""),
            (r#""\uDE00x""#, "\"\u{fffd}x\""),
            (r#""\ud83d\ude00""#, r#""\ud83d\ude00""#),
            (r#""\ud83d\ud83d\ude00""#, "\"\u{fffd}\\ud83d\\ude00\""),
            (r#""\\ud83d \u0041\n\"""#, r#""\\ud83d \u0041\n\"""#),
            (r#""\ud83d\n""#, "\"\u{fffd}\\n\""),
            (r"\", r"\"),
            (r"\é\u12", r"\é\u12"),
            (r"\ud83", r"\ud83"),
        ] {
            assert_eq!(replace_lone_surrogates(text), want, "{text}");
        }
    }
}
