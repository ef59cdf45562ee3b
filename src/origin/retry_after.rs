//! `Retry-After`: when a source in trouble that may pass wants to be asked again (RFC 9110, 10.2.3).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};

/// Nothing is planned for longer than that.
const LONGEST: Duration = Duration::from_hours(24);

/// How long to leave a source alone that answered like this, if it says.
pub fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if !super::is_passing(status) {
        return None;
    }
    parse(headers.get(header::RETRY_AFTER)?.to_str().ok()?, SystemTime::now())
}

fn parse(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than fit are longer than the longest.
        return Some(text.parse().map_or(LONGEST, Duration::from_secs).min(LONGEST));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    // One that has passed says: now.
    Some(at.duration_since(now).unwrap_or_default().min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_understood_and_bounded() {
        let now = httpdate::parse_http_date("Tue, 24 Nov 2026 16:00:00 GMT").expect("a date");
        let seconds = |text| parse(text, now).map(|wait| wait.as_secs());
        for (text, wait) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("99999999999999999999999", Some(86_400)),
            ("Tue, 24 Nov 2026 16:02:00 GMT", Some(120)),
            ("Tuesday, 24-Nov-26 16:02:00 GMT", Some(120)),
            ("Mon, 23 Nov 2026 16:02:00 GMT", Some(0)),
            ("Tue, 24 Nov 2099 16:02:00 GMT", Some(86_400)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
            ("Tue, 99 Nov 2026 16:02:00 GMT", None),
        ] {
            assert_eq!(seconds(text), wait, "{text:?}");
        }
    }

    #[test]
    fn only_a_source_whose_trouble_may_pass_is_left_alone() {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, http::HeaderValue::from_static("7"))]);
        for (status, wait) in [(429, Some(7)), (500, Some(7)), (503, Some(7)), (200, None), (403, None), (404, None)] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(retry_after(status, &headers).map(|wait| wait.as_secs()), wait, "{status}");
        }
        assert_eq!(retry_after(StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new()), None);
    }
}
