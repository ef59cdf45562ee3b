//! Properties of what reads requests, for the fuzz targets.

use std::fmt::Debug;

use base64::Engine;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::client_api::{read_address, read_going_down, read_metrics, read_object, read_page, read_piece_error};
use super::params::{BadParam, Params};
use super::peer_api::{read_piece_call, read_task_call};
use super::range::{ByteRange, parse_byte_range, parse_piece_range};
use super::registration::{self, BadRegistration, host_part};
use crate::cluster::{Registration, check_url};
use crate::domain::task::redacted_url;
use crate::domain::task::without_filtered;
use crate::domain::{PieceSize, TaskId};

const FORM: Option<&str> = Some("application/x-www-form-urlencoded");
/// Stands for a credential; no text that has it already is looked at.
const SECRET: &str = "5ecret";

/// Every call by GET reads a query alike however it is escaped and whatever the case of its names.
pub fn query(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let pairs: Vec<(String, String)> = form_urlencoded::parse(text.as_bytes()).into_owned().collect();
    let escaped = encoded(&pairs);
    let other_case = encoded(&pairs.iter().map(|(name, value)| (swapped_case(name), value.clone())).collect::<Vec<_>>());
    for spelling in [&escaped, &other_case] {
        same(read_task_call, text, spelling);
        same(read_piece_call, text, spelling);
        same(read_piece_error, text, spelling);
        same(read_going_down, text, spelling);
        same(|params| read_page(params, &Params::default()), text, spelling);
    }
    if let Ok((task, client, _)) = read_task_call(&Params::of_query(text)) {
        assert_eq!(TaskId::parse(&task.to_string()).ok(), Some(task));
        assert!(!client.as_str().is_empty() && client.as_str().len() <= crate::domain::ids::CLIENT_ID_MAX_BYTES);
        assert!(!client.as_str().contains(char::is_control));
    }
}

fn same<T: Debug + PartialEq>(read: impl Fn(&Params<'_>) -> Result<T, BadParam>, one: &str, other: &str) {
    assert_eq!(read(&Params::of_query(one)), read(&Params::of_query(other)), "{one:?} and {other:?} are read differently");
}

/// A registration, in JSON or as a form, is the same when it is written again in either, and whatever the case of names.
pub fn registration(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    let parsed = registration::parse(FORM, &body);
    if let Some(swapped) = with_names_swapped(data) {
        let swapped = registration::parse(FORM, &swapped.into());
        match (&parsed, swapped) {
            (Ok(one), Ok(other)) => assert_eq!(*one, other),
            (Err(BadRegistration::Param(one)), Err(BadRegistration::Param(other))) => assert_eq!(*one, other),
            (Err(_), Err(_)) => {}
            (one, other) => panic!("the case of names matters: {one:?} and {other:?}"),
        }
    }
    let Ok(parsed) = parsed else { return };
    let Registration { spec, peer, path } = &parsed;
    assert!(path.starts_with('/') && peer.host_name.len() <= 255 && peer.version.len() <= 64);
    assert!(!spec.headers.iter().any(|(name, value)| [name, value].iter().any(|text| text.contains(['\r', '\n', '\0']))));
    for (content_type, body) in [(FORM, as_form(&parsed)), (None, as_json(&parsed).to_string())] {
        let again = registration::parse(content_type, &Bytes::from(body.clone()));
        let again = again.unwrap_or_else(|bad| panic!("{bad:?}: refused when written again as {body}"));
        assert_eq!(canonical(again), canonical(parsed.clone()), "read from {body}");
    }
}

/// Without what the writing does not keep: the order of headers, and the case of an md5, which a task id is the hash of.
fn canonical(mut registration: Registration) -> Registration {
    registration.spec.headers.sort();
    if let Some(md5) = &registration.spec.md5 {
        let range = registration.spec.range().unwrap_or_default();
        registration.spec.id = TaskId::derive(&registration.spec.task_url, md5, range);
    }
    registration
}

fn as_json(registration: &Registration) -> Value {
    let Registration { spec, peer, path } = registration;
    let headers: Map<String, Value> = spec.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    json!({
        "cid": peer.id.as_str(), "ip": peer.ip, "port": peer.port, "path": &**path, "hostName": peer.host_name,
        "version": peer.version, "callSystem": peer.call_system, "dfdaemon": peer.dfdaemon,
        "superNodeIp": host_spelt(&peer.seed_host), "rawUrl": spec.raw_url, "taskUrl": spec.task_url, "md5": spec.md5,
        "identifier": spec.identifier, "headers": headers, "insecure": spec.insecure, "rootCAs": certificates(registration),
    })
}

fn as_form(registration: &Registration) -> String {
    let object = as_json(registration);
    let mut pairs = Vec::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        match value {
            Value::Null => {}
            Value::String(text) => pairs.push((name.clone(), text.clone())),
            Value::Array(items) => pairs.extend(items.iter().map(|item| (name.clone(), text_of(item)))),
            Value::Object(items) => pairs.extend(items.iter().map(|(key, item)| (format!("{name}[{key}]"), text_of(item)))),
            other => pairs.push((name.clone(), other.to_string())),
        }
    }
    encoded(&pairs)
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn certificates(registration: &Registration) -> Vec<String> {
    let encode = |pem: &Vec<u8>| base64::engine::general_purpose::STANDARD.encode(pem);
    registration.spec.root_cas.iter().map(encode).collect()
}

/// A text of which this is the host.
fn host_spelt(host: &str) -> String {
    if host_part(host) == host { host.to_owned() } else { format!("[{host}]") }
}

/// The body with the case of its parameters' names changed, where no two of them are one name.
fn with_names_swapped(body: &[u8]) -> Option<String> {
    if let Ok(Value::Object(object)) = serde_json::from_slice(body) {
        let swapped: Map<String, Value> = object.iter().map(|(name, value)| (swapped_case(name), value.clone())).collect();
        let mut names: Vec<String> = object.keys().map(|name| name.to_ascii_lowercase()).collect();
        names.sort();
        names.dedup();
        // JSON does not keep the order of names, so of two that are one only chance says which is first. And the names
        // of headers[K] hold what is no name of ours.
        let clear = names.len() == object.len() && !names.iter().any(|name| name.contains('['));
        return clear.then(|| Value::Object(swapped).to_string());
    }
    let text = std::str::from_utf8(body).ok().filter(|text| !text.trim_start().starts_with('{'))?;
    let swap = |(name, value): (String, String)| match name.split_once('[') {
        Some((name, key)) => (format!("{}[{key}", swapped_case(name)), value),
        None => (swapped_case(&name), value),
    };
    let pairs: Vec<(String, String)> = form_urlencoded::parse(text.as_bytes()).into_owned().map(swap).collect();
    // What begins like JSON is read as JSON.
    pairs.first().is_none_or(|(name, _)| !name.starts_with('{')).then(|| encoded(&pairs))
}

/// The JSON bodies of other calls: none is read in two ways, and what is read is within its limits.
pub fn bodies(data: &[u8]) {
    let Ok(params) = read_object(&Bytes::copy_from_slice(data)) else { return };
    if let Ok((client, ip, port)) = read_address(&params) {
        let again = json!({ "ID": 7, "ip": ip, "PORT": port.to_string(), "cid": client.as_str() }).to_string();
        let again = read_object(&again.into()).ok().and_then(|params| read_address(&params).ok());
        assert_eq!(again, Some((client, ip, port)));
    }
    if let Ok(page) = read_page(&Params::default(), &params) {
        assert!(page.limit <= super::client_api::NODES_MAX);
    }
    if let Ok(told) = read_metrics(&params) {
        assert!(told.seconds >= 0.0 && told.seconds.is_finite());
    }
}

/// What is read as a range prints as what is read as the same.
pub fn range(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(range) = parse_piece_range(text) {
        assert!(range.start() <= range.end());
        assert_eq!(parse_piece_range(&format!("{}-{}", range.start(), range.end())), Some(range.clone()));
        for size in (1..=15).filter_map(|mib| PieceSize::new(mib * 1024 * 1024).ok()) {
            if let Some(piece) = size.piece_of_range(&range, None) {
                assert_eq!(size.slot_range(piece), range);
            }
            // Clipped at the end of a file that ends where the range does.
            if let Some(piece) = size.piece_of_range(&range, range.end().checked_add(1)) {
                assert!(size.slot_range(piece).contains(range.end()) && size.slot_start(piece) == *range.start());
            }
        }
    }
    let printed = match parse_byte_range(Some(text)) {
        ByteRange::Bounded(first, last) => {
            assert!(first <= last);
            format!("bytes={first}-{last}")
        }
        ByteRange::Suffix(count) => {
            assert!(count > 0);
            format!("bytes=-{count}")
        }
        ByteRange::Whole | ByteRange::Unsatisfiable => return,
    };
    assert_eq!(parse_byte_range(Some(&printed)), parse_byte_range(Some(text)));
}

/// A URL, and on the second line what is filtered from it: what is left is a part of it, and what is shown has no secrets.
pub fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (raw, filter) = text.split_once('\n').unwrap_or((text, ""));
    // Of no text that is shown more is shown than it has; also of what is no URL.
    let _ = redacted_url(raw);
    let Ok(url) = check_url(raw) else { return };
    let filters = [filter.to_owned()];
    let task_url = without_filtered(raw, &filters);
    assert!(is_subsequence(&task_url, raw), "{task_url:?} is not part of {raw:?}");
    check_url(&task_url).unwrap_or_else(|why| panic!("{task_url:?} {why}"));
    assert_eq!(without_filtered(&task_url, &filters), task_url, "filtering twice filters more");
    let query = task_url.split_once('#').map_or(&*task_url, |(url, _)| url).split_once('?').map_or("", |(_, query)| query);
    let filtered: Vec<&str> = filter.split('&').filter(|name| !name.is_empty()).collect();
    assert!(!query.split('&').any(|pair| filtered.contains(&pair.split('=').next().unwrap_or_default())), "in {task_url:?}");
    shows_no_secrets(raw, url);
}

fn shows_no_secrets(raw: &str, mut url: url::Url) {
    let shown = redacted_url(raw);
    let parsed = check_url(&shown).unwrap_or_else(|why| panic!("{shown:?}, shown for {raw:?}, {why}"));
    assert!(parsed.username().is_empty() && parsed.password().is_none() && parsed.fragment().is_none(), "{shown:?}");
    assert_eq!(parsed.host(), url.host(), "shown for {raw:?}");
    if url.as_str().contains(SECRET) {
        return;
    }
    let set = url.set_username(SECRET).is_ok() && url.set_password(Some(SECRET)).is_ok();
    assert!(set, "a URL with a host has a place for credentials");
    url.query_pairs_mut().append_pair("signature", SECRET);
    url.set_fragment(Some(SECRET));
    let shown = redacted_url(url.as_str());
    assert!(!shown.contains(SECRET), "{url} is shown as {shown:?}");
}

fn is_subsequence(part: &str, whole: &str) -> bool {
    let mut rest = whole.bytes();
    part.bytes().all(|wanted| rest.any(|byte| byte == wanted))
}

fn encoded(pairs: &[(String, String)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

fn swapped_case(name: &str) -> String {
    let swap = |letter: char| if letter.is_ascii_lowercase() { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
    name.chars().map(swap).collect()
}
