//! Ranges asked of a source, and what it says that it sends.
//!
//! A task may itself be a part of a file (its headers carry a `Range`). The content of such a task is that part, and
//! what is resumed is a part of the part.

/// The range that a task is of its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestedRange {
    Whole,
    /// From a byte on, up to and including another if it says so.
    Bounded {
        first: u64,
        last: Option<u64>,
    },
    /// A form whose place in the file only the source knows (the last n bytes, several ranges): never resumed.
    Opaque(String),
}

impl RequestedRange {
    /// Reads the value of a task's `Range` header.
    pub fn of_task(header: Option<&str>) -> Self {
        let Some(header) = header else { return Self::Whole };
        let bounds = header.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-'));
        let bounded = bounds.and_then(|(first, last)| {
            let first = first.trim().parse().ok()?;
            let last = match last.trim() {
                "" => None,
                last => Some(last.parse().ok().filter(|last| *last >= first)?),
            };
            Some(Self::Bounded { first, last })
        });
        bounded.unwrap_or_else(|| Self::Opaque(header.to_owned()))
    }

    /// Whether the task is a part of its file.
    pub const fn is_part(&self) -> bool {
        !matches!(self, Self::Whole)
    }

    /// Whether it is known where in the file the content lies, so that a part of it can be asked for.
    pub const fn has_place(&self) -> bool {
        !matches!(self, Self::Opaque(_))
    }

    /// The `Range` header that asks for this part of the task's content; `None` where none is needed.
    pub fn header(&self, part: Part) -> Option<String> {
        let (offset, own_last) = match self {
            Self::Whole if part == Part::ALL => return None,
            Self::Whole => (0, None),
            Self::Bounded { first, last } => (*first, *last),
            Self::Opaque(header) => return Some(header.clone()),
        };
        let first = offset.saturating_add(part.first);
        let last = part.last.map(|last| offset.saturating_add(last)).or(own_last);
        Some(format!("bytes={first}-{}", last.map(|last| last.to_string()).unwrap_or_default()))
    }

    /// What a 206 means for the task when this part was asked for: the length of the task's whole content if that can be
    /// told, and at which byte of it the body starts. `None` where it is not what was asked for.
    pub fn place(&self, sent: &ContentRange, part: Part) -> Option<(Option<u64>, u64)> {
        let (offset, own_last) = match self {
            Self::Whole => (0, None),
            Self::Bounded { first, last } => (*first, *last),
            Self::Opaque(_) => return Some((Some(sent.last - sent.first + 1), 0)),
        };
        let start = sent.first.checked_sub(offset)?;
        // Where the content ends in the file, as far as both sides say.
        let file_last = sent.total.and_then(|total| total.checked_sub(1));
        let content_last = match (own_last, file_last) {
            (Some(own), Some(file)) => Some(own.min(file)),
            (own, file) => own.or(file),
        };
        let part_last = part.last.map(|last| offset.saturating_add(last));
        let expected_last = match (part_last, content_last) {
            (Some(part), Some(content)) => part.min(content),
            (part, content) => part.or(content).unwrap_or(sent.last),
        };
        (sent.last == expected_last).then_some((content_last.map(|last| (last - offset).saturating_add(1)), start))
    }
}

/// A part of a task's content: from a byte on, up to and including another or to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub first: u64,
    pub last: Option<u64>,
}

impl Part {
    pub const ALL: Self = Self { first: 0, last: None };

    pub const fn from(first: u64) -> Self {
        Self { first, last: None }
    }
}

/// A `Content-Range: bytes first-last/total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    pub first: u64,
    pub last: u64,
    /// `None` where the source does not say (`*`).
    pub total: Option<u64>,
}

impl ContentRange {
    pub fn parse(value: &str) -> Option<Self> {
        let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        let total = match total.trim() {
            "*" => None,
            total => Some(total.parse().ok()?),
        };
        // A file's length is a number as well: none has a last byte that leaves no room for it.
        (first <= last && last < total.unwrap_or(u64::MAX)).then_some(Self { first, last, total })
    }
}

/// The length that a 416 tells: `Content-Range: bytes */total`.
pub fn parse_unsatisfied(value: &str) -> Option<u64> {
    value.trim().strip_prefix("bytes */")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_that_contradicts_itself_is_none() {
        assert_eq!(ContentRange::parse("bytes 5-9/10"), Some(ContentRange { first: 5, last: 9, total: Some(10) }));
        assert_eq!(ContentRange::parse("bytes 5-9/*"), Some(ContentRange { first: 5, last: 9, total: None }));
        for wrong in [
            "",
            "5-9/10",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes */10",
            "bytes a-b/c",
            "bytes 5-9",
            "bytes 0-18446744073709551615/*",
        ] {
            assert_eq!(ContentRange::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_part_of_a_part_is_asked_for_and_placed() {
        let part = RequestedRange::of_task(Some("bytes=100-199"));
        let (all, rest, middle) = (Part::ALL, Part::from(40), Part { first: 40, last: Some(49) });
        assert_eq!(part.header(all).as_deref(), Some("bytes=100-199"));
        assert_eq!(part.header(rest).as_deref(), Some("bytes=140-199"));
        assert_eq!(part.header(middle).as_deref(), Some("bytes=140-149"));
        let sent = |first, last, total| ContentRange { first, last, total: Some(total) };
        assert_eq!(part.place(&sent(140, 199, 500), rest), Some((Some(100), 40)));
        assert_eq!(part.place(&sent(140, 149, 500), middle), Some((Some(100), 40)));
        assert_eq!(part.place(&sent(140, 159, 160), rest), Some((Some(60), 40)), "a short file");
        assert_eq!(part.place(&sent(140, 150, 500), rest), None, "less than was asked for");
        assert_eq!(part.place(&sent(40, 199, 500), rest), None, "before what was asked for");
    }

    #[test]
    fn the_rest_of_a_whole_file_must_reach_its_end() {
        let whole = RequestedRange::of_task(None);
        assert_eq!(whole.header(Part::ALL), None);
        assert_eq!(whole.header(Part::from(7)).as_deref(), Some("bytes=7-"));
        assert_eq!(whole.place(&ContentRange { first: 7, last: 9, total: Some(10) }, Part::from(7)), Some((Some(10), 7)));
        assert_eq!(whole.place(&ContentRange { first: 7, last: 8, total: Some(10) }, Part::from(7)), None);
        let middle = Part { first: 7, last: Some(8) };
        assert_eq!(whole.place(&ContentRange { first: 7, last: 8, total: Some(10) }, middle), Some((Some(10), 7)));
    }

    #[test]
    fn a_range_with_several_parts_is_passed_on_as_it_is() {
        let opaque = RequestedRange::of_task(Some("bytes=-5"));
        assert_eq!(opaque, RequestedRange::Opaque("bytes=-5".into()));
        assert_eq!(opaque.header(Part::from(9)).as_deref(), Some("bytes=-5"));
    }

    #[test]
    fn a_range_up_to_the_largest_number_is_as_long_as_the_file() {
        let all = RequestedRange::of_task(Some("bytes=0-18446744073709551615"));
        let sent = ContentRange { first: 0, last: 9, total: Some(10) };
        assert_eq!(all.place(&sent, Part::ALL), Some((Some(10), 0)));
        let untold = ContentRange { total: None, ..sent };
        assert_eq!(all.place(&untold, Part { first: 0, last: Some(9) }), Some((Some(u64::MAX), 0)));
    }
}
