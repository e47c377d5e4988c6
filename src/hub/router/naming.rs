//! The names of peers: choosing one, renaming, and finding a peer. Case does not matter, so tables use [keys](name::key).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ConnId, PeerNo, Reply, Router};
use crate::fence::label;
use crate::name;
use crate::wire::{Answer, Code, Event, Fault, MAX_LABEL, What, refused};

/// The limit of old names, and of sessions whose names are kept.
const MAX: usize = 256;

/// The peers by name, and the names that peers or sessions had before.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Names {
    pub by_key: BTreeMap<String, PeerNo>,
    /// The peers by the keys of their earlier names.
    pub old: BTreeMap<String, PeerNo>,
    /// The names that conversations were given, by their ids in Claude Code, for the next process that continues one. Beside
    /// each is the name that the session wanted then, by its user or directory: if it wants another one, its user has named it
    /// since.
    sessions: BTreeMap<String, (String, String)>,
}

/// Inserts into a table. If that is full, its first entry goes.
fn insert<T>(table: &mut BTreeMap<String, T>, key: String, value: T) {
    if table.len() >= MAX {
        table.pop_first();
    }
    table.insert(key, value);
}

impl Router {
    /// The name that the session was given in an earlier process, if it is free.
    pub(super) fn name_of_session(&self, session: Option<&str>, wanted: &str) -> Option<String> {
        let (name, known) = self.names.sessions.get(session?)?;
        (known == wanted && !self.names.by_key.contains_key(&name::key(name))).then(|| name.clone())
    }

    /// The valid name for `wanted`, with a suffix if a peer other than `own` has it. With `exact` that is an error.
    pub(super) fn pick_name(&self, wanted: &str, exact: bool, own: Option<PeerNo>) -> Result<String, Fault> {
        let holder = |n: &str| self.names.by_key.get(&name::key(n)).copied().filter(|no| Some(*no) != own);
        let name = name::wish(wanted);
        let free = name::free(&name, |n| holder(n).is_some());
        let Some(no) = holder(&name).filter(|_| exact) else { return Ok(free) };
        let taken = &self.peer(no).who.name;
        let why = format!("another peer is called \"{taken}\"; choose another name, such as \"{free}\"");
        refused(Code::NameTaken, why)
    }

    pub(super) fn rename(&mut self, conn: ConnId, wanted: &str, exact: bool) -> Reply {
        let no = self.me(conn)?;
        if wanted.trim().is_empty() || wanted.len() > MAX_LABEL {
            let why = "`name` is empty or too long; give one of 1 to 64 letters, digits, `.`, `_` and `-`";
            return refused(Code::BadArgs, why);
        }
        let new = self.pick_name(wanted, exact, Some(no))?;
        let peer = self.peer_mut(no);
        if !exact {
            peer.wanted = name::wish(wanted); // its user named it
        }
        if let Some(session) = peer.who.session.clone() {
            let wanted = peer.wanted.clone();
            insert(&mut self.names.sessions, session, (new.clone(), wanted));
        }
        self.set_name(no, &new);
        Ok(Some(Answer::Renamed { name: new }))
    }

    fn set_name(&mut self, no: PeerNo, new: &str) {
        let old = std::mem::replace(&mut self.peer_mut(no).who.name, new.to_owned());
        if new == old {
            return;
        }
        let (old_key, new_key) = (name::key(&old), name::key(new));
        self.names.by_key.remove(&old_key);
        if old_key != new_key {
            insert(&mut self.names.old, old_key, no);
        }
        self.names.by_key.insert(new_key, no);
        let to = Some(new.to_owned());
        self.report(Event { event: What::Renamed, from: old, to, ..Event::default() });
    }

    /// Handles that the peer's process goes on with another conversation: `/clear` begins one, `--continue` and `/resume` take one
    /// up. A name that was given to that conversation is used again; without one the process keeps its name.
    pub(super) fn continue_session(&mut self, no: PeerNo, session: String) {
        let peer = self.peer_mut(no);
        let before = peer.who.session.replace(session.clone());
        let (wanted, name) = (peer.wanted.clone(), peer.who.name.clone());
        if let Some(kept) = self.name_of_session(Some(&session), &wanted) {
            return self.set_name(no, &kept);
        }
        let known = before.and_then(|before| self.names.sessions.get(&before));
        if known.is_some_and(|(known, _)| *known == name) {
            insert(&mut self.names.sessions, session, (name, wanted));
        }
    }

    /// The peer that `me` calls `wanted`: by its name, or by that of its directory.
    pub(super) fn find(&self, me: PeerNo, wanted: &str) -> Result<PeerNo, Fault> {
        let is_name = wanted.contains(char::is_alphanumeric);
        let keys = [name::key(&name::wish(wanted)), name::key(&name::slug(wanted))];
        let known = |table: &BTreeMap<String, PeerNo>| {
            keys.iter().filter(|_| is_name).find_map(|key| table.get(key).copied())
        };
        if let Some(no) = known(&self.names.by_key) {
            return Ok(no);
        }
        let others = self.names.by_key.values().filter(|no| is_name && **no != me);
        let near = name::nearest(wanted, others.map(|no| self.peer(*no).who.name.as_str()));
        let near: Vec<String> = near.iter().map(|name| format!("\"{name}\"")).collect();
        let hint = match known(&self.names.old) {
            Some(no) => format!("it is now \"{}\"", self.peer(no).who.name),
            None if near.is_empty() => {
                "relay_peers lists the peers; `relay doctor` says why one is missing".to_owned()
            }
            None => format!("did you mean {}? relay_peers lists all", near.join(" or ")),
        };
        refused(Code::PeerNotFound, format!("no peer named \"{}\"; {hint}", label(wanted)))
    }
}
