//! Starts that fail: told once, with the exit code that they have without a supervisor.

use std::net::TcpListener;

use crate::harness::dump::output;
use crate::harness::service::command_of;
use crate::harness::supervised::{Supervised, command_in};

const FAILED: i32 = 1;
const WRONG_CONFIGURATION: i32 = 2;
const HOME_IN_USE: i32 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn a_start_in_vain_says_why_once_and_leaves_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let cases: [(&[&str], i32, String); 6] = [
        (&["--port", &port], FAILED, format!("cannot listen on port {port} of 127.0.0.1; choose another with --port")),
        (&["--bind", "192.0.2.77"], FAILED, "of 192.0.2.77; choose an address of this machine with --bind".to_owned()),
        (&["--up-limit", "many"], WRONG_CONFIGURATION, "--up-limit: peerUpLimit is \"many\"".to_owned()),
        (&["--cdn-pattern", "hybrid"], WRONG_CONFIGURATION, "cdnPattern is \"hybrid\"".to_owned()),
        (&["--log-path", "/dev/null/log"], WRONG_CONFIGURATION, "logConfig.path is /dev/null/log, which cannot be".to_owned()),
        (&["--home-dir", "/dev/null/home"], FAILED, "cannot make the directory /dev/null/home".to_owned()),
    ];
    for (arguments, code, says) in cases {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let mut command = command_in(directory.path());
        command.args(arguments).stderr(std::process::Stdio::piped());
        let output = output(command).await;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert_eq!(errors.matches(&says).count(), 1, "{arguments:?}: {says:?} once in\n{errors}");
        if code == FAILED {
            assert!(!directory.path().join("home").exists(), "{arguments:?}: a home was made for nothing");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_is_told_who_has_the_home_whatever_its_ports() {
    let supervised = Supervised::start().await;
    let (home, port) = (supervised.home(), supervised.api().port().to_string());
    for ports in [["0", "0"], [&port, "0"]] {
        let mut second = command_of(&supervised.program());
        second.args([
            "--config",
            "/dev/null",
            "--bind",
            "127.0.0.1",
            "--port",
            ports[0],
            "--download-port",
            ports[1],
            "--home-dir",
        ]);
        let second = output({
            second.arg(&home);
            second
        })
        .await;
        let errors = String::from_utf8_lossy(&second.stderr).into_owned();
        assert_eq!(second.status.code(), Some(HOME_IN_USE), "{ports:?}: {errors}");
        let worker = supervised.worker().as_raw_pid();
        assert!(errors.contains(&format!("in use by the supernode with process id {worker}")), "{ports:?}: {errors}");
    }
}
