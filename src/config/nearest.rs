//! What somebody may have meant.

/// Names with more changed characters than one in this many are not alike.
const ALIKE: usize = 3;

/// A name with no more changed characters than these was meant to be the other one.
const MISSPELT_MAX: usize = 2;

/// The known name that is nearest to an unknown one, if any is close.
pub fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let farthest = (unknown.chars().count() / ALIKE).max(1);
    let with_distance = |name: &'a str| (distance(unknown, name), name);
    known.map(with_distance).filter(|(distance, _)| *distance <= farthest).min().map(|(_, name)| name)
}

/// Whether a name that is near to another can hardly be meant as anything else.
pub fn is_misspelt(name: &str, near: &str) -> bool {
    distance(name, near) <= MISSPELT_MAX
}

/// Changed characters, without regard to capitals.
fn distance(one: &str, other: &str) -> usize {
    strsim::damerau_levenshtein(&one.to_lowercase(), &other.to_lowercase())
}
