//! Durations and sizes as the Go supernode writes them.
//!
//! What is printed reads back as the same value.

use std::time::Duration;

const K: u64 = 1024;
/// Go's durations are signed 64-bit counts of nanoseconds.
const DURATION_MAX_NS: u64 = i64::MAX as u64;
/// The longest first: one of a text's units is the first that it begins with.
const SIZE_UNITS: [(&str, u64); 10] = [
    ("GB", K * K * K),
    ("MB", K * K),
    ("KB", K),
    ("G", K * K * K),
    ("g", K * K * K),
    ("M", K * K),
    ("m", K * K),
    ("K", K),
    ("k", K),
    ("B", 1),
];
const DURATION_UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

/// A size, or a rate a second: `200M`, `200MB`, `1G`, or plain bytes. 1 M = 1024².
pub fn parse_size_bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    if unit.is_empty() {
        return Some(number);
    }
    let (_, bytes) = SIZE_UNITS.into_iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(bytes)
}

/// In the largest unit of which it is a whole number.
pub fn format_size(bytes: u64) -> String {
    let units = [("GB", K * K * K), ("MB", K * K), ("KB", K)];
    match units.into_iter().find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// A duration: `3m0s`, `1h30m`, `1.5s`, `250ms`, or `0`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut sum_ns) = (text, 0_u64);
    while !rest.is_empty() {
        let number = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, after) = rest.split_at(number);
        let unit = after.find(|next: char| next.is_ascii_digit() || next == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let (_, unit_ns) = DURATION_UNITS.into_iter().find(|(name, _)| *name == unit)?;
        sum_ns = sum_ns.checked_add(parse_decimal(number, unit_ns)?)?;
        rest = after;
    }
    (!text.is_empty() && sum_ns <= DURATION_MAX_NS).then(|| Duration::from_nanos(sum_ns))
}

/// A decimal number of units in nanoseconds; what is less than one nanosecond is left out.
fn parse_decimal(text: &str, unit_ns: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let (mut part_ns, mut digit_ns) = (0, u128::from(unit_ns));
    // A tenth of a nanosecond and less is kept until the sum: 0.5 of 3 ns is 1 ns.
    let mut scale = 1_u128;
    for digit in fraction.bytes().take(18) {
        scale *= 10;
        digit_ns = u128::from(unit_ns);
        part_ns = part_ns * 10 + u128::from(digit - b'0');
    }
    let part_ns = u64::try_from(part_ns * digit_ns / scale).ok()?;
    whole.checked_mul(unit_ns)?.checked_add(part_ns)
}
