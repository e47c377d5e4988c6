//! How data is written as JSON and read back: two kinds of enums and one of structs, each described where it is declared
//! ([`words!`], [`tagged!`], [`record!`]). It does what the derives of serde would do and makes a third of the machine
//! code, which every session has to load; what a string or a number looks like is still left to `serde_json`.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

/// A value in a message.
pub trait Field: Sized {
    fn put(&self, out: &mut Vec<u8>);
    /// # Errors
    /// Says what was found wrong, for the one who wrote it.
    fn take(value: Value) -> Result<Self, String>;
}

/// What is an object: a whole message, or one within.
pub trait Record: Sized {
    /// Writes the fields without the braces around them.
    fn put_fields(&self, out: &mut Vec<u8>);
    /// # Errors
    /// As for [`Field::take`]. Fields that are not known are ignored.
    fn take_fields(object: &mut Map<String, Value>) -> Result<Self, String>;
}

/// Appends `record` as an object without a newline in it.
pub fn write(out: &mut Vec<u8>, record: &impl Record) {
    out.push(b'{');
    record.put_fields(out);
    out.push(b'}');
}

/// The same as a line, with the newline at its end.
pub fn write_line(out: &mut Vec<u8>, record: &impl Record) {
    write(out, record);
    out.push(b'\n');
}

/// # Errors
/// It is no JSON object, or not of this kind.
pub fn read<T: Record>(text: &[u8]) -> Result<T, String> {
    T::take_fields(&mut object(text)?)
}

/// # Errors
/// It is no JSON object, or has a field twice.
pub fn object(text: &[u8]) -> Result<Map<String, Value>, String> {
    serde_json::from_slice(text).map(|Object(object)| object).map_err(|e| e.to_string())
}

/// An object each of whose fields stands there once. Of two with one name readers take different ones, and what one has
/// checked the other does.
struct Object(Map<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Fields).map(Object)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Self::Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, value)) = all.next_entry::<String, Value>()? {
            if object.contains_key(&name) {
                return Err(de::Error::custom("a field stands there twice"));
            }
            object.insert(name, value);
        }
        Ok(object)
    }
}

/// The same as [`write`] writes, to be looked into or added to.
pub fn fields(record: &impl Record) -> Map<String, Value> {
    let mut text = Vec::new();
    write(&mut text, record);
    object(&text).unwrap_or_default() // what we have written is an object
}

/// Appends the name of a field; its value follows.
pub fn put_name(out: &mut Vec<u8>, name: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    put_text(out, name);
    out.push(b':');
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text); // memory takes all
}

/// Whether a field that may be missing has to be written.
pub fn differs<T: PartialEq>(value: &T, default: T) -> bool {
    *value != default
}

/// Takes a field out of its object; without `default` it has to be there.
///
/// # Errors
/// It is missing, or not what it should be.
pub fn field<T: Field>(object: &mut Map<String, Value>, name: &str, default: Option<T>) -> Result<T, String> {
    match (object.remove(name), default) {
        (Some(value), _) => T::take(value).map_err(|why| format!("`{name}`: {why}")),
        (None, Some(default)) => Ok(default),
        (None, None) => Err(format!("`{name}` is missing")),
    }
}

impl<T: Record> Field for T {
    fn put(&self, out: &mut Vec<u8>) {
        write(out, self);
    }

    fn take(value: Value) -> Result<Self, String> {
        match value {
            Value::Object(mut object) => T::take_fields(&mut object),
            _ => Err("not an object".to_owned()),
        }
    }
}

impl Field for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_text(out, self);
    }

    fn take(value: Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(text),
            _ => Err("not a string".to_owned()),
        }
    }
}

impl Field for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }

    fn take(value: Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(|| "neither true nor false".to_owned())
    }
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl Field for $t {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(self.to_string().as_bytes());
            }

            fn take(value: Value) -> Result<Self, String> {
                let number = value.as_u64().and_then(|n| n.try_into().ok());
                number.ok_or_else(|| "not a whole number, or too large".to_owned())
            }
        }
    )*};
}
numbers!(u32, u64, usize);

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.put(out),
            None => out.extend_from_slice(b"null"),
        }
    }

    fn take(value: Value) -> Result<Self, String> {
        if value.is_null() { Ok(None) } else { T::take(value).map(Some) }
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        for (n, value) in self.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            value.put(out);
        }
        out.push(b']');
    }

    fn take(value: Value) -> Result<Self, String> {
        match value {
            Value::Array(values) => values.into_iter().map(T::take).collect(),
            _ => Err("not an array".to_owned()),
        }
    }
}

impl<A: Field, B: Field> Field for (A, B) {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(b'[');
        self.0.put(out);
        out.push(b',');
        self.1.put(out);
        out.push(b']');
    }

    fn take(value: Value) -> Result<Self, String> {
        let Value::Array(values) = value else { return Err("not an array".to_owned()) };
        let [a, b] = <[Value; 2]>::try_from(values).map_err(|_| "not a pair".to_owned())?;
        Ok((A::take(a)?, B::take(b)?))
    }
}

impl<T: Record> Record for Box<T> {
    fn put_fields(&self, out: &mut Vec<u8>) {
        (**self).put_fields(out);
    }

    fn take_fields(object: &mut Map<String, Value>) -> Result<Self, String> {
        T::take_fields(object).map(Box::new)
    }
}

/// Declares an enum whose variants are words: `Variant = "as it is written"`.
macro_rules! words {
    ($($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$about:meta])* $variant:ident = $word:literal),* $(,)? })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        $vis enum $name { $($(#[$about])* $variant),* }

        impl $name {
            const ALL: &[$name] = &[$($name::$variant),*];

            /// As it is written everywhere.
            $vis fn name(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }

            /// The one that is written so.
            $vis fn named(word: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|it| it.name() == word)
            }
        }

        impl $crate::json::Field for $name {
            fn put(&self, out: &mut Vec<u8>) {
                self.name().to_owned().put(out);
            }

            fn take(value: serde_json::Value) -> Result<Self, String> {
                value.as_str().and_then($name::named).ok_or_else(|| "not a word that belongs there".to_owned())
            }
        }
    )*};
}

/// Writes one field: always, or with a default only where it differs from it.
macro_rules! put {
    ($out:ident, $name:expr, $value:expr, $default:expr) => {
        if $crate::json::differs($value, $default) {
            put!($out, $name, $value);
        }
    };
    ($out:ident, $name:expr, $value:expr) => {{
        $crate::json::put_name($out, $name);
        $crate::json::Field::put($value, $out);
    }};
}

macro_rules! take {
    ($object:ident, $name:expr, $default:expr) => {
        $crate::json::field($object, $name, Some($default))?
    };
    ($object:ident, $name:expr) => {
        $crate::json::field($object, $name, None)?
    };
}

macro_rules! name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $other:literal) => {
        $other
    };
}

/// Declares a struct that is an object: `field: Type`, `field: Type = default` where it may be missing, and `as "name"`
/// after the type where it is called otherwise.
macro_rules! record {
    ($($(#[$meta:meta])* $vis:vis struct $name:ident {
        $($(#[$about:meta])* $fvis:vis $field:ident : $type:ty $(as $other:literal)? $(= $default:expr)?),* $(,)?
    })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name { $($(#[$about])* $fvis $field: $type),* }

        impl $crate::json::Record for $name {
            fn put_fields(&self, out: &mut Vec<u8>) {
                $(put!(out, name!($field $($other)?), &self.$field $(, $default)?);)*
            }

            fn take_fields(object: &mut serde_json::Map<String, serde_json::Value>) -> Result<Self, String> {
                Ok($name { $($field: take!(object, name!($field $($other)?) $(, $default)?)),* })
            }
        }
    )*};
}

/// Declares an enum that is an object whose first field says which variant it is: `enum Name by "field"`, and
/// `Variant = "word"` with fields as in [`record!`], or with one record whose fields they are, or with neither.
macro_rules! tagged {
    ($($(#[$meta:meta])* $vis:vis enum $name:ident by $tag:literal {
        $($(#[$about:meta])* $variant:ident = $word:literal
            $({ $($(#[$fabout:meta])* $field:ident : $type:ty $(= $default:expr)?),* $(,)? })?
            $(( $inner:ident : $record:ty ))?
        ),* $(,)?
    })*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq)]
        $vis enum $name { $($(#[$about])* $variant $({ $($(#[$fabout])* $field: $type),* })? $(($record))?),* }

        impl $crate::json::Record for $name {
            fn put_fields(&self, out: &mut Vec<u8>) {
                match self {$(
                    $name::$variant $({ $($field),* })? $(($inner))? => {
                        put!(out, $tag, &$word.to_owned());
                        $($(put!(out, stringify!($field), $field $(, $default)?);)*)?
                        $($inner.put_fields(out);)?
                    }
                )*}
            }

            fn take_fields(object: &mut serde_json::Map<String, serde_json::Value>) -> Result<Self, String> {
                let word: String = take!(object, $tag);
                Ok(match word.as_str() {
                    $($word => $name::$variant
                        $({ $($field: take!(object, stringify!($field) $(, $default)?)),* })?
                        $((<$record>::take_fields(object)?))?,)*
                    _ => return Err(format!("`{}`: there is no {word:?}", $tag)),
                })
            }
        }
    )*};
}

pub(crate) use {name, put, record, tagged, take, words};

#[cfg(test)]
mod tests {
    use super::*;

    words! {
        enum Mood { Glad = "glad", NotGlad = "not_glad" }
    }

    record! {
        struct Inner { number: u64, mood: Option<Mood>, me: String as "self" = String::new() }
    }

    tagged! {
        enum Said by "type" {
            Much = "much" { all: Vec<Inner>, pair: (String, bool), maybe: Option<u32> = None },
            Just = "just"(inner: Inner),
            Nothing = "nothing",
        }
    }

    fn inner(number: u64) -> Inner {
        Inner { number, mood: Some(Mood::NotGlad), me: String::new() }
    }

    fn written(said: &Said) -> String {
        let mut out = Vec::new();
        write(&mut out, said);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn all_forms_are_written_and_read() {
        let (all, pair) = (vec![inner(1), inner(u64::MAX)], ("a \"b\"\n\u{1}é".to_owned(), true));
        for (said, text) in [
            (
                Said::Much { all, pair, maybe: None },
                r#"{"type":"much","all":[{"number":1,"mood":"not_glad"},{"number":18446744073709551615,"mood":"not_glad"}],"pair":["a \"b\"\n\u0001é",true]}"#,
            ),
            (
                Said::Just(Inner { me: "x".into(), mood: None, ..inner(7) }),
                r#"{"type":"just","number":7,"mood":null,"self":"x"}"#,
            ),
            (Said::Nothing, r#"{"type":"nothing"}"#),
        ] {
            assert_eq!(written(&said), text);
            assert_eq!(read::<Said>(text.as_bytes()).as_ref(), Ok(&said));
        }
        assert_eq!(fields(&Said::Just(inner(7)))["mood"], "not_glad");
        let more = br#"{"number":3,"new":[1],"mood":"glad","type":"just"}"#;
        assert_eq!(read(more), Ok(Said::Just(Inner { mood: Some(Mood::Glad), ..inner(3) })));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            (r#"[]"#, "invalid type: sequence, expected a JSON object at line 1 column 0"),
            (r#"{"type":"just","type":"just"}"#, "a field stands there twice at line 1 column 29"),
            (r#"{}"#, "`type` is missing"),
            (r#"{"type":"other"}"#, "`type`: there is no \"other\""),
            (r#"{"type":"just","mood":null}"#, "`number` is missing"),
            (r#"{"type":"just","number":-1,"mood":null}"#, "`number`: not a whole number, or too large"),
            (r#"{"type":"just","number":1.5,"mood":null}"#, "`number`: not a whole number, or too large"),
            (r#"{"type":"just","number":1,"mood":"sad"}"#, "`mood`: not a word that belongs there"),
            (r#"{"type":"much","all":[7],"pair":["",true]}"#, "`all`: not an object"),
            (r#"{"type":"much","all":[],"pair":[""]}"#, "`pair`: not a pair"),
            (
                r#"{"type":"much","all":[],"pair":["",true],"maybe":4294967296}"#,
                "`maybe`: not a whole number, or too large",
            ),
        ] {
            assert_eq!(read::<Said>(text.as_bytes()), Err(why.to_owned()), "{text}");
        }
        assert!(read::<Said>(b"{\"type\":").is_err());
    }
}
