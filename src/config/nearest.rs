//! What somebody may have meant.

/// Names with more changed characters than one in this many are not alike.
const ALIKE: usize = 3;

/// The known name that is nearest to an unknown one, if any is close.
pub fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let farthest = (unknown.chars().count() / ALIKE).max(1);
    let with_distance = |name: &'a str| (distance(unknown, name), name);
    known.map(with_distance).filter(|(distance, _)| *distance <= farthest).min().map(|(_, name)| name)
}

/// Whether a name that is near to another can hardly be meant as anything else. Short names have neighbours that mean
/// something: of those, only two characters that changed places count.
pub fn is_misspelt(name: &str, near: &str) -> bool {
    let changed_max = match near.chars().count() {
        0..6 => 0,
        6..8 => 1,
        _ => 2,
    };
    let changed = distance(name, near);
    changed <= changed_max || (changed == 1 && letters(name) == letters(near))
}

fn letters(name: &str) -> Vec<char> {
    let mut letters: Vec<char> = name.to_lowercase().chars().collect();
    letters.sort_unstable();
    letters
}

/// Changed characters, without regard to capitals.
fn distance(one: &str, other: &str) -> usize {
    strsim::damerau_levenshtein(&one.to_lowercase(), &other.to_lowercase())
}
