//! A cursor over the text of one JSON payload: white space, literals, strings, numbers, and whole values to be skipped, all
//! strictly as in RFC 8259 and without recursion. It knows nothing of columns.

use super::number::{self, EndedTooSoon, Number};
use super::reason::Reason;

/// What reading comes to: a value, or the reason why the record is rejected.
pub(super) type Parse<T> = Result<T, Reason>;

/// A place in a payload, which is UTF-8.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(payload: &'a str) -> Cursor<'a> {
        Cursor { bytes: payload.as_bytes(), at: 0 }
    }

    /// The byte at the cursor.
    #[inline]
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Whether `text` stands at the cursor.
    #[inline]
    pub(super) fn is_at(&self, text: &[u8]) -> bool {
        self.rest().starts_with(text)
    }

    #[inline]
    fn rest(&self) -> &'a [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Passes `text`, if it stands here.
    #[inline]
    pub(super) fn pass(&mut self, text: &[u8]) -> bool {
        let is_here = self.is_at(text);
        if is_here {
            self.at += text.len();
        }
        is_here
    }

    /// Passes white space.
    #[inline]
    pub(super) fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    /// Passes white space and the byte after it, which is returned.
    #[inline]
    pub(super) fn next_token(&mut self) -> Parse<u8> {
        self.skip_space();
        let byte = self.peek().ok_or(Reason::TruncatedJson)?;
        self.at += 1;
        Ok(byte)
    }

    /// Passes a literal whose first byte stands here.
    pub(super) fn literal(&mut self, text: &'static [u8]) -> Parse<()> {
        if self.pass(text) {
            return Ok(());
        }
        Err(if text.starts_with(self.rest()) { Reason::TruncatedJson } else { Reason::NotJson })
    }

    /// Passes a number.
    #[inline]
    pub(super) fn number(&mut self) -> Parse<Number<'a>> {
        let number = number::scan(self.rest()).map_err(
            |EndedTooSoon(ended)| {
                if ended { Reason::TruncatedJson } else { Reason::NotJson }
            },
        )?;
        self.at += number.len();
        Ok(number)
    }

    /// Passes a string and returns its text, which is in the payload, or in `scratch` where escapes stood in it.
    #[inline]
    pub(super) fn string<'s>(&mut self, scratch: &'s mut Vec<u8>) -> Parse<&'s [u8]>
    where
        'a: 's,
    {
        let start = self.at + 1;
        let end = start + plain_len(self.bytes.get(start..).unwrap_or_default());
        if self.bytes.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Ok(&self.bytes[start..end]);
        }
        scratch.clear();
        self.string_into(scratch)?;
        Ok(scratch)
    }

    /// Passes a string and appends its text.
    #[inline]
    pub(super) fn string_into(&mut self, text: &mut Vec<u8>) -> Parse<()> {
        self.at += 1;
        loop {
            let rest = self.rest();
            let len = plain_len(rest);
            text.extend_from_slice(&rest[..len]);
            self.at += len + 1;
            match rest.get(len) {
                Some(b'"') => return Ok(()),
                Some(b'\\') => self.escape(text)?,
                Some(_) => return Err(Reason::NotJson),
                None => return Err(Reason::TruncatedJson),
            }
        }
    }

    /// The cursor stands after the backslash.
    #[cold]
    fn escape(&mut self, text: &mut Vec<u8>) -> Parse<()> {
        let byte = self.peek().ok_or(Reason::TruncatedJson)?;
        self.at += 1;
        text.push(match byte {
            b'"' | b'\\' | b'/' => byte,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let character = self.unicode_escape()?;
                text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => return Err(Reason::NotJson),
        });
        Ok(())
    }

    fn unicode_escape(&mut self) -> Parse<char> {
        let unit = self.four_hex_digits()?;
        let code_point = match unit {
            0xD800..=0xDBFF => {
                for expected in [b'\\', b'u'] {
                    match self.peek() {
                        Some(byte) if byte == expected => self.at += 1,
                        Some(_) => return Err(Reason::NotJson),
                        None => return Err(Reason::TruncatedJson),
                    }
                }
                match self.four_hex_digits()? {
                    low @ 0xDC00..=0xDFFF => 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00),
                    _ => return Err(Reason::NotJson),
                }
            }
            unit => unit,
        };
        // A low surrogate alone is no character.
        char::from_u32(code_point).ok_or(Reason::NotJson)
    }

    fn four_hex_digits(&mut self) -> Parse<u32> {
        let mut value = 0;
        for _ in 0..4 {
            let byte = self.peek().ok_or(Reason::TruncatedJson)?;
            value = value * 16 + char::from(byte).to_digit(16).ok_or(Reason::NotJson)?;
            self.at += 1;
        }
        Ok(value)
    }

    /// Passes any value. `nesting` is room for the brackets that are open; there is no limit to their depth but the
    /// payload's size.
    pub(super) fn skip_value(&mut self, nesting: &mut Nesting, scratch: &mut Vec<u8>) -> Parse<()> {
        nesting.0.clear();
        loop {
            self.skip_space();
            let first = self.peek().ok_or(Reason::TruncatedJson)?;
            match first {
                b'{' | b'[' => {
                    self.at += 1;
                    nesting.0.push(first);
                    self.skip_space();
                    if self.peek() == Some(closing(first)) {
                        // Left to what follows a value, below.
                        if self.close(nesting, scratch)? {
                            return Ok(());
                        }
                    } else if first == b'{' {
                        self.skip_key(scratch)?;
                    }
                    continue;
                }
                b'"' => {
                    self.string(scratch)?;
                }
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                b'-' | b'0'..=b'9' => {
                    self.number()?;
                }
                _ => return Err(Reason::NotJson),
            }
            if self.after_value(nesting, scratch)? {
                return Ok(());
            }
        }
    }

    /// Passes commas and closing brackets up to where the next value stands; whether there is none.
    fn after_value(&mut self, nesting: &mut Nesting, scratch: &mut Vec<u8>) -> Parse<bool> {
        let Some(open) = nesting.0.last().copied() else {
            return Ok(true);
        };
        self.skip_space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                if open == b'{' {
                    self.skip_key(scratch)?;
                }
                Ok(false)
            }
            Some(byte) if byte == closing(open) => self.close(nesting, scratch),
            Some(_) => Err(Reason::NotJson),
            None => Err(Reason::TruncatedJson),
        }
    }

    /// Passes closing brackets, the first of which stands here, and what follows the last of them.
    fn close(&mut self, nesting: &mut Nesting, scratch: &mut Vec<u8>) -> Parse<bool> {
        loop {
            self.at += 1;
            nesting.0.pop();
            let Some(open) = nesting.0.last().copied() else {
                return Ok(true);
            };
            self.skip_space();
            if self.peek() != Some(closing(open)) {
                return self.after_value(nesting, scratch);
            }
        }
    }

    fn skip_key(&mut self, scratch: &mut Vec<u8>) -> Parse<()> {
        self.skip_space();
        match self.peek() {
            Some(b'"') => self.string(scratch)?,
            Some(_) => return Err(Reason::NotJson),
            None => return Err(Reason::TruncatedJson),
        };
        if self.next_token()? == b':' { Ok(()) } else { Err(Reason::NotJson) }
    }

    /// The bytes from `start` to the cursor.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or_default()
    }

    /// Where the cursor is.
    pub(super) fn position(&self) -> usize {
        self.at
    }
}

/// The brackets that are open while a value is skipped.
#[derive(Debug, Default)]
pub(super) struct Nesting(Vec<u8>);

fn closing(open: u8) -> u8 {
    if open == b'{' { b'}' } else { b']' }
}

/// Number of bytes before the first quote, backslash or control character, eight at a time.
#[inline]
fn plain_len(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES * 0x80;
    // Marks the bytes below `limit` (at most 128), exactly so up to the first one.
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGHS;
    let (chunks, tail) = bytes.as_chunks::<8>();
    for (index, chunk) in chunks.iter().enumerate() {
        let word = u64::from_le_bytes(*chunk);
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let marks = quote | backslash | below(word, 0x20);
        if marks != 0 {
            return index * 8 + marks.trailing_zeros() as usize / 8;
        }
    }
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1F);
    chunks.len() * 8 + tail.iter().position(is_special).unwrap_or(tail.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn skip(text: &str) -> Parse<usize> {
        let mut cursor = Cursor::new(text);
        cursor.skip_value(&mut Nesting::default(), &mut Vec::new())?;
        Ok(cursor.position())
    }

    #[test]
    fn a_value_of_any_depth_is_skipped_without_recursion() {
        let depth = 1_000_000;
        let lists = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(skip(&lists), Ok(2 * depth));
        let objects = format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert_eq!(skip(&objects), Ok(objects.len()));
        assert_eq!(skip(&"[".repeat(depth)), Err(Reason::TruncatedJson));
        assert_eq!(skip(&"{\"a\":[".repeat(depth)), Err(Reason::TruncatedJson));
    }

    #[test]
    fn what_is_not_json_is_told_from_what_ends_too_soon() {
        for text in [
            "[1,]",
            "[,]",
            "{,}",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "[1 2]",
            "[}",
            "{]",
            "nul1",
            "'a'",
            "\"\u{1}\"",
            "\"\\x\"",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\udc00\"",
            "\"\\u12g4\"",
            "[1}",
            "{\"a\":1]",
            "[01]",
            "[+1]",
        ] {
            assert_eq!(skip(text), Err(Reason::NotJson), "{text}");
        }
        for text in [
            "",
            "[",
            "[1",
            "[1,",
            "{",
            "{\"a",
            "{\"a\"",
            "{\"a\":",
            "{\"a\":1",
            "nul",
            "\"a",
            "\"\\",
            "\"\\u12",
            "-",
            "1e",
            "\"\\ud800",
            "\"\\ud800\\u",
        ] {
            assert_eq!(skip(text), Err(Reason::TruncatedJson), "{text}");
        }
    }

    proptest! {
        #[test]
        fn plain_text_ends_at_the_first_special_byte(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let expected = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1F)).unwrap_or(bytes.len());
            prop_assert_eq!(plain_len(&bytes), expected);
        }

        #[test]
        fn values_are_those_of_serde_json(text in "[\\[\\]{}:,\"\\\\0-9a1.eE+ untrfls-]{0,24}") {
            let ours = skip(&text).is_ok_and(|end| text[end..].trim_ascii().is_empty());
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            // serde_json also refuses numbers that a double cannot hold.
            let is_range = theirs.as_ref().is_err_and(|error| error.to_string().contains("number out of range"));
            prop_assert!(ours == theirs.is_ok() || is_range, "{} {:?}", ours, theirs);
        }
    }
}
