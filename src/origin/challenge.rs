//! What a source asks for that wants to know who asks: the challenges of `WWW-Authenticate` headers.
//!
//! Source: RFC 9110, section 11.6.1. Read more leniently than it is written: many a server leaves out commas, and what has
//! to stand in quotation marks often does not.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// One way to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    pub scheme: String,
    /// Names are in lower case; values without quotation marks and what escapes them.
    pub params: Vec<(String, String)>,
}

impl Challenge {
    pub fn is_of_scheme(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// The value of the first parameter with this name, which is in lower case.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// All challenges of an answer, in its order.
pub fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let lines = headers.get_all(WWW_AUTHENTICATE).iter().map(|line| String::from_utf8_lossy(line.as_bytes()));
    lines.fold(Vec::new(), |mut read, line| {
        let before = read.len();
        // Of a line that makes no sense, the challenge that it makes none in counts as little as what follows.
        if read_line(&line, &mut read).is_none() && read.len() > before {
            read.pop();
        }
        read
    })
}

/// Reads challenges, and parameters of the last one; `None` if the line has something else.
fn read_line(line: &str, read: &mut Vec<Challenge>) -> Option<()> {
    let mut rest = line;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Some(());
        }
        let (name, after) = split_token(rest)?;
        rest = match without_spaces(after).strip_prefix('=') {
            Some(value) => {
                let (value, after) = read_value(without_spaces(value))?;
                read.last_mut()?.params.push((name.to_ascii_lowercase(), value));
                after
            }
            None => {
                read.push(Challenge { scheme: name.to_owned(), params: Vec::new() });
                without_token68(after)
            }
        };
    }
}

fn without_spaces(text: &str) -> &str {
    text.trim_start_matches([' ', '\t'])
}

fn split_token(text: &str) -> Option<(&str, &str)> {
    let is_of_token = |char: char| char.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(char);
    let rest = text.trim_start_matches(is_of_token);
    text.split_at_checked(text.len() - rest.len()).filter(|(token, _)| !token.is_empty())
}

/// A scheme may have one value without a name instead of parameters. Nothing that is understood here does.
fn without_token68(text: &str) -> &str {
    let value = without_spaces(text);
    let is_of_value = |char: char| char.is_ascii_alphanumeric() || "-._~+/".contains(char);
    let rest = without_spaces(value.trim_start_matches(is_of_value).trim_start_matches('='));
    let has_space = value.len() < text.len();
    if has_space && (rest.is_empty() || rest.starts_with(',')) { rest } else { text }
}

fn read_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',', '"']).unwrap_or(text.len());
        let (value, rest) = text.split_at_checked(end)?;
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(chars.next()?),
            char => value.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn read(lines: &[&[u8]]) -> Vec<Challenge> {
        let value = |line: &&[u8]| (WWW_AUTHENTICATE, HeaderValue::from_bytes(line).expect("a header"));
        challenges(&lines.iter().map(value).collect())
    }

    /// As `Scheme name=<value> name=<value>; Scheme`.
    fn shown(line: &str) -> String {
        let param = |(name, value): &(String, String)| format!(" {name}=<{value}>");
        let challenge =
            |Challenge { scheme, params }: &Challenge| params.iter().map(param).fold(scheme.clone(), |all, one| all + &one);
        read(&[line.as_bytes()]).iter().map(challenge).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn challenges_are_told_apart_from_their_parameters() {
        for (line, expected) in [
            ("", ""),
            (" , ,", ""),
            ("Negotiate", "Negotiate"),
            ("Negotiate, NTLM", "Negotiate; NTLM"),
            (
                r#"Basic realm="x", Bearer realm="https://h/t",service="s""#,
                "Basic realm=<x>; Bearer realm=<https://h/t> service=<s>",
            ),
            (r#"Bearer realm="x" , Basic realm=y"#, "Bearer realm=<x>; Basic realm=<y>"),
            ("Bearer REALM\t= \t\"x\"\t,Scope =y", "Bearer realm=<x> scope=<y>"),
            ("Bearer   realm=x", "Bearer realm=<x>"),
            (r#"Basic realm="a, Bearer realm=\"b\"""#, r#"Basic realm=<a, Bearer realm="b">"#),
            (r#"Basic realm="a\\", Bearer realm="\b""#, r"Basic realm=<a\>; Bearer realm=<b>"),
            ("Negotiate oRQ/w+Kg_~.==, Bearer realm=x", "Negotiate; Bearer realm=<x>"),
            ("Bearer realm=x, Negotiate abc", "Bearer realm=<x>; Negotiate"),
            (r#"Bearer realm="x" service="y""#, "Bearer realm=<x> service=<y>"),
            ("Bearer realm=http://h/t?a=1,scope=b:c", "Bearer realm=<http://h/t?a=1> scope=<b:c>"),
            (r#"Bearer realm="""#, "Bearer realm=<>"),
            (r#"Basic realm="x", Bearer realm="y"#, "Basic realm=<x>"),
            (r#"Basic realm="x", Bearer realm="y\"#, "Basic realm=<x>"),
            (r#"Basic realm="x", Bearer "y", Digest realm=z"#, "Basic realm=<x>"),
            ("realm=x", ""),
            ("=x", ""),
        ] {
            assert_eq!(shown(line), expected, "{line}");
        }
    }

    #[test]
    fn several_lines_are_one_list_and_one_that_makes_no_sense_spoils_no_other() {
        let schemes = |lines: &[&[u8]]| read(lines).iter().map(|challenge| challenge.scheme.clone()).collect::<Vec<_>>();
        assert_eq!(schemes(&[b"Basic realm=x", b"Bearer realm=y, Digest realm=z"]), ["Basic", "Bearer", "Digest"]);
        assert_eq!(schemes(&[b"Basic realm=x", b"\"", b"Basic realm=\"", b"Bearer realm=y"]), ["Basic", "Bearer"]);
        let split = read(&[b"Bearer realm=x", b"service=y"]);
        assert_eq!((split.len(), split[0].param("service")), (1, Some("y")));
        assert_eq!(read(&[b"Basic realm=\"Gr\xfc\xdfe\", Bearer realm=y"])[1].param("realm"), Some("y"));
    }

    fn written() -> impl Strategy<Value = (Challenge, String)> {
        let value = proptest::collection::vec((any::<bool>(), "[ -~\t]"), 0..12);
        let params = proptest::collection::vec(("[a-z0-9_*-]{1,8}", "[ \t]{0,2}", "[ \t]{0,2}", value), 1..4);
        ("[A-Za-z][A-Za-z0-9-]{0,8}", params).prop_map(|(scheme, params)| {
            let (mut read, mut text) = (Vec::new(), Vec::new());
            for (name, before, after, value) in params {
                let escaped = |(wanted, char): &(bool, String)| {
                    let is_escaped = *wanted || char == "\"" || char == "\\";
                    format!("{}{char}", if is_escaped { "\\" } else { "" })
                };
                let quoted: String = value.iter().map(escaped).collect();
                text.push(format!("{name}{before}={after}\"{quoted}\""));
                read.push((name, value.into_iter().map(|(_, char)| char).collect()));
            }
            let text = format!("{scheme} {}", text.join(" ,\t"));
            (Challenge { scheme, params: read }, text)
        })
    }

    proptest! {
        #[test]
        fn what_is_written_by_the_letter_is_read(all in proptest::collection::vec(written(), 1..4)) {
            let (expected, texts): (Vec<_>, Vec<_>) = all.into_iter().unzip();
            prop_assert_eq!(&read(&[texts.join(", ").as_bytes()]), &expected);
            let lines: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
            prop_assert_eq!(read(&lines), expected);
        }

        #[test]
        fn no_more_is_read_than_there_is(
            lines in [r#"B b="([a, é]|\\[ -~]){0,8}""#, r#"([BN] ?|b *=? *|"|[",\\ =\t]|[ -~\u{80}-\u{ff}]){0,24}"#],
        ) {
            let read = read(&[lines[0].as_bytes(), lines[1].as_bytes()]);
            let params = read.iter().flat_map(|Challenge { params, .. }| params).map(|(name, value)| name.len() + value.len());
            let bytes = params.sum::<usize>() + read.iter().map(|challenge| challenge.scheme.len()).sum::<usize>();
            prop_assert!(bytes <= lines.concat().len(), "{read:?}");
        }
    }
}
