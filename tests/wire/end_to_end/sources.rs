//! Sources that stop, break, change, are not there, or want credentials.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{download, download_wanted};
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{self, Answer, get};
use crate::harness::origin::{Ending, File, Origin, Seen};
use crate::harness::pieces::{PIECE_CONTENT, other_content, random_content};
use crate::harness::service::Service;

/// Four pieces, the last not full.
const FILE_BYTES: usize = 15_000_000;
/// In the middle of the third piece.
const INTERRUPTED_AFTER: u64 = 10_000_000;
const PIECES_BEFORE: usize = 2;
/// Longer than a registration may wait for an answer, shorter than four of them.
const SLOW_ANSWER: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn an_unfinished_download_resumes_at_the_first_missing_piece_with_a_range_request() {
    let origin = Origin::start().await;
    let content = random_content(FILE_BYTES);
    let url = origin.put("file", File { ending: Ending::StallsAfter(INTERRUPTED_AFTER), ..File::new(content.clone()) });
    let mut service = Service::start_on_held_sockets().await;
    register(&service, &url).await;
    wait_for_stored(&service, PIECES_BEFORE).await;

    service.kill9();
    let requests_before = origin.record("file").0.len();
    origin.put("file", File::new(content.clone()));
    service.restart().await;
    // Nobody asks for it: the service goes on by itself.
    wait_for_stored(&service, PIECES_BEFORE + 2).await;

    let record = origin.record("file").0;
    assert_eq!(record.len(), requests_before + 1, "one request fetches the rest: {record:?}");
    check_resumed(&record[requests_before], PIECES_BEFORE as u64);
    assert!(download(&service, &url).await.content == content, "the resumed file has other bytes");
    assert_eq!(origin.record("file").0.len(), record.len(), "a file that is here was fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changes_mid_way_ends_the_old_download_with_610() {
    let origin = Origin::start().await;
    let content = random_content(FILE_BYTES);
    let new = File { revision: 2, ..File::new(other_content(&content)) };
    let old = File { ending: Ending::StallsAfter(INTERRUPTED_AFTER), ..File::new(content) };
    let url = origin.put("file", old);
    let service = Service::start().await;
    let wanted = Wanted::url(&url);

    let (progress, mut arrived) = tokio::sync::watch::channel(0);
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await.with_progress(progress));
    let downloading = {
        let (client, api, wanted) = (client.clone(), service.api(), wanted.clone());
        tokio::spawn(async move { client.download(api, &wanted).await })
    };
    arrived.wait_for(|pieces| *pieces as usize == PIECES_BEFORE).await.expect("the client counts while it lives");
    origin.put("file", new.clone());
    let ended = downloading.await.expect("a client does not panic");
    let surprise = ended.expect_err("a download of a file that is gone was told to be whole");
    assert_eq!(surprise.code, Some(610), "{surprise}");

    let again = client.register(service.api(), &wanted).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert_eq!(again.code, 607, "a client that began with the old file must not go on with the new one: {again}");
    check_new_file_arrives(&service, &wanted, &new).await;
    let again = client.register(service.api(), &wanted).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert_eq!(again.code, 607, "a client that began with the old file must not go on with the new one: {again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_sends_another_part_than_it_was_asked_for_is_begun_anew() {
    begin_anew(File { misplaces_parts: true, ..File::new(random_content(FILE_BYTES)) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_sends_less_of_a_part_than_it_said_is_begun_anew() {
    begin_anew(File { shortens_parts: true, ..File::new(random_content(FILE_BYTES)) }).await;
}

/// Of a file whose parts are not what they are said to be, a client that has some of it is told 610, and the next gets all.
async fn begin_anew(lying: File) {
    let origin = Origin::start().await;
    let url = origin.put("file", File { ending: Ending::StallsAfter(INTERRUPTED_AFTER), ..lying.clone() });
    let service = Service::start().await;
    let wanted = Wanted::url(&url);
    let (progress, mut arrived) = tokio::sync::watch::channel(0);
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await.with_progress(progress));
    let api = service.api();
    let downloading = tokio::spawn({
        let wanted = wanted.clone();
        async move { client.download(api, &wanted).await }
    });
    arrived.wait_for(|pieces| *pieces as usize == PIECES_BEFORE).await.expect("the client counts while it lives");
    // It is asked for the rest, and answers with something else.
    origin.put("file", lying.clone());
    let ended = downloading.await.expect("a client does not panic");
    let surprise = ended.expect_err("a part that was not asked for was believed");
    assert_eq!(surprise.code, Some(610), "{surprise}");
    // Asked for the rest once more it would say the same; the whole it has.
    check_new_file_arrives(&service, &wanted, &lying).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_ends_before_pieces_that_clients_have_is_another_one() {
    let origin = Origin::start().await;
    let old = File { unvalidated: true, chunked: true, ..File::new(random_content(FILE_BYTES)) };
    let url = origin.put("file", File { ending: Ending::StallsAfter(INTERRUPTED_AFTER), ..old.clone() });
    let mut service = Service::start().await;
    let wanted = Wanted::url(&url);
    let (progress, mut arrived) = tokio::sync::watch::channel(0);
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await.with_progress(progress));
    let (api, theirs) = (service.api(), wanted.clone());
    let downloading = tokio::spawn(async move { client.download(api, &theirs).await });
    arrived.wait_for(|pieces| *pieces as usize == PIECES_BEFORE).await.expect("the client counts while it lives");
    downloading.abort();

    // Nothing that is here could be compared any more, and what comes is as it was, as far as it goes.
    service.kill9();
    std::fs::remove_dir_all(service.home().join("pieces")).expect("pieces can be removed");
    let piece_bytes = usize::try_from(PIECE_CONTENT).expect("a piece fits");
    let shorter = File { content: old.content.slice(..piece_bytes), ..old };
    origin.put("file", shorter.clone());
    service.restart().await;
    let downloaded = eventually("the shorter file can be downloaded", async || {
        let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
        match client.download(service.api(), &wanted).await {
            Ok(downloaded) => Some(downloaded),
            Err(surprise) if matches!(surprise.code, Some(607 | 610)) => None,
            Err(surprise) => panic!("{surprise}"),
        }
    })
    .await;
    assert!(downloaded.content == shorter.content);
    let told = exchange::call(service.api(), get(&format!("/tasks/{}", downloaded.task))).await;
    let task: Value = serde_json::from_slice(&told.unwrap_or_else(|error| panic!("{error}")).body).expect("a task");
    assert_eq!((&task["generation"], &task["pieceTotal"]), (&json!(1), &json!(1)), "clients have pieces past its end: {task}");
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_source_failed_is_told_after_a_restart_too() {
    let origin = Origin::start().await;
    let content = random_content(FILE_BYTES);
    let new = File { revision: 2, ..File::new(other_content(&content)) };
    let url = origin.put("file", File { ending: Ending::StallsAfter(INTERRUPTED_AFTER), ..File::new(content) });
    let mut service = Service::start().await;
    let registered = try_register(&service, &Wanted::url(&url)).await;
    let task = registered.data["taskId"].as_str().unwrap_or_else(|| panic!("{registered}")).to_owned();
    wait_for_stored(&service, PIECES_BEFORE).await;
    origin.put("file", new);
    let question = format!("/peer/task?taskId={task}&srcCid=somebody&status=700&result=502");
    let failure = async |service: &Service| {
        eventually("the task has failed", async || {
            let answer = exchange::ask(service.api(), get(&question)).await;
            (answer.code == 610).then_some(answer.msg)
        })
        .await
    };
    let told = failure(&service).await;
    assert!(told.contains("the source has changed"), "{told}");
    let requests_before = origin.record("file").0.len();
    for _ in 0..2 {
        service.kill9();
        service.restart().await;
        assert_eq!(failure(&service).await, told);
    }
    assert_eq!(origin.record("file").0.len(), requests_before, "nobody registered, and its source was asked again");
}

/// A new client gets the new file, after the wait that a failed source is given.
async fn check_new_file_arrives(service: &Service, wanted: &Wanted, new: &File) {
    let downloaded = eventually("the new file can be downloaded", async || {
        let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
        match client.download(service.api(), wanted).await {
            Ok(downloaded) => Some(downloaded),
            Err(surprise) if surprise.code == Some(607) => None,
            Err(surprise) => panic!("{surprise}"),
        }
    })
    .await;
    assert!(downloaded.content == new.content, "the new file is mixed with the old one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_source_is_refused_with_607_and_not_asked_again() {
    let origin = Origin::start().await;
    let service = Service::start().await;
    let url = origin.put("file", File::missing());
    let refused = try_register(&service, &Wanted::url(&url)).await;
    assert_eq!(refused.code, 607, "{refused}");
    let requests = origin.record("file").0.len();
    assert!(requests > 0, "a source was refused that nobody had asked");

    let refused = try_register(&service, &Wanted::url(&url)).await;
    assert_eq!(refused.code, 607, "{refused}");
    assert_eq!(origin.record("file").0.len(), requests, "a source that was not there a moment ago was asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_for_a_while_is_refused_with_607_and_asked_again_later() {
    let origin = Origin::start().await;
    let service = Service::start().await;
    let content = random_content(1000);
    let failing = File { status: Some(StatusCode::SERVICE_UNAVAILABLE), ..File::new(content.clone()) };
    let url = origin.put("file", failing);
    let refused = try_register(&service, &Wanted::url(&url)).await;
    assert_eq!(refused.code, 607, "{refused}");
    let whole = File::new(content);
    origin.put("file", whole.clone());
    check_new_file_arrives(&service, &Wanted::url(&url), &whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_wants_credentials_is_refused_with_608() {
    let origin = Origin::start().await;
    let service = Service::start().await;
    let content = random_content(1000);
    let url = origin.put("file", File { authorization: Some("Bearer right".into()), ..File::new(content.clone()) });
    let wanted =
        |headers: &[&str]| Wanted { headers: headers.iter().map(|&header| header.to_owned()).collect(), ..Wanted::url(&url) };
    for headers in [vec![], vec!["Authorization: Bearer wrong"]] {
        let refused = try_register(&service, &wanted(&headers)).await;
        assert_eq!(refused.code, 608, "{headers:?}: {refused}");
    }
    // A want of credentials is not held against those who bring them.
    let downloaded = download_wanted(&service, &wanted(&["Authorization: Bearer right"])).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_source_keeps_a_dfget_asking_until_it_answers() {
    let origin = Origin::start().await;
    let service = Service::start().await;
    let content = random_content(1000);
    let url = origin.put("file", File { delay: SLOW_ANSWER, ..File::new(content.clone()) });
    let downloaded = download(&service, &url).await;
    assert!(downloaded.content == content, "the file arrived with other bytes");
    assert_eq!(downloaded.file_length, 1000, "the length was waited for");
}

async fn register(service: &Service, url: &str) {
    let answer = try_register(service, &Wanted::url(url)).await;
    assert_eq!(answer.code, 200, "{answer}");
}

async fn try_register(service: &Service, wanted: &Wanted) -> Answer {
    let client = Client::start(&Release::GO_1_0_6).await;
    client.register(service.api(), wanted).await.unwrap_or_else(|surprise| panic!("{surprise}"))
}

async fn wait_for_stored(service: &Service, pieces: usize) {
    eventually(&format!("{pieces} pieces are stored"), async || {
        (service.dump().await.of_kind("piece").count() >= pieces).then_some(())
    })
    .await;
}

/// The request asks for what is missing and for nothing else, and only of the file as it was.
fn check_resumed(seen: &Seen, pieces_before: u64) {
    assert_eq!(seen.method, Method::GET, "{seen:?}");
    assert_eq!(seen.range.as_deref(), Some(format!("bytes={}-", pieces_before * PIECE_CONTENT).as_str()), "{seen:?}");
    assert_eq!(seen.if_range.as_deref(), Some("\"revision-1\""), "{seen:?}");
}
