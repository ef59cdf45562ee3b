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

    /// The `Range` header that asks for the task's content from byte `from` on; `None` where none is needed.
    pub fn from(&self, from: u64) -> Option<String> {
        match self {
            Self::Whole if from == 0 => None,
            Self::Whole => Some(format!("bytes={from}-")),
            Self::Bounded { first, last } => {
                let last = last.map(|last| last.to_string()).unwrap_or_default();
                Some(format!("bytes={}-{last}", first.saturating_add(from)))
            }
            Self::Opaque(header) => Some(header.clone()),
        }
    }

    /// What a 206 means for the task: the length of its content, and at which byte of it the body starts.
    pub fn place(&self, sent: &ContentRange) -> Option<(Option<u64>, u64)> {
        match self {
            Self::Whole => {
                let ends_at_end = sent.total.is_none_or(|total| sent.last + 1 == total);
                ends_at_end.then_some((sent.total, sent.first))
            }
            Self::Bounded { first, last } => {
                let start = sent.first.checked_sub(*first)?;
                let expected_last = match (last, sent.total) {
                    (Some(last), Some(total)) => (*last).min(total.checked_sub(1)?),
                    (Some(last), None) => *last,
                    (None, Some(total)) => total.checked_sub(1)?,
                    (None, None) => sent.last,
                };
                (sent.last == expected_last).then_some((Some(sent.last - first + 1), start))
            }
            Self::Opaque(_) => Some((Some(sent.last - sent.first + 1), 0)),
        }
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
        (first <= last && total.is_none_or(|total| last < total)).then_some(Self { first, last, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_that_contradicts_itself_is_none() {
        assert_eq!(ContentRange::parse("bytes 5-9/10"), Some(ContentRange { first: 5, last: 9, total: Some(10) }));
        assert_eq!(ContentRange::parse("bytes 5-9/*"), Some(ContentRange { first: 5, last: 9, total: None }));
        for wrong in ["", "5-9/10", "bytes 9-5/10", "bytes 5-10/10", "bytes */10", "bytes a-b/c", "bytes 5-9"] {
            assert_eq!(ContentRange::parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_part_of_a_part_is_asked_for_and_placed() {
        let part = RequestedRange::of_task(Some("bytes=100-199"));
        assert_eq!(part.from(0).as_deref(), Some("bytes=100-199"));
        assert_eq!(part.from(40).as_deref(), Some("bytes=140-199"));
        assert_eq!(part.place(&ContentRange { first: 140, last: 199, total: Some(500) }), Some((Some(100), 40)));
        assert_eq!(part.place(&ContentRange { first: 140, last: 159, total: Some(160) }), Some((Some(60), 40)), "a short file");
        assert_eq!(part.place(&ContentRange { first: 140, last: 150, total: Some(500) }), None, "less than was asked for");
        assert_eq!(part.place(&ContentRange { first: 40, last: 199, total: Some(500) }), None, "before what was asked for");
    }

    #[test]
    fn the_rest_of_a_whole_file_must_reach_its_end() {
        let whole = RequestedRange::of_task(None);
        assert_eq!(whole.from(0), None);
        assert_eq!(whole.from(7).as_deref(), Some("bytes=7-"));
        assert_eq!(whole.place(&ContentRange { first: 7, last: 9, total: Some(10) }), Some((Some(10), 7)));
        assert_eq!(whole.place(&ContentRange { first: 7, last: 8, total: Some(10) }), None);
    }

    #[test]
    fn a_range_with_several_parts_is_passed_on_as_it_is() {
        let opaque = RequestedRange::of_task(Some("bytes=-5"));
        assert_eq!(opaque, RequestedRange::Opaque("bytes=-5".into()));
        assert_eq!(opaque.from(9).as_deref(), Some("bytes=-5"));
    }
}
