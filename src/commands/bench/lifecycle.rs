//! The load: clients of one task, each from its registration to its 600.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::bail;

use super::Counts;
use super::connection::{Connection, code, piece_numbers};
use super::service::Service;
use crate::domain::{PieceNumber, PieceSize};

/// Requests of one client; more mean that it does not come to an end.
const REQUESTS_MAX: u32 = 1000;

/// A task whose source is at the service whole.
#[derive(Debug)]
pub struct Task {
    id: String,
    url: String,
}

impl Task {
    /// Registers a task and waits until all of its pieces are there.
    pub async fn prepare(service: &Service, source: SocketAddr, number: u32) -> anyhow::Result<Self> {
        let url = format!("http://{source}/file-{number}");
        let mut connection = Connection::open(&service.api).await?;
        let answer: serde_json::Value =
            serde_json::from_slice(connection.post("/peer/registry", &registration("first", 0, &url)).await?)?;
        let Some(id) = answer["data"]["taskId"].as_str() else { bail!("the registration was answered {answer}") };
        let whole = format!("/qtdown/{}/{id}", &id[..3]);
        for _ in 0..600 {
            // The whole file can be had once it is complete; its head is enough to know.
            let found = reqwest::Client::new().head(format!("http://{}{whole}", service.download)).send().await?;
            if found.status().is_success() {
                return Ok(Self { id: id.to_owned(), url });
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the source was not fetched in 30 s")
    }
}

/// Runs all clients over so many connections, each with one client at a time.
pub async fn run(service: &Service, task: &Task, clients: u32, connections: u32) -> anyhow::Result<Counts> {
    let next = Arc::new(AtomicU32::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..connections.min(clients) {
        let mut connection = Connection::open(&service.api).await?;
        let (next, id, url) = (next.clone(), task.id.clone(), task.url.clone());
        workers.spawn(async move {
            let mut counts = Counts::default();
            loop {
                let client = next.fetch_add(1, Ordering::Relaxed);
                if client >= clients {
                    return anyhow::Ok(counts);
                }
                live(&mut connection, &mut counts, client, &id, &url).await?;
            }
        });
    }
    let mut counts = Counts::default();
    while let Some(done) = workers.join_next().await {
        counts.add(&done??);
    }
    Ok(counts)
}

pub fn registration(cid: &str, port: u16, url: &str) -> String {
    format!(
        r#"{{"superNodeIp":"127.0.0.1","rawUrl":"{url}","taskUrl":"{url}","cid":"{cid}","ip":"127.0.0.1","hostName":"host","port":{port},"path":"/peer/file/{cid}","version":"1.0.6"}}"#
    )
}

/// One client's life.
async fn live(connection: &mut Connection, counts: &mut Counts, client: u32, id: &str, url: &str) -> anyhow::Result<()> {
    let cid = format!("127.0.0.1-{client}-1795423514.030");
    // Ports repeat after 40,000 clients: from then on two share an upload server.
    let port = u16::try_from(10_000 + client % 40_000)?;
    let answer = code(connection.post("/peer/registry", &registration(&cid, port, url)).await?);
    *counts.others.entry(answer).or_default() += 1;
    let mut ask = format!("/peer/task?srcCid={cid}&dstCid=&range=&result=502&status=700&taskId={id}");
    let again = ask.clone();
    let mut unreported: Vec<u64> = Vec::new();
    let mut reported = Vec::new();
    for _ in 0..REQUESTS_MAX {
        let body = connection.get(&ask).await?;
        let answer = code(body);
        let handed_out = piece_numbers(body);
        *counts.pulls.entry(answer).or_default() += 1;
        match answer {
            600 => return Ok(()),
            601 | 602 => {}
            other => bail!("client {cid} was answered {other}"),
        }
        unreported.extend(handed_out.into_iter().filter(|piece| !reported.contains(piece)));
        unreported.sort_unstable();
        unreported.dedup();
        let Some(piece) = unreported.pop() else {
            ask.clone_from(&again);
            continue;
        };
        reported.push(piece);
        let range = PieceSize::DEFAULT.slot_range(PieceNumber(u32::try_from(piece)?));
        let range = format!("{}-{}", range.start(), range.end());
        let suc = format!("/peer/piece/suc?taskId={id}&cid={cid}&dstCid=cdnnode:127.0.0.1~{id}&pieceRange={range}");
        *counts.others.entry(code(connection.get(&suc).await?)).or_default() += 1;
        ask = format!("/peer/task?srcCid={cid}&dstCid=cdnnode:127.0.0.1~{id}&range={range}&result=503&status=701&taskId={id}");
    }
    bail!("client {cid} did not come to an end in {REQUESTS_MAX} requests")
}
