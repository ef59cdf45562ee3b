//! What files, variables and flags say, and what is told of those that are wrong.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::documents::{example, tables};
use super::*;

/// A supernode.yml of 1.0.x as its documentation has it, with every key.
const GO_FILE: &str = include_str!("../../tests/fixtures/supernode-1.0.yml");

fn setting(key: &str) -> &'static Setting {
    SETTINGS.iter().find(|setting| setting.key == key).unwrap_or_else(|| panic!("there is no setting {key}"))
}

/// A directory with a supernode.yml in it.
struct Scene(tempfile::TempDir);

impl Scene {
    fn with(text: impl AsRef<[u8]>) -> Self {
        let scene = Self(tempfile::tempdir().expect("a directory"));
        std::fs::write(scene.file(), text).expect("it can be written");
        scene
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("supernode.yml")
    }

    fn sources(&self) -> Sources {
        Sources { file: Some(self.file()), ..Sources::default() }
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        self.sources().load()
    }

    /// The error, with the directory taken out of it.
    fn error(&self) -> String {
        let error = self.load().expect_err("it is wrong");
        format!("{:#}", anyhow::Error::from(error)).replace(&format!("{}/", self.0.path().display()), "")
    }
}

/// A valid text: the configuration, and the warnings with the directory taken out.
fn load(text: &str) -> (Config, Vec<String>) {
    let scene = Scene::with(text);
    let loaded = scene.load().unwrap_or_else(|error| panic!("{text:?}: {error}"));
    let place = format!("{}/", scene.0.path().display());
    (loaded.config, loaded.warnings.iter().map(|warning| warning.replace(&place, "")).collect())
}

#[test]
fn a_file_of_the_go_supernode_is_read_as_it_is() {
    let (config, warnings) = load(GO_FILE);
    assert_eq!(
        config,
        Config {
            home: "/home/admin/supernode".into(),
            port: 8012,
            download_port: 8011,
            advertise_ip: Some([127, 0, 0, 1].into()),
            peer_up_limit: 6,
            peer_down_limit: 7,
            elimination_limit: 8,
            failure_count_limit: 9,
            link_limit_bytes_per_s: 30 * units::M,
            system_reserved_bandwidth_bytes_per_s: 10 * units::M,
            max_bandwidth_bytes_per_s: units::G,
            fail_access_interval: Duration::from_mins(4),
            gc_initial_delay: Duration::from_secs(7),
            gc_meta_interval: Duration::from_mins(1),
            gc_disk_interval: Duration::from_secs(16),
            task_expire_time: Duration::from_mins(5),
            peer_gc_delay: Duration::from_mins(6),
            young_gc_threshold_bytes: 50 * units::G,
            full_gc_threshold_bytes: 4 * units::G,
            interval_threshold: Duration::from_mins(90),
            clean_ratio: 2,
            enable_profiler: true,
            debug: true,
            scheduler_core_pool_size: 20,
            log: LogConfig { path: Some("/var/log/supernode.log".into()), size_max_mb: 50, backups_max: 3, age_max_days: 0 },
            ..Config::default()
        }
    );
    let line = GO_FILE.lines().position(|line| line.starts_with("plugins:")).expect("it is there") + 1;
    assert_eq!(warnings[0], format!("supernode.yml:{line}: plugins is unknown and ignored"));
    assert_eq!(warnings[1], "these settings have no effect here: schedulerCorePoolSize, enableProfiler");
    assert_eq!(warnings.len(), 2);
}

#[test]
fn an_address_that_only_this_machine_reaches_may_be_told_and_any_may_be_listened_on() {
    for (key, value) in [("advertiseIP", "127.0.0.1"), ("advertiseIP", "'::1'"), ("bind", "0.0.0.0"), ("bind", "'::'")] {
        let read = Scene::with(format!("base:\n  {key}: {value}\n")).load();
        assert!(read.is_ok(), "{key} {value}");
    }
}

#[test]
fn a_wrong_value_is_told_with_file_line_key_what_was_found_and_what_is_allowed() {
    let cases = [
        ("listenPort", "80002", "a port, 0 to 65535"),
        ("listenPort", "-1", "a port"),
        ("advertiseIP", "supernode.local", "an address at which clients reach"),
        ("advertiseIP", "0.0.0.0", "an address at which clients reach this machine"),
        ("advertiseIP", "'::'", "leave it out"),
        ("advertiseIP", "'::ffff:0.0.0.0'", "leave it out"),
        ("advertiseIP", "255.255.255.255", "leave it out"),
        ("advertiseIP", "224.0.0.1", "leave it out"),
        ("advertiseIP", "'ff02::1'", "leave it out"),
        ("bind", "10.0.0", "an IP address"),
        ("cdnPattern", "cdn", "local or source"),
        ("cdnPattern", "hybrid", "local or source"),
        ("durability", "none", "power or process"),
        ("peerUpLimit", "many", "a whole number, 1 to"),
        ("peerDownLimit", "0", "a whole number, 1 to"),
        ("eliminationLimit", "256", "a whole number, 1 to 255"),
        ("linkLimit", "20Mb", "like 20M"),
        ("linkLimit", "2T", "like 20M"),
        ("failAccessInterval", "3", "a duration with its unit"),
        ("failAccessInterval", "3 minutes", "a duration with its unit"),
        ("gcMetaInterval", "-1s", "a duration with its unit"),
        ("hold", "3s", "0s to 2.999s"),
        ("debug", "maybe", "true or false"),
        ("cleanRatio", "1.5", "a whole number, 1 to 10"),
    ];
    for (key, value, allowed) in cases {
        let error = Scene::with(format!("# a comment\nbase:\n  {key}: {value}\n")).error();
        let read_as = if value == "3" && key == "failAccessInterval" { " (nanoseconds)" } else { "" };
        let value = value.trim_matches('\'');
        assert!(error.starts_with(&format!("supernode.yml:3: {key} is {value:?}{read_as}; allowed is ")), "{error}");
        assert!(error.contains(allowed), "{error} does not say {allowed:?}");
    }
    let shapes = Scene::with("base:\n  listenPort: [1]\n  hold: {a: 1}\n  logConfig: 3\n").error();
    let expected = [
        "supernode.yml:2: listenPort is a list; allowed is a port, 0 to 65535",
        "supernode.yml:3: hold is a mapping; allowed is a duration with its unit, like 500ms or 1h30m, 0s to 2.999s",
        "supernode.yml:4: logConfig is a single value; allowed is a mapping of settings",
    ];
    assert_eq!(shapes.lines().collect::<Vec<_>>(), expected, "all that is wrong is told at once");
    let mixed = Scene::with("base:\n  hold: 9s\n  cleanRatioo: 3\n  listenPort: [1]\n  debug: maybe\n").error();
    let begins: Vec<&str> = mixed.lines().map(|line| line.split(" is ").next().unwrap_or_default()).collect();
    let expected = [
        "supernode.yml:2: hold",
        "supernode.yml:4: listenPort",
        "supernode.yml:5: debug",
        "warning: supernode.yml:3: base.cleanRatioo",
    ];
    assert_eq!(begins, expected, "in the order of the file, and what was ignored as well");
    assert_eq!(Scene::with("base: 3\n").error(), "supernode.yml:1: base is a single value; allowed is a mapping of settings");
    assert_eq!(Scene::with("- a\n").error(), "supernode.yml:1: the file is a list; allowed is a mapping of settings");
}

#[test]
fn an_unknown_key_is_ignored_with_a_warning_that_names_the_nearest() {
    let text = "plugins: {storage: []}\nlistenPort: 1\nbase:\n  listenport2: 2\n  logConfig:\n    maxsize: 7\n    pth: x\n  foo: {a: b}\n";
    let (config, warnings) = load(text);
    assert_eq!(config.port, 8002, "a key in the wrong place says nothing");
    assert_eq!(config.log.size_max_mb, 7, "capitals do not matter, as they did not to the Go supernode");
    assert_eq!(
        warnings,
        [
            "supernode.yml:1: plugins is unknown and ignored",
            "supernode.yml:2: listenPort is unknown and ignored; base.listenPort is the nearest that is known",
            "supernode.yml:4: base.listenport2 is unknown and ignored; base.listenPort is the nearest that is known",
            "supernode.yml:7: base.logConfig.pth is unknown and ignored; base.logConfig.path is the nearest that is known",
            "supernode.yml:8: base.foo is unknown and ignored",
        ]
    );
}

#[test]
fn what_belongs_below_base_is_told_where_and_a_policy_that_nobody_would_heed_is_refused() {
    let warned = |text| load(text).1;
    assert_eq!(
        warned("logConfig:\n  path: x\n"),
        ["supernode.yml:1: logConfig is unknown and ignored; base.logConfig is the nearest that is known"]
    );
    let cases = [
        ("source: {deny: [a]}\n", 1, "source", "base.source"),
        ("Sources: {deny: [a]}\n", 1, "Sources", "base.source"),
        ("deny: [a]\n", 1, "deny", "base.source.deny"),
        ("base:\n  allow: [a]\n", 2, "base.allow", "base.source.allow"),
        ("base:\n  sorce: {deny: [a]}\n", 2, "base.sorce", "base.source"),
        ("base:\n  source:\n    alow: [a]\n", 3, "base.source.alow", "base.source.allow"),
        ("base:\n  source:\n    only: [a]\n", 3, "base.source.only", "base.source"),
    ];
    for (text, line, key, meant) in cases {
        let expected = format!("supernode.yml:{line}: {key} is unknown; allowed is {meant}, for no policy may be ignored");
        assert_eq!(Scene::with(text).error(), expected, "{text:?}");
    }
}

#[test]
fn nothing_said_is_the_default() {
    for text in [
        "",
        "\n",
        "# only\n# comments\n",
        "---\n",
        "base:\n",
        "base: ~\n",
        "base: {}\n",
        "base:\n  bind: ''\n  hold:\n  listenPort: null\n",
    ] {
        assert_eq!(load(text), (Config::default(), Vec::new()), "{text:?}");
    }
}

#[test]
fn numbers_quotes_and_switches_are_read_as_the_go_supernode_did() {
    let text = "base:\n  listenPort: \"8012\"\n  failAccessInterval: 240000000000\n  linkLimit: 31457280\n  debug: 'yes'\n";
    let (config, warnings) = load(text);
    assert_eq!((config.port, config.debug), (8012, true));
    assert_eq!(config.fail_access_interval, Duration::from_mins(4));
    assert_eq!(config.link_limit_kib(), 30 * 1024);
    assert_eq!(warnings, Vec::<String>::new());
    let few = load("base:\n  hold: 500\n").1;
    assert_eq!(few, ["supernode.yml:2: hold is 500 nanoseconds: a number without a unit counts those"]);
    assert!(Scene::with("base:\n  hold: \"500\"\n").error().contains("hold is \"500\""));
}

#[test]
fn a_repeated_key_counts_where_it_stands_last() {
    let (config, warnings) = load("base:\n  listenPort: 1\n  hold: 0s\n  LISTENPORT: 2\n");
    assert_eq!(config.port, 2);
    assert_eq!(warnings, ["supernode.yml:4: LISTENPORT is repeated; what line 2 says of it does not count"]);
}

#[test]
fn anchors_aliases_and_merge_keys_are_resolved() {
    let text = "common: &common\n  listenPort: 1\n  peerUpLimit: &n 7\n  hold: 2s\nbase:\n  <<: *common\n  hold: 1s\n  peerDownLimit: *n\n";
    let (config, _) = load(text);
    assert_eq!((config.port, config.peer_up_limit, config.peer_down_limit), (1, 7, 7));
    assert_eq!(config.hold, Duration::from_secs(1), "what is said beside a merge comes before it");
    let (config, _) = load("a: &a {hold: 0s}\nb: &b {HOLD: 2s, listenPort: 3}\nbase: {<<: [*a, *b]}\n");
    assert_eq!((config.port, config.hold), (3, Duration::ZERO), "of several, the first comes before the others");
    assert!(Scene::with("base: &a {x: *a}\n").error().starts_with("supernode.yml:1:"), "nothing contains itself");
    assert!(Scene::with("base: *nobody\n").error().starts_with("supernode.yml:1:"));
}

#[test]
fn what_is_not_yaml_is_told_with_line_and_column() {
    let tab = Scene::with("base:\n\tlistenPort: 1\n").error();
    assert!(tab.starts_with("supernode.yml:2:") && tab.contains("not YAML"), "{tab}");
    for text in ["base: [1\n", "base: {a: 1\n", "base:\n  a: 'x\n", "a: b: c\n", "base:\n  x: 1\n y: 2\n", "}\n"] {
        let error = Scene::with(text).error();
        assert!(error.starts_with("supernode.yml:") && error.contains("not YAML: "), "{text:?}: {error}");
    }
    let deep = Scene::with(format!("{}{}", "[".repeat(100), "]".repeat(100))).error();
    assert!(deep.contains("nested too deep"), "{deep}");
    let warnings = load("base:\n  listenPort: 1\n---\nbase:\n  listenPort: 2\n").1;
    assert_eq!(warnings, ["supernode.yml:3: a second document begins, which is not read"]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let scene = Scene::with("");
    let sources = |path: &Path| Sources { file: Some(path.to_owned()), ..Sources::default() };
    for path in [scene.0.path(), &scene.0.path().join("absent.yml")] {
        let error = sources(path).load().expect_err("it cannot be read");
        assert!(error.to_string().ends_with(&path.display().to_string()), "{error}");
        assert!(std::error::Error::source(&error).is_some(), "it says why");
    }
    assert!(Scene::with([b'#', 0xff, 0xfe]).error().contains("UTF-8"));
    assert!(Scene::with("#".repeat(1024 * 1024 + 1)).error().contains("larger than 1 MiB"));
}

#[test]
fn flags_come_before_variables_before_the_file_before_the_default() {
    let scene = Scene::with("base:\n  listenPort: 1\n  downloadPort: 11\n  hold: 2s\n");
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let sources = Sources {
        variables: vec![
            variable("SUPERNODE_PORT", "2"),
            variable("SUPERNODE_DOWNLOAD_PORT", "12"),
            variable("SUPERNODE_HOLD", ""),
            variable("SUPERNODE_LOG", "info"),
        ],
        flags: vec![(setting("listenPort"), "3".to_owned()), (setting("peerUpLimit"), String::new())],
        ..scene.sources()
    };
    let loaded = sources.load().expect("all is valid");
    assert_eq!((loaded.config.port, loaded.config.download_port), (3, 12));
    assert_eq!(loaded.config.hold, Duration::from_secs(2), "an empty variable says nothing");
    assert_eq!(loaded.config.peer_up_limit, 5, "neither does an empty flag");
    assert_eq!(loaded.warnings, Vec::<String>::new());
    let origin = |key| &loaded.origins[SETTINGS.iter().position(|setting| setting.key == key).expect("a setting")];
    assert_eq!(*origin("listenPort"), Origin::Flag("port"));
    assert_eq!(*origin("downloadPort"), Origin::Variable("SUPERNODE_DOWNLOAD_PORT".to_owned()));
    assert_eq!(*origin("hold"), Origin::File { path: scene.file().into(), line: 4 });
    assert_eq!(*origin("peerUpLimit"), Origin::Default);
}

/// These variables, and no file.
fn variables(pairs: &[(&str, &str)]) -> Sources {
    Sources {
        file: Some("/dev/null".into()),
        variables: pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Sources::default()
    }
}

#[test]
fn variables_are_checked_like_everything_else() {
    let error = variables(&[("SUPERNODE_PORT", "x")]).load().expect_err("it is wrong");
    assert_eq!(error.to_string(), "SUPERNODE_PORT: listenPort is \"x\"; allowed is a port, 0 to 65535");
    let unknown = [("SUPERNODE_REPOSITORY_BYTES", "1"), ("SUPERNODE_HOST", "1"), ("SUPERNODE_X", "1"), ("OTHER", "1")];
    let ignored = |name: &str| format!("the environment variable {name} is unknown and ignored");
    assert_eq!(
        variables(&unknown).load().expect("valid").warnings,
        [
            ignored("SUPERNODE_REPOSITORY_BYTES") + "; SUPERNODE_REPOSITORY_QUOTA is the nearest that is known",
            ignored("SUPERNODE_HOST"),
            ignored("SUPERNODE_X"),
        ]
    );
}

#[test]
fn a_misspelt_variable_stops_the_start_and_is_told_with_the_one_that_is_meant() {
    for (name, meant) in [
        ("SUPERNODE_SOURCE_DENNY", "SUPERNODE_SOURCE_DENY"),
        ("SUPERNODE_SOURCE_DENIED", "SUPERNODE_SOURCE_DENY"),
        ("SUPERNODE_PROT", "SUPERNODE_PORT"),
        ("SUPERNODE_CONFG", "SUPERNODE_CONFIG"),
        ("SUPERNODE_source_deny", "SUPERNODE_SOURCE_DENY"),
    ] {
        let error = variables(&[(name, "1")]).load().expect_err(name);
        let way_out = "rename or unset it if it is no setting";
        assert_eq!(error.to_string(), format!("{name}: the variable is unknown; allowed is {meant}; {way_out}"));
    }
}

#[test]
fn a_variable_that_may_be_meant_as_a_policy_stops_the_start() {
    for name in [
        "SUPERNODE_SOURCE",
        "SUPERNODE_SOURCES",
        "SUPERNODE_SOURCE_BLOCKED",
        "SUPERNODE_SOURCE_FORBID",
        "SUPERNODE_SOURCE_DENY_CIDRS",
        "SUPERNODE_SOURCE_DENY_HOSTS",
        "SUPERNODE_SOURCE_DENY_NETWORKS",
        "SUPERNODE_SOURCE_DENY_PORT_80",
        "SUPERNODE_SOURCE_SERVICE_HOSTS_DENIED",
        "SUPERNODE_DENY_SOURCE",
        "SUPERNODE_DENY",
        "SUPERNODE_ALLOW",
        "SUPERNODE_deny_hosts",
        "SUPERNODE_SORCE_DENIED",
    ] {
        let error = variables(&[(name, "127.0.0.0/8")]).load().expect_err(name).to_string();
        assert!(error.starts_with(&format!("{name}: the variable is unknown; allowed is SUPERNODE_SOURCE_")), "{error}");
        assert!(error.contains("SUPERNODE_SOURCE_DENY"), "{error}");
        assert!(error.ends_with("; rename or unset it if it is no setting"), "{error}");
    }
    for value in ["127.0.0.1", "80", "tcp"] {
        variables(&[("SUPERNODE_SOURCE_DENY_PORT_80", value)]).load().expect_err(value);
    }
}

#[test]
fn a_neighbour_of_a_short_name_is_only_warned_of() {
    for (name, near) in [
        ("SUPERNODE_BIN", "SUPERNODE_BIND"),
        ("SUPERNODE_KIND", "SUPERNODE_BIND"),
        ("SUPERNODE_OLD", "SUPERNODE_HOLD"),
        ("SUPERNODE_PORTS", "SUPERNODE_PORT"),
    ] {
        let warnings = variables(&[(name, "1")]).load().expect(name).warnings;
        let told = format!("the environment variable {name} is unknown and ignored; {near} is the nearest that is known");
        assert_eq!(warnings, [told]);
    }
}

#[test]
fn what_kubernetes_tells_of_services_is_no_setting() {
    let links = [
        ("SUPERNODE_PORT", "tcp://10.0.0.1:8002"),
        ("SUPERNODE_SERVICE_HOST", "10.0.0.1"),
        ("SUPERNODE_SERVICE_PORT", "8002"),
        ("SUPERNODE_SERVICE_PORT_API", "8002"),
        ("SUPERNODE_PORT_8001_TCP", "tcp://10.0.0.1:8001"),
        ("SUPERNODE_PORT_8001_TCP_PROTO", "tcp"),
        ("SUPERNODE_PORT_8001_TCP_PORT", "8001"),
        ("SUPERNODE_PORT_8001_TCP_ADDR", "10.0.0.1"),
        ("SUPERNODE_DOWNLOAD_PORT", "tcp://10.0.0.2:8001"),
        ("SUPERNODE_DOWNLOAD_SERVICE_HOST", "10.0.0.2"),
        ("SUPERNODE_SOURCE_PORT", "tcp://[fd00::1]:80"),
        ("SUPERNODE_SOURCE_SERVICE_HOST", "fd00::1"),
        ("SUPERNODE_SOURCE_SERVICE_PORT", "80"),
        ("SUPERNODE_SOURCE_PORT_80_TCP_PROTO", "tcp"),
    ];
    let loaded = variables(&links).load().expect("none is a setting");
    assert_eq!((loaded.config, loaded.warnings), (Config::default(), Vec::new()));
}

#[test]
fn contradictions_are_told() {
    let warnings = load("base:\n  maxBandwidth: 20M\n  fullGCThreshold: 200G\n  repositoryLowWatermark: 99\n").1;
    assert!(warnings.iter().any(|warning| warning.contains("leaves nothing of maxBandwidth")), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("fullGCThreshold is above")), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("repositoryLowWatermark is above")), "{warnings:?}");
}

#[test]
fn one_host_has_no_more_than_half_of_all_places_unless_somebody_says_so() {
    let places = |text: &str| {
        let (config, warnings) = load(text);
        (config.downloads_max, config.downloads_per_host_max, warnings.len())
    };
    for (text, expected) in [
        ("base:\n  downloadsMax: 8\n", (8, 4, 0)),
        ("base:\n  downloadsMax: 1\n", (1, 1, 0)),
        ("base:\n  downloadsMax: 1000\n", (1000, 16, 0)),
        ("base:\n  downloadsMax: 8\n  downloadsPerHostMax: 7\n", (8, 7, 0)),
        ("base:\n  downloadsMax: 8\n  downloadsPerHostMax: 8\n", (8, 8, 1)),
        ("base:\n  downloadsPerHostMax: 100\n", (32, 100, 1)),
    ] {
        assert_eq!(places(text), expected, "{text:?}");
    }
}

#[test]
fn the_effective_configuration_reads_back_as_it_was() {
    let odd = "base:\n  homeDir: \"/a b/#c: 'd' \\\"e\\\" \\\\ é\"\n  bind: ::1\n  hold: 1.5s\n  linkLimit: 1001\n  logConfig: {path: '~'}\n";
    for text in ["", GO_FILE, odd] {
        let first = Scene::with(text).load().expect("it is valid");
        let printed = effective(&first);
        let second = Scene::with(&printed).load().unwrap_or_else(|error| panic!("{error}\n{printed}"));
        assert_eq!(first.config, second.config, "{printed}");
        assert!(
            second.origins.iter().zip(SETTINGS).all(|(origin, setting)| {
                setting.field.show(&second.config).is_none() || matches!(origin, Origin::File { .. })
            })
        );
    }
}

#[test]
fn patterns_come_as_a_list_or_with_commas() {
    let of = |text: &str| load(text).0.source;
    let listed = of("base:\n  source:\n    deny: [10.0.0.0/8, '*.internal']\n    allow:\n      - example.com\n");
    let texts = |patterns: &[crate::domain::policy::SourcePattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        (texts(&listed.allow), texts(&listed.deny)),
        (vec!["example.com".into()], vec!["10.0.0.0/8".into(), "*.internal".into()])
    );
    assert_eq!(of("base:\n  source: {deny: '10.0.0.0/8, *.internal', allow: example.com}\n"), listed);
    for (list, told) in [
        (
            "[10.0.0.0/8, 'b c', 192.0.2.7]",
            "is \"10.0.0.0/8,b c,192.0.2.7\", where \"b c\" is neither a host nor a network; allowed is hosts",
        ),
        ("'-'", "is \"-\"; allowed is hosts and networks, like example.com"),
        (
            "'::ffff:127.0.0.0/104'",
            "where \"::ffff:127.0.0.0/104\" stands for 127.0.0.0/8, which is how it has to be written; allowed is",
        ),
    ] {
        let error = Scene::with(format!("base:\n  source:\n    deny: {list}\n")).error();
        assert!(error.contains(told), "{error}");
    }
    for wrong in ["10.0.0.0/99", "[a, [b]]", "[a, 'b c']", "{a: b}"] {
        let text = format!("base:\n  source:\n    deny: {wrong}\n");
        let told = Scene::with(&text).load().expect_err("it is no list of patterns").to_string();
        assert!(told.contains(":3: source.deny is") && told.contains("hosts and networks"), "{wrong}: {told}");
    }
}

#[test]
fn the_effective_configuration_tells_who_decided() {
    let scene = Scene::with("base:\n  hold: 2s\n");
    let printed = effective(&scene.load().expect("valid"));
    let line = |key: &str| printed.lines().find(|line| line.trim_start().starts_with(key)).expect("it is printed");
    assert!(line("hold: 2s ").ends_with(&format!("# {}:2; SIGHUP applies it", scene.file().display())), "{printed}");
    assert!(line("listenPort: 8002 ").ends_with("# default; needs a restart"), "{printed}");
    assert!(line("maxBandwidth: 200MB ").ends_with("# default; SIGHUP applies it"), "{printed}");
    assert!(line("cleanRatio: 1 ").ends_with("# default; SIGHUP applies it"), "{printed}");
    assert!(line("enableProfiler: false ").ends_with("# default; needs a restart; has no effect"), "{printed}");
}

#[test]
fn a_reload_takes_what_can_change_and_tells_what_cannot() {
    let running = Config::default();
    let read = Config { hold: Duration::ZERO, port: 1, advertise_ip: Some([10, 0, 0, 1].into()), ..Config::default() };
    let said = |config: &Config| Loaded {
        config: config.clone(),
        origins: SETTINGS.iter().map(|_| crate::config::Origin::Flag("x")).collect(),
        warnings: Vec::new(),
    };
    let Reloaded { config, applied, waiting } = reload(&running, &said(&read));
    assert_eq!(config, Config { port: 8002, ..read });
    let keys = |differences: &[Difference]| differences.iter().map(|difference| difference.key).collect::<Vec<_>>();
    assert_eq!(keys(&applied), ["advertiseIP", "hold"]);
    let port = Difference { key: "listenPort", old: "8002".to_owned(), new: "1".to_owned(), unsaid: false };
    assert_eq!(waiting, [port]);
    assert_eq!(reload(&config, &said(&config)).applied, []);
    let fewer = Loaded {
        origins: SETTINGS.iter().map(|_| crate::config::Origin::Default).collect(),
        ..said(&Config { downloads_per_host_max: 4, ..Config::default() })
    };
    assert!(reload(&Config::default(), &fewer).applied.iter().all(|difference| !difference.unsaid), "it follows another");
    let nothing = Loaded { origins: SETTINGS.iter().map(|_| crate::config::Origin::Default).collect(), ..said(&running) };
    let unsaid = reload(&config, &nothing).applied;
    assert!(unsaid.len() == 2 && unsaid.iter().all(|difference| difference.unsaid), "{unsaid:?}");
}

#[test]
fn every_row_names_a_field_of_its_own_and_its_default_is_allowed() {
    let mut names: Vec<String> = SETTINGS.iter().flat_map(|setting| [setting.key.to_lowercase(), setting.variable()]).collect();
    names.sort();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "two rows have one name");
    for setting in SETTINGS {
        let Some(text) = setting.field.show(&Config::default()) else { continue };
        let mut config = Config::default();
        let written = super::value::Written::text(&text);
        assert!(setting.field.set(&mut config, &written).is_some(), "{} does not allow its default {text}", setting.key);
        assert_eq!(config, Config::default(), "{}", setting.key);
    }
}

/// What is generated into a file of the repository. `UPDATE_DOCS=1` writes it.
fn check_generated(path: &str, expected: impl FnOnce(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let expected = expected(&text);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &expected).expect("it can be written");
    } else {
        assert!(text == expected, "{} is not what the table of settings says: run the tests with UPDATE_DOCS=1", path.display());
    }
}

#[test]
fn the_documentation_is_what_the_table_says() {
    let (begin, end) = ("<!-- Generated from src/config/settings.rs. -->\n", "\n<!-- End of what is generated. -->");
    check_generated("docs/CONFIGURATION.md", |text| {
        let (before, rest) = text.split_once(begin).expect("the page marks where the tables begin");
        let (_, after) = rest.split_once(end).expect("the page marks where the tables end");
        format!("{before}{begin}{}{end}{after}", tables())
    });
}

#[test]
fn the_example_is_what_the_table_says_and_changes_nothing_even_without_its_comment_signs() {
    check_generated("packaging/supernode.yml", |_| example());
    assert_eq!(load(&example()), (Config::default(), Vec::new()));
    let is_setting = |line: &&str| {
        line.starts_with("  # ") && line.trim_end().contains(':') && !line.ends_with('.') && !line.ends_with("effect")
    };
    let uncommented: String = example().lines().filter(is_setting).map(|line| format!("  {}\n", &line[4..])).collect();
    assert_eq!(load(&format!("base:\n{uncommented}")).0, Config::default(), "{uncommented}");
    assert_eq!(uncommented.lines().count(), SETTINGS.len() + 2, "every setting, logConfig and source themselves: {uncommented}");
}

proptest::proptest! {
    #[test]
    fn no_file_makes_the_reader_panic(text in "(base:|  |\n|- |hold|listenPort|: |[0-9]{1,12}|&a |\\*a|<<|\"|'|\\{|\\}|\\[|\\]|,|#|\\||\t|é|~|!!|---\n){0,30}") {
        let _ = Scene::with(&text).load();
    }
}
