//! Time spans for people.

/// A time span of `seconds`, to two digits or so: `45 s`, `12 min`, `3 h`.
pub fn span(seconds: u64) -> String {
    match seconds {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}
