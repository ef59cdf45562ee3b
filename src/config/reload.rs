//! What a configuration that was read again changes of the one that runs.

use super::{Config, Loaded, Origin, SETTINGS};

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub key: &'static str,
    pub old: String,
    pub new: String,
    /// Nothing says it, or no longer: the new value is the default.
    pub unsaid: bool,
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
pub fn reload(running: &Config, loaded: &Loaded) -> Reloaded {
    let read = &loaded.config;
    let mut reloaded = Reloaded { config: running.clone(), applied: Vec::new(), waiting: Vec::new() };
    for (setting, origin) in SETTINGS.iter().zip(&loaded.origins) {
        let show = |config| setting.field.show(config).unwrap_or_else(|| "none".to_owned());
        let (old, new) = (show(running), show(read));
        // A default that follows another setting was perhaps never said.
        let unsaid = *origin == Origin::Default && new == show(&Config::default());
        let difference = Difference { key: setting.key, old, new, unsaid };
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
