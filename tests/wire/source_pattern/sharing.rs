//! Clients that share what each of them got from the source, across kills of the supernode as well.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{CONTINUE, NEED_AUTH, SOURCE, begin, piece_files, register, register_as};
use crate::end_to_end::{download, download_wanted};
use crate::harness::client::{Client, Downloaded, Release, Transfers, Wanted};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::{PIECE_SIZE, random_content};
use crate::harness::service::Service;
use crate::harness::swarm::Swarm;

const CLIENTS: usize = 8;
/// Ten pieces and one of a single byte, which peers do not send.
const FILE_BYTES: usize = 10 * 4 * 1024 * 1024 + 1;
const PIECES: u32 = 11;
/// Of each client, for ten pieces.
const SOURCE_BYTES_PER_S: u64 = 8 * 1024 * 1024;
const CREDENTIALS: &str = "Basic dXNlcjpzZWNyZXQ=";

fn count(downloads: &[Downloaded], of: fn(&Transfers) -> u32) -> u32 {
    downloads.iter().map(|downloaded| of(&downloaded.transfers)).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swarm_gets_each_piece_from_the_source_about_once_and_nothing_is_kept() {
    let (origin, content) = (Origin::start().await, random_content(FILE_BYTES));
    let url = origin.put("file", File { rate_bytes_per_s: Some(SOURCE_BYTES_PER_S), ..File::new(content.clone()) });
    let service = Service::start_configured(SOURCE).await;
    let mut swarm = Swarm::start(service.api(), &url, &[&Release::GO_1_0_6; CLIENTS]).await;
    let downloads = swarm.finish().await;
    assert!(downloads.iter().all(|downloaded| downloaded.content == content), "a client ended with other bytes");

    let asked = origin.record("file");
    assert_eq!(asked.0[0].range.as_deref(), Some("bytes=0-0"), "it is proved that ranges are honoured");
    assert!(asked.0[0].body_bytes <= 1);
    assert_eq!(asked.0.iter().filter(|seen| seen.range.as_deref() == Some("bytes=0-0")).count(), 1, "once for all");
    assert_eq!(count(&downloads, |transfers| transfers.from_supernode), 0);
    let (from_source, from_peers) = (count(&downloads, |of| of.from_source), count(&downloads, |of| of.from_peers));
    let sent = asked.body_bytes();
    println!("{from_source} pieces from the source, {from_peers} from peers; the source sent {sent} bytes of {FILE_BYTES}");
    assert!(sent < 3 * FILE_BYTES as u64, "{CLIENTS} clients made the source send {sent} bytes of {FILE_BYTES}");
    assert!(from_peers > from_source, "{from_peers} pieces from peers, {from_source} from the source");

    let (dump, task) = (service.dump().await, downloads[0].task.clone());
    for client in swarm.clients() {
        assert_eq!(dump.held(&task, client.cid()), (0..PIECES).collect::<BTreeSet<u32>>());
        assert_eq!(client.asked_in_vain(), 0, "a peer was asked for what it does not have or send");
    }
    assert_eq!(piece_files(&service), Vec::<std::path::PathBuf>::new(), "bytes are kept");
    assert_eq!(dump.of_kind("piece").count(), 0);
    let told = dump.of_kind("task").next().expect("the task").clone();
    assert_eq!(
        (&told["state"], &told["cdnSource"], &told["pieces"], &told["piecesStored"], &told["sourceMd5"]),
        (&json!("SUCCESS"), &json!("source"), &json!(PIECES), &json!(0), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_kills_in_the_middle_change_nothing() {
    let (origin, content) = (Origin::start().await, random_content(FILE_BYTES));
    let url = origin.put("file", File { rate_bytes_per_s: Some(SOURCE_BYTES_PER_S), ..File::new(content.clone()) });
    let mut service = Service::start_configured_on_held_sockets(SOURCE).await;
    let mut swarm = Swarm::start(service.api(), &url, &[&Release::GO_1_0_6; 4]).await;
    for kill in 1..=2 {
        swarm.wait_for(4 * PIECES * kill / 3).await;
        service.kill9();
        service.restart().await;
    }
    let downloads = swarm.finish().await;
    assert!(downloads.iter().all(|downloaded| downloaded.content == content), "a client ended with other bytes");
    let dump = service.dump().await;
    for client in swarm.clients() {
        assert_eq!(dump.servable(&downloads[0].task, client.cid()).len(), PIECES as usize, "{}", client.cid());
    }
    let sent = origin.record("file").body_bytes();
    assert!(sent < 4 * FILE_BYTES as u64, "the clients shared nothing: the source sent {sent} bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_length_are_finished() {
    let (origin, service) = (Origin::start().await, Service::start_configured(SOURCE).await);
    let piece = usize::try_from(PIECE_SIZE).expect("it fits");
    for length in [0, 1, 2, piece - 1, piece, piece + 1, piece + 2] {
        let content = random_content(length);
        // One without ranges where none is asked for: of an empty file.
        let file = File { ignores_range: length == 0, ..File::new(content.clone()) };
        let url = origin.put(&format!("file-{length}"), file);
        for round in 0..2 {
            let downloaded = download(&service, &url).await;
            assert!(downloaded.content == content, "{length} bytes, client {round}");
            assert_eq!(downloaded.file_length, i64::try_from(length).expect("it fits"));
        }
    }
    // A source that answers 416 to whoever wants the first byte of nothing.
    let url = origin.put("nothing", File::new(random_content(0)));
    assert_eq!(download(&service, &url).await.file_length, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_shows_its_own_headers_to_the_source() {
    let (origin, service, content) = (Origin::start().await, Service::start_configured(SOURCE).await, random_content(9_000_000));
    let url = origin.put("file", File { authorization: Some(CREDENTIALS.into()), ..File::new(content.clone()) });
    let (_, denied) = register_as(&service, &Release::GO_1_0_6, &Wanted::url(&url)).await;
    assert_eq!(denied.code, NEED_AUTH, "{denied}");
    let wanted = Wanted { headers: vec![format!("Authorization: {CREDENTIALS}")], ..Wanted::url(&url) };
    assert!(download_wanted(&service, &wanted).await.content == content);
    let asked = origin.record("file").0;
    assert!(asked[1..].iter().all(|seen| seen.authorization.as_deref() == Some(CREDENTIALS)), "{asked:?}");
    assert!(asked.len() > 3, "the client was there itself: {asked:?}");
    let told = service.dump().await.of_kind("task").next().expect("the task").to_string();
    assert!(told.contains(r#""headerNames":[]"#), "headers are kept that are not needed any more: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_client_is_sent_to_the_url_that_it_named_and_never_to_anothers() {
    let (origin, mut service) = (Origin::start().await, Service::start_configured(SOURCE).await);
    let url = origin.put("file", File::new(random_content(60_000_000)));
    let signed = |signature: &str| Wanted { raw_url: format!("{url}?signature={signature}"), ..Wanted::url(&url) };
    let (first, task) = register(&service, &signed("first")).await;
    let (second, _) = register(&service, &signed("second")).await;
    let path = async |service: &Service, client: &Client| {
        let told = begin(service, &task, client).await;
        assert_eq!(told.code, CONTINUE, "{told}");
        let piece = &told.data[0];
        assert_eq!(
            (&piece["pieceMd5"], &piece["peerIp"], &piece["peerPort"]),
            (&json!(""), &json!("127.0.0.1"), &json!(service.download().port()))
        );
        piece["path"].as_str().expect("a path").to_owned()
    };
    assert_eq!(path(&service, &first).await, format!("{url}?signature=first"));
    assert_eq!(path(&service, &second).await, format!("{url}?signature=second"));
    // Signatures of clients are in nobody's record; and who never registered is told none.
    let stranger = Client::start(&Release::GO_1_0_6).await;
    assert_eq!(path(&service, &stranger).await, url);
    service.kill9();
    service.restart().await;
    assert_eq!(path(&service, &second).await, url);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_serves_nobody_gets_everything_too() {
    let (origin, service, content) = (Origin::start().await, Service::start_configured(SOURCE).await, random_content(20_000_000));
    let url = origin.put("file", File::new(content.clone()));
    let gone = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let first = gone.download(service.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert!(first.content == content);
    gone.vanish();
    // The first server that it is sent to has died without a word.
    let second = download(&service, &url).await;
    assert!(second.content == content, "the second client ended with other bytes");
    assert!(second.transfers.failed > 0 && second.transfers.from_source > 0, "{:?}", second.transfers);
}
