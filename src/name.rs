//! The names of peers: short, typable, unique whatever the case of their letters.

use crate::fence;

/// The default name, if the directory's name has no letters or digits.
pub const DEFAULT: &str = "relay";
/// The longest name, in characters.
pub const MAX_NAME: usize = 64;
/// How many names [`nearest`] gives.
const NEAREST: usize = 5;

/// The name for a directory called `raw`: lower case, letters and digits of any script kept, every other run one `-`, none
/// at the ends, at most 64 characters, never empty ([`DEFAULT`]). A slug is its own slug.
pub fn slug(raw: &str) -> String {
    let lower: String = raw.chars().flat_map(char::to_lowercase).collect();
    kept(&lower, |_| false)
}

/// The name for one that a user or a model wants: letters of any case, digits, `.`, `_` and `-` are kept, every other run is one
/// `-`, none at the ends, at most 64 characters, never empty ([`DEFAULT`]). Such a name, and a [`slug`], is its own.
pub fn wish(raw: &str) -> String {
    kept(raw, |c| matches!(c, '.' | '_' | '-'))
}

/// The letters and digits of `raw`, and the other characters for which `is_kept` is true.
fn kept(raw: &str, is_kept: impl Fn(char) -> bool) -> String {
    // A combining accent, as some file systems store it, does not separate words.
    let accent = |c: &char| ('\u{300}'..='\u{36f}').contains(c);
    let mut name = String::new();
    let mut gap = false;
    for c in raw.chars().filter(|c| !accent(c)) {
        if !(c.is_alphanumeric() && !fence::hidden(c) || is_kept(c)) {
            gap = true;
            continue;
        }
        if gap && !name.ends_with('-') && c != '-' {
            name.push('-');
        }
        name.push(c);
        gap = false;
    }
    match cut(name.trim_start_matches('-'), MAX_NAME) {
        name if name.contains(char::is_alphanumeric) => name.to_owned(),
        _ => DEFAULT.to_owned(),
    }
}

/// Whether `raw` is a valid name.
pub fn is_valid(raw: &str) -> bool {
    wish(raw) == raw
}

/// The key of a name: the same for names that differ only in case.
pub fn key(name: &str) -> String {
    // First to upper case, where the forms of one letter meet.
    name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// `base`, or where that is taken the first free of `base-2`, `base-3`, …; `base` is cut so that the whole keeps to 64
/// characters. `taken` must say no to some name in the end.
pub fn free(base: &str, taken: impl Fn(&str) -> bool) -> String {
    let mut name = cut(base, MAX_NAME).to_owned();
    let mut n = 2u64;
    while taken(&name) {
        let suffix = format!("-{n}");
        name = format!("{}{suffix}", cut(base, MAX_NAME - suffix.len()));
        n += 1;
    }
    name
}

/// The first `longest` characters, without a dash at the end.
fn cut(name: &str, longest: usize) -> &str {
    let end = name.char_indices().nth(longest).map_or(name.len(), |(at, _)| at);
    name[..end].trim_end_matches('-')
}

/// The names most similar to `wanted`, at most 5, the best match first: those that have its letters in their order, or whose
/// letters it has.
pub fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = key(&wish(wanted));
    let has = |long: &str, short: &str| {
        let mut rest = long.chars();
        short.chars().all(|c| rest.any(|other| other == c))
    };
    let mut near: Vec<_> = names
        .map(|name| (key(name), name))
        .filter(|(key, _)| has(key, &wanted) || has(&wanted, key))
        .map(|(key, name)| (!key.starts_with(&wanted), key.len().abs_diff(wanted.len()), name))
        .collect();
    near.sort_unstable();
    near.into_iter().take(NEAREST).map(|(.., name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn slugs_and_wishes() {
        for (raw, as_directory, as_wish) in [
            ("backend-api", "backend-api", "backend-api"),
            ("My Project (v2)", "my-project-v2", "My-Project-v2"),
            ("--__foo..bar--", "foo-bar", "__foo..bar"),
            ("Web_App.v2", "web-app-v2", "Web_App.v2"),
            ("a - b--c", "a-b-c", "a-b--c"),
            ("Grüße/ПРИВЕТ/日本語", "grüße-привет-日本語", "Grüße-ПРИВЕТ-日本語"),
            ("cafe\u{301} re\u{301}sume\u{301}", "cafe-resume", "cafe-resume"),
            ("İstanbul", "istanbul", "İstanbul"),
            ("١٢٣", "١٢٣", "١٢٣"),
            ("", DEFAULT, DEFAULT),
            ("...", DEFAULT, DEFAULT),
            ("\u{3164}\u{200b}", DEFAULT, DEFAULT),
            ("a\u{3164}b", "a-b", "a-b"),
            ("a\n[relay]\u{1b}[31m", "a-relay-31m", "a-relay-31m"),
        ] {
            assert_eq!((slug(raw).as_str(), wish(raw).as_str()), (as_directory, as_wish), "{raw:?}");
        }
    }

    #[test]
    fn names_are_short_and_stable() {
        for raw in [
            "x".repeat(100),
            "x-".repeat(100),
            "X.".repeat(100),
            format!("{}-{}", "x".repeat(63), "y"),
            "İ".repeat(90),
            "é ".repeat(50),
        ] {
            for name in [slug(&raw), wish(&raw)] {
                assert!(name.chars().count() <= MAX_NAME && !name.ends_with('-'), "{name}");
                assert!(is_valid(&name), "{name}");
            }
            assert_eq!(slug(&slug(&raw)), slug(&raw));
        }
        assert_eq!(wish(&"x".repeat(65)).len(), 64);
        assert!(!is_valid("") && !is_valid("two words") && !is_valid(&"x".repeat(65)) && !is_valid("-x"));
    }

    #[test]
    fn names_that_differ_in_case_only_have_one_key() {
        for (a, b) in [("Web-App", "web-aPP"), ("ΟΔΟΣ", "οδος"), ("STRASSE", "straße"), ("é", "É")]
        {
            assert_eq!(key(a), key(b));
        }
        assert_ne!(key("web_app"), key("web-app"));
        assert_eq!(key(&key("ΟΔΟΣ")), key("ΟΔΟΣ"));
    }

    #[test]
    fn taken_name_gets_the_first_free_suffix() {
        let mut taken = HashSet::new();
        for expected in ["api", "api-2", "api-3"] {
            let name = free("api", |n| taken.contains(n));
            assert_eq!(name, expected);
            taken.insert(name);
        }
        let long = "ü".repeat(64);
        assert_eq!(free(&long, |n| n == long), format!("{}-2", "ü".repeat(62)));
        let dashed = format!("{}-{}", "x".repeat(61), "yy");
        assert_eq!(free(&dashed, |n| n == dashed), format!("{}-2", "x".repeat(61)));
    }

    #[test]
    fn nearest_names_are_ordered_by_similarity() {
        let names = ["backend-api", "api", "frontend", "docs", "backend", "backend-2"];
        let near = |wanted| nearest(wanted, names.into_iter());
        assert_eq!(near("backend"), ["backend", "backend-2", "backend-api"]);
        assert_eq!(near("Backend API"), ["backend-api", "backend", "api"]);
        assert_eq!(nearest("WEBAPP", ["Web-App", "api"].into_iter()), ["Web-App"]);
        assert_eq!(near("dcs"), ["docs"]);
        assert!(near("zzzzzz").is_empty());
        assert_eq!(nearest("a", (0..1000).map(|_| "ab")).len(), NEAREST);
    }
}
