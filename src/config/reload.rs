//! What a configuration that was read again changes of the one that runs.

use super::{Config, SETTINGS};

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub key: &'static str,
    pub old: String,
    pub new: String,
}

/// The outcome of reading the configuration again.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// The running configuration with what can change under way.
    pub config: Config,
    pub applied: Vec<Difference>,
    /// What was changed and needs a restart.
    pub waiting: Vec<Difference>,
}

/// Takes over what can change at run time.
pub fn reload(running: &Config, read: &Config) -> Reloaded {
    let mut reloaded = Reloaded { config: running.clone(), applied: Vec::new(), waiting: Vec::new() };
    for setting in SETTINGS {
        let show = |config| setting.field.show(config).unwrap_or_else(|| "none".to_owned());
        let difference = Difference { key: setting.key, old: show(running), new: show(read) };
        if difference.old == difference.new {
            continue;
        }
        if setting.at_run_time {
            setting.field.copy(read, &mut reloaded.config);
            reloaded.applied.push(difference);
        } else {
            reloaded.waiting.push(difference);
        }
    }
    reloaded
}
