//! The names of peers: short, typable, unique.

use crate::fence;

/// The name of a peer whose directory gives none.
pub const DEFAULT: &str = "session";
/// The longest name, in characters.
const LONGEST: usize = 40;
/// How many names [`nearest`] gives.
const NEAREST: usize = 5;

/// The name that `raw` stands for: lower case, letters and digits of any script kept, every other run one `-`, none at
/// the ends, at most 40 characters, never empty ([`DEFAULT`]). A slug is its own slug.
pub fn slug(raw: &str) -> String {
    // An accent that a file system keeps apart from its letter is no gap in the word.
    let accent = |c: &char| ('\u{300}'..='\u{36f}').contains(c);
    let mut slug = String::new();
    for c in raw.chars().flat_map(char::to_lowercase).filter(|c| !accent(c)) {
        if c.is_alphanumeric() && !fence::hidden(c) {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    match cut(&slug, LONGEST) {
        "" => DEFAULT.to_owned(),
        slug => slug.to_owned(),
    }
}

/// `base`, or where that is taken the first free of `base-2`, `base-3`, …; `base` is cut so that the whole keeps to 40
/// characters. `taken` must say no to some name in the end.
pub fn free(base: &str, taken: impl Fn(&str) -> bool) -> String {
    let mut name = cut(base, LONGEST).to_owned();
    let mut n = 2u64;
    while taken(&name) {
        let suffix = format!("-{n}");
        name = format!("{}{suffix}", cut(base, LONGEST - suffix.len()));
        n += 1;
    }
    name
}

/// The first `longest` characters, without a dash at the end.
fn cut(name: &str, longest: usize) -> &str {
    let end = name.char_indices().nth(longest).map_or(name.len(), |(at, _)| at);
    name[..end].trim_end_matches('-')
}

/// Those of `names` that somebody who typed `wanted` may have meant, at most 5, the likeliest first: that begin with it,
/// that contain it or are contained in it, that differ in a few letters. May be empty.
pub fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted = slug(wanted);
    let letters: Vec<char> = wanted.chars().collect();
    let mut near: Vec<_> = names
        .map(|name| {
            let apart = !name.contains(&wanted) && !wanted.contains(name);
            (!name.starts_with(&wanted), apart, distance(&letters, name), name)
        })
        .filter(|(_, apart, distance, _)| !apart || *distance <= 1 + letters.len() / 3)
        .collect();
    let nearest = move || Some(near.swap_remove((0..near.len()).min_by_key(|at| near[*at])?).3);
    std::iter::from_fn(nearest).take(NEAREST).collect()
}

/// How many letters must be added, removed or replaced; of `name` only as much is looked at as a name can be long.
fn distance(wanted: &[char], name: &str) -> usize {
    let mut row: Vec<usize> = (0..=wanted.len()).collect();
    for (i, c) in name.chars().take(LONGEST).enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, w) in wanted.iter().enumerate() {
            let replaced = diagonal + usize::from(*w != c);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[wanted.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn slugs() {
        for (raw, expected) in [
            ("backend-api", "backend-api"),
            ("My Project (v2)", "my-project-v2"),
            ("--__foo..bar--", "foo-bar"),
            ("Grüße/ПРИВЕТ/日本語", "grüße-привет-日本語"),
            ("cafe\u{301} re\u{301}sume\u{301}", "cafe-resume"),
            ("İstanbul", "istanbul"),
            ("١٢٣", "١٢٣"),
            ("", DEFAULT),
            ("...", DEFAULT),
            ("\u{3164}\u{200b}", DEFAULT),
            ("a\u{3164}b", "a-b"),
            ("a\n[relay]\u{1b}[31m", "a-relay-31m"),
        ] {
            assert_eq!(slug(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn slugs_are_short_and_stable() {
        for raw in [
            "x".repeat(100),
            "x-".repeat(100),
            format!("{}-{}", "x".repeat(39), "y"),
            "İ".repeat(90),
            "é ".repeat(50),
        ] {
            let once = slug(&raw);
            assert!(once.chars().count() <= LONGEST && !once.ends_with('-'), "{once}");
            assert_eq!(slug(&once), once);
        }
        assert_eq!(slug(&"x".repeat(41)).len(), 40);
    }

    #[test]
    fn free_names() {
        let mut taken = HashSet::new();
        for expected in ["api", "api-2", "api-3"] {
            let name = free("api", |n| taken.contains(n));
            assert_eq!(name, expected);
            taken.insert(name);
        }
        let long = "ü".repeat(40);
        assert_eq!(free(&long, |n| n == long), format!("{}-2", "ü".repeat(38)));
        let dashed = format!("{}-{}", "x".repeat(37), "yy");
        assert_eq!(free(&dashed, |n| n == dashed), format!("{}-2", "x".repeat(37)));
    }

    #[test]
    fn nearest_names() {
        let names = ["backend-api", "api", "frontend", "docs", "backend", "bakcend", "backend-2"];
        let near = |wanted| nearest(wanted, names.into_iter());
        assert_eq!(near("backend"), ["backend", "backend-2", "backend-api", "bakcend"]);
        assert_eq!(near("Backend API"), ["backend-api", "backend", "api", "backend-2"]);
        assert_eq!(near("dosc"), ["docs"]);
        assert!(near("zzzzzz").is_empty());
        assert_eq!(nearest("a", (0..1000).map(|_| "ab")).len(), NEAREST);
    }
}
