//! Properties of identifiers, for the fuzz targets.

use std::path::{Component, Path};

use super::TaskId;

/// What is read as a task id prints as 64 lowercase digits, which are read as the same id and stay in their directory.
pub fn task_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(id) = TaskId::parse(text) else {
        assert!(text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()), "{text:?} is a task id");
        return;
    };
    let printed = id.to_string();
    assert_eq!(printed, text.to_ascii_lowercase());
    assert_eq!(TaskId::parse(&printed).ok(), Some(id));
    let parts: Vec<Component> = Path::new(text).components().collect();
    assert!(matches!(parts[..], [Component::Normal(_)]), "{text:?} leads elsewhere");
}
