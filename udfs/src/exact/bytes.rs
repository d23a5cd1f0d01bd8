//! The canonical, versioned bytes of exact sums, for checkpoints and partial aggregates. Reading refuses whatever writing would not have written, and never panics.
//!
//! Version 1, little endian. A sum: kind and version (1 byte), signs and presence (1 byte), the counts of NaN, +inf and -inf (8 bytes each, only if any is not
//! zero), the number. Moments: kind and version, signs and presence, the number of values (8 bytes), the counts, the sum, the sum of squares. A number: the length
//! of its magnitude in bytes (2 bytes), and if that is not zero, the exponent of its last bit (2 bytes, signed) and the magnitude: odd, and its last byte not zero.

use std::fmt;

use super::EXPONENT_MIN;
use super::moments::SQUARES_WORDS;
use super::specials::Specials;
use super::sum::SUM_WORDS;
use super::wide::{Wide, bit_length, trailing_zeros};

/// Kind and version of a sum's bytes.
const SUM_V1: u8 = 0x11;

/// Kind and version of the bytes of moments.
const MOMENTS_V1: u8 = 0x21;

const SUM_IS_NEGATIVE: u8 = 1;
const SQUARES_ARE_NEGATIVE: u8 = 2;
const HAS_SPECIALS: u8 = 4;

/// Bytes that are no exact sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadBytes {
    /// They end before the sum does.
    TooShort,
    /// They go on after it.
    TooLong,
    /// They are of another kind, or of a version that this program does not know.
    UnknownVersion(u8),
    /// They are not what writing would have made of any sum.
    NotCanonical,
}

impl fmt::Display for BadBytes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort => formatter.write_str("the bytes of an exact sum end too early"),
            Self::TooLong => formatter.write_str("the bytes of an exact sum go on after its end"),
            Self::UnknownVersion(found) => write!(
                formatter,
                "the bytes of an exact sum begin with {SUM_V1:#04x} (sum) or {MOMENTS_V1:#04x} (moments), found {found:#04x}"
            ),
            Self::NotCanonical => formatter.write_str("the bytes of an exact sum are damaged: no sum is written so"),
        }
    }
}

impl std::error::Error for BadBytes {}

/// A number to write: its sign, and its magnitude in units of two to the power of `unit`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number<'a> {
    pub(super) negative: bool,
    pub(super) magnitude: &'a [u64],
    pub(super) unit: i32,
}

pub(super) fn write_sum(bytes: &mut Vec<u8>, specials: Specials, sum: Number<'_>) {
    bytes.push(SUM_V1);
    bytes.push(flag(sum.negative, SUM_IS_NEGATIVE) | flag(!specials.is_empty(), HAS_SPECIALS));
    write_specials(bytes, specials);
    write_magnitude(bytes, sum);
}

pub(super) fn read_sum(bytes: &[u8]) -> Result<(Specials, Stored<'_>), BadBytes> {
    let mut reader = Reader(bytes);
    reader.version(SUM_V1)?;
    let flags = reader.flags(SUM_IS_NEGATIVE | HAS_SPECIALS)?;
    let specials = reader.specials(flags)?;
    let sum = reader.number::<SUM_WORDS>(flags & SUM_IS_NEGATIVE != 0, EXPONENT_MIN)?;
    reader.end()?;
    Ok((specials, sum))
}

/// What was read of moments.
#[derive(Debug)]
pub(super) struct StoredMoments<'a> {
    pub(super) count: u64,
    pub(super) specials: Specials,
    pub(super) sum: Stored<'a>,
    pub(super) squares: Stored<'a>,
}

pub(super) fn write_moments(bytes: &mut Vec<u8>, count: u64, specials: Specials, sum: Number<'_>, squares: Number<'_>) {
    bytes.push(MOMENTS_V1);
    bytes.push(
        flag(sum.negative, SUM_IS_NEGATIVE)
            | flag(squares.negative, SQUARES_ARE_NEGATIVE)
            | flag(!specials.is_empty(), HAS_SPECIALS),
    );
    bytes.extend(count.to_le_bytes());
    write_specials(bytes, specials);
    write_magnitude(bytes, sum);
    write_magnitude(bytes, squares);
}

pub(super) fn read_moments(bytes: &[u8]) -> Result<StoredMoments<'_>, BadBytes> {
    let mut reader = Reader(bytes);
    reader.version(MOMENTS_V1)?;
    let flags = reader.flags(SUM_IS_NEGATIVE | SQUARES_ARE_NEGATIVE | HAS_SPECIALS)?;
    let count = u64::from_le_bytes(reader.take()?);
    let specials = reader.specials(flags)?;
    let sum = reader.number::<SUM_WORDS>(flags & SUM_IS_NEGATIVE != 0, EXPONENT_MIN)?;
    let squares = reader.number::<SQUARES_WORDS>(flags & SQUARES_ARE_NEGATIVE != 0, 2 * EXPONENT_MIN)?;
    reader.end()?;
    Ok(StoredMoments { count, specials, sum, squares })
}

fn flag(is_set: bool, flag: u8) -> u8 {
    if is_set { flag } else { 0 }
}

fn write_specials(bytes: &mut Vec<u8>, specials: Specials) {
    if !specials.is_empty() {
        for count in [specials.nan, specials.positive, specials.negative] {
            bytes.extend(count.to_le_bytes());
        }
    }
}

/// Writes the magnitude without the zero bits at its end and the zero bytes at its head.
fn write_magnitude(bytes: &mut Vec<u8>, Number { magnitude, unit, .. }: Number<'_>) {
    let bits = bit_length(magnitude);
    if bits == 0 {
        bytes.extend(0_u16.to_le_bytes());
        return;
    }
    let zeros = trailing_zeros(magnitude);
    let length = (bits - zeros).div_ceil(8) as usize;
    bytes.extend((length as u16).to_le_bytes());
    bytes.extend(((unit + zeros as i32) as i16).to_le_bytes());
    let (end, shift) = (bytes.len() + length, zeros % 64);
    let words = &magnitude[zeros as usize / 64..];
    for (at, word) in words.iter().enumerate() {
        let above = words.get(at + 1).copied().unwrap_or(0);
        let stripped = word >> shift | above.unbounded_shl(64 - shift);
        bytes.extend(stripped.to_le_bytes());
    }
    // Above the highest bit there are only zeros.
    bytes.truncate(end);
}

/// A number as it was read: canonical and in its range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored<'a> {
    negative: bool,
    /// Empty for zero.
    magnitude: &'a [u8],
    /// The exponent of the last bit of the magnitude.
    pub(super) exponent: i32,
}

impl Stored<'_> {
    /// Bits of the magnitude.
    pub(super) fn bits(&self) -> i32 {
        self.magnitude.last().map_or(0, |last| self.magnitude.len() as i32 * 8 - last.leading_zeros() as i32)
    }

    /// The number in units of two to the power of `unit`. The caller has checked that it fits, with a bit for the sign.
    pub(super) fn wide<const N: usize>(&self, unit: i32) -> Wide<N> {
        let mut number = Wide::ZERO;
        if !self.magnitude.is_empty() {
            let mut words = [0; N];
            for (at, byte) in self.magnitude.iter().enumerate() {
                words[at / 8] |= u64::from(*byte) << (at % 8 * 8);
            }
            number.accumulate(&Wide(words), (self.exponent - unit) as usize, self.negative);
        }
        number
    }
}

/// What is left to read.
#[derive(Debug)]
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn end(&self) -> Result<(), BadBytes> {
        if self.0.is_empty() { Ok(()) } else { Err(BadBytes::TooLong) }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadBytes> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(BadBytes::TooShort)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn version(&mut self, known: u8) -> Result<(), BadBytes> {
        let [found] = self.take()?;
        if found == known { Ok(()) } else { Err(BadBytes::UnknownVersion(found)) }
    }

    fn flags(&mut self, known: u8) -> Result<u8, BadBytes> {
        let [flags] = self.take()?;
        if flags & !known == 0 { Ok(flags) } else { Err(BadBytes::NotCanonical) }
    }

    fn specials(&mut self, flags: u8) -> Result<Specials, BadBytes> {
        if flags & HAS_SPECIALS == 0 {
            return Ok(Specials::default());
        }
        let mut count = || self.take().map(u64::from_le_bytes);
        let specials = Specials { nan: count()?, positive: count()?, negative: count()? };
        if specials.is_empty() { Err(BadBytes::NotCanonical) } else { Ok(specials) }
    }

    /// A number that is a multiple of two to the power of `unit`, and takes no more than `N` words in units of it.
    fn number<const N: usize>(&mut self, negative: bool, unit: i32) -> Result<Stored<'a>, BadBytes> {
        let length = usize::from(u16::from_le_bytes(self.take()?));
        if length == 0 {
            let zero = Stored { negative, magnitude: &[], exponent: unit };
            return if negative { Err(BadBytes::NotCanonical) } else { Ok(zero) };
        }
        let exponent = i32::from(i16::from_le_bytes(self.take()?));
        let (magnitude, rest) = self.0.split_at_checked(length).ok_or(BadBytes::TooShort)?;
        self.0 = rest;
        let number = Stored { negative, magnitude, exponent };
        let is_canonical = magnitude[0] & 1 == 1 && magnitude[length - 1] != 0;
        // The highest bit is the sign's.
        let is_in_range = exponent >= unit && number.bits() + exponent - unit < N as i32 * 64;
        if is_canonical && is_in_range { Ok(number) } else { Err(BadBytes::NotCanonical) }
    }
}
