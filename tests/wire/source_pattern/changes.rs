//! Sources that change, go, or fail while clients are sent to them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use super::{CONTINUE, SOURCE, SOURCE_ERROR, URL_NOT_REACHABLE, begin, fail, register, register_as};
use crate::end_to_end::download;
use crate::harness::PATIENCE;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::eventually;
use crate::harness::exchange::{Answer, ask, get};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::{other_content, random_content};
use crate::harness::service::Service;

const SOON: &str = "base: {cdnPattern: source, revalidateAfter: 1s}\n";
const A_WHILE: Duration = Duration::from_millis(1200);
/// What a source said a moment ago is not doubted at once.
const NOT_DOUBTED_FOR: Duration = Duration::from_millis(2200);
const FILE_BYTES: usize = 20_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_source_ends_what_clients_of_the_old_one_are_at_and_new_ones_get_the_new() {
    let (origin, service, old) = (Origin::start().await, Service::start_configured(SOON).await, random_content(FILE_BYTES));
    let new = other_content(&old);
    let longer = Bytes::from([new.as_ref(), &[1]].concat());
    let changes: [(&str, File, File); 3] = [
        ("by its etag", File::new(old.clone()), File { revision: 2, ..File::new(new.clone()) }),
        (
            "by its etag, though it knows no conditions",
            File { ignores_conditions: true, ..File::new(old.clone()) },
            File { revision: 2, ignores_conditions: true, ..File::new(new) },
        ),
        (
            "by its length alone",
            File { unvalidated: true, ..File::new(old.clone()) },
            File { unvalidated: true, ..File::new(longer) },
        ),
    ];
    for (how, before, after) in changes {
        let name = how.replace([' ', ','], "-");
        let wanted = Wanted::url(&origin.put(&name, before));
        let (client, task) = register(&service, &wanted).await;
        assert_eq!(begin(&service, &task, &client).await.code, CONTINUE);
        let content = after.content.clone();
        origin.put(&name, after);
        tokio::time::sleep(A_WHILE).await;
        let downloaded = download(&service, &wanted.raw_url).await;
        assert!(downloaded.content == content && downloaded.task == task, "{how}: a new client got other bytes");
        let told = begin(&service, &task, &client).await;
        assert_eq!(told.code, SOURCE_ERROR, "{how}: {told}");
        let again = client.register(service.api(), &wanted).await.unwrap_or_else(|surprise| panic!("{surprise}"));
        assert_eq!(again.code, URL_NOT_REACHABLE, "{how}: it would mix both: {again}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_source_is_asked_for_no_more_than_a_byte() {
    let (origin, service, content) = (Origin::start().await, Service::start_configured(SOON).await, random_content(5_000_000));
    for (name, unvalidated) in [("with", false), ("without", true)] {
        let wanted = Wanted::url(&origin.put(name, File { unvalidated, ..File::new(content.clone()) }));
        let (_, task) = register(&service, &wanted).await;
        tokio::time::sleep(A_WHILE).await;
        let (_, same) = register(&service, &wanted).await;
        let asked = origin.record(name);
        assert_eq!((asked.0.len(), task == same), (2, true), "{asked:?}");
        assert!(asked.body_bytes() <= 2, "{asked:?}");
        assert_eq!(asked.0[1].if_none_match.is_some(), !unvalidated, "{asked:?}");
    }
}

/// Fails at every piece, as often as it is told to fetch any, until it is told something else; and how often that was.
async fn fail_until_told(service: &Service, task: &str, client: &Client) -> (u32, Answer) {
    let (mut told, mut failures, deadline) = (begin(service, task, client).await, 0, Instant::now() + PATIENCE);
    loop {
        assert!(Instant::now() < deadline, "the client is told to fetch what it cannot get, for ever");
        match told.code {
            CONTINUE => {
                failures += 1;
                let pieces = told.data.as_array().expect("pieces").clone();
                for piece in &pieces {
                    told = fail(service, task, client, piece).await;
                }
            }
            602 => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                told = begin(service, task, client).await;
            }
            _ => return (failures, told),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_source_that_has_gone_are_told_to_leave() {
    let (origin, service, content) = (Origin::start().await, Service::start_configured(SOURCE).await, random_content(FILE_BYTES));
    let wanted = Wanted::url(&origin.put("file", File::new(content.clone())));
    let (client, task) = register(&service, &wanted).await;
    let (other, _) = register(&service, &wanted).await;
    assert_eq!(begin(&service, &task, &client).await.code, CONTINUE);
    origin.put("file", File::missing());
    tokio::time::sleep(NOT_DOUBTED_FOR).await;
    let (_, told) = fail_until_told(&service, &task, &client).await;
    assert_eq!(told.code, SOURCE_ERROR, "{told}");
    let told = eventually("it is told that the source has gone", async || {
        let told = begin(&service, &task, &other).await;
        (told.code == SOURCE_ERROR).then_some(told)
    })
    .await;
    assert!(told.msg.contains("404"), "{told}");
    let (_, refused) = register_as(&service, &Release::GO_1_0_6, &wanted).await;
    assert_eq!(refused.code, URL_NOT_REACHABLE, "{refused}");
    assert_eq!(service.dump().await.of_kind("task").next().expect("it stays")["state"], "FAILED");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_is_told_ends_nothing() {
    let (origin, service, content) = (Origin::start().await, Service::start_configured(SOON).await, random_content(FILE_BYTES));
    let file = File { authorization: Some("Bearer ours".into()), denial: StatusCode::NOT_FOUND, ..File::new(content) };
    let url = origin.put("file", file);
    let with = |token: &str| Wanted { headers: vec![format!("Authorization: Bearer {token}")], ..Wanted::url(&url) };
    let (client, task) = register(&service, &with("ours")).await;
    tokio::time::sleep(A_WHILE).await;
    register(&service, &with("theirs")).await;
    let asked = origin.record("file").0;
    assert_eq!(asked.last().and_then(|seen| seen.authorization.as_deref()), Some("Bearer theirs"), "{asked:?}");
    assert_eq!(begin(&service, &task, &client).await.code, CONTINUE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_the_source_fails_leaves_and_the_others_stay() {
    let (origin, service, content) = (Origin::start().await, Service::start_configured(SOURCE).await, random_content(FILE_BYTES));
    let url = origin.put("file", File { status_of_parts: Some(StatusCode::SERVICE_UNAVAILABLE), ..File::new(content.clone()) });
    let (client, task) = register(&service, &Wanted::url(&url)).await;
    let (failures, told) = fail_until_told(&service, &task, &client).await;
    assert_eq!(told.code, SOURCE_ERROR, "{told}");
    assert!(told.msg.contains("the source failed this client 5 times"), "{told}");
    assert!(failures < 20, "it was sent there {failures} times");
    origin.put("file", File::new(content.clone()));
    assert!(download(&service, &url).await.content == content, "another client is served");
    for client in service.dump().await.of_kind("client") {
        assert_eq!((&client["serveErrors"], &client["downloadErrors"]), (&0.into(), &0.into()), "{client}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_of_bad_pieces_at_the_source_count_against_nobody_and_look_at_no_file() {
    let (origin, service, content) = (Origin::start().await, Service::start_configured(SOURCE).await, random_content(FILE_BYTES));
    let url = origin.put("file", File::new(content.clone()));
    let (client, task) = register(&service, &Wanted::url(&url)).await;
    assert_eq!(begin(&service, &task, &client).await.code, CONTINUE);
    let asked = origin.record("file").0.len();
    tokio::time::sleep(NOT_DOUBTED_FOR).await;
    for (kind, range) in [("FILE_NOT_EXIST", ""), ("FILE_MD5_NOT_MATCH", "0-4194303")] {
        let target = format!(
            "/peer/piece/error?taskId={task}&srcCid={0}&dstCid=cdnnode:127.0.0.1~{task}&range={range}&errorType={kind}&realMd5=1&expectedMd5=2",
            client.cid()
        );
        let told = ask(service.api(), get(&target)).await;
        assert_eq!(told.code, 200, "{told}");
    }
    assert!(download(&service, &url).await.content == content);
    assert!(!service.log().contains("damaged or gone"), "{}", service.log());
    let probes = origin.record("file").0[asked..].iter().filter(|seen| seen.range.as_deref() == Some("bytes=0-0")).count();
    assert_eq!(probes, 0, "whoever reports has the source asked");
}
