//! Durations and sizes as the Go supernode writes them.
//!
//! What is printed reads back as the same value.

use std::time::Duration;

pub const K: u64 = 1024;
pub const M: u64 = K * K;
pub const G: u64 = K * M;
/// Go's durations are signed 64-bit counts of nanoseconds.
const DURATION_MAX_NS: u64 = i64::MAX as u64;
const FRACTION_DIGITS_MAX: usize = 18;
/// The longest first: one of a text's units is the first that it begins with.
const SIZE_UNITS: [(&str, u64); 10] =
    [("GB", G), ("MB", M), ("KB", K), ("G", G), ("g", G), ("M", M), ("m", M), ("K", K), ("k", K), ("B", 1)];
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
    let units = [("GB", G), ("MB", M), ("KB", K)];
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

/// As Go prints durations: `1h30m0s`, `3m0s`, `1.5s`, `250ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.subsec_nanos();
    if duration < Duration::from_secs(1) {
        let units = [("ms", 1_000_000), ("µs", 1_000), ("ns", 1)];
        let found = units.into_iter().find(|(_, unit)| nanos >= *unit);
        let show = |(name, unit): (&str, u32)| format!("{}{name}", decimal((nanos / unit).into(), nanos % unit, unit));
        return found.map_or_else(|| "0s".to_owned(), show);
    }
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let last = decimal(seconds % 60, nanos, 1_000_000_000);
    match (hours, minutes) {
        (0, 0) => format!("{last}s"),
        (0, _) => format!("{minutes}m{last}s"),
        _ => format!("{hours}h{minutes}m{last}s"),
    }
}

/// A decimal number of units in nanoseconds; what is less than one nanosecond is left out.
fn parse_decimal(text: &str, unit_ns: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    // More digits than these tell less than a nanosecond of an hour, and these and an hour fit 128 bits.
    let fraction = &fraction[..fraction.len().min(FRACTION_DIGITS_MAX)];
    let (mut part, mut scale) = (0_u128, 1_u128);
    for digit in fraction.bytes() {
        part = part * 10 + u128::from(digit - b'0');
        scale *= 10;
    }
    let part_ns = u64::try_from(part * u128::from(unit_ns) / scale).ok()?;
    whole.checked_mul(unit_ns)?.checked_add(part_ns)
}

/// A whole number and a part of a unit, without needless zeros.
fn decimal(whole: u64, part: u32, unit: u32) -> String {
    let digits = unit.ilog10() as usize;
    if part == 0 { whole.to_string() } else { format!("{whole}.{part:0digits$}").trim_end_matches('0').to_owned() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_and_written_as_go_does() {
        let cases = [
            ("3m0s", 180_000_000_000, "3m0s"),
            ("1h30m", 5_400_000_000_000, "1h30m0s"),
            ("90s", 90_000_000_000, "1m30s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            (".5s", 500_000_000, "500ms"),
            ("250ms", 250_000_000, "250ms"),
            ("1500us", 1_500_000, "1.5ms"),
            ("1µs", 1_000, "1µs"),
            ("7ns", 7, "7ns"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("2h", 7_200_000_000_000, "2h0m0s"),
        ];
        for (text, ns, written) in cases {
            assert_eq!(parse_duration(text), Some(Duration::from_nanos(ns)), "{text}");
            assert_eq!(format_duration(Duration::from_nanos(ns)), written, "{text}");
        }
        for wrong in ["", "3", "s", "3 m", "3d", "-1s", "1.2.3s", ".s", "3M", "10000000h", "1s2", "1e3s"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_are_read_and_written_as_go_does() {
        let cases = [
            ("200MB", 200 * M, "200MB"),
            ("20M", 20 * M, "20MB"),
            ("1g", G, "1GB"),
            ("1536K", 1536 * K, "1536KB"),
            ("100B", 100, "100B"),
            ("20971520", 20 * M, "20MB"),
            ("0", 0, "0B"),
        ];
        for (text, bytes, written) in cases {
            assert_eq!(parse_size_bytes(text), Some(bytes), "{text}");
            assert_eq!(format_size(bytes), written, "{text}");
        }
        for wrong in ["", "M", "20 M", "20MiB", "1.5G", "-1", "+1", "20T", "99999999999G", "20Mb"] {
            assert_eq!(parse_size_bytes(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_duration_reads_back_as_it_was(ns in prop_oneof![0..=DURATION_MAX_NS, 0..5_000_000_000_u64]) {
            let duration = Duration::from_nanos(ns);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }

        #[test]
        fn any_size_reads_back_as_it_was(number: u32, unit in prop::sample::select(vec![1, K, M, G])) {
            let bytes = u64::from(number) * unit;
            prop_assert_eq!(parse_size_bytes(&format_size(bytes)), Some(bytes));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "[0-9.a-zA-Zµ +-]{0,24}") {
            let _ = (parse_duration(&text), parse_size_bytes(&text));
        }
    }
}
