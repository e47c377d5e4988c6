//! The part of JSON Schema that the tools' schemas use.

use serde_json::Value;

/// Why `value` does not conform to the output schema of `tool`; `None` if it does.
pub fn nonconformance(tool: &str, value: &Value) -> Option<String> {
    let list: Value = serde_json::from_str(include_str!("../../src/channel/tools.json")).expect("JSON");
    let tools = list["tools"].as_array().expect("tools");
    let schema = &tools.iter().find(|t| t["name"] == tool)?["outputSchema"];
    fault(schema, value, tool)
}

fn fault(schema: &Value, value: &Value, at: &str) -> Option<String> {
    let allowed: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_u64() || n.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !allowed.contains(&is) {
        return Some(format!("{at} is of type {is}, not {allowed:?}"));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        return Some(format!("{at} is {value}"));
    }
    if let Some(items) = value.as_array() {
        return items
            .iter()
            .enumerate()
            .find_map(|(n, item)| fault(&schema["items"], item, &format!("{at}[{n}]")));
    }
    let members = value.as_object()?;
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(missing) = required.into_iter().find(|name| !members.contains_key(*name)) {
        return Some(format!("{at}.{missing} is missing"));
    }
    members.iter().find_map(|(name, value)| match &schema["properties"][name] {
        Value::Null if schema["additionalProperties"] == false => {
            Some(format!("{at}.{name} is not in the schema"))
        }
        Value::Null => None,
        schema => fault(schema, value, &format!("{at}.{name}")),
    })
}
