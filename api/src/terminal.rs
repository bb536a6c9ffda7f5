//! Text of strangers on a terminal. Names and messages come from whoever may send a call: what would move the cursor,
//! colour the screen, end a line or turn the direction of reading is shown as an escape instead.

use std::borrow::Cow;

use unicode_width::UnicodeWidthChar;

/// One line of text that changes nothing but the cells it stands in: `\n`, `\x1b`, `\u{202e}` are written out.
///
/// ```
/// assert_eq!(api::terminal::plain("a\x1b[2J\nb"), r"a\x1b[2J\nb");
/// ```
pub fn plain(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unseen) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        match letter {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            _ if !is_unseen(letter) => shown.push(letter),
            _ if u32::from(letter) < 0x100 => shown.push_str(&format!("\\x{:02x}", u32::from(letter))),
            _ => shown.push_str(&format!("\\u{{{:x}}}", u32::from(letter))),
        }
    }
    Cow::Owned(shown)
}

/// As [`plain`], for text of several lines that are our own: their ends stay.
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    if !text.contains(|letter| letter != '\n' && is_unseen(letter)) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.split('\n').map(plain).collect::<Vec<_>>().join("\n"))
}

/// JSON text that means the same and is as harmless: what JSON lets stand in strings is written as `\u202e`.
pub fn json(text: &str) -> Cow<'_, str> {
    let is_raw = |letter: char| !letter.is_ascii_whitespace() && is_unseen(letter);
    if !text.contains(is_raw) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for letter in text.chars() {
        if is_raw(letter) {
            letter.encode_utf16(&mut [0; 2]).iter().for_each(|unit| shown.push_str(&format!("\\u{unit:04x}")));
        } else {
            shown.push(letter);
        }
    }
    Cow::Owned(shown)
}

/// How many cells a line takes on a terminal.
pub fn width(line: &str) -> usize {
    line.chars().map(|letter| letter.width().unwrap_or(0)).sum()
}

/// Control characters (C0, DEL, C1), ends of lines, marks of direction, and what shows nothing: whatever Unicode has
/// ignored by default, blanks that are no space, selectors of variants. Two names that look alike are alike. The two
/// joiners stay: scripts and emoji are written with them.
fn is_unseen(letter: char) -> bool {
    letter.is_control()
        || letter.is_whitespace() && letter != ' '
        || matches!(letter,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{13430}'..='\u{1343f}' | '\u{16fe4}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d159}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_letters() {
        for (text, shown) in [
            ("plain \\ text", "plain \\ text"),
            ("日本語😀 e\u{301} 👩\u{200d}💻", "日本語😀 e\u{301} 👩\u{200d}💻"),
            ("a\u{1b}[31m\r\n\tb", r"a\x1b[31m\r\n\tb"),
            ("\u{1b}]0;owned\u{7}", r"\x1b]0;owned\x07"),
            ("\u{9b}31m\u{7f}\u{85}", r"\x9b31m\x7f\x85"),
            ("\u{202e}txt\u{2066}\u{200f}\u{2028}\u{feff}", r"\u{202e}txt\u{2066}\u{200f}\u{2028}\u{feff}"),
            ("\u{e0041}", r"\u{e0041}"),
            ("a b\u{a0}c\u{3000}", r"a b\xa0c\u{3000}"),
            ("x\u{ad}\u{34f}\u{3164}\u{2800}\u{fe0f}\u{e01ef}", r"x\xad\u{34f}\u{3164}\u{2800}\u{fe0f}\u{e01ef}"),
        ] {
            assert_eq!(plain(text), shown);
            assert!(!plain(text).contains(is_unseen));
        }
        assert_eq!(plain_lines("a\u{1b}\nb\n"), "a\\x1b\nb\n");
    }

    #[test]
    fn json_stays_the_same_value() {
        let value = serde_json::json!({"a\u{9b}": "\u{202e}x\u{e0041}\u{7f}\n"});
        for text in [value.to_string(), format!("{value:#}")] {
            let shown = json(&text);
            assert!(!shown.contains(['\u{9b}', '\u{202e}', '\u{7f}', '\u{e0041}']), "{shown}");
            assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        }
    }

    #[test]
    fn widths_are_cells() {
        assert_eq!((width("abc"), width("日本語😀"), width("e\u{301}")), (3, 8, 1));
    }
}
