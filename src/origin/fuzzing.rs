//! Properties of the ranges of sources, for the fuzz targets.

use super::content_range::{ContentRange, Part, RequestedRange, parse_unsatisfied};

/// Three lines: a task's `Range`, a source's `Content-Range`, and which part of the content was asked for (`first-last`).
pub fn content_range(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.split('\n');
    let (asked, sent) = (RequestedRange::of_task(lines.next()), lines.next().unwrap_or_default());
    let part = lines.next().and_then(read_part).unwrap_or(Part::ALL);
    let header = asked.header(part);
    if let RequestedRange::Bounded { first, last } = asked {
        assert!(last.is_none_or(|last| first <= last));
        let inner = RequestedRange::of_task(header.as_deref());
        let begins_at_the_part = matches!(inner, RequestedRange::Bounded { first: inner, .. } if inner >= first);
        let lies_outside = last.is_some_and(|last| first.saturating_add(part.first) > last);
        assert!(begins_at_the_part || lies_outside, "{asked:?} asked for {part:?} as {header:?}");
    }
    if let Some(total) = parse_unsatisfied(sent) {
        assert_eq!(parse_unsatisfied(&format!("bytes */{total}")), Some(total));
        assert_eq!(ContentRange::parse(sent), None, "{sent:?} is both");
    }
    let Some(sent) = ContentRange::parse(sent) else { return };
    assert!(sent.first <= sent.last && sent.total.is_none_or(|total| sent.last < total));
    let total = sent.total.map_or_else(|| "*".to_owned(), |total| total.to_string());
    assert_eq!(ContentRange::parse(&format!("bytes {}-{}/{total}", sent.first, sent.last)), Some(sent));
    let Some((length, start)) = asked.place(&sent, part) else { return };
    assert!(length.is_none_or(|length| start < length), "{sent:?} begins after its end");
    if let RequestedRange::Bounded { first, .. } = asked {
        assert_eq!(start, sent.first - first);
    }
}

fn read_part(line: &str) -> Option<Part> {
    let (first, last) = line.split_once('-')?;
    let first = first.parse().ok()?;
    Some(Part { first, last: last.parse().ok().filter(|last| *last >= first) })
}
