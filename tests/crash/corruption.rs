//! Every file of a home, one at a time: gone, empty, cut in half, or with one bit turned around; and things in it that do
//! not belong there.
//!
//! Whatever it is, the service ends up with everything that was acknowledged, or says loudly what it lost, or does not
//! start and says why; and no client ends up with other bytes than the source's.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use crate::actor::Task;
use crate::files::{copy, files_below};
use crate::from_environment;
use crate::harness::client::{Client, Release, Wanted};
use crate::harness::dump::Dump;
use crate::harness::exchange::{self, get, post_json};
use crate::harness::origin::Origin;
use crate::harness::pieces::PIECE_CONTENT;
use crate::stage::{Addresses, Stage, Started, ask_control};

/// Clients that have parts of the endless task.
const REPORTERS: u32 = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Removed,
    Emptied,
    Halved,
    Flipped,
}

impl Damage {
    const ALL: [Self; 4] = [Self::Removed, Self::Emptied, Self::Halved, Self::Flipped];

    fn apply(self, file: &Path, random: &mut fastrand::Rng) {
        if self == Self::Removed {
            return std::fs::remove_file(file).expect("removed");
        }
        let mut bytes = std::fs::read(file).expect("readable");
        // What is only zeros was never used.
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        match self {
            Self::Removed | Self::Emptied => bytes.clear(),
            Self::Halved => bytes.truncate(used / 2),
            Self::Flipped if used > 0 => bytes[random.usize(..used)] ^= 1 << random.u8(..8),
            Self::Flipped => {}
        }
        std::fs::write(file, bytes).expect("written");
    }
}

/// A home that was in use, to be damaged again and again.
struct Patient {
    stage: Stage,
    sound: tempfile::TempDir,
    before: Dump,
    tasks: Vec<Arc<Task>>,
    _origin: Origin,
}

impl Patient {
    /// With a snapshot, after which more was acknowledged.
    async fn new(random: &mut fastrand::Rng) -> Self {
        let origin = Origin::start().await;
        let lengths = [0, 1000, 2000, PIECE_CONTENT + 1];
        let mut tasks: Vec<Arc<Task>> = lengths
            .iter()
            .map(|length| Arc::new(Task::new(&origin, &format!("file-{length}"), *length, random.u64(..))))
            .collect();
        tasks.push(Arc::new(Task::endless(&origin, "endless")));
        let mut stage = Stage::new(false);
        let addresses = serving(&mut stage).await;
        for task in tasks.iter().filter(|task| task.comes) {
            download(addresses, task).await;
        }
        report(addresses, &tasks[4], 0..REPORTERS / 2).await;
        let path = stage.home().join("snapshots/1.snap");
        let answer = ask_control(&stage.home(), "POST", &format!("/snapshot?output={}", path.display())).await;
        assert!(path.exists(), "no snapshot: {answer:?}");
        report(addresses, &tasks[4], REPORTERS / 2..REPORTERS).await;
        let before = stage.dump().await;
        // A killed service leaves what a stopped one removes, and a second start what a first one does not make.
        stage.kill();
        serving(&mut stage).await;
        stage.kill();
        let sound = tempfile::tempdir().expect("a directory");
        copy(&stage.home(), sound.path());
        Self { stage, sound, before, tasks, _origin: origin }
    }

    fn restore_home(&self) -> PathBuf {
        let home = self.stage.home();
        std::fs::remove_dir_all(&home).expect("removed");
        copy(self.sound.path(), &home);
        home
    }

    /// Starts on the home and looks at what comes of it; tells whether anything was lost.
    async fn treat(&mut self, what: &str) -> Outcome {
        let (dump, said, addresses) = match self.stage.start().await {
            Started::Died(status) => {
                let said = self.stage.said();
                assert!(status.code().is_some(), "{what}: the service did not end by itself: {status}\n{said}");
                let sentence = said.lines().find(|line| line.starts_with("supernode: "));
                assert!(sentence.is_some_and(|line| line.len() > 40), "{what}: refused without a reason:\n{said}");
                return Outcome::Refused;
            }
            Started::Serving(addresses) => (self.stage.dump().await, self.stage.said(), addresses),
        };
        let outcome = if is_as_before(&dump, &self.before) { Outcome::Whole } else { Outcome::Told };
        if outcome == Outcome::Told {
            let loud = said.contains("ERROR") && ["lost", "EMPTY", "restoring"].iter().any(|word| said.contains(word));
            let refetched = said.contains("WARN") && said.contains("not on disk");
            assert!(loud || refetched, "{what}: something is lost silently; the service said:\n{said}");
        }
        for task in self.tasks.iter().filter(|task| task.comes) {
            download(addresses, task).await;
        }
        self.stage.kill();
        outcome
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Whole,
    Told,
    Refused,
}

/// The same rows. The endless source is asked again at once; whether it has answered says nothing of what was kept.
fn is_as_before(dump: &Dump, before: &Dump) -> bool {
    dump.sorted() == before.sorted()
}

async fn serving(stage: &mut Stage) -> Addresses {
    match stage.start().await {
        Started::Serving(addresses) => addresses,
        Started::Died(status) => panic!("{status} instead of serving; its log:\n{}", stage.log()),
    }
}

/// Downloads as a published client does, and compares.
async fn download(addresses: Addresses, task: &Task) {
    let client = Arc::new(Client::start(&Release::GO_1_0_6).await);
    let got = client.download(addresses.api, &Wanted::url(&task.url)).await;
    let got = got.unwrap_or_else(|surprise| panic!("{}: {surprise}", task.url));
    assert!(got.content == task.content, "{}: other bytes than the source's", task.url);
}

async fn report(addresses: Addresses, task: &Task, clients: std::ops::Range<u32>) {
    for number in clients {
        let cid = format!("10.0.0.{number}-{number}-1795423513.832");
        let body = json!({
            "superNodeIp": "127.0.0.1", "rawUrl": task.url, "taskUrl": task.url, "cid": cid, "ip": "10.0.0.1", "hostName": "host",
            "port": 15001, "path": "/peer/file/a-file", "version": "1.0.6",
        });
        let answer = exchange::ask(addresses.api, post_json("/peer/registry", &body)).await;
        assert_eq!(answer.code, 200, "{answer}");
        for piece in 0..=number {
            let range = task.range(piece * 100);
            let request = format!("/peer/piece/suc?taskId={}&cid={cid}&dstCid=&pieceRange={range}", task.id);
            assert_eq!(exchange::ask(addresses.api, get(&request)).await.code, 611);
        }
    }
}

/// Those that make a difference. The database's files have all of theirs, and more, in a test of the wire tests; here each
/// has two at a time.
fn damages_of(file: &Path, is_database: bool, random: &mut fastrand::Rng) -> Vec<Damage> {
    let mut damages = Damage::ALL.to_vec();
    if file.metadata().expect("there").len() == 0 {
        damages.truncate(1);
    } else if is_database {
        random.shuffle(&mut damages);
        damages.truncate(2);
    }
    damages
}

#[tokio::test(flavor = "multi_thread")]
async fn no_damage_of_any_file_is_silent_or_reaches_a_client() {
    let seed = from_environment("CRASH_SEED", fastrand::u64(..));
    println!("damages with CRASH_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut patient = Patient::new(&mut random).await;
    let files: Vec<PathBuf> = files_below(patient.sound.path())
        .into_iter()
        .map(|path| path.strip_prefix(patient.sound.path()).expect("below").to_owned())
        .collect();
    for needed in ["db/db", "db/conf", "db/mark", "snapshots/1.snap", "lock", "serve.json"] {
        assert!(files.iter().any(|file| file == Path::new(needed)), "there is no {needed} in {files:?}");
    }
    // The two smallest lie in the database.
    assert_eq!(files.iter().filter(|file| file.starts_with("pieces")).count(), patient.tasks.len() - 2, "{files:?}");
    assert_eq!(patient.treat("nothing").await, Outcome::Whole, "without damage nothing is lost");
    let mut told = 0;
    for file in &files {
        for damage in damages_of(&patient.sound.path().join(file), file.starts_with("db"), &mut random) {
            let home = patient.restore_home();
            damage.apply(&home.join(file), &mut random);
            let what = format!("{} {damage:?}", file.display());
            let outcome = patient.treat(&what).await;
            assert_ne!(outcome, Outcome::Refused, "{what}: nothing in a home keeps a service from starting");
            // What the service keeps in memory, or makes anew, is no loss.
            if !file.starts_with("db") && !file.starts_with("pieces") {
                assert_eq!(outcome, Outcome::Whole, "{what}");
            }
            told += u32::from(outcome == Outcome::Told);
        }
    }
    assert!(told > 0, "nothing was damaged");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_belong_in_a_home_is_in_nobodys_way() {
    let mut patient = Patient::new(&mut fastrand::Rng::new()).await;
    let garbage = |path: &Path| std::fs::write(path, "nothing that anybody wrote on purpose\n").expect("written");
    type Leave<'a> = &'a dyn Fn(&Path);
    let leftovers: [(&str, Leave); 9] = [
        ("a file where the control socket is", &|home| garbage(&home.join("control.sock"))),
        ("a snapshot that a kill cut short", &|home| garbage(&home.join("snapshots/2.snap.partial"))),
        ("a file that calls itself a snapshot", &|home| garbage(&home.join("snapshots/2.snap"))),
        ("sled's own torn snapshot", &|home| garbage(&home.join("db/snap.0000000000000000.generating"))),
        ("a restore that was cut short", &|home| copy(&home.join("db"), &home.join("db.restoring"))),
        ("a restored database that was not needed", &|home| copy(&home.join("db"), &home.join("db.restored"))),
        ("a file among the pieces", &|home| garbage(&home.join("pieces/notes.txt"))),
        ("addresses of another process", &|home| {
            std::fs::write(home.join("serve.json"), r#"{"pid":1,"api":"127.0.0.1:1","download":"127.0.0.1:2"}"#)
                .expect("written");
        }),
        ("half of an address file", &|home| garbage(&home.join("serve.json.new"))),
    ];
    for (what, leave) in leftovers {
        let home = patient.restore_home();
        leave(&home);
        assert_eq!(patient.treat(what).await, Outcome::Whole, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_read_is_refused_with_a_reason() {
    let mut stage = Stage::new(false);
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("supernode.yml");
    let sound = "base:\n  failAccessInterval: 3m\n  peerDownLimit: 4\n";
    let cases: [(&str, Vec<u8>); 4] = [
        ("half a line", sound.as_bytes()[..sound.len() - 3].iter().copied().chain(*b": [").collect()),
        ("a flipped bit in a number", sound.replace("3m", "sm").into_bytes()),
        ("bytes that are no text", vec![0xff, 0xfe, 0x00, 0x9f]),
        ("a list", b"- 1\n- 2\n".to_vec()),
    ];
    std::fs::write(&file, sound).expect("written");
    let arguments = ["--config", file.to_str().expect("a path is text")];
    let Started::Serving(_) = stage.start_with(&arguments).await else { panic!("a sound one serves:\n{}", stage.log()) };
    stage.kill();
    for (what, text) in cases {
        std::fs::write(&file, text).expect("written");
        let Started::Died(status) = stage.start_with(&arguments).await else { panic!("{what} is served:\n{}", stage.said()) };
        let said = stage.said();
        assert_eq!(status.code(), Some(2), "{what}: {said}");
        assert!(said.contains("supernode.yml"), "{what}: the file is not named: {said}");
    }
    std::fs::remove_file(&file).expect("removed");
    let Started::Died(_) = stage.start_with(&arguments).await else { panic!("a file that is named must be there") };
    assert!(stage.said().contains("supernode.yml"));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_below_a_home_is_its_owners_alone() {
    let mut patient = Patient::new(&mut fastrand::Rng::new()).await;
    // With what a running service has beside what a killed one left.
    serving(&mut patient.stage).await;
    let home = patient.stage.home();
    let (mut paths, mut directories) = (Vec::new(), vec![home]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                directories.push(path.clone());
            }
            paths.push(path);
        }
        paths.push(directory);
    }
    assert!(paths.iter().any(|path| path.ends_with("control.sock")) && paths.len() > 15, "{paths:?}");
    for path in paths {
        let mode = path.symlink_metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} has the mode {mode:o}", path.display());
    }
}
