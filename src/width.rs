//! How many columns a text takes on a terminal.
//!
//! The two tables stand in for a crate: the blocks of wide characters and emoji, and the combining marks of the scripts that
//! directory names are likely to have. An unknown character counts as one column; if it takes another number, the rest of a
//! table row is moved by one.

/// Characters of two columns: first and last of each range.
#[rustfmt::skip]
const WIDE: &[(u32, u32)] = &[
    (0x1100, 0x115f), (0x26a1, 0x26a1), (0x2705, 0x2705), (0x2728, 0x2728), (0x274c, 0x274c), (0x2b50, 0x2b50),
    (0x2e80, 0x303e), (0x3041, 0xa4c6), (0xac00, 0xd7a3), (0xf900, 0xfad9), (0xfe10, 0xfe19), (0xfe30, 0xfe6b),
    (0xff01, 0xff60), (0xffe0, 0xffe6), (0x1f300, 0x1f64f), (0x1f680, 0x1faff), (0x20000, 0x3fffd),
];

/// Characters of no column of their own: first and last of each range.
#[rustfmt::skip]
const ZERO: &[(u32, u32)] = &[
    (0x300, 0x36f), (0x483, 0x489), (0x591, 0x5bd), (0x610, 0x61a), (0x64b, 0x65f), (0x900, 0x902), (0x941, 0x948),
    (0x94d, 0x94d), (0xe31, 0xe31), (0xe34, 0xe3a), (0xe47, 0xe4e), (0x1160, 0x11ff), (0x200b, 0x200f), (0x202a, 0x202e),
    (0x2060, 0x206f), (0x20d0, 0x20ff), (0x3099, 0x309a), (0xfe00, 0xfe0f), (0xfeff, 0xfeff), (0x1f3fb, 0x1f3ff),
];

fn is_in(ranges: &[(u32, u32)], c: char) -> bool {
    ranges.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(c)))
}

/// The number of columns that `c` takes.
fn char_width(c: char) -> usize {
    if c.is_control() || is_in(ZERO, c) { 0 } else { 1 + usize::from(is_in(WIDE, c)) }
}

/// The number of columns that `text` takes.
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// `text`, padded with spaces to `columns`.
pub fn pad(text: &str, columns: usize) -> String {
    format!("{text}{:1$}", "", columns.saturating_sub(width(text)))
}

/// The length in bytes of the characters that fit into `most` columns.
fn fitting(characters: impl Iterator<Item = char>, most: usize) -> usize {
    let mut used = 0;
    let fits = |c: &char| {
        used += char_width(*c);
        used <= most
    };
    characters.take_while(fits).map(char::len_utf8).sum()
}

/// `text` in at most `most` columns: where it is longer, its beginning and an ellipsis.
pub fn keep_start(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    format!("{}…", &text[..fitting(text.chars(), most.saturating_sub(1))])
}

/// `text` in at most `most` columns: where it is longer, an ellipsis and its end.
pub fn keep_end(text: &str, most: usize) -> String {
    if width(text) <= most {
        return text.to_owned();
    }
    format!("…{}", &text[text.len() - fitting(text.chars().rev(), most.saturating_sub(1))..])
}

/// The lines of `text`, each broken to at most `most` columns, at a space where there is one.
pub fn wrap(text: &str, most: usize) -> Vec<&str> {
    let mut lines = Vec::new();
    for mut line in text.trim_end().split('\n') {
        while width(line) > most {
            let end = fitting(line.chars(), most).max(line.chars().next().map_or(0, char::len_utf8));
            let space = line[..end].rfind(' ').filter(|at| *at > 0 && !line[end..].starts_with(' '));
            let (first, rest) = line.split_at(space.map_or(end, |at| at + 1));
            lines.push(first.trim_end());
            line = rest.strip_prefix(' ').unwrap_or(rest);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cjk_and_emoji_take_two_columns_and_marks_none() {
        for (text, columns) in [
            ("web-app", 7),
            ("日本語プロジェクト", 18),
            ("한국어", 6),
            ("e\u{301}té", 3),
            ("🚀", 2),
            ("ไทย", 3),
            ("ｆｕｌｌ", 8),
            ("ｶﾅ", 2),
        ] {
            assert_eq!(width(text), columns, "{text}");
        }
    }

    #[test]
    fn a_shortened_text_fits_and_never_splits_a_wide_character() {
        let text = "日本/語プ/a/b";
        for most in 1..=width(text) + 1 {
            for short in [keep_start(text, most), keep_end(text, most)] {
                assert!(width(&short) <= most, "{short} in {most}");
                assert!(width(&short) + 1 >= most.min(width(text)), "{short} in {most}");
            }
        }
        assert_eq!(keep_start(text, 5), "日本…");
        assert_eq!(keep_end(text, 5), "…/a/b");
        assert_eq!(pad("日本", 6), "日本  ");
    }

    #[test]
    fn wrapped_lines_fit_and_lose_nothing_but_spaces() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("a\n\nunbreakable-word b\n", 6), ["a", "", "unbrea", "kable-", "word b"]);
        assert_eq!(wrap("日本語テキスト", 5), ["日本", "語テ", "キス", "ト"]);
        assert_eq!(wrap("", 5), [""]);
        let text = "to be 🧑‍🚀 or not 日本 to e\u{301}e\u{301}e\u{301} be: that's the question";
        for most in 2..40 {
            let lines = wrap(text, most);
            assert!(lines.iter().all(|line| width(line) <= most), "{most}: {lines:?}");
            let dense = |text: &str| text.replace(' ', "");
            assert_eq!(dense(&lines.concat()), dense(text), "{most}");
        }
    }
}
