//! The names of peers: choosing one, renaming, and finding a peer. Case does not matter, so tables use [keys](name::key).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ConnId, PeerNo, Reply, Router};
use crate::fence::label;
use crate::name;
use crate::wire::{Answer, Code, Event, Fault, MAX_LABEL, What, refused};

/// The limit of old names, and of sessions whose names are kept.
const MAX: usize = 256;
/// The longest id of a session whose name is kept, in bytes.
const MAX_SESSION: usize = 128;

/// The peers by name, and the names that peers or sessions had before.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Names {
    pub by_key: BTreeMap<String, PeerNo>,
    /// The peers by the keys of their earlier names.
    old: BTreeMap<String, PeerNo>,
    /// Sessions whose model gave them a name, oldest first.
    sessions: Vec<SessionName>,
}

/// The name of a conversation, for the next process that continues it.
#[derive(Serialize, Deserialize)]
struct SessionName {
    /// The session's id in Claude Code.
    session: String,
    name: String,
    /// The name that the session had wanted before. One that wants another has been named by its user since.
    wanted: String,
}

impl Names {
    /// Removes the old names of a peer that has left.
    pub fn forget(&mut self, no: PeerNo) {
        self.old.retain(|_, holder| *holder != no);
    }

    fn insert_old(&mut self, key: String, no: PeerNo) {
        self.old.insert(key, no);
        if self.old.len() > MAX {
            self.old.pop_first();
        }
    }

    fn forget_session(&mut self, session: &str) {
        self.sessions.retain(|known| known.session != session);
    }

    fn insert_session(&mut self, new: SessionName) {
        self.forget_session(&new.session);
        self.sessions.push(new);
        self.sessions.drain(..self.sessions.len().saturating_sub(MAX));
    }
}

impl Router {
    /// The name that the session's model gave it in an earlier process, if it is free.
    pub(super) fn name_of_session(&self, session: Option<&str>, wanted: &str) -> Option<String> {
        let known =
            self.names.sessions.iter().find(|s| Some(&*s.session) == session && s.wanted == wanted)?;
        (!self.names.by_key.contains_key(&name::key(&known.name))).then(|| known.name.clone())
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
        self.keep_name_of_session(no, wanted, &new, exact);
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
            self.names.insert_old(old_key, no);
        }
        self.names.by_key.insert(new_key, no);
        let to = Some(new.to_owned());
        self.report(Event { event: What::Renamed, from: old, to, ..Event::default() });
    }

    /// The peer's process goes on with another conversation: `/clear` begins one, `--continue` and `/resume` take one up. A
    /// name that its model gave comes with it, and else stays with the process.
    pub(super) fn continue_session(&mut self, no: PeerNo, session: String) {
        let peer = self.peer_mut(no);
        let before = peer.who.session.replace(session.clone());
        let (wanted, name) = (peer.wanted.clone(), peer.who.name.clone());
        if let Some(kept) = self.name_of_session(Some(&session), &wanted) {
            return self.set_name(no, &kept);
        }
        let is_kept = |s: &SessionName| Some(&s.session) == before.as_ref() && s.name == name;
        if self.names.sessions.iter().any(is_kept) {
            self.names.insert_session(SessionName { session, name, wanted });
        }
    }

    /// A name that the session's model chose is kept for the session. One that its user gave it Claude Code keeps itself.
    fn keep_name_of_session(&mut self, no: PeerNo, wanted: &str, new: &str, by_model: bool) {
        let peer = self.peer_mut(no);
        if !by_model {
            peer.wanted = name::wish(wanted);
        }
        let Some(session) = peer.who.session.clone().filter(|s| s.len() <= MAX_SESSION) else { return };
        let wanted = peer.wanted.clone();
        match by_model {
            true => self.names.insert_session(SessionName { session, name: new.to_owned(), wanted }),
            false => self.names.forget_session(&session),
        }
    }

    /// The peer that `me` calls `wanted`: by its name, or by that of its directory.
    pub(super) fn find(&self, me: PeerNo, wanted: &str) -> Result<PeerNo, Fault> {
        if !wanted.contains(char::is_alphanumeric) {
            let why = format!("no peer named \"{}\"; relay_peers lists the peers", label(wanted));
            return refused(Code::PeerNotFound, why);
        }
        let name = name::wish(wanted);
        let keys = [name::key(&name), name::key(&name::slug(wanted))];
        if let Some(no) = keys.iter().find_map(|key| self.names.by_key.get(key)) {
            return Ok(*no);
        }
        let names =
            self.names.by_key.values().filter(|no| **no != me).map(|no| self.peer(*no).who.name.as_str());
        let near = name::nearest(wanted, names);
        let hint = match (keys.iter().find_map(|key| self.names.old.get(key)), near.as_slice()) {
            (Some(no), _) => format!("it is now \"{}\"", self.peer(*no).who.name),
            (None, []) => "relay_peers lists the peers; `relay doctor` says why one is missing".to_owned(),
            (None, near) => {
                let near: Vec<String> = near.iter().map(|n| format!("\"{n}\"")).collect();
                format!("did you mean {}? relay_peers lists all", near.join(" or "))
            }
        };
        refused(Code::PeerNotFound, format!("no peer named \"{name}\"; {hint}"))
    }
}
