//! Unguessable strings.

use std::fs::File;
use std::io::{self, BufReader, Read};

/// The random source of the operating system, opened once and read in blocks.
#[derive(Debug)]
pub struct Tokens(BufReader<File>);

impl Tokens {
    /// Opens `/dev/urandom`; fails where there is none or no file can be opened.
    pub fn new() -> io::Result<Self> {
        File::open("/dev/urandom").map(|file| Tokens(BufReader::with_capacity(240, file)))
    }

    /// 24 hex digits (96 bits): a secret, or the identifier of a push.
    pub fn secret(&mut self) -> io::Result<String> {
        self.hex([0; 12])
    }

    /// `prefix` and 16 hex digits (64 bits): a unique id.
    pub fn id(&mut self, prefix: &str) -> io::Result<String> {
        Ok(prefix.to_owned() + &self.hex([0; 8])?)
    }

    fn hex<const N: usize>(&mut self, mut bytes: [u8; N]) -> io::Result<String> {
        self.0.read_exact(&mut bytes)?;
        Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_their_format_and_differ() {
        let mut tokens = Tokens::new().expect("a random source");
        let secret = tokens.secret().expect("a secret");
        assert_eq!(secret.len(), 24);
        assert!(secret.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        assert_ne!(secret, tokens.secret().expect("another"));
        let id = tokens.id("ask_").expect("an id");
        assert!(id.starts_with("ask_") && id.len() == 20);
    }
}
