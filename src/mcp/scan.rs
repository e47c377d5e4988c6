//! Finds the id in a line that is no valid message, so that the error can be sent under the id that the client waits for.

/// How much of a member is kept, in bytes: an id that makes it longer is not found.
const MAX_MEMBER: usize = 4096;

/// Finds the id of a JSON object without parsing it. Takes the line in pieces of any size and keeps only the beginning of one
/// member, so a line may be longer than memory. Nothing outside the outermost object counts, and nothing inside a nested value.
/// Of two ids the last one counts, as in every JSON parser that accepts both.
#[derive(Default)]
pub struct IdScan {
    /// How many brackets are open.
    depth: usize,
    /// The outermost object has been closed.
    done: bool,
    in_string: bool,
    escaped: bool,
    /// The beginning of the present member, without nested values.
    member: Vec<u8>,
    id: Option<String>,
}

impl IdScan {
    /// Reads the next piece of the line.
    pub fn feed(mut self, piece: &[u8]) -> IdScan {
        for &byte in piece {
            if self.done {
                break;
            }
            let is_structure = !self.in_string;
            if self.depth == 1 && is_structure && matches!(byte, b',' | b'}' | b']') {
                self.end_member();
            } else if self.depth == 1 && self.member.len() < MAX_MEMBER {
                self.member.push(byte);
            }
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = self.in_string,
                b'"' => self.in_string = is_structure,
                b'{' | b'[' if is_structure => {
                    self.done = self.depth == 0 && byte == b'['; // a message is an object
                    self.depth += 1;
                }
                b'}' | b']' if is_structure => {
                    self.depth = self.depth.saturating_sub(1);
                    self.done = self.depth == 0;
                }
                _ => {}
            }
        }
        self
    }

    fn end_member(&mut self) {
        let member = String::from_utf8_lossy(&self.member);
        let (name, value) = member.split_once(':').unwrap_or_default();
        if name.trim() == "\"id\"" {
            self.id = (self.member.len() < MAX_MEMBER).then(|| value.trim().to_owned());
        }
        self.member.clear();
    }

    /// What stands in the place of the id, as the client wrote it; invalid UTF-8 in it is replaced.
    pub fn finish(mut self) -> Option<String> {
        self.end_member();
        self.id
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

    fn scan(line: &str) -> Option<String> {
        let by_byte = line.bytes().fold(IdScan::default(), |scan, byte| scan.feed(&[byte]));
        let found = IdScan::default().feed(line.as_bytes()).finish();
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
            assert_eq!(scan(line).as_deref(), Some(id), "{line}");
        }
    }

    #[test]
    fn no_id_is_made_up() {
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(MAX_MEMBER));
        for line in ["", "}", "]]]{", "42", r#""id":1"#, r#"[{"id":1}]"#, r#"{"params":{"id":1},x"#, &long] {
            assert_eq!(scan(line), None, "{line}");
        }
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
