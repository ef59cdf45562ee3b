//! A task: what is fetched, and how far its source has got.

use std::fmt;

use super::{Generation, Md5Digest, PieceSize, TaskId};

/// What a task fetches. Its identity is settled by its first registration; how its source is asked (headers, signature,
/// certificates) may be another's.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TaskSpec {
    pub id: TaskId,
    /// What is asked of the source.
    pub raw_url: String,
    /// `raw_url` without what clients filter out; the task's identity.
    pub task_url: String,
    /// What the content must hash to, 32 lowercase hexadecimal digits, if the client knows.
    pub md5: Option<String>,
    pub identifier: Option<String>,
    /// Extra request headers for the source. Secrets travel in them: never log, dump or export their values.
    pub headers: Vec<(String, String)>,
    /// Do not verify the source's certificate.
    pub insecure: bool,
    /// PEM certificates to trust for this task beside the system's.
    pub root_cas: Vec<Vec<u8>>,
    /// There were more headers once. A snapshot leaves them out, and so does a task that has no more need to ask its
    /// source; a registration that has some brings them again. Until then the source is not asked, because what it says
    /// without them may be another file.
    pub headers_left_out: bool,
}

impl TaskSpec {
    /// The value of the `Range` request header, where the task is part of a file.
    pub fn range(&self) -> Option<&str> {
        range_header(&self.headers)
    }

    /// Whether there is any header that is not part of what the task is.
    pub fn brings_headers(&self) -> bool {
        self.headers.iter().any(|(name, _)| !is_range(name))
    }

    /// The same without headers: any may carry a credential. `Range` stays, it is part of what the task is.
    pub fn without_headers(&self) -> Self {
        let mut spec = self.clone();
        spec.headers_left_out |= spec.brings_headers();
        spec.headers.retain(|(name, _)| is_range(name));
        spec
    }

    /// This task with the headers that another registration brings, and nothing else of it: asked where it is known to be
    /// asked, and of no source that either of them would not trust.
    pub fn with_headers_of(&self, other: &Self) -> Self {
        let root_cas = if other.insecure {
            // Whoever trusts anybody trusts whom we do.
            self.root_cas.clone()
        } else if self.insecure {
            other.root_cas.clone()
        } else {
            self.root_cas.iter().filter(|certificate| other.root_cas.contains(certificate)).cloned().collect()
        };
        Self {
            headers: other.headers.clone(),
            headers_left_out: other.headers_left_out,
            insecure: self.insecure && other.insecure,
            root_cas,
            ..self.clone()
        }
    }

    /// As [`Self::with_headers_of`], and with another signature in the URL: with other values of the parameters that the
    /// task's identity leaves out, and that are there already.
    pub fn with_credentials_of(&self, other: &Self) -> Self {
        let kept = query_names(&self.task_url);
        let signature: Vec<String> =
            query_names(&self.raw_url).into_iter().filter(|name| !kept.contains(name)).map(str::to_owned).collect();
        let unsigned = |raw_url: &str| without_filtered(raw_url, &signature);
        let signed_otherwise = unsigned(&self.raw_url) == unsigned(&other.raw_url);
        let raw_url = if signed_otherwise { &other.raw_url } else { &self.raw_url };
        Self { raw_url: raw_url.clone(), ..self.with_headers_of(other) }
    }
}

/// The value of the `Range` header among these, if any.
pub fn range_header(headers: &[(String, String)]) -> Option<&str> {
    headers.iter().find(|(name, _)| is_range(name)).map(|(_, value)| value.as_str())
}

fn is_range(name: &str) -> bool {
    name.eq_ignore_ascii_case("range")
}

/// Leaves out header values, and what a URL may carry of credentials.
impl fmt::Debug for TaskSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskSpec")
            .field("id", &self.id)
            .field("url", &redacted_url(&self.task_url))
            .field("header_names", &self.headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
impl TaskSpec {
    /// The file at this URL, without anything special.
    pub fn of_url(url: &str) -> Self {
        Self {
            id: TaskId::derive(url, "", ""),
            raw_url: url.to_owned(),
            task_url: url.to_owned(),
            md5: None,
            identifier: None,
            headers: Vec::new(),
            insecure: false,
            root_cas: Vec::new(),
            headers_left_out: false,
        }
    }
}

/// A URL fit for logs, dumps and answers: user and password are gone, query values are dots.
///
/// Signed URLs carry their credential in the query under names that every vendor chooses anew, so all values go.
pub fn redacted_url(url: &str) -> String {
    let (rest, _fragment) = url.split_once('#').unwrap_or((url, ""));
    // What only a fragment made part of the URL is no part of it without.
    let rest = rest.trim_end();
    let (base, query) = rest.split_once('?').map_or((rest, None), |(base, query)| (base, Some(query)));
    let mut shown = match base.split_once("://") {
        Some((scheme, after)) => {
            // Sources are asked at a URL in which a backslash is as good as a slash.
            let authority_len = after.find(['/', '\\']).unwrap_or(after.len());
            let (authority, path) = after.split_at(authority_len);
            let host = authority.rsplit_once('@').map_or(authority, |(_secret, host)| host);
            format!("{scheme}://{host}{path}")
        }
        // No URL: whatever stands before an @ may be a password.
        None => base.rsplit_once('@').map_or(base, |(_secret, rest)| rest).to_owned(),
    };
    if let Some(query) = query {
        let names: Vec<String> = query
            .split('&')
            .map(|pair| pair.split_once('=').map_or_else(|| "…".to_owned(), |(name, _)| format!("{name}=…")))
            .collect();
        shown.push('?');
        shown.push_str(&names.join("&"));
    }
    shown
}

/// The names of the parameters in the query of a URL, as they are spelt.
fn query_names(url: &str) -> Vec<&str> {
    let (base, _fragment) = url.split_once('#').unwrap_or((url, ""));
    let query = base.split_once('?').map_or("", |(_, query)| query);
    query.split('&').map(|pair| pair.split('=').next().unwrap_or_default()).filter(|name| !name.is_empty()).collect()
}

/// The URL without the query parameters that are filtered out, spelt as it was otherwise: what tells one task from another.
pub fn without_filtered(raw_url: &str, filters: &[String]) -> String {
    let names: Vec<&str> = filters.iter().flat_map(|filter| filter.split('&')).filter(|name| !name.is_empty()).collect();
    // A question mark in the fragment begins no query.
    let query_at = raw_url.find(['?', '#']).filter(|at| raw_url[*at..].starts_with('?') && !names.is_empty());
    let Some((base, rest)) = query_at.map(|at| (&raw_url[..at], &raw_url[at + 1..])) else { return raw_url.to_owned() };
    let (query, fragment) = rest.split_once('#').map_or((rest, None), |(query, fragment)| (query, Some(fragment)));
    let kept: Vec<&str> = query.split('&').filter(|pair| !names.contains(&pair.split('=').next().unwrap_or_default())).collect();
    let mut task_url = base.to_owned();
    if !kept.is_empty() {
        task_url.push('?');
        task_url.push_str(&kept.join("&"));
    }
    if let Some(fragment) = fragment {
        task_url.push('#');
        task_url.push_str(fragment);
    }
    task_url
}

/// What the source said to recognise its content by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Validators {
    pub etag: Option<String>,
    pub last_modified: Option<Modified>,
}

/// When a content was modified, as its source spells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Modified {
    pub date: String,
    /// Whether no other content has this date: it was over when the source was asked. Two contents of the second in which it
    /// was asked have the same (RFC 9110, 8.8.2.2).
    pub is_strong: bool,
}

impl Validators {
    /// When the content was modified.
    pub fn date(&self) -> Option<&str> {
        self.last_modified.as_ref().map(|modified| modified.date.as_str())
    }

    /// What an `If-Range` may carry (RFC 9110, 13.1.5): a strong ETag or, where there is no ETag at all, a strong date.
    pub fn if_range(&self) -> Option<&str> {
        match (&self.etag, &self.last_modified) {
            (Some(etag), _) => Some(etag.as_str()).filter(|etag| !etag.starts_with("W/")),
            (None, modified) => modified.as_ref().filter(|modified| modified.is_strong).map(|modified| modified.date.as_str()),
        }
    }

    /// Whether the source now says something that contradicts what it said before.
    pub fn contradict(&self, now: &Self) -> bool {
        let differ =
            |before: Option<&str>, now: Option<&str>| matches!((before, now), (Some(before), Some(now)) if before != now);
        differ(self.etag.as_deref(), now.etag.as_deref()) || differ(self.date(), now.date())
    }
}

/// Whose fault a failure is: clients are told with different codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The source broke off for good, or changed under a running download.
    Source,
    /// Our disk or policy, or content that does not match the md5 that a client expects.
    Supernode,
}

/// Why a task failed, in a sentence for clients and operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub fault: Fault,
    /// What was fetched is of a content that is over or wrong: a later attempt starts anew.
    pub discard: bool,
    pub reason: String,
}

/// Whom clients fetch from what no peer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CdnPattern {
    /// The supernode, which keeps the bytes.
    Local,
    /// The source itself: the supernode only says who fetches what from whom.
    Source,
}

/// How far fetching from the source has got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceState {
    /// Asked, and not answered yet.
    Waiting,
    Running,
    /// All of it can be had: the length of the source's bytes, and their MD5, which is not known where they stay there.
    Success {
        md5: Option<Md5Digest>,
        length: u64,
    },
    Failed(Failure),
}

/// The changing part of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    pub generation: Generation,
    /// Stays what it was when the generation began: clients unwrap what they fetch, or do not, as they were told then.
    pub pattern: CdnPattern,
    pub piece_size: PieceSize,
    /// Bytes of the source, once known.
    pub length: Option<u64>,
    pub validators: Validators,
    pub state: SourceState,
}

impl TaskStatus {
    /// Of a generation whose source has yet to be asked.
    pub fn waiting(generation: Generation, pattern: CdnPattern) -> Self {
        Self {
            generation,
            pattern,
            piece_size: PieceSize::DEFAULT,
            length: None,
            validators: Validators::default(),
            state: SourceState::Waiting,
        }
    }

    /// How many pieces the task has, once that is known.
    pub fn piece_count(&self) -> Option<u32> {
        let length = self.length?;
        match self.pattern {
            CdnPattern::Local => self.piece_size.piece_count(length),
            CdnPattern::Source => self.piece_size.bare_piece_count(length),
        }
    }

    /// The length of what clients fetch piece by piece, once that is known: with its wrapping, where it has one. Bytes.
    pub fn file_length(&self) -> Option<u64> {
        let length = self.length?;
        match self.pattern {
            CdnPattern::Local => Some(self.piece_size.cached_length(length, self.piece_count()?)),
            CdnPattern::Source => Some(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redacted_url_keeps_names_and_loses_secrets() {
        for (url, shown) in [
            ("http://h/p", "http://h/p"),
            ("http://user:pass@h:80/p?token=1&x#frag", "http://h:80/p?token=…&…"),
            ("https://h?sig=a=b", "https://h?sig=…"),
            ("http://a:b@c@h/", "http://h/"),
            (r"http://h\path@x?a=b", r"http://h\path@x?a=…"),
            ("http://h/p  #frag", "http://h/p"),
            ("no url", "no url"),
        ] {
            assert_eq!(redacted_url(url), shown);
        }
    }

    fn spec(raw_url: &str) -> TaskSpec {
        TaskSpec {
            id: TaskId::derive("http://h/f?part=1", "", ""),
            raw_url: raw_url.to_owned(),
            task_url: "http://h/f?part=1".to_owned(),
            md5: None,
            identifier: None,
            headers: Vec::new(),
            insecure: false,
            root_cas: Vec::new(),
            headers_left_out: true,
        }
    }

    #[test]
    fn another_signature_is_taken_and_another_url_is_not() {
        let known = spec("http://h/f?part=1&sig=1");
        for (raw_url, taken) in [
            ("http://h/f?part=1&sig=2", true),
            ("http://evil/f?part=1&sig=2", false),
            ("https://h/f?part=1&sig=2", false),
            ("http://h/g?part=1&sig=2", false),
            ("http://h/f?part=2&sig=2", false),
            ("http://h/f?part=1&sig=2&versionId=1", false),
            ("http://h/f?part=1&sig=2#fragment", false),
        ] {
            let asked = known.with_credentials_of(&spec(raw_url));
            assert_eq!(asked.raw_url, if taken { raw_url } else { &known.raw_url }, "{raw_url}");
            assert_eq!(known.with_headers_of(&spec(raw_url)).raw_url, known.raw_url, "{raw_url}");
        }
        // A parameter that the task is known by is no signature, wherever it stands.
        let unsigned = spec("http://h/f?part=1");
        assert_eq!(unsigned.with_credentials_of(&spec("http://h/f?part=1&part=2")).raw_url, unsigned.raw_url);
    }

    #[test]
    fn whoever_brings_headers_makes_no_source_trusted_that_was_not() {
        let (ours, theirs) = (vec![1], vec![2]);
        let known = TaskSpec { root_cas: vec![ours.clone()], ..spec("http://h/f") };
        let headers = vec![("a".to_owned(), "b".to_owned())];
        let lenient = TaskSpec { insecure: true, headers: headers.clone(), headers_left_out: false, ..spec("http://h/f") };
        let asked = known.with_headers_of(&lenient);
        assert_eq!((asked.insecure, &asked.root_cas), (false, &known.root_cas));
        assert_eq!((&asked.headers, asked.headers_left_out), (&headers, false));
        let strict = TaskSpec { root_cas: vec![theirs.clone(), ours.clone()], ..spec("http://h/f") };
        assert_eq!(known.with_headers_of(&strict).root_cas, [ours]);
        let asked = lenient.with_headers_of(&TaskSpec { root_cas: vec![theirs.clone()], ..spec("http://h/f") });
        assert_eq!((asked.insecure, asked.root_cas), (false, vec![theirs]));
    }

    #[test]
    fn what_two_contents_may_share_does_not_guard_a_range() {
        let modified = |is_strong| Some(Modified { date: "Mon, 23 Nov 2026 08:36:45 GMT".into(), is_strong });
        for (etag, last_modified, guard) in [
            (None, None, None),
            (Some("\"1\""), modified(false), Some("\"1\"")),
            (Some("W/\"1\""), None, None),
            (Some("W/\"1\""), modified(true), None),
            (None, modified(true), Some("Mon, 23 Nov 2026 08:36:45 GMT")),
            (None, modified(false), None),
        ] {
            let validators = Validators { etag: etag.map(str::to_owned), last_modified };
            assert_eq!(validators.if_range(), guard, "{validators:?}");
        }
    }
}
