//! The parser. Where the grammar leaves it open it does as containerd's: white space is skipped only before a token
//! that is wanted, so there may be some after a comma or around an operator but not before a comma or at the end.

use regex::bytes::RegexBuilder;

use super::{Selector, Test};

/// What is wrong, and at which byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ParseError {
    pub(super) at: usize,
    pub(super) what: &'static str,
}

/// Most bytes of memory that a regular expression may take; one that is larger is as one that does not compile.
const EXPRESSION_LIMIT: usize = 1 << 20;

type Result<T> = std::result::Result<T, ParseError>;

/// Reads one filter; the empty one has no selectors and matches everything.
pub(super) fn filter(text: &str) -> Result<Vec<Selector>> {
    let mut parser = Parser { text, at: 0 };
    if let Some(nul) = text.find('\0') {
        return Err(ParseError { at: nul, what: "a NUL cannot be part of a filter" });
    }
    let mut selectors = Vec::new();
    if text.is_empty() {
        return Ok(selectors);
    }
    loop {
        selectors.push(parser.selector()?);
        match parser.peek() {
            None => return Ok(selectors),
            Some(',') => parser.at += 1,
            Some(_) => return parser.fail("expected a comma or the end"),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn fail<T>(&self, what: &'static str) -> Result<T> {
        Err(ParseError { at: self.at, what })
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// The run of characters that `wanted` takes.
    fn run(&mut self, wanted: impl Fn(char) -> bool) -> &str {
        let start = self.at;
        let rest = self.rest();
        self.at += rest.find(|character| !wanted(character)).unwrap_or(rest.len());
        &self.text[start..self.at]
    }

    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.at += 1;
            path.push(self.field()?);
        }
        if matches!(self.peek(), None | Some(',')) {
            return Ok(Selector { path, test: Test::Present });
        }
        self.skip_space();
        let operator_at = self.at;
        let operator = self.run(|character| matches!(character, '=' | '!' | '~')).to_owned();
        let test = match operator.as_str() {
            "==" => Test::Equal(self.value(false)?),
            "!=" => Test::NotEqual(self.value(false)?),
            "~=" => {
                let expression = self.value(true)?;
                let text = std::str::from_utf8(&expression).ok();
                let compiled = |text| RegexBuilder::new(text).size_limit(EXPRESSION_LIMIT).build();
                Test::Matches(text.and_then(|text| compiled(text).ok()))
            }
            "" => return self.fail("expected an operator: ==, != or ~="),
            _ => {
                self.at = operator_at;
                return self.fail("unknown operator; there are ==, != and ~=");
            }
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<Vec<u8>> {
        self.skip_space();
        if self.peek() == Some('"') {
            return self.quoted();
        }
        match self.run(|character| character == '_' || character.is_ascii_alphanumeric()) {
            "" => self.fail("expected the name of a field; quote names with other characters than A-Z a-z 0-9 _"),
            name => Ok(name.as_bytes().to_vec()),
        }
    }

    fn value(&mut self, regular_expression: bool) -> Result<Vec<u8>> {
        self.skip_space();
        match self.peek() {
            Some('"') => self.quoted(),
            Some('/' | '|') if regular_expression => self.quoted(),
            Some('/' | '|') => self.fail("a value may be quoted with / or | only after ~=; use \""),
            // These start other tokens; inside a value they are ordinary.
            Some('.' | '=' | '!' | '~') => {
                self.fail("a value cannot start with this character; quote it")
            }
            _ => match self.run(|character| {
                character != ',' && !character.is_whitespace() && !character.is_control()
            }) {
                "" => self.fail("expected a value"),
                value => Ok(value.as_bytes().to_vec()),
            },
        }
    }

    /// A quoted text, the quote being the next character, with Go's escapes.
    fn quoted(&mut self) -> Result<Vec<u8>> {
        let start = self.at;
        let quote = self.next().unwrap_or('"');
        let mut bytes = Vec::new();
        loop {
            let at = self.at;
            match self.next() {
                None | Some('\n') => {
                    return Err(ParseError { at: start, what: "the quote does not end" });
                }
                Some(end) if end == quote => return Ok(bytes),
                Some('\\') => {
                    let escaped = self.escape(quote, &mut bytes);
                    escaped.ok_or(ParseError { at, what: "unknown escape" })?;
                }
                Some(character) => push(&mut bytes, character),
            }
        }
    }

    /// The part of an escape after its backslash.
    fn escape(&mut self, quote: char, bytes: &mut Vec<u8>) -> Option<()> {
        let plain = match self.next()? {
            'a' => 0x07,
            'b' => 0x08,
            'f' => 0x0c,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 0x0b,
            '\\' => b'\\',
            character if character == quote => {
                push(bytes, character);
                return Some(());
            }
            'x' => u8::try_from(self.digits(2, 16)?).ok()?,
            first @ '0'..='7' => {
                let rest = self.digits(2, 8)?;
                u8::try_from(first.to_digit(8)? * 64 + rest).ok()?
            }
            'u' => {
                let code = self.digits(4, 16)?;
                push(bytes, char::from_u32(code)?);
                return Some(());
            }
            'U' => {
                let code = self.digits(8, 16)?;
                push(bytes, char::from_u32(code)?);
                return Some(());
            }
            _ => return None,
        };
        bytes.push(plain);
        Some(())
    }

    fn digits(&mut self, count: usize, radix: u32) -> Option<u32> {
        let mut number: u32 = 0;
        for _ in 0..count {
            number = number.checked_mul(radix)?.checked_add(self.next()?.to_digit(radix)?)?;
        }
        Some(number)
    }
}

fn push(bytes: &mut Vec<u8>, character: char) {
    bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}
