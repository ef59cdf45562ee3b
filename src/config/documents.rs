//! The table of settings written out as documentation. Tests hold the files of the repository against it.

use std::fmt::Write;

use super::SETTINGS;
use super::print::{place, value};

const EXAMPLE_HEADER: &str = "# Configuration of the supernode, read from /etc/dragonfly/supernode.yml or what --config names.\n\
                              # Every setting with its default: take away the # before one to change it.\n\
                              # Flags and environment variables (docs/CONFIGURATION.md) come before this file.\n";

/// An example that changes nothing.
pub fn example() -> String {
    let mut text = format!("{EXAMPLE_HEADER}base:\n");
    let mut group = None;
    let mut section = None;
    for setting in SETTINGS {
        if group != Some(setting.group) {
            let _ = write!(text, "\n  # {}\n", setting.group.title());
            group = Some(setting.group);
        }
        let (mapping, key, indent) = place(setting);
        if mapping.is_some() && section != mapping {
            let _ = writeln!(text, "\n  # {}:", mapping.unwrap_or_default());
        }
        section = mapping;
        let _ = writeln!(text, "\n  # {indent}{}", setting.note());
        let _ = writeln!(text, "  # {indent}{key}: {}", value(setting, Some(&setting.default_text())));
    }
    text
}

/// The settings as tables of Markdown.
pub fn tables() -> String {
    let mut text = String::new();
    let mut group = None;
    for setting in SETTINGS {
        if group != Some(setting.group) {
            let _ = write!(text, "\n### {}\n\n", setting.group.title());
            text.push_str("| in the file | flag | environment | default | allowed | SIGHUP | |\n|---|---|---|---|---|---|---|\n");
            group = Some(setting.group);
        }
        let short = setting.short.map(|short| format!("`-{short}` ")).unwrap_or_default();
        let default = Some(setting.default_text()).filter(|text| !text.is_empty()).map(|text| format!("`{text}`"));
        let _ = writeln!(
            text,
            "| `{}` | {short}`--{}` | `{}` | {} | {} | {} | {} |",
            setting.key,
            setting.flag,
            setting.variable(),
            default.unwrap_or_else(|| "none".to_owned()),
            setting.field.allowed(),
            if setting.at_run_time { "applies" } else { "needs a restart" },
            setting.note(),
        );
    }
    text
}
