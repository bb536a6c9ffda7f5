//! Is it JSON? Answered for the whole text, without building anything, before the first value is used: so a reader
//! behind it never meets bad syntax, and a text is refused for its syntax before it is refused for its content.

use super::DEPTH_MAX;

/// The text, if it is exactly one JSON value in UTF-8 and not nested too deeply; else what Mesos says about it.
pub(super) fn check(text: &[u8]) -> Result<&str, String> {
    let mut scan = Scan { text, at: 0 };
    match scan.value(0) {
        Ok(()) => {}
        Err(Stop::Syntax) => return Err(scan.near()),
        Err(Stop::Depth) => return Err(format!("nested deeper than {DEPTH_MAX} levels")),
    }
    let rest = &text[scan.at..];
    if !rest.iter().all(|byte| byte.is_ascii_whitespace()) {
        let rest = clip(rest);
        return Err(format!("Parsed JSON included non-whitespace trailing characters: {rest}"));
    }
    std::str::from_utf8(text).map_err(|error| format!("not UTF-8 at byte {}", error.valid_up_to()))
}

/// Enough of a text to recognise it; a caller's megabytes are not sent back.
fn clip(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(200)]).into_owned()
}

enum Stop {
    Syntax,
    Depth,
}

struct Scan<'a> {
    text: &'a [u8],
    at: usize,
}

impl Scan<'_> {
    fn near(&self) -> String {
        let line = 1 + self.text[..self.at].iter().filter(|byte| **byte == b'\n').count();
        let rest = self.text[self.at..].split(|byte| *byte == b'\n').next().unwrap_or_default();
        let rest: String = clip(rest).chars().filter(|each| !each.is_control()).collect();
        format!("syntax error at line {line} near: {rest}")
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Stop> {
        if self.take(wanted) { Ok(()) } else { Err(Stop::Syntax) }
    }

    fn value(&mut self, depth: usize) -> Result<(), Stop> {
        self.space();
        match self.peek() {
            Some(b'{' | b'[') if depth == DEPTH_MAX => Err(Stop::Depth),
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => self.string(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            _ => Err(Stop::Syntax),
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Stop> {
        if !self.text[self.at..].starts_with(word) {
            return Err(Stop::Syntax);
        }
        self.at += word.len();
        Ok(())
    }

    fn object(&mut self, depth: usize) -> Result<(), Stop> {
        self.at += 1;
        self.space();
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            self.space();
            self.string()?;
            self.space();
            self.expect(b':')?;
            self.value(depth)?;
            self.space();
            if !self.take(b',') {
                return self.expect(b'}');
            }
        }
    }

    fn array(&mut self, depth: usize) -> Result<(), Stop> {
        self.at += 1;
        self.space();
        if self.take(b']') {
            return Ok(());
        }
        loop {
            self.value(depth)?;
            self.space();
            if !self.take(b',') {
                return self.expect(b']');
            }
        }
    }

    fn string(&mut self) -> Result<(), Stop> {
        self.expect(b'"')?;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    self.escape()?;
                }
                Some(byte) if byte >= b' ' => self.at += 1,
                _ => return Err(Stop::Syntax),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Stop> {
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => match self.unit()? {
                0xD800..=0xDBFF => {
                    self.expect(b'\\')?;
                    match self.unit()? {
                        0xDC00..=0xDFFF => Ok(()),
                        _ => Err(Stop::Syntax),
                    }
                }
                0xDC00..=0xDFFF => Err(Stop::Syntax),
                _ => Ok(()),
            },
            _ => Err(Stop::Syntax),
        }
    }

    fn unit(&mut self) -> Result<u32, Stop> {
        self.expect(b'u')?;
        let mut unit = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16)).ok_or(Stop::Syntax)?;
            unit = unit * 16 + digit;
            self.at += 1;
        }
        Ok(unit)
    }

    fn digits(&mut self) -> Result<(), Stop> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at > from { Ok(()) } else { Err(Stop::Syntax) }
    }

    fn number(&mut self) -> Result<(), Stop> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(())
    }
}
