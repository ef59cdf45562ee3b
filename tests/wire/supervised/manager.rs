//! What a service manager is told, by supervised services and by those that it holds the sockets for.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::PATIENCE;
use crate::harness::supervised::Supervised;

/// Receives until this was told. What comes before it is returned.
fn told(manager: &UnixDatagram, what: &str) -> Vec<String> {
    let mut before = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let length = manager.recv(&mut buffer).unwrap_or_else(|error| panic!("{what:?} was not told ({error}), only {before:?}"));
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        if text.lines().any(|line| line == what) {
            return before;
        }
        before.push(text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_is_told_of_the_start_of_life_and_of_the_stop() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = directory.path().join("notify");
    for supervised in [true, false] {
        let _ = std::fs::remove_file(&path);
        let manager = UnixDatagram::bind(&path).expect("a socket");
        manager.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let service = Supervised::start_with(|command| {
            command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", Duration::from_millis(200).as_micros().to_string());
            if !supervised {
                command.arg("--no-supervise");
            }
        });
        let mut service = service.await;
        told(&manager, "READY=1");
        told(&manager, "WATCHDOG=1");
        told(&manager, "WATCHDOG=1");
        service.signal(Signal::TERM);
        told(&manager, "STOPPING=1");
        assert_eq!(service.ended().await.code(), Some(0), "{}", service.log());
    }
}
