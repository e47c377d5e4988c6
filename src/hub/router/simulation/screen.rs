//! What keeps a text from the model in a client that has it: a screen of its own, a prompt that begins no turn.

use super::client::Peer;
use super::world::World;
use crate::wire::{HookEvent, Parcel};

impl World {
    /// An idle session shows a screen of the client's own, or closes it. The session's file tells that.
    pub fn toggle_screen(&mut self, i: usize) {
        let peer = &mut self.peers[i];
        if !peer.alive || !peer.is_session() || !peer.polls || peer.conversation.busy {
            return;
        }
        peer.conversation.screen = !peer.conversation.screen;
        self.close_screen(i, false);
    }

    /// What came while the screen was open comes now.
    pub fn close_screen(&mut self, i: usize, force: bool) {
        let conversation = &mut self.peers[i].conversation;
        conversation.screen &= !force;
        if !conversation.screen {
            let behind = std::mem::take(&mut conversation.behind);
            behind.into_iter().for_each(|parcel| self.offer(i, parcel));
        }
    }

    /// The client accepts a text as a prompt, of which nothing comes.
    pub fn drop_prompt(&mut self, i: usize, parcel: &Parcel, is_told: bool) {
        let is_in_hooks = self.peers[i].is_in_hooks();
        let Peer { conversation, hooks, modern, client, .. } = &mut self.peers[i];
        if !*hooks || is_in_hooks || conversation.screen || conversation.busy && !*modern {
            return;
        }
        conversation.turn += u64::from(!conversation.busy);
        if is_told {
            conversation.refused.push(parcel.push.clone());
        }
        client.iter_mut().for_each(|client| client.told_activity = None);
        self.fire(i, HookEvent::Prompt, vec![parcel.push.clone()]);
    }
}
