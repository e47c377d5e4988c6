//! The notation in which tests and benches write the messages of the wire protocol: flat, `{"type": "ask", "id": 1, …}`, and
//! with answers so, `{"what": "registered", …}`. On the wire the type is the one key around the fields.

use serde_json::{Value, json};

/// A message of the tests in the form that it has on the wire. One without a type stays as it is.
pub fn to_wire(message: &Value) -> Value {
    let mut fields = message.clone();
    let kind = fields.as_object_mut().and_then(|fields| fields.remove("type"));
    match kind.as_ref().and_then(Value::as_str) {
        None => message.clone(),
        Some("bye") => json!("bye"), // it has no fields
        Some(kind) => json!({ kind: fields }),
    }
}

/// A message of the hub in the form that the tests read.
pub fn from_wire(message: Value) -> Value {
    let mut flat = flatten("type", message);
    if let Some(answer) = flat.get_mut("answer") {
        *answer = flatten("what", answer.take());
    }
    flat
}

/// `{"NAME": {FIELDS}}`, or `"NAME"` where there are none, as `{TAG: "NAME", FIELDS}`.
fn flatten(tag: &str, message: Value) -> Value {
    let (name, fields) = match message {
        Value::String(name) => (name, serde_json::Map::new()),
        Value::Object(map) if map.len() == 1 => match map.into_iter().next() {
            Some((name, Value::Object(fields))) => (name, fields),
            other => panic!("not a message: {other:?}"),
        },
        other => panic!("not a message: {other}"),
    };
    let mut flat = json!({ tag: name });
    flat.as_object_mut().expect("just made").extend(fields);
    flat
}
