//! Starting and stopping.

use std::time::{Duration, Instant};

use super::download;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::dump::output;
use crate::harness::origin::{Ending, File, Origin};
use crate::harness::pieces::{random_content, range_of};
use crate::harness::service::{Service, serve_command};
use crate::harness::{eventually, exchange};

/// More than held answers may take, less than any timeout that would hide a hang.
const STOPS_WITHIN: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_stops_with_exit_code_0() {
    let origin = Origin::start().await;
    let content = random_content(5_000_000);
    let url = origin.put("file", File { ending: Ending::StallsAfter(1000), ..File::new(content) });
    let mut service = Service::start().await;
    let client = Client::start(&Release::GO_1_0_6).await;
    let registered = client.register(service.api(), &Wanted::url(&url)).await.unwrap_or_else(|surprise| panic!("{surprise}"));
    assert_eq!(registered.code, 200, "{registered}");
    let task = registered.data["taskId"].as_str().expect("a task id").to_owned();

    // The source stalls before the first piece, so this question is held. It carries a report: once a dump shows that,
    // the question is known to have been taken in.
    let held = tokio::spawn(exchange::ask(
        service.api(),
        exchange::get(&format!(
            "/peer/task?srcCid={}&dstCid=&range={}&result=503&status=701&taskId={task}",
            client.cid(),
            range_of(0)
        )),
    ));
    eventually("the report is in a dump", async || service.dump().await.held(&task, client.cid()).contains(&0).then_some(()))
        .await;

    let began = Instant::now();
    let status = service.terminate().await;
    assert_eq!(status.code(), Some(0), "the service ended with {status}");
    assert!(began.elapsed() < STOPS_WITHIN, "stopping took {:?}", began.elapsed());
    let answer = held.await.expect("asking does not panic");
    assert_eq!(answer.code, 602, "a held question of a client with nothing to do was answered {answer}");
    assert!(service.dump().await.held(&task, client.cid()).contains(&0), "what was acknowledged is there after the stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_removes_what_belongs_to_no_task_and_leaves_alone_what_links_lead_to() {
    let (origin, mut service) = (Origin::start().await, Service::start().await);
    let content = random_content(100_000);
    let url = origin.put("file", File::new(content.clone()));
    let task = download(&service, &url).await.task;
    service.kill9();
    let (pieces, elsewhere) = (service.home().join("pieces"), tempfile::tempdir().expect("a directory"));
    let strangers = [pieces.join("notes.txt"), pieces.join(&task[..3]).join("copy"), pieces.join("deep/er/file")];
    std::fs::create_dir_all(pieces.join("deep/er")).expect("a directory");
    for path in &strangers {
        std::fs::write(path, "a stranger's").expect("written");
    }
    let others = elsewhere.path().join("others");
    std::fs::write(&others, "somebody else's").expect("written");
    std::os::unix::fs::symlink(elsewhere.path(), pieces.join("directory")).expect("linked");
    std::os::unix::fs::symlink(&others, pieces.join("link")).expect("linked");
    service.restart().await;
    for path in &strangers {
        assert!(!path.exists(), "{} outlived a start", path.display());
        let line = format!("piece file that no task names is removed path={}", path.display());
        assert!(service.log().contains(&line), "the log does not say {line:?}");
    }
    for path in [&others, &pieces.join("directory"), &pieces.join("link")] {
        assert!(path.exists(), "{} is gone", path.display());
    }
    assert!(download(&service, &url).await.content == content, "the file arrived with other bytes");
    assert_eq!(origin.record("file").0.len(), 1, "what belongs to a task stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_on_the_same_home_is_refused_and_told_who_holds_it() {
    let service = Service::start().await;
    let mut second = serve_command(&service.home());
    second.args(["--port", "0", "--download-port", "0", "--bind", "127.0.0.1"]);
    let second = output(second).await;
    let errors = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(second.status.code().is_some_and(|code| code != 0), "the second instance ended with {}: {errors}", second.status);
    let names_it = errors.split(|c: char| !c.is_ascii_digit()).any(|number| number == service.pid().to_string());
    assert!(names_it, "the second instance does not name process {}: {errors}", service.pid());

    let answer = exchange::ask(service.api(), exchange::get("/peer/nothing")).await;
    assert_eq!(answer.status, 404, "the first instance serves on: {answer}");
}
