//! A home that something has damaged: the service is right all the same, or says what it lost. Never silence.
//!
//! sled takes most damage in the middle of its log for a torn end, opens, and has silently forgotten what came after.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::download;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::dump::{Dump, output};
use crate::harness::eventually;
use crate::harness::origin::{File, Origin};
use crate::harness::pieces::random_content;
use crate::harness::service::{Service, binary, command};

/// Where bits are flipped in each file, evenly spread over what is used of it.
const FLIPS: usize = 64;

#[derive(Clone, Copy, Debug)]
enum Damage {
    Removed,
    Emptied,
    Halved,
    Flipped { byte: usize },
}

impl Damage {
    fn all(file: &Path) -> Vec<Self> {
        let bytes = std::fs::read(file).expect("readable");
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let flips = (0..FLIPS.min(used)).map(|flip| Self::Flipped { byte: flip * used / FLIPS.min(used) });
        [Self::Removed, Self::Emptied, Self::Halved].into_iter().chain(flips).collect()
    }

    fn apply(self, file: &Path) {
        let mut bytes = std::fs::read(file).expect("readable");
        match self {
            Self::Removed => return std::fs::remove_file(file).expect("removed"),
            Self::Emptied => bytes.clear(),
            Self::Halved => {
                let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
                bytes.truncate(used / 2);
            }
            Self::Flipped { byte } => bytes[byte] ^= 1 << (byte % 8),
        }
        std::fs::write(file, bytes).expect("written");
    }
}

/// A stopped home with something in it, to be damaged again and again.
struct Patient {
    service: Service,
    sound: tempfile::TempDir,
    before: Dump,
}

impl Patient {
    async fn new(with_snapshot: bool) -> (Self, Origin) {
        let origin = Origin::start().await;
        let mut service = Service::start().await;
        for number in 0..4 {
            let url = origin.put(&format!("file-{number}"), File::new(random_content(5_000_000)));
            download(&service, &url).await;
            download(&service, &url).await;
        }
        if with_snapshot {
            run(&["snapshot"], &service.home()).await;
        }
        let before = service.dump().await;
        assert!(service.terminate().await.success(), "an orderly stop");
        let sound = tempfile::tempdir().expect("a directory");
        copy(&service.home(), sound.path());
        (Self { service, sound, before }, origin)
    }

    fn database_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.sound.path().join("db")).expect("readable");
        let paths = entries.map(|entry| entry.expect("readable").path()).filter(|path| path.is_file());
        let mut names: Vec<PathBuf> = paths.map(|path| path.file_name().expect("a name").into()).collect();
        names.sort();
        assert!(names.len() >= 3, "a home has more files than {names:?}");
        names
    }

    /// Damages a fresh copy and starts the service on it. Tells what that then has, and what it said.
    async fn treat(&mut self, file: &Path, damage: Damage) -> (Dump, String) {
        let home = self.service.home();
        std::fs::remove_dir_all(&home).expect("removed");
        copy(self.sound.path(), &home);
        damage.apply(&home.join("db").join(file));
        let said_before = self.service.log().len();
        self.service.restart().await;
        let dump = self.service.dump().await;
        // The log is written whole by then.
        assert!(self.service.terminate().await.success(), "an orderly stop");
        (dump, self.service.log()[said_before..].to_owned())
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            // Sockets and the like are not copied.
            false if entry.path().is_file() => drop(std::fs::copy(entry.path(), target).expect("copied")),
            false => {}
        }
    }
}

async fn run(args: &[&str], home: &Path) -> String {
    let mut command = std::process::Command::new(binary());
    command.args(args).arg("--home-dir").arg(home);
    let output = output(command).await;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?} ended with {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_snapshot_no_damage_of_the_database_loses_anything_that_is_in_it() {
    let (mut patient, _origin) = Patient::new(true).await;
    for file in patient.database_files() {
        for damage in Damage::all(&patient.sound.path().join("db").join(&file)) {
            let (dump, said) = patient.treat(&file, damage).await;
            assert_eq!(dump.sorted(), patient.before.sorted(), "{} {damage:?}; the service said:\n{said}", file.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_snapshot_no_damage_of_the_database_is_silent() {
    let (mut patient, _origin) = Patient::new(false).await;
    let (mut told, mut unharmed) = (0, 0);
    for file in patient.database_files() {
        for damage in Damage::all(&patient.sound.path().join("db").join(&file)) {
            let (dump, said) = patient.treat(&file, damage).await;
            if dump.sorted() == patient.before.sorted() {
                unharmed += 1;
                continue;
            }
            told += 1;
            let loud = said.contains("ERROR") && (said.contains("lost") || said.contains("EMPTY"));
            assert!(loud, "{} {damage:?} lost something silently; the service said:\n{said}", file.display());
        }
    }
    assert!(told > 0 && unharmed > 0, "{told} losses told, {unharmed} damages without one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_restored_its_database_looks_at_its_pieces() {
    let (mut patient, _origin) = Patient::new(true).await;
    let home = patient.service.home();
    let task = patient.before.of_kind("task").next().expect("a task")["task"].as_str().expect("an id").to_owned();
    let file = home.join("pieces").join(&task[..3]).join(format!("{task}.0"));
    let sound = std::fs::read(&file).expect("readable");
    Damage::Flipped { byte: 4_200_000 }.apply(&file);
    Damage::Removed.apply(&home.join("db/db"));
    assert!(std::fs::read(&file).expect("readable") != sound, "it is damaged, or this test shows nothing");
    patient.service.restart().await;
    eventually("the piece is as it was", async || (std::fs::read(&file).ok().as_ref() == Some(&sound)).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_piece_file_has_lost_is_fetched_again() {
    let origin = Origin::start().await;
    let content = random_content(9_000_000);
    let url = origin.put("file", File::new(content.clone()));
    let mut service = Service::start().await;
    let task = download(&service, &url).await.task;
    assert!(service.terminate().await.success(), "an orderly stop");
    let file = service.home().join("pieces").join(&task[..3]).join(format!("{task}.0"));
    let sound = std::fs::read(&file).expect("the piece file is there");
    // A flipped bit is found by whoever fetches the piece, and by `check`.
    for damage in [Damage::Removed, Damage::Emptied, Damage::Halved] {
        std::fs::write(&file, &sound).expect("written");
        damage.apply(&file);
        let mut check = command();
        check.arg("check").arg("--home-dir").arg(service.home());
        let said = String::from_utf8(output(check).await.stdout).expect("UTF-8");
        assert!(said.contains(&format!("({})", file.display())), "{damage:?}: the file is not named in {said}");
        service.restart().await;
        let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
        let got = client.download(service.api(), &Wanted::url(&url)).await;
        let got = got.unwrap_or_else(|surprise| panic!("{damage:?}: {surprise}"));
        assert!(got.content == content, "{damage:?}: other bytes than the source's");
        assert!(service.terminate().await.success(), "an orderly stop");
    }
}
