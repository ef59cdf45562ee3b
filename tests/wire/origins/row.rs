//! What is seen when a service meets a source, as a row of the table.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use supernode::domain::TaskId;

use super::case::{Case, KIB, MIB};
use crate::harness::client::{Client, Downloaded, Release, Surprise, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, Answer, get};
use crate::harness::origin::scripted::Scripted;
use crate::harness::service::Service;

/// Sentences are shown up to here. Characters.
const SENTENCE_MAX: usize = 200;
const NOT_FOUND: u16 = 404;
/// What follows these in a sentence is another on every machine.
const BEFORE_WHAT_VARIES: [&str; 3] = ["cannot be resolved", "does not let it fetch from localhost", "and its disk has"];

/// Has a client register for the source's file and download it, and tells what came of it. The sources come along: a port
/// that is given up may be another's next, at whose URL what was said of this one would be remembered.
pub async fn observe(case: &Case, service: &Service) -> (String, Vec<Scripted>) {
    let second = match &case.elsewhere {
        Some(script) => Some(Scripted::start(script.clone(), case.on, None, None).await),
        None => None,
    };
    let elsewhere = second.as_ref().map(Scripted::address);
    let first = Scripted::start(case.script.clone(), case.on, case.tls.clone(), elsewhere).await;
    let url = (case.url)(first.address());
    let earlier = new_client().await;
    if let Some(before) = &case.before {
        first.go_on();
        let wanted = before(Wanted::url(&url));
        earlier.download(service.api(), &wanted).await.unwrap_or_else(|surprise| panic!("{}: {surprise}", case.what));
    }
    let before = first.sent();
    let client = new_client().await;
    let wanted = (case.asking)(Wanted::url(&url));
    let registered = client.register(service.api(), &wanted).await.unwrap_or_else(|surprise| panic!("{}: {surprise}", case.what));
    let is_refused = registered.code != 200;
    // Also where it was refused: what is sent to whoever does not listen any more is counted, too.
    [Some(&first), second.as_ref()].into_iter().flatten().for_each(Scripted::go_on);
    let downloaded = if is_refused { None } else { Some(client.download_registered(service.api(), &registered).await) };
    let task = task_of(&wanted);
    // Who was refused was not told the id, but derives it all the same.
    assert!(is_refused || registered.data["taskId"] == task, "{}: {registered}", case.what);
    let left = left(service, &task).await;
    let first_sent = first.sent_at_rest().await;
    let second_sent = match &second {
        Some(second) => Some(second.sent_at_rest().await),
        None => None,
    };
    let requests = first_sent.requests - before.requests;
    let body_bytes = first_sent.body_bytes - before.body_bytes + second_sent.as_ref().map_or(0, |sent| sent.body_bytes);
    let said_bytes = first_sent.said_bytes - before.said_bytes + second_sent.as_ref().map_or(0, |sent| sent.said_bytes);
    let known = [Some(first.address()), elsewhere, Url::address(&url)];
    let columns = [
        case.what.clone(),
        told_registering(&registered),
        downloaded.map_or_else(|| "–".to_owned(), |downloaded| told_downloading(case, downloaded)),
        left,
        requests.to_string() + &second_sent.map(|sent| format!(" + {}", sent.requests)).unwrap_or_default(),
        if is_refused { until_refused(case, said_bytes + body_bytes) } else { times(case, body_bytes) },
    ];
    let row = format!("| {} |\n", columns.map(|column| plain(&column, &known)).join(" | "));
    (row, [Some(first), second].into_iter().flatten().collect())
}

async fn new_client() -> Arc<Client> {
    Arc::new(Client::start(&Release::GO_1_0_6).await)
}

struct Url;

impl Url {
    /// Where a URL leads, if it names an address.
    fn address(url: &str) -> Option<SocketAddr> {
        url.split_once("://")?.1.split('/').next()?.parse().ok()
    }
}

fn told_registering(answer: &Answer) -> String {
    match (answer.code, answer.data["fileLength"].as_i64()) {
        (200, Some(-1)) => "200, length unknown".to_owned(),
        (200, Some(length)) => format!("200, {length} bytes"),
        (code, _) => format!("{code}, {}", answer.msg),
    }
}

/// Whatever a source does, nobody ends with bytes that it did not send.
fn told_downloading(case: &Case, downloaded: Result<Downloaded, Surprise>) -> String {
    match downloaded {
        Ok(downloaded) => {
            assert!(downloaded.content == case.content, "{}: {} other bytes", case.what, downloaded.content.len());
            "600, the right bytes".to_owned()
        }
        Err(surprise) => match surprise.code {
            Some(code) => format!("{code}, {}", surprise.msg),
            None => panic!("{}: {surprise}", case.what),
        },
    }
}

/// What is left at the supernode, once nothing more happens there and the file of a generation that is over has gone.
async fn left(service: &Service, task: &str) -> String {
    eventually("the source is here or has failed, or nobody knows the task", async || {
        let response = exchange::call(service.api(), get(&format!("/tasks/{task}"))).await.expect("the service answers");
        let known: Value = serde_json::from_slice(&response.body).expect("JSON");
        let files = file_lengths(&service.home(), task);
        match (response.status, known["cdnStatus"].as_str(), files.as_slice()) {
            (NOT_FOUND, _, []) => Some("nothing".to_owned()),
            (NOT_FOUND, _, files) => Some(format!("no task, files of {files:?} bytes")),
            (_, Some(state @ ("SUCCESS" | "FAILED")), [] | [_]) => {
                let (pieces, bytes) = (&known["piecesStored"], files.first().unwrap_or(&0));
                let noun = if *pieces == 1 { "piece" } else { "pieces" };
                Some(format!("{state}, {pieces} {noun}, {bytes} bytes"))
            }
            _ => None,
        }
    })
    .await
}

/// The id that every client derives for what it wants.
fn task_of(wanted: &Wanted) -> String {
    let range = wanted.headers.iter().find_map(|header| header.strip_prefix("Range: "));
    TaskId::derive(&wanted.task_url, wanted.md5.as_deref().unwrap_or_default(), range.unwrap_or_default()).to_string()
}

/// How long a task's files are, one of each generation.
fn file_lengths(home: &Path, task: &str) -> Vec<u64> {
    piece_files(home).into_iter().filter(|(name, _)| name.starts_with(task)).map(|(_, bytes)| bytes).collect()
}

/// The names of all piece files, and how long they are. Files may go while this looks.
pub fn piece_files(home: &Path) -> Vec<(String, u64)> {
    let entries = |directory: &Path| std::fs::read_dir(directory).into_iter().flatten().flatten();
    let files = entries(&home.join("pieces")).flat_map(|directory| entries(&directory.path()));
    files.filter_map(|file| Some((file.file_name().to_string_lossy().into_owned(), file.metadata().ok()?.len()))).collect()
}

/// How often the content was sent, altogether.
fn times(case: &Case, body_bytes: u64) -> String {
    let times = body_bytes as f64 / case.content.len().max(1) as f64;
    match case.sent_at_most {
        Some(most) if times <= most => format!("≤ {most}"),
        _ => format!("{times:.2}"),
    }
}

/// How many bytes were sent in all before they were refused.
fn until_refused(case: &Case, bytes: u64) -> String {
    match case.refused_within {
        None => "until the timeout".to_owned(),
        Some(_) if bytes == 0 => "0 bytes".to_owned(),
        Some(most) if bytes <= most => format!("≤ {}", in_binary_units(most)),
        Some(_) => format!("{bytes} bytes"),
    }
}

/// Of a bound, which is a whole number of them.
fn in_binary_units(bytes: u64) -> String {
    if bytes.is_multiple_of(MIB) { format!("{} MiB", bytes / MIB) } else { format!("{} KiB", bytes / KIB) }
}

/// The same on every machine, and with no sign that means something in a table.
fn plain(text: &str, known: &[Option<SocketAddr>]) -> String {
    let mut text = text.replace('|', "\\|");
    for address in known.iter().flatten() {
        text = text.replace(&address.to_string(), "HOST").replace(&format!(":{}", address.port()), ":PORT");
    }
    for words in BEFORE_WHAT_VARIES {
        if let Some((before, _)) = text.split_once(words) {
            return format!("{before}{words}…");
        }
    }
    match text.char_indices().nth(SENTENCE_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
