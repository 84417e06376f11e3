//! Bytes in a fixed order: how envelopes are written between pods, and read again.
//!
//! Integers are big-endian; bytes and texts come after their length as a `u32`; an optional value
//! comes after a byte that is 0 or 1. A value has one spelling only. Reading checks every length
//! before it takes anything, and what it gives out shares the memory of what it was given.

use std::ops::Range;

use bytes::Bytes;

/// Why bytes cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// What has been written so far.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

/// What has not been read yet.
#[derive(Debug)]
pub struct Reader(Bytes);

impl Writer {
    pub fn with_capacity(bytes: usize) -> Writer {
        Writer(Vec::with_capacity(bytes))
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub fn raw(&mut self, bytes: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn byte(&mut self, byte: u8) -> &mut Writer {
        self.raw(&[byte])
    }

    pub fn u16(&mut self, number: u16) -> &mut Writer {
        self.raw(&number.to_be_bytes())
    }

    pub fn u32(&mut self, number: u32) -> &mut Writer {
        self.raw(&number.to_be_bytes())
    }

    pub fn u64(&mut self, number: u64) -> &mut Writer {
        self.raw(&number.to_be_bytes())
    }

    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Writer {
        self.length(bytes.len()).raw(bytes)
    }

    pub fn text(&mut self, text: &str) -> &mut Writer {
        self.bytes(text.as_bytes())
    }

    /// How many items follow, or bytes.
    pub fn length(&mut self, length: usize) -> &mut Writer {
        self.u32(u32::try_from(length).expect("nothing that is published has 4 GiB"))
    }

    pub fn range(&mut self, range: &Range<usize>) -> &mut Writer {
        self.length(range.start).length(range.end)
    }

    pub fn optional<T>(
        &mut self,
        value: Option<T>,
        write: impl FnOnce(&mut Writer, T),
    ) -> &mut Writer {
        self.byte(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
        self
    }
}

impl Reader {
    pub fn new(bytes: Bytes) -> Reader {
        Reader(bytes)
    }

    /// Everything has to be read, and nothing else be there.
    pub fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("more than was announced")) }
    }

    pub fn raw(&mut self, length: usize) -> Result<Bytes, Malformed> {
        if length > self.0.len() {
            return Err(Malformed("cut short"));
        }
        Ok(self.0.split_to(length))
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(&self.raw(N)?);
        Ok(array)
    }

    pub fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.length()?;
        self.raw(length)
    }

    /// UTF-8.
    pub fn text(&mut self) -> Result<Bytes, Malformed> {
        let bytes = self.bytes()?;
        check_text(&bytes)?;
        Ok(bytes)
    }

    pub fn string(&mut self) -> Result<String, Malformed> {
        let bytes = self.bytes()?;
        Ok(check_text(&bytes)?.to_owned())
    }

    pub fn length(&mut self) -> Result<usize, Malformed> {
        usize::try_from(self.u32()?).map_err(|_| Malformed("longer than memory"))
    }

    /// A part of `text`, which has been read as a text.
    pub fn range(&mut self, text: &[u8]) -> Result<Range<usize>, Malformed> {
        let range = self.length()?..self.length()?;
        let part = text.get(range.clone()).ok_or(Malformed("a part outside of its whole"))?;
        // Whatever follows the part is UTF-8 by itself when both of its edges are characters'.
        check_text(part)?;
        Ok(range)
    }

    pub fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Reader) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        match self.byte()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(Malformed("neither there nor not there")),
        }
    }

    /// As many as are announced. Nothing is put aside for more than there are bytes for.
    pub fn many<T>(
        &mut self,
        mut read: impl FnMut(&mut Reader) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.length()?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }
}

fn check_text(bytes: &[u8]) -> Result<&str, Malformed> {
    simdutf8::basic::from_utf8(bytes).map_err(|_| Malformed("a text that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: PartialEq + std::fmt::Debug>(
        bytes: &[u8],
        read: impl FnOnce(&mut Reader) -> Result<T, Malformed>,
        expected: Result<T, &'static str>,
    ) {
        let mut reader = Reader::new(Bytes::copy_from_slice(bytes));
        assert_eq!(read(&mut reader), expected.map_err(Malformed));
    }

    #[test]
    fn lengths_are_checked_before_anything_is_taken() {
        check(&[0, 0, 0, 1, 7], Reader::bytes, Ok(Bytes::from_static(&[7])));
        check(&[0, 0, 0, 2, 7], Reader::bytes, Err("cut short"));
        check(&[0xff; 4], Reader::bytes, Err("cut short"));
        check(&[0xff; 64], |reader| reader.many(Reader::u64), Err("cut short"));
        check(&[0, 0, 0], Reader::u32, Err("cut short"));
        check(&[2, 0], |reader| reader.optional(Reader::byte), Err("neither there nor not there"));
    }

    #[test]
    fn a_part_lies_within_its_text_on_characters_edges() {
        let part = |from: u32, to: u32| [from.to_be_bytes(), to.to_be_bytes()].concat();
        let of = |text: &'static str| move |reader: &mut Reader| reader.range(text.as_bytes());
        check(&part(0, 0), of(""), Ok(0..0));
        check(&part(1, 3), of("aéb"), Ok(1..3));
        check(&part(1, 2), of("aéb"), Err("a text that is not UTF-8"));
        check(&part(2, 4), of("aéb"), Err("a text that is not UTF-8"));
        check(&part(2, 1), of("abc"), Err("a part outside of its whole"));
        check(&part(0, 4), of("abc"), Err("a part outside of its whole"));
    }

    #[test]
    fn nothing_may_be_left_over() {
        assert!(Reader::new(Bytes::from_static(&[1])).end().is_err());
        assert!(Reader::new(Bytes::new()).end().is_ok());
    }
}
