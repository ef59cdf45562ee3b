//! What is seen when a service meets a source, as a row of the table.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::case::{Case, KIB, MIB};
use crate::harness::client::{Client, Downloaded, Release, Surprise, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, Answer, get};
use crate::harness::origin::scripted::Scripted;
use crate::harness::service::Service;

/// Sentences are shown up to here. Characters.
const SENTENCE_MAX: usize = 200;
/// What follows this in a sentence is another on every machine.
const BEFORE_WHAT_VARIES: &str = "cannot be resolved";

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
    if let Some(before) = &case.before {
        first.go_on();
        let wanted = before(Wanted::url(&url));
        new_client().await.download(service.api(), &wanted).await.unwrap_or_else(|surprise| panic!("{}: {surprise}", case.what));
    }
    let before = first.sent();
    let client = new_client().await;
    let wanted = (case.asking)(Wanted::url(&url));
    let registered = client.register(service.api(), &wanted).await.unwrap_or_else(|surprise| panic!("{}: {surprise}", case.what));
    let is_refused = registered.code != 200;
    // Also where it was refused: what is sent to whoever does not listen any more is counted, too.
    [Some(&first), second.as_ref()].into_iter().flatten().for_each(Scripted::go_on);
    let downloaded = if is_refused { None } else { Some(client.download_registered(service.api(), &registered).await) };
    let kept = kept(service, &registered).await;
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
        kept,
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

/// What is left at the supernode, once nothing more happens there.
async fn kept(service: &Service, registered: &Answer) -> String {
    let Some(task) = registered.data["taskId"].as_str() else { return "nothing".to_owned() };
    let known = eventually("the source is here or has failed", async || {
        let response = exchange::call(service.api(), get(&format!("/tasks/{task}"))).await.expect("the service answers");
        let known: Value = serde_json::from_slice(&response.body).expect("JSON");
        matches!(known["cdnStatus"].as_str(), Some("SUCCESS" | "FAILED")).then_some(known)
    })
    .await;
    let (state, pieces) = (known["cdnStatus"].as_str().unwrap_or_default(), &known["piecesStored"]);
    let noun = if *pieces == 1 { "piece" } else { "pieces" };
    format!("{state}, {pieces} {noun}, {} bytes", file_bytes(&service.home(), task))
}

/// The length of a task's files, of all its generations.
fn file_bytes(home: &Path, task: &str) -> u64 {
    piece_files(home).iter().filter(|(name, _)| name.starts_with(task)).map(|(_, bytes)| bytes).sum()
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
    if let Some((before, _)) = text.split_once(BEFORE_WHAT_VARIES) {
        return format!("{before}{BEFORE_WHAT_VARIES}…");
    }
    match text.char_indices().nth(SENTENCE_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
