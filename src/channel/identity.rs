//! The identity file of a session, for its next channel: the public identity and the secret that proves it. It contains
//! nothing else.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::repository::{lock, read};
use crate::token::Tokens;

/// A session's identity, the content of its file.
#[derive(Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Public.
    pub peer: String,
    pub secret: String,
}

impl Identity {
    /// Reads the identity in the file at `path`, or creates one and writes it there. If another channel of the session
    /// has locked the file, or it cannot be used, the identity is new and not written. The file is locked while it is
    /// open.
    ///
    /// # Errors
    /// The random source cannot be read.
    pub fn open(path: &Path, tokens: &mut Tokens) -> io::Result<(Identity, Option<File>)> {
        let mut lock = lock(path).ok().flatten();
        let known = read(path).filter(|_| lock.is_some());
        let known: Option<Identity> = known.and_then(|text| serde_json::from_str(&text).ok());
        if let Some(identity) = known.filter(|known| !known.peer.is_empty()) {
            return Ok((identity, lock));
        }
        let identity = Identity { peer: tokens.id("p")?, secret: tokens.secret()? };
        if let Some(file) = &mut lock {
            // If writing fails, the next channel of this session gets another identity.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", json!(identity)));
        }
        Ok((identity, lock))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn identity_is_kept_for_the_next_channel_and_not_shared_with_a_second_one() {
        let dir = crate::repository::tests::dir("identity");
        let path = dir.join("session");
        let mut tokens = Tokens::new().expect("random numbers");
        let (first, file) = Identity::open(&path, &mut tokens).expect("random numbers");
        let (second, none) = Identity::open(&path, &mut tokens).expect("random numbers");
        assert!(none.is_none() && second.peer != first.peer);
        drop(file);
        let (again, file) = Identity::open(&path, &mut tokens).expect("random numbers");
        assert_eq!((again.peer, again.secret), (first.peer.clone(), first.secret));
        drop(file);
        for broken in ["", "{", "{\"peer\":\"p1\"}", "{\"peer\":\"\",\"secret\":\"s\"}"] {
            fs::write(&path, broken).expect("written");
            let (other, file) = Identity::open(&path, &mut tokens).expect("random numbers");
            assert!(file.is_some() && other.peer != first.peer, "{broken}");
        }
        fs::remove_dir_all(dir).expect("removed");
    }
}
