//! What somebody may have meant.

/// Names with more changed characters than one in this many are not alike.
const ALIKE: usize = 3;

/// The known name that is nearest to an unknown one, if any is close.
pub fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let unknown = unknown.to_lowercase();
    let farthest = (unknown.chars().count() / ALIKE).max(1);
    let distance = |name: &'a str| (strsim::damerau_levenshtein(&unknown, &name.to_lowercase()), name);
    known.map(distance).filter(|(distance, _)| *distance <= farthest).min().map(|(_, name)| name)
}
