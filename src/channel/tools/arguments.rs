//! Reads the arguments of a tool call into their type. Every error names the argument and says what to give.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, StringDeserializer};
use serde::de::{
    self, Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer,
    MapAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::value::RawValue;

use crate::fence;

/// Reads `arguments`, which may be missing, as a `T`.
///
/// # Errors
/// What is wrong with which argument, and the remedy.
pub fn read<T: DeserializeOwned>(arguments: Option<&RawValue>) -> Result<T, String> {
    let text = arguments.map_or("{}", RawValue::get);
    let Entries(entries) = match kind(text) {
        Unexpected::Map => {
            serde_json::from_str(text).map_err(|e| format!("the arguments can't be read: {e}"))?
        }
        Unexpected::Unit => Entries(Vec::new()),
        other => return Err(format!("the arguments are {}; give an object", Shown(other))),
    };
    let arguments = Arguments { entries: entries.into_iter(), current: None };
    T::deserialize(MapAccessDeserializer::new(arguments)).map_err(|Wrong(why)| why)
}

/// The members of an object as they stand there.
struct Entries<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct All;

        impl<'de> Visitor<'de> for All {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(entries)
            }
        }

        from.deserialize_map(All).map(Entries)
    }
}

/// Passes the arguments to their type one by one, and prefixes errors with the argument's name.
struct Arguments<'de> {
    entries: std::vec::IntoIter<(String, &'de RawValue)>,
    current: Option<(String, &'de RawValue)>,
}

impl<'de> MapAccess<'de> for Arguments<'de> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        self.current = self.entries.next();
        let name = self.current.as_ref().map(|(name, _)| name.as_str().into_deserializer());
        name.map(|name: de::value::StrDeserializer<Wrong>| seed.deserialize(name)).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let (name, raw) = self.current.take().ok_or_else(|| Wrong("an argument has no value".to_owned()))?;
        seed.deserialize(Argument(raw.get())).map_err(|Wrong(why)| Wrong(format!("`{name}` {why}")))
    }
}

/// The value of one argument, as JSON text. Tools take strings, whole numbers, booleans and words; a larger value is refused
/// by its first character.
struct Argument<'de>(&'de str);

impl<'de> Deserializer<'de> for Argument<'de> {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        match kind(self.0) {
            Unexpected::Str(_) => visitor.visit_string(self.string()?),
            Unexpected::Bool(value) => visitor.visit_bool(value),
            Unexpected::Unit => visitor.visit_unit(),
            // `60.0` and `6e1` are whole numbers too.
            Unexpected::Other(_) => match (self.0.parse::<u64>(), self.0.parse::<f64>()) {
                (Ok(number), _) => visitor.visit_u64(number),
                (_, Ok(number)) if number.fract() == 0.0 && (0.0..1e15).contains(&number) => {
                    visitor.visit_u64(number as u64)
                }
                _ => Err(de::Error::invalid_type(kind(self.0), &visitor)),
            },
            other => Err(de::Error::invalid_type(other, &visitor)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        if self.0 == "null" { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        match kind(self.0) {
            Unexpected::Str(_) => {
                let word: StringDeserializer<Wrong> = self.string()?.into_deserializer();
                word.deserialize_enum(name, words, visitor)
            }
            other => Err(de::Error::invalid_type(other, &"a string")),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}

impl Argument<'_> {
    fn string(&self) -> Result<String, Wrong> {
        serde_json::from_str(self.0).map_err(|e| Wrong(format!("can't be read: {e}")))
    }
}

/// What JSON text is, by its first character. A number is [`Unexpected::Other`], as it is written.
fn kind(text: &str) -> Unexpected<'_> {
    match text.trim_start().as_bytes().first() {
        Some(b'"') => Unexpected::Str(""),
        Some(b'{') => Unexpected::Map,
        Some(b'[') => Unexpected::Seq,
        Some(b't') => Unexpected::Bool(true),
        Some(b'f') => Unexpected::Bool(false),
        Some(b'n') => Unexpected::Unit,
        _ => Unexpected::Other(text),
    }
}

/// A value in an error.
struct Shown<'a>(Unexpected<'a>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self.0 {
            Unexpected::Str(_) => "a string",
            Unexpected::Bool(_) => "a boolean",
            Unexpected::Unit | Unexpected::Option => "null",
            Unexpected::Seq => "an array",
            Unexpected::Map => "an object",
            Unexpected::Unsigned(number) => return write!(f, "{number}"),
            Unexpected::Other(number) => return f.write_str(&fence::label(number)),
            _ => "something else",
        })
    }
}

/// What is wrong with the arguments.
#[derive(Debug)]
struct Wrong(String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(why: T) -> Self {
        Wrong(why.to_string())
    }

    fn invalid_type(found: Unexpected, expected: &dyn Expected) -> Self {
        Wrong(format!("is {}; give {expected}", Shown(found)))
    }

    fn invalid_value(found: Unexpected, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(found: &str, words: &'static [&'static str]) -> Self {
        Wrong(format!("is \"{}\"; give \"{}\"", fence::label(found), words.join("\", \"")))
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        let takes = match known {
            [] => "no arguments".to_owned(),
            known => format!("`{}`", known.join("`, `")),
        };
        Wrong(format!("there is no argument `{}`; this tool takes {takes}", fence::label(name)))
    }

    fn missing_field(name: &'static str) -> Self {
        Wrong(format!("`{name}` is missing; this tool needs it"))
    }

    fn duplicate_field(name: &'static str) -> Self {
        Wrong(format!("`{name}` is given twice, or under both of its names; give it once"))
    }
}
