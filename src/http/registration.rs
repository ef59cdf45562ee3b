//! A registration from its wire form to domain values.

use std::net::IpAddr;

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use super::params::{BadParam, Params};
use crate::cluster::Registration;
use crate::domain::task::{range_header, without_filtered};
use crate::domain::{ClientId, Peer, TaskId, TaskSpec};

/// Longest values that are taken. Bytes. URLs and headers have none of their own: the body's limit is theirs.
pub const HOST_NAME_MAX_BYTES: usize = 255;
pub const VERSION_MAX_BYTES: usize = 64;
/// Extra request headers of a task.
const HEADERS_MAX: usize = 256;
pub const CALL_SYSTEM_MAX_BYTES: usize = 255;
const PATH_MAX_BYTES: usize = 4096;

/// Why a registration is refused before anybody is asked.
#[derive(Debug)]
pub enum BadRegistration {
    /// The body is no form and no JSON at all.
    Body(StatusCode, &'static str),
    Param(BadParam),
    /// `rawUrl` is there and is no URL.
    Url(String),
}

impl From<BadParam> for BadRegistration {
    fn from(bad: BadParam) -> Self {
        Self::Param(bad)
    }
}

/// Reads the body of a registration: JSON whatever its content type says, else a form.
pub fn parse(content_type: Option<&str>, body: &Bytes) -> Result<Registration, BadRegistration> {
    let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim().to_ascii_lowercase();
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'{') {
        let Ok(Value::Object(object)) = serde_json::from_slice(body) else {
            return Err(BadRegistration::Body(StatusCode::BAD_REQUEST, "the body is not valid JSON"));
        };
        return registration(&Params::of_object(object));
    }
    if essence.ends_with("json") {
        return Err(BadRegistration::Body(StatusCode::BAD_REQUEST, "the body is not a JSON object"));
    }
    if !matches!(essence.as_str(), "" | "application/x-www-form-urlencoded") {
        return Err(BadRegistration::Body(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be a form or JSON"));
    }
    match std::str::from_utf8(body) {
        Ok(form) if form.contains('=') || form.is_empty() => registration(&Params::of_query(form)),
        _ => Err(BadRegistration::Body(StatusCode::BAD_REQUEST, "the body is neither a form nor JSON")),
    }
}

fn registration(params: &Params<'_>) -> Result<Registration, BadRegistration> {
    let id = client_id(params, "cid")?;
    let ip: IpAddr = params.required("ip")?.parse().map_err(|_| BadParam::new("ip", "must be an IP address"))?;
    let port = params.number("port", "a number from 0 to 65535")?;
    let path = params.required("path")?;
    if !path.starts_with('/') {
        return Err(BadParam::new("path", "must start with /").into());
    }
    let peer = Peer {
        id,
        ip,
        port,
        host_name: limited(params, "hostName", HOST_NAME_MAX_BYTES)?.to_owned(),
        version: limited(params, "version", VERSION_MAX_BYTES)?.to_owned(),
        call_system: limited(params, "callSystem", CALL_SYSTEM_MAX_BYTES)?.to_owned(),
        dfdaemon: params.flag("dfdaemon")?,
        seed_host: host_part(limited(params, "superNodeIp", HOST_NAME_MAX_BYTES)?).into(),
    };
    let path = limited(params, "path", PATH_MAX_BYTES)?.into();
    Ok(Registration { spec: task_spec(params)?, peer, path })
}

fn task_spec(params: &Params<'_>) -> Result<TaskSpec, BadRegistration> {
    source(params, params.required("rawUrl")?)
}

/// What is fetched, in the words of a registration but for its URL.
pub fn source(params: &Params<'_>, raw_url: &str) -> Result<TaskSpec, BadRegistration> {
    crate::cluster::check_url(raw_url).map_err(BadRegistration::Url)?;
    let task_url = match params.text("taskUrl")? {
        "" => without_filtered(raw_url, &params.list("filter")?),
        task_url => task_url.to_owned(),
    };
    let md5 = params.text("md5")?.to_ascii_lowercase();
    let is_md5 = md5.len() == 32 && md5.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !md5.is_empty() && !is_md5 {
        return Err(BadParam::new("md5", "must be 32 hexadecimal digits").into());
    }
    let identifier = params.text("identifier")?.to_owned();
    let pairs = params.pairs("headers")?;
    if pairs.len() > HEADERS_MAX {
        return Err(BadParam::new("headers", format!("must be at most {HEADERS_MAX}")).into());
    }
    let headers = joined(pairs);
    if headers.iter().any(|(name, value)| [name, value].iter().any(|text| text.contains(['\r', '\n', '\0']))) {
        return Err(BadParam::new("headers", "must not contain line breaks or NUL").into());
    }
    let sign = if md5.is_empty() { &identifier } else { params.text("md5")? };
    Ok(TaskSpec {
        id: TaskId::derive(&task_url, sign, range_header(&headers).unwrap_or_default()),
        raw_url: raw_url.to_owned(),
        task_url,
        identifier: (!identifier.is_empty()).then_some(identifier),
        headers,
        insecure: params.flag("insecure")?,
        root_cas: certificates(params)?,
        headers_left_out: false,
        md5: (!md5.is_empty()).then_some(md5),
    })
}

/// A client id under some name.
pub fn client_id(params: &Params<'_>, name: &'static str) -> Result<ClientId, BadParam> {
    match params.text(name)? {
        "" => Err(BadParam::new(name, "is missing")),
        text => ClientId::parse(text).map_err(|error| BadParam::new(name, error.to_string())),
    }
}

/// A task id under its name.
pub fn task_id(params: &Params<'_>) -> Result<TaskId, BadParam> {
    TaskId::parse(params.required("taskId")?).map_err(|_| BadParam::new("taskId", "must be 64 hexadecimal digits"))
}

pub fn limited<'p>(params: &'p Params<'_>, name: &'static str, max_bytes: usize) -> Result<&'p str, BadParam> {
    let text = params.text(name)?;
    if text.len() > max_bytes {
        return Err(BadParam::new(name, format!("is longer than {max_bytes} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(BadParam::new(name, "contains a control character"));
    }
    Ok(text)
}

/// The host of `host`, `host:port`, `[v6]:port` or a bare IPv6 address.
pub fn host_part(text: &str) -> &str {
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => host,
        _ => text,
    }
}

/// Repeated keys join with a comma, as a list of header fields does.
fn joined(pairs: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        match headers.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
            Some((_, values)) => {
                values.push(',');
                values.push_str(&value);
            }
            None => headers.push((name, value)),
        }
    }
    headers
}

fn certificates(params: &Params<'_>) -> Result<Vec<Vec<u8>>, BadParam> {
    use base64::Engine;
    let decode = |text: String| {
        let decoded = base64::engine::general_purpose::STANDARD.decode(text.trim());
        decoded.map_err(|_| BadParam::new("rootCAs", "must be base64"))
    };
    params.list("rootCAs")?.into_iter().filter(|text| !text.trim().is_empty()).map(decode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(extra: &str) -> Result<Registration, BadRegistration> {
        let body = format!("cid=c&ip=10.0.0.1&port=15001&path=/p&rawUrl=http://h/f?x=1%26sig=2{extra}");
        parse(Some("application/x-www-form-urlencoded"), &Bytes::from(body))
    }

    #[test]
    fn filters_make_the_task_url() {
        assert_eq!(form("").expect("valid").spec.task_url, "http://h/f?x=1&sig=2");
        assert_eq!(form("&filter=sig").expect("valid").spec.task_url, "http://h/f?x=1");
        assert_eq!(form("&filter=sig%26x").expect("valid").spec.task_url, "http://h/f");
    }

    #[test]
    fn a_supernode_is_known_by_its_host() {
        for (given, host) in
            [("10.0.0.9", "10.0.0.9"), ("10.0.0.9:8002", "10.0.0.9"), ("[::1]:8002", "::1"), ("::1", "::1"), ("", "")]
        {
            assert_eq!(host_part(given), host);
        }
    }

    #[test]
    fn more_headers_than_a_request_carries_are_refused() {
        let headers = |count: usize| (0..count).map(|number| format!("&headers=H{number}:1")).collect::<String>();
        assert!(form(&headers(HEADERS_MAX)).is_ok());
        assert!(matches!(form(&headers(HEADERS_MAX + 1)), Err(BadRegistration::Param(BadParam { name: "headers", .. }))));
    }

    #[test]
    fn headers_that_would_be_several_are_refused() {
        for header in ["A:1%0D%0AB:2", "A%0AB:1", "A:1%002"] {
            let refused = form(&format!("&headers={header}"));
            assert!(matches!(refused, Err(BadRegistration::Param(BadParam { name: "headers", .. }))), "{header}");
        }
    }

    #[test]
    fn a_certificate_of_nothing_is_none() {
        assert!(form("&rootCAs=%20").expect("valid").spec.root_cas.is_empty());
    }

    #[test]
    fn repeated_headers_join() {
        let spec = form("&headers=A:1&headers=a:2").expect("valid").spec;
        assert_eq!(spec.headers, [("A".to_owned(), "1,2".to_owned())]);
    }

    #[test]
    fn the_golden_task_ids_hold() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../tests/vectors/task_id.json")).expect("the vectors are JSON");
        for case in vectors["cases"].as_array().expect("a list of cases") {
            let range = case["rangeHeader"].as_str().expect("a string");
            let headers = if range.is_empty() { Vec::new() } else { vec![format!("Range: {range}")] };
            let body = serde_json::json!({
                "cid": "c", "ip": "10.0.0.1", "port": 15001, "path": "/p", "rawUrl": "http://h/f", "headers": headers,
                "taskUrl": case["taskUrl"], "md5": case["md5"], "identifier": case["identifier"],
            });
            let spec = parse(None, &Bytes::from(body.to_string())).expect("valid").spec;
            assert_eq!(spec.id.to_string(), case["taskId"].as_str().expect("a string"), "{case}");
        }
    }
}
