//! Starting with a configuration, a wrong one, and looking at it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::harness::dump::output;
use crate::harness::eventually;
use crate::harness::service::{Service, command, serve_command};

/// A supernode.yml of 1.0.x with every key.
const GO_FILE: &str = include_str!("../../fixtures/supernode-1.0.yml");
const WRONG: i32 = 2;

struct Ended {
    code: Option<i32>,
    printed: String,
    errors: String,
}

async fn run(command: Command) -> Ended {
    let output = output(command).await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { code: output.status.code(), printed: text(&output.stdout), errors: text(&output.stderr) }
}

/// `supernode config` with a file.
fn config_of(file: &Path) -> Command {
    let mut command = command();
    command.arg("config").arg("--config").arg(file);
    command
}

fn directory_with(file: &str, text: &str) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    std::fs::write(directory.path().join(file), text).expect("it can be written");
    directory
}

/// The lines of an effective configuration without their comments.
fn settings(printed: &str) -> Vec<&str> {
    printed.lines().map(|line| line.split("  #").next().unwrap_or_default().trim_end()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_starts_with_a_file_of_the_go_supernode_and_logs_where_that_says() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let path = directory.path().join("logs/supernode.log");
    let service = Service::start_configured(&GO_FILE.replace("/var/log/supernode.log", &path.display().to_string())).await;
    for part in
        ["serving", "plugins is unknown and ignored", "have no effect here: schedulerCorePoolSize, enableProfiler", " DEBUG "]
    {
        let log = || std::fs::read_to_string(&path).unwrap_or_default();
        eventually(&format!("the log has {part:?}"), async || log().contains(part).then_some(())).await;
    }
    assert_eq!(std::fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o600);
    assert_eq!(service.log(), "", "standard error is silent where there is a log file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_value_stops_the_start_with_exit_code_2() {
    let directory = directory_with("supernode.yml", "base:\n  listenPort: 8002\n  hold: 5s\n");
    let (home, file) = (directory.path().join("home"), directory.path().join("supernode.yml"));
    let mut wrong_file = serve_command(&home);
    wrong_file.arg("--config").arg(&file);
    let mut wrong_flag = serve_command(&home);
    wrong_flag.args(["--port", "eighty"]);
    let mut wrong_variable = serve_command(&home);
    wrong_variable.env("SUPERNODE_FAIL_ACCESS_INTERVAL", "3");
    let mut misspelt_variable = serve_command(&home);
    misspelt_variable.env("SUPERNODE_SOURCE_DENNY", "10.0.0.0/8");
    let mut absent = serve_command(&home);
    absent.arg("--config").arg(directory.path().join("absent.yml"));
    let mut wrong_pattern = serve_command(&home);
    wrong_pattern.args(["--cdn-pattern", "hybrid"]);
    let mut wrong_log = serve_command(&home);
    wrong_log.env("SUPERNODE_LOG", "supernode=loudly");
    let pipe = directory.path().join("pipe.yml");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).expect("a pipe can be made");
    let mut from_pipe = serve_command(&home);
    from_pipe.arg("--config").arg(&pipe);
    let misplaced_policy = directory.path().join("misplaced.yml");
    std::fs::write(&misplaced_policy, "source:\n  deny: [internal.example]\n").expect("it can be written");
    let mut without_policy = serve_command(&home);
    without_policy.arg("--config").arg(&misplaced_policy);
    let mut one_port = serve_command(&home);
    one_port.args(["--port", "18765", "--download-port", "18765"]);
    let cases = [
        (without_policy, "misplaced.yml:1: source is unknown; allowed is base.source".to_owned()),
        (one_port, "--download-port: downloadPort is the same as listenPort, 18765; allowed is another port".to_owned()),
        (from_pipe, "pipe.yml: it is a pipe, not a file".to_owned()),
        (wrong_file, format!("{}:3: hold is \"5s\"; allowed is ", file.display())),
        (wrong_flag, "--port: listenPort is \"eighty\"; allowed is a port, 0 to 65535".to_owned()),
        (wrong_variable, "SUPERNODE_FAIL_ACCESS_INTERVAL: failAccessInterval is \"3\"; allowed is a duration".to_owned()),
        (misspelt_variable, "SUPERNODE_SOURCE_DENNY: the variable is unknown; allowed is SUPERNODE_SOURCE_DENY".to_owned()),
        (absent, "absent.yml: No such file or directory".to_owned()),
        (wrong_log, "SUPERNODE_LOG is \"supernode=loudly\"; allowed is a log filter".to_owned()),
        (wrong_pattern, "--cdn-pattern: cdnPattern is \"hybrid\"; allowed is local or source".to_owned()),
    ];
    for (command, says) in cases {
        let Ended { code, errors, .. } = run(command).await;
        assert_eq!(code, Some(WRONG), "{errors}");
        assert!(errors.contains(&says), "{errors:?} does not say {says:?}");
        let parts: Vec<&str> = errors.trim().split(": ").collect();
        let repeated = parts.iter().enumerate().find(|(place, part)| parts[..*place].contains(part));
        assert_eq!(repeated, None, "told twice in {errors:?}");
        assert!(!home.exists(), "nothing is made for a service that does not start");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn config_prints_what_is_in_effect_and_can_be_read_back() {
    let directory = directory_with("supernode.yml", GO_FILE);
    let mut first = config_of(&directory.path().join("supernode.yml"));
    first
        .args(["--port=8100", "-D"])
        .env("SUPERNODE_PORT", "8200")
        .env("SUPERNODE_DOWN_LIMIT", "3")
        .env("SUPERNODE_LIMITED", "1");
    let first = run(first).await;
    assert_eq!(first.code, Some(0), "{}", first.errors);
    for warning in ["plugins is unknown", "SUPERNODE_LIMITED is unknown and ignored"] {
        assert!(first.errors.contains(warning), "{warning:?} is not in {}", first.errors);
    }
    let line = |key: &str| first.printed.lines().find(|line| line.trim_start().starts_with(key)).unwrap_or_default();
    for (key, by) in [
        ("listenPort: 8100 ", "# --port; "),
        ("peerDownLimit: 3 ", "# SUPERNODE_DOWN_LIMIT; "),
        ("peerUpLimit: 6 ", "supernode.yml:22; "),
        ("hold: 1s ", "# default; "),
    ] {
        assert!(line(key).contains(by), "{key:?} by {by:?} is not in\n{}", first.printed);
    }

    std::fs::write(directory.path().join("again.yml"), &first.printed).expect("it can be written");
    let second = run(config_of(&directory.path().join("again.yml"))).await;
    assert_eq!(second.code, Some(0), "{}", second.errors);
    assert_eq!(settings(&second.printed), settings(&first.printed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_finds_the_home_that_the_file_names() {
    let service = Service::start_configured("").await;
    let directory = directory_with("supernode.yml", &format!("base:\n  homeDir: {:?}\n", service.home()));
    let mut dump = command();
    dump.arg("dump").arg("--config").arg(directory.path().join("supernode.yml"));
    let found = run(dump).await;
    assert_eq!(found.code, Some(0), "{}", found.errors);
    let mut dump = command();
    dump.args(["dump", "--config", "/dev/null"]).env("SUPERNODE_HOME_DIR", directory.path().join("absent"));
    let absent = run(dump).await;
    assert_eq!(absent.code, Some(1), "a variable comes before the default");
    assert!(absent.errors.contains("there is no supernode home at"), "{}", absent.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_is_a_file_is_called_one() {
    let directory = directory_with("home", "text");
    let home = directory.path().join("home");
    let mut dump = command();
    dump.arg("dump").arg("--home-dir").arg(&home);
    for command in [serve_command(&home), dump] {
        let Ended { code, errors, .. } = run(command).await;
        assert_eq!(code, Some(1), "{errors}");
        assert!(errors.contains(&format!("the home {} is not a directory", home.display())), "{errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_without_effect_are_accepted_and_say_so() {
    let mut given = config_of(Path::new("/dev/null"));
    given.args(["--pool-size", "3", "--profiler"]);
    let Ended { code, errors, printed } = run(given).await;
    assert_eq!(code, Some(0), "{errors}");
    assert_eq!(errors, "supernode: warning: these settings have no effect here: schedulerCorePoolSize, enableProfiler\n");
    assert!(settings(&printed).contains(&"  enableProfiler: true"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_is_told() {
    let directory = directory_with("tabs.yml", "base:\n\tlistenPort: 8002\n");
    for (file, says) in [(".", "cannot read the configuration file"), ("tabs.yml", "tabs.yml:2:")] {
        let Ended { code, errors, .. } = run(config_of(&directory.path().join(file))).await;
        assert_eq!(code, Some(WRONG), "{file}: {errors}");
        assert!(errors.contains(says), "{file}: {errors}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_version_and_the_help_are_printed() {
    for argument in ["version", "--version"] {
        let mut asked = command();
        asked.arg(argument);
        let Ended { code, printed, .. } = run(asked).await;
        assert_eq!(code, Some(0));
        assert!(printed.starts_with("supernode") && printed.contains(env!("CARGO_PKG_VERSION")), "{argument}: {printed}");
    }
    let mut asked = command();
    asked.arg("--help");
    let Ended { printed, .. } = run(asked).await;
    for part in
        ["Garbage collection:", "SUPERNODE_FAIL_ACCESS_INTERVAL", "failAccessInterval", "2 wrong usage or wrong configuration"]
    {
        assert!(printed.contains(part), "{part:?} is not in\n{printed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_given_beside_sockets_that_are_handed_over_is_told_to_be_ignored() {
    let service = Service::start_configured_on_held_sockets("base:\n  bind: 127.0.0.2\n").await;
    let log = service.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("has no effect")).collect();
    assert_eq!(told.len(), 1, "its ports are those that were given: {log}");
    for part in ["WARN", "supernode.yml:2: bind is 127.0.0.2", &service.api().to_string(), "ListenStream"] {
        assert!(told[0].contains(part), "{part:?} is not in {}", told[0]);
    }
}
