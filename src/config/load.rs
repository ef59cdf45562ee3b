//! File, environment and flags, one over the other.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::nearest::{is_misspelt, nearest};
use super::value::Written;
use super::yaml::{self, Entry, Node, NotYaml, Value};
use super::{Config, Effect, SETTINGS, Setting};

/// Where the published supernode has its configuration. It may be absent.
pub const DEFAULT_FILE: &str = "/etc/dragonfly/supernode.yml";
/// A longer file is not a configuration. Bytes.
const FILE_MAX_BYTES: u64 = 1024 * 1024;
const BASE: &str = "base";
/// The section that says which sources are forbidden; its variables begin with the same word.
const POLICY: &str = "source";
const PREFIX: &str = "SUPERNODE_";
/// Variables with the prefix that are no settings.
const OTHER_VARIABLES: [&str; 2] = ["SUPERNODE_LOG", "SUPERNODE_CONFIG"];
/// What ports of Kubernetes's services speak.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "sctp"];
/// A number of nanoseconds below this is probably meant in another unit.
const NANOSECONDS_MEANT_FROM: Duration = Duration::from_millis(1);

/// Who decided a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: Arc<Path>, line: usize },
    Variable(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => write!(f, "--{name}"),
        }
    }
}

/// A value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongValue {
    pub origin: Origin,
    pub key: String,
    pub found: String,
    pub allowed: String,
}

impl fmt::Display for WrongValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, key, found, allowed } = self;
        write!(f, "{origin}: {key} is {found}; allowed is {allowed}")
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the configuration file {} is larger than 1 MiB", path.display())]
    TooLarge { path: PathBuf },
    #[error("{}:{line}:{column}: not YAML: {why}", path.display())]
    NotYaml { path: PathBuf, line: usize, column: usize, why: String },
    /// In the order of the file, then of the other layers; with what was ignored, which often is why something else is wrong.
    #[error("{}", lines(values, warnings))]
    Wrong { values: Vec<WrongValue>, warnings: Vec<String> },
}

fn lines(values: &[WrongValue], warnings: &[String]) -> String {
    let warnings = warnings.iter().map(|warning| format!("warning: {warning}"));
    values.iter().map(ToString::to_string).chain(warnings).collect::<Vec<_>>().join("\n")
}

/// Everything that says something about the configuration.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file that was named, and must be there.
    pub file: Option<PathBuf>,
    /// The environment.
    pub variables: Vec<(String, String)>,
    pub flags: Vec<(&'static Setting, String)>,
}

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Who decided each setting, in the order of [`SETTINGS`].
    pub origins: Vec<Origin>,
    /// What was ignored or has no effect, one sentence each.
    pub warnings: Vec<String>,
}

/// What one layer says of a setting.
struct Given {
    setting: &'static Setting,
    written: Written,
    origin: Origin,
}

impl Sources {
    /// The process's own environment, with what its command line says.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(&'static Setting, String)>) -> Self {
        let variables: Vec<(String, String)> = std::env::vars_os()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        let named = variables.iter().find(|(name, value)| name == "SUPERNODE_CONFIG" && !value.is_empty());
        let file = file.or_else(|| named.map(|(_, value)| PathBuf::from(value)));
        Self { file, variables, flags }
    }

    /// Reads the file and lays the environment and the flags over it. All values that are wrong are told at once.
    pub fn load(&self) -> Result<Loaded, ConfigError> {
        let mut reading = Reading::default();
        reading.read_file(self.file.as_deref())?;
        reading.read_variables(&self.variables);
        for (setting, text) in &self.flags {
            reading.give(setting, Written::text(text), Origin::Flag(setting.flag));
        }
        reading.finish()
    }
}

/// What has been read so far.
#[derive(Default)]
struct Reading {
    /// The weakest layer first.
    given: Vec<Given>,
    wrong: Vec<WrongValue>,
    warnings: Vec<String>,
}

impl Reading {
    /// Nothing is said by an empty value.
    fn give(&mut self, setting: &'static Setting, written: Written, origin: Origin) {
        if !written.text.is_empty() {
            self.given.push(Given { setting, written, origin });
        }
    }

    fn read_file(&mut self, named: Option<&Path>) -> Result<(), ConfigError> {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match read_text(path) {
            Ok(Some(text)) => text,
            Ok(None) => return Err(ConfigError::TooLarge { path: path.to_owned() }),
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(ConfigError::Unreadable { path: path.to_owned(), source }),
        };
        let not_yaml = |NotYaml { line, column, why }| ConfigError::NotYaml { path: path.to_owned(), line, column, why };
        let document = yaml::parse(&text).map_err(not_yaml)?;
        for repeated in &document.repeated {
            let (path, line, first) = (path.display(), repeated.line, repeated.first_line);
            self.warnings
                .push(format!("{path}:{line}: {} is repeated; what line {first} says of it does not count", repeated.key));
        }
        if let Some(line) = document.second {
            self.warnings.push(format!("{}:{line}: a second document begins, which is not read", path.display()));
        }
        if let Some(root) = &document.root {
            FileReader { path: path.into(), reading: self }.top(root);
        }
        Ok(())
    }

    fn read_variables(&mut self, variables: &[(String, String)]) {
        let names: Vec<(String, &'static Setting)> = SETTINGS.iter().map(|setting| (setting.variable(), setting)).collect();
        for (name, value) in variables.iter().filter(|(name, value)| name.starts_with(PREFIX) && !value.is_empty()) {
            if is_service_link(name, value) {
                continue;
            }
            if let Some((_, setting)) = names.iter().find(|(known, _)| known == name) {
                self.give(setting, Written::text(value), Origin::Variable(name.clone()));
            } else if !OTHER_VARIABLES.contains(&name.as_str()) {
                self.unknown_variable(name, &names);
            }
        }
    }

    /// What is hardly anything but a setting, or may be meant to forbid something, is not ignored.
    fn unknown_variable(&mut self, name: &str, settings: &[(String, &'static Setting)]) {
        let names = || settings.iter().map(|(name, _)| bare(name));
        let near = nearest(bare(name), names().chain(OTHER_VARIABLES.map(bare)));
        let is_policy = |near: &str| {
            let in_section = |setting: &Setting| setting.key.split_once('.').is_some_and(|(section, _)| section == POLICY);
            settings.iter().any(|(known, setting)| bare(known) == near && in_section(setting))
        };
        let variable = |name: &str| format!("{PREFIX}{name}");
        let allowed = match near {
            Some(near) if is_misspelt(bare(name), near) || is_policy(near) => variable(near),
            _ if is_of_policy(bare(name)) => {
                let known: Vec<String> = names().filter(|name| is_of_policy(name)).map(variable).collect();
                format!("{}, for no policy may be ignored", known.join(", "))
            }
            near => {
                let meant = meant(near.map(variable).as_deref());
                self.warnings.push(format!("the environment variable {name} is unknown and ignored{meant}"));
                return;
            }
        };
        self.wrong.push(WrongValue {
            origin: Origin::Variable(name.to_owned()),
            key: "the variable".to_owned(),
            found: "unknown".to_owned(),
            allowed: format!("{allowed}; rename or unset it if it is no setting"),
        });
    }

    fn finish(mut self) -> Result<Loaded, ConfigError> {
        let mut config = Config::default();
        let mut origins = vec![Origin::Default; SETTINGS.len()];
        for Given { setting, written, origin } in &self.given {
            if setting.field.set(&mut config, written).is_none() {
                self.wrong.push(WrongValue {
                    origin: origin.clone(),
                    key: setting.key.to_owned(),
                    found: setting.field.found(written),
                    allowed: setting.field.allowed(),
                });
            } else {
                self.warnings.extend(meant_in_another_unit(setting, written, origin));
            }
            if let Some(place) = SETTINGS.iter().position(|other| other.key == setting.key) {
                origins[place] = origin.clone();
            }
        }
        self.wrong.extend(one_port_for_two(&config, &origins));
        if !self.wrong.is_empty() {
            // What is not in the file keeps its order.
            self.wrong.sort_by_key(|wrong| if let Origin::File { line, .. } = wrong.origin { line } else { usize::MAX });
            return Err(ConfigError::Wrong { values: self.wrong, warnings: self.warnings });
        }
        follow(&mut config, &origins);
        self.warn_of_no_effect();
        self.warnings.extend(contradictions(&config));
        Ok(Loaded { config, origins, warnings: self.warnings })
    }

    /// One line for all: a file of the Go supernode may have every key.
    fn warn_of_no_effect(&mut self) {
        let given = |setting: &&Setting| self.given.iter().any(|given| given.setting.key == setting.key);
        let without = SETTINGS.iter().filter(|setting| setting.effect == Effect::Never).filter(given);
        let keys: Vec<&str> = without.map(|setting| setting.key).collect();
        if !keys.is_empty() {
            self.warnings.push(format!("these settings have no effect here: {}", keys.join(", ")));
        }
    }
}

/// The text of a file; `None` for one that is too large.
fn read_text(path: &Path) -> io::Result<Option<String>> {
    // To open a pipe is to wait for whoever writes it, perhaps for ever.
    if std::fs::metadata(path)?.file_type().is_fifo() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe, not a file"));
    }
    let mut text = String::new();
    let read = File::open(path)?.take(FILE_MAX_BYTES + 1).read_to_string(&mut text)?;
    Ok((u64::try_from(read).unwrap_or(u64::MAX) <= FILE_MAX_BYTES).then_some(text))
}

/// Finds settings in a document.
struct FileReader<'a> {
    path: Arc<Path>,
    reading: &'a mut Reading,
}

impl FileReader<'_> {
    fn origin(&self, line: usize) -> Origin {
        Origin::File { path: self.path.clone(), line }
    }

    fn top(&mut self, root: &Node) {
        for entry in self.mapping("the file", root.line, root) {
            if entry.key.eq_ignore_ascii_case(BASE) {
                self.section("", entry.line, &entry.value);
            } else {
                self.unknown(&entry.key, entry.line);
            }
        }
    }

    /// Reads a mapping of settings whose keys begin with `prefix`.
    fn section(&mut self, prefix: &str, line: usize, node: &Node) {
        let name = if prefix.is_empty() { BASE } else { prefix.trim_end_matches('.') };
        for entry in &self.mapping(name, line, node) {
            let path = format!("{prefix}{}", entry.key);
            let inside = format!("{path}.");
            let leads_on =
                |setting: &&Setting| setting.key.get(..inside.len()).is_some_and(|key| key.eq_ignore_ascii_case(&inside));
            if let Some(setting) = SETTINGS.iter().find(|setting| setting.key.eq_ignore_ascii_case(&path)) {
                self.setting(setting, entry);
            } else if SETTINGS.iter().any(|setting| leads_on(&setting)) {
                self.section(&inside, entry.line, &entry.value);
            } else {
                self.unknown(&format!("{BASE}.{path}"), entry.line);
            }
        }
    }

    fn setting(&mut self, setting: &'static Setting, entry: &Entry) {
        let origin = self.origin(entry.line);
        match &entry.value.value {
            Value::Scalar { text, plain } if !(*plain && is_null(text)) => {
                let is_number = *plain && text.bytes().all(|byte| byte.is_ascii_digit());
                self.reading.give(setting, Written { text: text.clone(), is_number }, origin);
            }
            Value::Scalar { .. } => {}
            Value::List(items) if setting.field.is_list() => match texts(items) {
                Some(texts) => self.reading.give(setting, Written::text(texts.join(",")), origin),
                None => self.wrong(entry.line, setting.key, "a list of more than single values", &setting.field.allowed()),
            },
            other => self.wrong(entry.line, setting.key, shape(other), &setting.field.allowed()),
        }
    }

    /// The entries of what must be a mapping; none where there is nothing.
    fn mapping(&mut self, name: &str, line: usize, node: &Node) -> Vec<Entry> {
        match &node.value {
            Value::Mapping(entries) => entries.clone(),
            Value::Scalar { text, plain: true } if is_null(text) => Vec::new(),
            other => {
                self.wrong(line, name, shape(other), "a mapping of settings");
                Vec::new()
            }
        }
    }

    fn wrong(&mut self, line: usize, key: &str, found: &str, allowed: &str) {
        let (origin, key) = (self.origin(line), key.to_owned());
        self.reading.wrong.push(WrongValue { origin, key, found: found.to_owned(), allowed: allowed.to_owned() });
    }

    fn unknown(&mut self, path: &str, line: usize) {
        let whole = nearest_place(path);
        let policy = format!("{BASE}.{POLICY}");
        // What may be meant to forbid something is not ignored.
        if is_within(&policy, path) || whole.as_deref().is_some_and(|whole| is_within(&policy, whole)) {
            let allowed = format!("{}, for no policy may be ignored", whole.unwrap_or(policy));
            return self.wrong(line, path, "unknown", &allowed);
        }
        let text = format!("{}:{line}: {path} is unknown and ignored{}", self.path.display(), meant(whole.as_deref()));
        self.reading.warnings.push(text);
    }
}

/// The setting or section that is nearest to an unknown one. The last part of a key is what people know: a key in the wrong
/// place is found by it, too.
fn nearest_place(path: &str) -> Option<String> {
    let sections = SETTINGS.iter().filter_map(|setting| setting.key.rsplit_once('.')).map(|(section, _)| section);
    let mut places = SETTINGS.iter().map(|setting| setting.key).chain(sections);
    match nearest(last_part(path), places.clone().map(last_part).chain([BASE]))? {
        BASE => Some(BASE.to_owned()),
        near => places.find(|place| last_part(place) == near).map(|place| format!("{BASE}.{place}")),
    }
}

fn is_within(section: &str, path: &str) -> bool {
    path.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The items of a list of single values.
fn texts(items: &[Rc<Node>]) -> Option<Vec<&str>> {
    let texts = items.iter().map(|item| match &item.value {
        Value::Scalar { text, .. } => Some(text.as_str()),
        Value::List(_) | Value::Mapping(_) => None,
    });
    texts.collect()
}

fn last_part(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn meant(near: Option<&str>) -> String {
    near.map(|near| format!("; {near} is the nearest that is known")).unwrap_or_default()
}

/// What YAML takes for nothing.
fn is_null(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

const fn shape(value: &Value) -> &'static str {
    match value {
        Value::Scalar { .. } => "a single value",
        Value::List(_) => "a list",
        Value::Mapping(_) => "a mapping",
    }
}

/// A variable's name without what all have in common.
fn bare(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

/// Whether a variable may be meant to say which sources are forbidden: by the section's name, or by what a policy does.
fn is_of_policy(bare: &str) -> bool {
    let bare = bare.to_lowercase();
    bare.starts_with(POLICY) || bare.split('_').any(|part| matches!(part, "allow" | "deny"))
}

/// Kubernetes tells every pod of each service by variables of these names, of one called `supernode-download` too:
/// `SUPERNODE_SERVICE_HOST`, `…_SERVICE_PORT`, `…_SERVICE_PORT_API`, `…_PORT`, `…_PORT_8001_TCP`, `…_PORT_8001_TCP_ADDR`.
/// Their values are an address, a port or a protocol: what says anything else may be meant as a setting.
fn is_service_link(name: &str, value: &str) -> bool {
    let is_protocol = |text: &str| PROTOCOLS.iter().any(|protocol| text.eq_ignore_ascii_case(protocol));
    let is_number = |text: &str| text.parse::<u16>().is_ok();
    let is_address = value.split_once("://").is_some_and(|(protocol, _)| is_protocol(protocol));
    let is_of_service = name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT");
    let is_of_port = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(is_number) && parts.next().is_some_and(is_protocol)
    });
    let is_told = is_address || is_number(value) || is_protocol(value) || value.parse::<IpAddr>().is_ok();
    ((is_of_service || is_of_port) && is_told) || (name.ends_with("_PORT") && is_address)
}

/// A plain number is a count of nanoseconds, as it was for the Go supernode, and seldom meant as one.
fn meant_in_another_unit(setting: &Setting, written: &Written, origin: &Origin) -> Option<String> {
    let nanoseconds: u64 = written.text.parse().ok().filter(|_| setting.field.is_duration() && written.is_number)?;
    let few = nanoseconds > 0 && Duration::from_nanos(nanoseconds) < NANOSECONDS_MEANT_FROM;
    few.then(|| format!("{origin}: {} is {nanoseconds} nanoseconds: a number without a unit counts those", setting.key))
}

/// A default that depends on what another setting says: one host must not take every place, however few there are.
fn follow(config: &mut Config, origins: &[Origin]) {
    let is_default = |key| SETTINGS.iter().zip(origins).any(|(setting, origin)| setting.key == key && *origin == Origin::Default);
    if is_default("downloadsPerHostMax") {
        config.downloads_per_host_max = config.downloads_per_host_max.min((config.downloads_max / 2).max(1));
    }
}

/// Two sockets cannot have one port: whoever is given it last has to choose another.
fn one_port_for_two(config: &Config, origins: &[Origin]) -> Option<WrongValue> {
    let port = Some(config.port).filter(|port| *port != 0 && *port == config.download_port)?;
    let origin_of = |key: &str| SETTINGS.iter().zip(origins).find(|(setting, _)| setting.key == key).map(|(_, origin)| origin);
    let (api, download) = ("listenPort", "downloadPort");
    let (key, other) = if origin_of(download)? == &Origin::Default { (api, download) } else { (download, api) };
    Some(WrongValue {
        origin: origin_of(key)?.clone(),
        key: key.to_owned(),
        found: format!("the same as {other}, {port}"),
        allowed: "another port, or 0 for any that is free".to_owned(),
    })
}

/// Settings that are allowed one by one and make no sense together.
fn contradictions(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    if config.system_reserved_bandwidth_bytes_per_s >= config.max_bandwidth_bytes_per_s {
        found.push("systemReservedBandwidth leaves nothing of maxBandwidth: sources are fetched with 64 KiB/s; lower the one or raise the other".to_owned());
    }
    if config.full_gc_threshold_bytes > config.young_gc_threshold_bytes {
        found.push("fullGCThreshold is above youngGCThreshold: it is the smaller one of the two".to_owned());
    }
    if config.repository_low_watermark_percent > config.repository_high_watermark_percent {
        found.push("repositoryLowWatermark is above repositoryHighWatermark: it is the smaller one of the two".to_owned());
    }
    if config.downloads_per_host_max >= config.downloads_max && config.downloads_max > 1 {
        found.push(
            "downloadsPerHostMax is not below downloadsMax: one slow host can take every place; lower the one or raise the other"
                .to_owned(),
        );
    }
    found
}
