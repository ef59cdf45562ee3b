//! The effective configuration written out.

use std::fmt::Write;

use super::{Effect, Loaded, Origin, SETTINGS, Setting};

const HEADER: &str = "# The effective configuration, which can be read back as a supernode.yml. Each line tells who decided it, and\n\
                      # whether SIGHUP changes it.\n";
/// The effective configuration as YAML.
pub fn effective(loaded: &Loaded) -> String {
    let mut lines: Vec<(String, String)> = vec![("base:".to_owned(), String::new())];
    let mut section = None;
    for (setting, origin) in SETTINGS.iter().zip(&loaded.origins) {
        let (mapping, key, indent) = place(setting);
        if mapping.is_some() && section != mapping {
            lines.push((format!("  {}:", mapping.unwrap_or_default()), String::new()));
        }
        section = mapping;
        let value = value(setting, setting.field.show(&loaded.config).as_deref());
        lines.push((format!("  {indent}{key}: {value}"), comment(setting, origin)));
    }
    let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or_default();
    let mut text = HEADER.to_owned();
    for (line, comment) in lines {
        let separator = if comment.is_empty() { "" } else { "  # " };
        let width = if comment.is_empty() { 0 } else { width };
        let _ = writeln!(text, "{line:width$}{separator}{comment}");
    }
    text
}

fn comment(setting: &Setting, origin: &Origin) -> String {
    let changes = if setting.at_run_time { "SIGHUP applies it" } else { "needs a restart" };
    let effect = match setting.effect {
        Effect::Now => "",
        Effect::Never => "; has no effect",
    };
    // A path may have any character, and a comment must end with its line.
    format!("{}; {changes}{effect}", origin.to_string().replace(char::is_control, "?"))
}

/// The mapping below `base` that a setting stands in, its key there, and how far that is indented.
pub fn place(setting: &Setting) -> (Option<&'static str>, &'static str, &'static str) {
    setting.key.split_once('.').map_or((None, setting.key, ""), |(mapping, key)| (Some(mapping), key, "  "))
}

/// A value as YAML. Texts are quoted as JSON does, which YAML reads.
pub fn value(setting: &Setting, shown: Option<&str>) -> String {
    match shown {
        Some(text) if !setting.field.is_quoted() => text.to_owned(),
        text => serde_json::Value::from(text.unwrap_or_default()).to_string(),
    }
}
