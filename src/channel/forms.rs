//! Forms in front of the session's user: what a peer asks the person, and not the model. MCP calls it elicitation.

use serde_json::{Value, json};

use super::Channel;
use crate::fence::{clean, label};
use crate::mcp::{self, Id};
use crate::process;
use crate::width;
use crate::wire::{FormEnd, Kind, MAX_TEXT, Parcel, PeerKind, ToHub};

/// The assumed number of columns if the terminal does not report it.
const COLUMNS: usize = 80;
/// The columns that Claude Code uses beside the text of a form, and the least that the text gets.
const MARGIN: usize = 14;
const LEAST: usize = 20;
/// The longest directory in the first line, in columns: Claude Code 2.1.332 shows three lines of a message (measured).
const MAX_DIRECTORY: usize = 60;

impl Channel {
    /// Opens a form, unless somebody is typing: it would take the keys.
    pub(super) fn open_form(&mut self, parcel: Parcel) {
        if self.session.is_typing() {
            log::debug!(ask_id = parcel.ask_id; "form_postponed");
            return self.client.pushed(&parcel.push, Some("its user is typing".to_owned()));
        }
        let columns = self.session.terminal.as_deref().and_then(process::columns).unwrap_or(COLUMNS);
        if !self.print(&mcp::request(&parcel.push, "elicitation/create", form(&parcel, columns))) {
            return;
        }
        log::info!(ask_id = parcel.ask_id, kind = parcel.kind.name(); "form_opened");
        self.client.pushed(&parcel.push, None);
        self.forms.push(parcel);
    }

    /// Reports to the hub that the client has closed a form. An answer to anything else is ignored.
    pub(super) fn form_answered(&mut self, id: &Id, result: Option<&str>) {
        let Some(at) = self.forms.iter().position(|form| id.is(&form.push)) else { return };
        let Parcel { push, ask_id, kind, .. } = self.forms.remove(at);
        let end = end(kind, result);
        self.client.request(|id| ToHub::FormClosed { id, push, ask_id, end });
    }

    /// Takes the forms of an ask away.
    pub(super) fn close_forms(&mut self, ask_id: &str) {
        while let Some(at) = self.forms.iter().position(|form| form.ask_id == ask_id) {
            let form = self.forms.remove(at);
            let params = json!({"requestId": form.push, "reason": "the question is no longer open"});
            self.print(&mcp::notification("notifications/cancelled", params));
        }
    }
}

/// What the client's answer means.
fn end(kind: Kind, result: Option<&str>) -> FormEnd {
    let elicited: Value = result.and_then(|text| mcp::params(text).ok()).unwrap_or_default();
    let content = &elicited["content"];
    match (elicited["action"].as_str(), kind, content["answer"].as_str()) {
        (Some("accept"), Kind::Consent, _) => FormEnd::Allowed { always: content["always"] == true },
        // The hub refuses a longer text.
        (Some("accept"), _, Some(answer)) if !answer.trim().is_empty() && answer.len() <= MAX_TEXT => {
            FormEnd::Answered { text: answer.to_owned() }
        }
        (Some("decline"), ..) => FormEnd::Declined,
        (Some(_), ..) => FormEnd::PutOff,
        (None, ..) => FormEnd::Failed,
    }
}

/// The parameters of `elicitation/create`: who asks, and as the description of the only field, which the client shows
/// whole, the question.
fn form(parcel: &Parcel, columns: usize) -> Value {
    let from = label(&parcel.from);
    let kind = parcel.from_kind.unwrap_or_default();
    let cwd = width::keep_end(&label(parcel.cwd.as_deref().unwrap_or_default()), MAX_DIRECTORY);
    let text = clean(&parcel.text).replace('\t', "    ");
    let lines = width::wrap(&text, columns.saturating_sub(MARGIN).max(LEAST));
    let question = lines.iter().map(|line| format!("> {line}")).collect::<Vec<_>>().join("\n");
    let (does, name, field, required) = match parcel.kind {
        Kind::Consent => {
            // The hub counts all clients at a shell as one peer.
            let peer = if kind == PeerKind::Session { &from } else { "all clients at a shell" };
            let title = format!("Always allow {peer}");
            let field = json!({"type": "boolean", "title": title, "default": false, "description": question});
            ("wants to ask this session. Accept lets it.", "always", field, json!([]))
        }
        _ => {
            let field = json!({"type": "string", "title": "Your answer", "description": question});
            ("asks you. Esc: later.", "answer", field, json!(["answer"]))
        }
    };
    json!({
        "mode": "form",
        "message": format!("{from} (a {} in {cwd}) {does}", kind.name()),
        "requestedSchema": {"type": "object", "properties": {name: field}, "required": required},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    fn parcel(kind: Kind, text: &str) -> Parcel {
        let (push, ask_id, from) = ("push_1".to_owned(), "ask_1".to_owned(), "w\"eb".to_owned());
        let (from_kind, cwd, path) =
            (Some(PeerKind::Script), Some(format!("/{}", "d/".repeat(60))), wire::Path::Form);
        let text = text.to_owned();
        Parcel { push, path, kind, ask_id, from, from_kind, cwd, text, ..Parcel::default() }
    }

    #[test]
    fn form_says_who_asks_and_quotes_every_line() {
        let form = form(&parcel(Kind::Ask, "one\ttwo three four five\u{1b}[2J\n> <system>four"), 30);
        let message = form["message"].as_str().expect("a message");
        assert!(
            message.starts_with("w_eb (a script in …") && message.ends_with("d/) asks you. Esc: later."),
            "{message}"
        );
        assert!(width::width(message) < 110, "{message}");
        let field = &form["requestedSchema"]["properties"]["answer"];
        assert_eq!(field["description"], "> one    two three\n> four five\n> > <\\system>four");
        assert_eq!(form["requestedSchema"]["required"], json!(["answer"]));
    }

    #[test]
    fn answers_of_the_client_are_understood() {
        for (kind, result, expected) in [
            (
                Kind::Ask,
                r#"{"action":"accept","content":{"answer":"x"}}"#,
                FormEnd::Answered { text: "x".to_owned() },
            ),
            (Kind::Ask, r#"{"action":"accept","content":{"answer":" "}}"#, FormEnd::PutOff),
            (Kind::Ask, r#"{"action":"accept"}"#, FormEnd::PutOff),
            (Kind::Ask, r#"{"action":"decline"}"#, FormEnd::Declined),
            (Kind::Ask, r#"{"action":"cancel"}"#, FormEnd::PutOff),
            (Kind::Ask, r#"{"action":"other"}"#, FormEnd::PutOff),
            (Kind::Ask, r#"{"action":7}"#, FormEnd::Failed),
            (Kind::Ask, r#"{"action":"accept","content":["x"]}"#, FormEnd::PutOff),
            (Kind::Ask, "null", FormEnd::Failed),
            (
                Kind::Consent,
                r#"{"action":"accept","content":{"always":true}}"#,
                FormEnd::Allowed { always: true },
            ),
            (Kind::Consent, r#"{"action":"accept"}"#, FormEnd::Allowed { always: false }),
            (Kind::Consent, r#"{"action":"decline"}"#, FormEnd::Declined),
        ] {
            assert_eq!(end(kind, Some(result)), expected, "{kind:?} {result}");
        }
        assert_eq!(end(Kind::Ask, None), FormEnd::Failed);
        let long = json!({"action": "accept", "content": {"answer": "x".repeat(MAX_TEXT + 1)}}).to_string();
        assert_eq!(end(Kind::Ask, Some(&long)), FormEnd::PutOff);
    }
}
