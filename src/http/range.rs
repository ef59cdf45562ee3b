//! Ranges: of pieces, as clients report them, and of bytes, as they ask for them.

use std::ops::RangeInclusive;

/// Reads `start-end`, as `range` and `pieceRange` carry it.
pub fn parse_piece_range(text: &str) -> Option<RangeInclusive<u64>> {
    let (start, end) = text.split_once('-')?;
    let (start, end) = (parse_digits(start)?, parse_digits(end)?);
    (start <= end).then_some(start..=end)
}

/// What a `Range` header asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// No range, or one in a unit that is not ours, which is as if there were none.
    Whole,
    /// Up to and including the last byte; `u64::MAX` for an open end.
    Bounded(u64, u64),
    /// The last bytes.
    Suffix(u64),
    /// Several ranges, or none that can be read.
    Unsatisfiable,
}

/// Reads a `Range` header.
pub fn parse_byte_range(header: Option<&str>) -> ByteRange {
    let Some((unit, ranges)) = header.and_then(|header| header.split_once('=')) else {
        return if header.is_none() { ByteRange::Whole } else { ByteRange::Unsatisfiable };
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return ByteRange::Whole;
    }
    let Some((first, last)) = ranges.trim().split_once('-') else { return ByteRange::Unsatisfiable };
    match (first, last) {
        ("", last) => parse_digits(last).filter(|count| *count > 0).map_or(ByteRange::Unsatisfiable, ByteRange::Suffix),
        (first, "") => parse_digits(first).map_or(ByteRange::Unsatisfiable, |first| ByteRange::Bounded(first, u64::MAX)),
        (first, last) => match (parse_digits(first), parse_digits(last)) {
            (Some(first), Some(last)) if first <= last => ByteRange::Bounded(first, last),
            _ => ByteRange::Unsatisfiable,
        },
    }
}

/// Digits only: `u64::from_str` would take a sign.
fn parse_digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_range_is_two_numbers_in_order() {
        assert_eq!(parse_piece_range("0-4194303"), Some(0..=4_194_303));
        for wrong in ["", "-", "5", "5-", "-5", "9-5", "a-b", "+1-5", "1-5-9", "0-18446744073709551616", " 0-1"] {
            assert_eq!(parse_piece_range(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_range_header_is_clipped_by_nobody_here() {
        assert_eq!(parse_byte_range(None), ByteRange::Whole);
        assert_eq!(parse_byte_range(Some("bytes=5-9")), ByteRange::Bounded(5, 9));
        assert_eq!(parse_byte_range(Some("bytes=5-")), ByteRange::Bounded(5, u64::MAX));
        assert_eq!(parse_byte_range(Some("bytes=-5")), ByteRange::Suffix(5));
        assert_eq!(parse_byte_range(Some("pieces=1")), ByteRange::Whole);
        for wrong in ["", "bytes", "bytes=", "bytes=-", "bytes=-0", "bytes=9-5", "bytes=1-2,4-5", "bytes=x-y", "bytes=+1-5"] {
            assert_eq!(parse_byte_range(Some(wrong)), ByteRange::Unsatisfiable, "{wrong:?}");
        }
    }
}
