//! The rarer calls with a query: `/peer/service/down` and `/peer/piece/error`, the bare ones, and all under a version.

use bytes::Bytes;

use super::reports::{MALFORMED_RANGES, NO_PIECES, Query, UNKNOWN_TASK};
use super::{Refused, Scene};
use crate::harness::exchange::{self, get, request};
use crate::harness::pieces::range_of;

/// Neither a task nor a client that could be one.
const NO_TASKS: [&str; 4] = ["", "abc", "%00", "..%2f..%2fetc%2fpasswd"];

impl Scene {
    fn down_query(&self) -> Query {
        Query { path: "/peer/service/down", pairs: vec![("taskId", self.task().to_owned()), ("cid", self.cid.clone())] }
    }

    fn error_query(&self, server: &str) -> Query {
        let pairs = vec![
            ("errorType", "FILE_MD5_NOT_MATCH".to_owned()),
            ("srcCid", self.cid.clone()),
            ("dstCid", server.to_owned()),
            ("dstIp", "127.0.0.1".to_owned()),
            ("taskId", self.task().to_owned()),
            ("range", range_of(0)),
            ("realMd5", "0".repeat(32)),
            ("expectedMd5", "1".repeat(32)),
        ];
        Query { path: "/peer/piece/error", pairs }
    }

    fn seed(&self) -> String {
        format!("cdnnode:127.0.0.1~{}", self.task())
    }
}

fn wrong_cids() -> [String; 3] {
    [String::new(), "c".repeat(5000), "a%0Ab".to_owned()]
}

#[tokio::test(flavor = "multi_thread")]
async fn goodbyes_with_wrong_parameters_are_refused_by_name() {
    let scene = Scene::set().await;
    let query = scene.down_query();
    let mut table = vec![query.without("taskId").refused(501, "taskId"), query.without("cid").refused(501, "cid")];
    table.extend(NO_TASKS.map(|task| query.with("taskId", task).refused(501, "taskId")));
    table.push(query.with("taskId", UNKNOWN_TASK).refused(502, UNKNOWN_TASK));
    table.extend(wrong_cids().iter().map(|cid| query.with("cid", cid).refused(501, "cid")));
    table.push(Refused::with_status("wrong method", request("POST", &query.target(), Bytes::new()), 405));
    scene.refuses(table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_may_come_twice_and_from_whom_nobody_knows() {
    let scene = Scene::set().await;
    let stranger = scene.ask(&scene.down_query().with("cid", "127.0.0.1-3-1795423513.000")).await;
    assert_eq!((stranger.status, stranger.code), (200, 200), "{stranger}");
    for _ in 0..2 {
        let answer = scene.ask(&scene.down_query()).await;
        assert_eq!((answer.status, answer.code), (200, 612), "{answer}");
    }
    let begins = "/peer/task?srcCid=127.0.0.1-2-1795423513.000&dstCid=&range=&result=502&status=700&taskId=";
    let answer = exchange::ask(scene.api(), get(&format!("{begins}{}", scene.task()))).await;
    let servers = answer.data.as_array().expect("there are pieces").iter().map(|piece| piece["cid"].as_str());
    let seed = scene.seed();
    assert!(servers.clone().all(|server| server == Some(seed.as_str())), "somebody is sent to who is gone: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn accusations_with_wrong_parameters_are_refused_by_name() {
    let scene = Scene::set().await;
    let mut table = vec![Refused::with_code("no parameters", get("/peer/piece/error"), 501, "taskId")];
    for server in [scene.seed(), scene.cid.clone()] {
        let query = scene.error_query(&server);
        for name in ["taskId", "srcCid", "dstCid", "errorType"] {
            table.push(query.without(name).refused(501, name));
        }
        table.extend(NO_TASKS.map(|task| query.with("taskId", task).refused(501, "taskId")));
        table.push(query.with("taskId", UNKNOWN_TASK).refused(502, UNKNOWN_TASK));
        for name in ["srcCid", "dstCid"] {
            table.extend(wrong_cids().iter().map(|cid| query.with(name, cid).refused(501, name)));
        }
        for kind in ["", "FILE", "file_not_exist", "FILE_NOT_EXIST%00", "1"] {
            table.push(query.with("errorType", kind).refused(501, "errorType"));
        }
        table.extend(MALFORMED_RANGES.iter().chain(&NO_PIECES).map(|range| query.with("range", range).refused(501, "range")));
        table.push(Refused::with_status("wrong method", request("POST", &query.target(), Bytes::new()), 405));
    }
    scene.refuses(table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accusations_that_nothing_speaks_for_change_nothing() {
    let scene = Scene::set().await;
    let (before, asked) = (scene.service.dump().await.sorted(), scene.origin.record("file").0.len());
    for server in [scene.seed(), scene.cid.clone(), "127.0.0.1-9-1795423513.000".to_owned()] {
        for kind in ["FILE_NOT_EXIST", "FILE_MD5_NOT_MATCH"] {
            let query = scene.error_query(&server).with("errorType", kind);
            // As the captured client has it: of a file that is gone, no range is told.
            for query in [query.clone(), query.with("range", ""), query.with("range", "").with("dstIp", "")] {
                let answer = scene.ask(&query).await;
                assert_eq!((answer.status, answer.code), (200, 200), "{} was answered {answer}", query.target());
            }
        }
    }
    scene.still_serves().await;
    let dump = scene.service.dump().await;
    let of_task = |line: &String| line.contains(scene.task());
    let (before, after): (Vec<_>, Vec<_>) =
        (before.into_iter().filter(of_task).collect(), dump.sorted().into_iter().filter(of_task).collect());
    assert_eq!(after, before, "reports alone changed what is stored");
    assert_eq!(scene.origin.record("file").0.len(), asked, "a piece that is sound was fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bare_calls_answer_get_only_and_in_their_own_form() {
    let scene = Scene::set().await;
    let ping = exchange::call(scene.api(), get("/_ping")).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((ping.status, &ping.body[..]), (200, &b"OK"[..]), "{ping}");
    let version = exchange::call(scene.api(), get("/version")).await.unwrap_or_else(|error| panic!("{error}"));
    let told: serde_json::Value = serde_json::from_slice(&version.body).unwrap_or_else(|error| panic!("{error}: {version}"));
    for name in ["Version", "Revision", "BuildDate", "GoVersion", "OS", "Arch"] {
        assert!(told[name].is_string(), "the Go server tells {name}: {version}");
    }
    let mut table = Vec::new();
    for path in ["/_ping", "/version", "/metrics"] {
        for method in ["POST", "PUT", "DELETE"] {
            table.push(Refused::with_status("wrong method", request(method, path, Bytes::new()), 405));
        }
        table.push(Refused::with_status("unknown route", get(&format!("{path}/more")), 404));
    }
    scene.refuses(table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_under_one_version_and_no_more() {
    let scene = Scene::set().await;
    for version in ["/v1.0.6", "/v1", "/v0.3.0"] {
        let ping = exchange::call(scene.api(), get(&format!("{version}/_ping"))).await.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((ping.status, &ping.body[..]), (200, &b"OK"[..]), "{version}: {ping}");
        let target = scene.down_query().with("cid", "127.0.0.1-3-1795423513.000").target();
        let answer = exchange::ask(scene.api(), get(&format!("{version}{target}"))).await;
        assert_eq!((answer.status, answer.code), (200, 200), "{version}{target}: {answer}");
    }
    let wrong = ["/v1.0.6/v1.0.6/_ping", "/v/_ping", "/vx/_ping", "/v1.0.6", "/v1.0.6//", "/v1.0.6_ping", "/V1.0.6/_ping"];
    let mut table: Vec<Refused> = wrong.map(|path| Refused::with_status("unknown route", get(path), 404)).into();
    table.push(Refused::with_code("no parameters", get("/v1.0.6/peer/task"), 501, "taskId"));
    table.push(Refused::with_status("wrong method", request("POST", "/v1.0.6/peer/task", Bytes::new()), 405));
    scene.refuses(table).await;
}
