//! JSON as the cases need it: members in order, numbers as their digits, lone surrogates kept,
//! written as `JSON.stringify` writes.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Json {
    Null,
    Bool(bool),
    /// The token as it stood.
    Number(String),
    Text(Text),
    Array(Vec<Json>),
    Object(Vec<(Text, Json)>),
}

/// UTF-8, except that a lone surrogate is the three bytes it would have (WTF-8).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(pub Vec<u8>);

impl From<&str> for Text {
    fn from(text: &str) -> Text {
        Text(text.into())
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl Json {
    pub fn text(text: &str) -> Json {
        Json::Text(text.into())
    }

    pub fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
        Json::Object(members.map(|(name, value)| (name.into(), value)).into())
    }

    /// A member of an object; the last of that name, as Node-RED would see it.
    pub fn member(&self, name: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => {
                members.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    pub fn as_text(&self) -> Option<String> {
        match self {
            Json::Text(text) => Some(text.to_string()),
            _ => None,
        }
    }

    pub fn as_count(&self) -> Option<usize> {
        match self {
            Json::Number(token) => token.parse().ok(),
            _ => None,
        }
    }

    pub fn items(&self) -> &[Json] {
        match self {
            Json::Array(items) => items,
            _ => &[],
        }
    }

    /// As `JSON.stringify` writes it, but for numbers, which stay as they are.
    pub fn stringify(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Number(token) => out.push_str(token),
            Json::Text(text) => write_text(text, out),
            Json::Array(items) => {
                write_list(out, ['[', ']'], items, |item, out| item.write(out));
            }
            Json::Object(members) => {
                write_list(out, ['{', '}'], members, |(name, value), out| {
                    write_text(name, out);
                    out.push(':');
                    value.write(out);
                });
            }
        }
    }
}

fn write_list<T>(out: &mut String, ends: [char; 2], items: &[T], one: impl Fn(&T, &mut String)) {
    out.push(ends[0]);
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        one(item, out);
    }
    out.push(ends[1]);
}

fn write_text(text: &Text, out: &mut String) {
    out.push('"');
    let mut rest = &text.0[..];
    while !rest.is_empty() {
        let (good, bad) = match std::str::from_utf8(rest) {
            Ok(all) => (all, &[][..]),
            Err(error) => {
                let (good, bad) = rest.split_at(error.valid_up_to());
                (std::str::from_utf8(good).expect("valid up to here"), bad)
            }
        };
        for char in good.chars() {
            match char {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\0'..'\u{20}' => out.push_str(&format!("\\u{:04x}", char as u32)),
                plain => out.push(plain),
            }
        }
        // What is not UTF-8 here is a lone surrogate, and always three bytes.
        rest = match bad {
            [a, b, c, after @ ..] => {
                let unit =
                    u32::from(a & 0x0f) << 12 | u32::from(b & 0x3f) << 6 | u32::from(c & 0x3f);
                out.push_str(&format!("\\u{unit:04x}"));
                after
            }
            _ => &[],
        };
    }
    out.push('"');
}

/// A number as JavaScript prints it (ECMA-262, Number::toString).
pub fn js_number(token: &str) -> String {
    let value: f64 = token.parse().expect("a JSON number is a float");
    if value == 0.0 {
        return "0".into();
    }
    let sign = if value < 0.0 { "-" } else { "" };
    let shortest = format!("{:e}", value.abs());
    let (mantissa, exponent) = shortest.split_once('e').expect("{:e} writes an exponent");
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().expect("{:e} writes a whole exponent");
    let zeros = |count: i32| "0".repeat(count.max(0) as usize);
    let (count, point) = (digits.len() as i32, exponent + 1);
    let text = match point {
        _ if count <= point && point <= 21 => digits.clone() + &zeros(point - count),
        1..=21 => format!("{}.{}", &digits[..point as usize], &digits[point as usize..]),
        -5..=0 => format!("0.{}{digits}", zeros(-point)),
        _ => {
            let fraction = if count > 1 { format!(".{}", &digits[1..]) } else { String::new() };
            format!("{}{fraction}e{exponent:+}", &digits[..1])
        }
    };
    format!("{sign}{text}")
}

pub fn parse(text: &str) -> Result<Json, String> {
    let mut parser = Parser { text: text.as_bytes(), at: 0 };
    let value = parser.value()?;
    parser.space();
    if parser.at == text.len() { Ok(value) } else { Err(parser.error("something after the value")) }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn error(&self, what: &str) -> String {
        format!("JSON, byte {}: {what}", self.at)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, token: &str) -> bool {
        let taken = self.text[self.at..].starts_with(token.as_bytes());
        if taken {
            self.at += token.len();
        }
        taken
    }

    fn need(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(self.error(&format!("{token} is missing"))) }
    }

    fn value(&mut self) -> Result<Json, String> {
        self.space();
        match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => Ok(Json::Text(self.string()?)),
            Some(b'-' | b'0'..=b'9') => Ok(self.number()),
            _ if self.take("null") => Ok(Json::Null),
            _ if self.take("true") => Ok(Json::Bool(true)),
            _ if self.take("false") => Ok(Json::Bool(false)),
            _ => Err(self.error("no value")),
        }
    }

    fn object(&mut self) -> Result<Json, String> {
        let mut members = Vec::new();
        self.need("{")?;
        self.space();
        if self.take("}") {
            return Ok(Json::Object(members));
        }
        loop {
            self.space();
            let name = self.string()?;
            self.space();
            self.need(":")?;
            members.push((name, self.value()?));
            self.space();
            if self.take("}") {
                return Ok(Json::Object(members));
            }
            self.need(",")?;
        }
    }

    fn array(&mut self) -> Result<Json, String> {
        let mut items = Vec::new();
        self.need("[")?;
        self.space();
        if self.take("]") {
            return Ok(Json::Array(items));
        }
        loop {
            items.push(self.value()?);
            self.space();
            if self.take("]") {
                return Ok(Json::Array(items));
            }
            self.need(",")?;
        }
    }

    fn number(&mut self) -> Json {
        let begin = self.at;
        while matches!(self.peek(), Some(b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')) {
            self.at += 1;
        }
        Json::Number(String::from_utf8_lossy(&self.text[begin..self.at]).into_owned())
    }

    fn string(&mut self) -> Result<Text, String> {
        self.need("\"")?;
        let mut out = Vec::new();
        loop {
            let byte = self.peek().ok_or_else(|| self.error("a string without an end"))?;
            self.at += 1;
            match byte {
                b'"' => return Ok(Text(out)),
                b'\\' => self.escape(&mut out)?,
                plain => out.push(plain),
            }
        }
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), String> {
        let kind = self.peek().ok_or_else(|| self.error("half an escape"))?;
        self.at += 1;
        out.push(match kind {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'"' | b'\\' | b'/' => kind,
            b'u' => {
                let mut code = u32::from(self.unit()?);
                if (0xd800..0xdc00).contains(&code) && self.text[self.at..].starts_with(b"\\u") {
                    let back = self.at;
                    self.at += 2;
                    match self.unit()? {
                        low @ 0xdc00..0xe000 => {
                            code = 0x1_0000 + ((code - 0xd800) << 10 | (u32::from(low) - 0xdc00));
                        }
                        _ => self.at = back,
                    }
                }
                match char::from_u32(code) {
                    Some(char) => out.extend(char.encode_utf8(&mut [0; 4]).bytes()),
                    None => out.extend([
                        0xe0 | (code >> 12) as u8,
                        0x80 | (code >> 6 & 0x3f) as u8,
                        0x80 | (code & 0x3f) as u8,
                    ]),
                }
                return Ok(());
            }
            _ => return Err(self.error("an unknown escape")),
        });
        Ok(())
    }

    fn unit(&mut self) -> Result<u16, String> {
        let digits = self.text.get(self.at..self.at + 4).and_then(|hex| str::from_utf8(hex).ok());
        let unit = digits.and_then(|hex| u16::from_str_radix(hex, 16).ok());
        self.at += 4;
        unit.ok_or_else(|| self.error("a \\u without its digits"))
    }
}

#[track_caller]
fn check_number(token: &str, expected: &str) {
    assert_eq!(js_number(token), expected, "{token}");
}

#[test]
fn numbers_are_printed_as_javascript_does() {
    check_number("0", "0");
    check_number("-0.0", "0");
    check_number("42", "42");
    check_number("-1.50", "-1.5");
    check_number("1e21", "1e+21");
    check_number("1e20", "100000000000000000000");
    check_number("12345678901234567890", "12345678901234567000");
    check_number("1e-07", "1e-7");
    check_number("0.000001", "0.000001");
    check_number("1.5e-10", "1.5e-10");
    check_number("123.456", "123.456");
}

#[track_caller]
fn check_round_trip(text: &str, expected: &str) {
    assert_eq!(parse(text).map(|json| json.stringify()).as_deref(), Ok(expected));
}

#[test]
fn json_is_written_as_javascript_does() {
    check_round_trip(
        r#" { "b" : [ 1.50 , null ] , "a" : true } "#,
        r#"{"b":[1.50,null],"a":true}"#,
    );
    check_round_trip(r#""\u00e9\u0000\u001f\u007f\/\ud83d\ude00""#, "\"é\\u0000\\u001f\u{7f}/😀\"");
    check_round_trip(r#""a\uD800b""#, r#""a\ud800b""#);
    check_round_trip(r#""\ud800\ud83d\ude00""#, r#""\ud800😀""#);
    check_round_trip("[]", "[]");
    assert!(parse("{} x").is_err());
    assert!(parse(r#"{"a"}"#).is_err());
}
