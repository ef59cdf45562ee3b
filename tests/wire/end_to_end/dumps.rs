//! `supernode dump`.

use std::process::Output;

use serde_json::json;

use super::{download, download_wanted};
use crate::harness::client::Wanted;
use crate::harness::dump::{Dump, dump_text, output};
use crate::harness::exchange::{self, post_json};
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::{Service, command};

const SECRET: &str = "planted-secret-token";

#[tokio::test(flavor = "multi_thread")]
async fn dump_reads_a_stopped_home_and_a_running_one_alike() {
    let origin = Origin::start().await;
    let mut service = Service::start().await;
    let url = origin.put("file", File::new(random_content(5_000_000)));
    let task = download(&service, &url).await.task;

    let (running, running_table) = (service.dump().await, dump_text(&service.home(), "table", &[]).await);
    for kind in ["task", "peer", "client", "piece", "progress"] {
        assert!(running.of_kind(kind).count() > 0, "a dump after a download has no {kind}");
    }
    assert_eq!(running.of_kind("piece").count(), 2);
    assert!(running_table.contains(&task[..8]), "the table does not show the task {task}:\n{running_table}");

    assert!(service.terminate().await.success(), "an orderly stop");
    assert_eq!(service.dump().await.sorted(), running.sorted());
    assert_eq!(dump_text(&service.home(), "table", &[]).await, running_table);
}

#[tokio::test(flavor = "multi_thread")]
async fn dump_filters_by_task() {
    let origin = Origin::start().await;
    let service = Service::start().await;
    let first = download(&service, &origin.put("first", File::new(random_content(1000)))).await.task;
    let second = download(&service, &origin.put("second", File::new(random_content(1000)))).await.task;

    let everything = service.dump().await;
    for task in [first, second] {
        let filtered = Dump::with(&service.home(), &["--task", &task]).await;
        let of_task = |dump: &Dump| Dump(dump.0.iter().filter(|line| line["task"] == task).cloned().collect()).sorted();
        assert!(!of_task(&filtered).is_empty(), "nothing is shown of {task}");
        assert_eq!(of_task(&filtered), of_task(&everything), "what is shown of {task} depends on the filter");
        let strangers: Vec<_> = filtered.0.iter().filter(|line| line["kind"] != "peer" && line["task"] != task).collect();
        assert!(strangers.is_empty(), "asked for {task}, shown {strangers:?}");
        let of_peers = filtered.of_kind("peer").count();
        assert_eq!(of_peers, 1, "each task has one client, but {of_peers} peers are shown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_is_not_there_has_an_exit_code_of_its_own() {
    const NO_SUCH_TASK: i32 = 5;
    let mut service = Service::start().await;
    let unknown = "0".repeat(64);
    for is_running in [true, false] {
        for format in ["table", "jsonl"] {
            let mut dump = command();
            dump.arg("dump").arg("--home-dir").arg(service.home()).args(["--format", format, "--task", &unknown]);
            let Output { status, stdout, stderr } = output(dump).await;
            assert_eq!((status.code(), String::from_utf8_lossy(&stdout).as_ref()), (Some(NO_SUCH_TASK), ""), "{format}");
            let told = String::from_utf8_lossy(&stderr);
            assert!(told.contains(&format!("there is no task {unknown}")), "{told}");
        }
        if is_running {
            assert!(service.terminate().await.success(), "an orderly stop");
        }
    }
    let mut help = command();
    help.args(["dump", "--help"]);
    let help = String::from_utf8(output(help).await.stdout).expect("help is UTF-8");
    assert!(help.contains(&format!("{NO_SUCH_TASK} there is no such task")), "{help}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_obeys_nothing_that_clients_named() {
    let (origin, service) = (Origin::start().await, Service::start().await);
    let registration = json!({
        "cId": "a\u{202e}b", "ip": "127.0.0.1", "port": 1, "path": "/x", "superNodeIp": "127.0.0.1",
        "rawUrl": origin.put("file", File::new(random_content(2000))), "taskUrl": "http://c\u{1b}[31md/\u{7}",
    });
    let registered = exchange::ask(service.api(), post_json("/peer/registry", &registration)).await;
    assert_eq!(registered.code, 200, "{registered}");
    let dump = dump_text(&service.home(), "table", &[]).await;
    let mut gc = command();
    gc.args(["gc", "--dry-run", "--home-dir"]).arg(service.home());
    let gc = String::from_utf8(output(gc).await.stdout).expect("UTF-8");
    for (table, shows) in [(dump, r"a\u{202e}b"), (gc, r"http://c\u{1b}[31md/\u{7}")] {
        assert!(table.contains(shows), "no {shows} in {table:?}");
        assert!(!table.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{table:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dump_shows_no_request_headers() {
    let origin = Origin::start().await;
    let mut service = Service::start().await;
    let credentials = format!("Bearer {SECRET}");
    // The source insists, so the header has gone all the way.
    let file = File { authorization: Some(credentials.clone()), ..File::new(random_content(1000)) };
    let wanted = Wanted { headers: vec![format!("Authorization: {credentials}")], ..Wanted::url(&origin.put("file", file)) };
    download_wanted(&service, &wanted).await;

    check_secret_is_kept(&service).await;
    assert!(service.terminate().await.success(), "an orderly stop");
    check_secret_is_kept(&service).await;
}

async fn check_secret_is_kept(service: &Service) {
    for format in ["jsonl", "table"] {
        let dump = dump_text(&service.home(), format, &[]).await;
        assert!(dump.contains("127.0.0.1"), "the {format} dump shows nothing at all:\n{dump}");
        assert!(!dump.contains(SECRET), "the {format} dump shows a secret:\n{dump}");
    }
    assert!(!service.log().contains(SECRET), "the log shows a secret:\n{}", service.log());
}
