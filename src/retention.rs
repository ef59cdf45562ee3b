//! Decides which cached files go, and says of each why it goes or stays.
//!
//! Pure: no clock and no IO; what there is, for how long nobody used it and how much room there is come in as arguments.
//! Must not: know how a file is removed, or whether it still may be when its turn comes. Whoever acts on a plan looks again.
//!
//! Invariant: what is in use never goes, whatever is short.

use std::time::Duration;

use crate::domain::TaskId;
use crate::domain::piece::SMALL_SLOT_MAX_BYTES;

/// A file that was used a moment ago is about to be used again, for a fleet does not come all at once: a disk that is
/// nearly full does not take it. A quota does.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);
/// What a disk takes that has little room was unused for as long as the published supernode keeps a task by default.
const SETTLES_WITHIN_COMFORT: Duration = Duration::from_mins(3);

/// What an operator decides about what is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// What nobody used for this long goes.
    pub expire_after: Duration,
    /// A whole file goes no sooner than after so long without use.
    pub whole_expires_after: Duration,
    /// With this many bytes free, room is no reason for anything to go.
    pub young_free_bytes: u64,
    /// With no more than this many bytes free, everything goes that is not in use.
    pub full_free_bytes: u64,
    /// What was used less long ago goes last.
    pub interval: Duration,
    /// How much of what could go goes in one round, while there is less room than `young_free_bytes`.
    pub ratio_tenths: u32,
    pub quota: Option<Quota>,
}

impl Rules {
    /// With no more than this free, there is hardly any room: set the wrong way round, the smaller threshold is that.
    pub fn hardly_any_bytes(&self) -> u64 {
        self.full_free_bytes.min(self.young_free_bytes)
    }
}

/// How much the repository may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub bytes: u64,
    /// Beyond this much of it, files go until no more than the low one is left.
    pub high_percent: u32,
    pub low_percent: u32,
}

impl Quota {
    pub fn high_bytes(&self) -> u64 {
        self.percent(self.high_percent)
    }

    pub fn low_bytes(&self) -> u64 {
        self.percent(self.low_percent)
    }

    fn percent(&self, percent: u32) -> u64 {
        let bytes = u128::from(self.bytes) * u128::from(percent) / 100;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// What uses a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is being fetched from its source.
    SourceFetched,
    /// So many clients are fetching it, or are about to.
    Clients(usize),
    /// Nobody, but an operator has pinned it.
    Pinned,
}

/// A file of the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cached {
    pub task: TaskId,
    pub stored_bytes: u64,
    /// All that it will hold once it is whole.
    pub bytes: u64,
    /// What is written, recorded or not, of one that is being fetched and of which nobody knows whether it ends: its source
    /// told no length, or more than the disk can hold; `None` of any other.
    pub unmeasured_bytes: Option<u64>,
    /// How long ago it was last used, or the service started: that nobody came while it was down says nothing.
    pub unused: Duration,
    /// How long ago it was last used.
    pub idle: Duration,
    pub in_use: Option<Use>,
    /// An operator has pinned it, whether or not something else uses it now.
    pub pinned: bool,
    /// All of the source is here: what is worth keeping.
    pub whole: bool,
    /// It was fetched for clients that have yet to come: it does not expire sooner. It may go for want of room.
    pub awaited_for: Duration,
}

impl Cached {
    /// After how long without use it goes.
    pub fn expires_after(&self, rules: &Rules) -> Duration {
        let kept = if self.whole { rules.whole_expires_after } else { Duration::ZERO };
        rules.expire_after.max(kept).max(self.awaited_for)
    }

    /// Whether it goes, however much room there is.
    pub fn is_expired(&self, rules: &Rules) -> bool {
        self.in_use.is_none() && self.unused >= self.expires_after(rules)
    }

    /// For about how long nobody used it, as a power of two of seconds; `None` for less than one. The exact time says no
    /// more about who comes next: what nobody wanted for an hour is no likelier to be wanted than what waited a minute longer.
    fn idle_magnitude(&self) -> Option<u32> {
        self.idle.as_secs().checked_ilog2()
    }

    /// What it was granted and has not written, where nobody knows whether it ends.
    fn granted_bytes(&self) -> u64 {
        self.unmeasured_bytes.map_or(0, |written| self.bytes.saturating_sub(written))
    }

    const fn can_make_room(&self) -> bool {
        self.in_use.is_none() && self.stored_bytes > 0
    }

    /// Whether the disk has more room without it: what lies in the database gives none back.
    const fn can_free_disk(&self) -> bool {
        self.in_use.is_none() && self.stored_bytes > SMALL_SLOT_MAX_BYTES
    }
}

/// Why a file goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Nobody used it for long enough.
    Expired,
    /// The repository holds more than it should.
    Quota,
    /// The disk has less room than it should.
    LittleRoom,
    /// The disk is nearly full.
    HardlyAnyRoom,
}

/// Why a file stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stay {
    InUse(Use),
    /// The disk has little room, and this one was used a moment ago.
    JustUsed,
    /// The disk has little room, but that is taken by files that nobody knows to end, which may be given up.
    TakenForNow,
    /// The disk has little room, and others go before it in this round.
    LaterRound,
    /// There is room, and it has not expired.
    Room,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Goes(Reason),
    Stays(Stay),
}

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub cached: Cached,
    pub fate: Fate,
    /// When it expires, if nobody uses it; `None` while it is in use.
    pub expires_in: Option<Duration>,
}

/// There is too little room, even if everything went that can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed} bytes do not fit: repositoryQuota is {quota} bytes, of which files in use hold {in_use}")]
pub struct NoRoom {
    pub needed: u64,
    pub quota: u64,
    /// What would be left if everything went that can.
    pub in_use: u64,
}

/// What one round does: files that go first, in the order in which they do, and then the others in the order in which
/// they would.
pub fn plan(rules: &Rules, free_bytes: u64, mut cached: Vec<Cached>) -> Vec<Verdict> {
    sort_by_worth(rules, &mut cached);
    let expired = |cached: &Cached| cached.is_expired(rules);
    let mut space = Space::of(free_bytes, &cached);
    cached.iter().filter(|cached| expired(cached)).for_each(|cached| space.give_back(cached));
    let over_quota = rules.quota.filter(|quota| space.used_bytes > quota.high_bytes());
    let unmeasured_bytes = cached.iter().filter_map(|cached| cached.unmeasured_bytes);
    let short = Shortage::of(rules, space.free_bytes, unmeasured_bytes.fold(0, u64::saturating_add));
    let settles_within = short.settles_within().min(rules.expire_after);
    let is_settled = |cached: &Cached| cached.can_free_disk() && !expired(cached) && cached.unused >= settles_within;
    let mut this_round = this_round(rules, cached.iter().filter(|cached| is_settled(cached)).count());
    let mut verdicts: Vec<Verdict> = Vec::with_capacity(cached.len());
    for cached in cached {
        let fate = if let Some(using) = cached.in_use {
            Fate::Stays(Stay::InUse(using))
        } else if expired(&cached) {
            Fate::Goes(Reason::Expired)
        } else if cached.can_make_room() && over_quota.is_some_and(|quota| space.used_bytes > quota.low_bytes()) {
            space.give_back(&cached);
            Fate::Goes(Reason::Quota)
        } else {
            match short {
                Shortage::None => Fate::Stays(Stay::Room),
                _ if !cached.can_free_disk() => Fate::Stays(Stay::Room),
                Shortage::ForNow => Fate::Stays(Stay::TakenForNow),
                Shortage::Little | Shortage::HardlyAny if !is_settled(&cached) => Fate::Stays(Stay::JustUsed),
                Shortage::HardlyAny => Fate::Goes(Reason::HardlyAnyRoom),
                Shortage::Little if this_round > 0 => {
                    this_round -= 1;
                    Fate::Goes(Reason::LittleRoom)
                }
                Shortage::Little => Fate::Stays(Stay::LaterRound),
            }
        };
        let expires_in = cached.in_use.is_none().then(|| cached.expires_after(rules).saturating_sub(cached.unused));
        verdicts.push(Verdict { cached, fate, expires_in });
    }
    // Stable: within each, the order stays that of their worth.
    verdicts.sort_by_key(|verdict| match verdict.fate {
        Fate::Goes(_) => 0,
        Fate::Stays(Stay::InUse(_)) => 2,
        Fate::Stays(_) => 1,
    });
    verdicts
}

/// What must go, in this order, so that a file of so many bytes fits under the quota; nothing of what is in use.
///
/// The room on the disk is no reason to refuse: a source may announce what it never sends.
pub fn make_room(rules: &Rules, needed: u64, mut cached: Vec<Cached>) -> Result<Vec<Cached>, NoRoom> {
    let Some(Quota { bytes: quota, .. }) = rules.quota else { return Ok(Vec::new()) };
    sort_by_worth(rules, &mut cached);
    let mut space = Space::of(0, &cached);
    let mut going = Vec::new();
    for cached in cached.into_iter().filter(Cached::can_make_room) {
        if space.used_bytes.saturating_add(needed) <= quota {
            break;
        }
        space.give_back(&cached);
        going.push(cached);
    }
    let fits = space.used_bytes.saturating_add(needed) <= quota;
    if fits { Ok(going) } else { Err(NoRoom { needed, quota, in_use: space.used_bytes }) }
}

/// What files that nobody knows to end were granted and have not written yet: it is free, and nobody else's.
pub fn granted_bytes(cached: &[Cached]) -> u64 {
    cached.iter().map(Cached::granted_bytes).fold(0, u64::saturating_add)
}

/// The first is the least worth keeping: what was not used for long enough, of that what was not used for about longest,
/// and of what was unused for about as long the largest.
pub fn sort_by_worth(rules: &Rules, cached: &mut [Cached]) {
    cached.sort_by(|a, b| {
        let recent = |cached: &Cached| cached.idle < rules.interval;
        let by_use = recent(a).cmp(&recent(b)).then(b.idle_magnitude().cmp(&a.idle_magnitude()));
        let by_size = by_use.then(b.stored_bytes.cmp(&a.stored_bytes));
        by_size.then(b.idle.cmp(&a.idle)).then(a.task.cmp(&b.task))
    });
}

/// At least one, while there is one: rounded up, as the published supernode does.
fn this_round(rules: &Rules, candidates: usize) -> usize {
    candidates.saturating_mul(rules.ratio_tenths as usize).div_ceil(10)
}

/// How much room there is.
#[derive(Clone, Copy, Debug)]
struct Space {
    /// Held by the repository, or promised to what is being fetched.
    used_bytes: u64,
    /// Free on the disk.
    free_bytes: u64,
}

impl Space {
    fn of(free_bytes: u64, cached: &[Cached]) -> Self {
        Self { used_bytes: cached.iter().map(|cached| cached.bytes).fold(0, u64::saturating_add), free_bytes }
    }

    const fn give_back(&mut self, cached: &Cached) {
        self.used_bytes = self.used_bytes.saturating_sub(cached.bytes);
        self.free_bytes = self.free_bytes.saturating_add(cached.stored_bytes);
    }
}

/// What the room on the disk calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shortage {
    None,
    /// Little, which would be enough without files that nobody knows to end. For one that may not, nothing else goes.
    ForNow,
    Little,
    HardlyAny,
}

impl Shortage {
    const fn of(rules: &Rules, free_bytes: u64, unmeasured_bytes: u64) -> Self {
        if free_bytes >= rules.young_free_bytes {
            Self::None
        } else if free_bytes <= rules.full_free_bytes {
            Self::HardlyAny
        } else if free_bytes.saturating_add(unmeasured_bytes) >= rules.young_free_bytes {
            Self::ForNow
        } else {
            Self::Little
        }
    }

    const fn settles_within(self) -> Duration {
        match self {
            Self::None | Self::ForNow | Self::Little => SETTLES_WITHIN_COMFORT,
            Self::HardlyAny => SETTLES_WITHIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    /// Room for everything, and nothing expires.
    const RULES: Rules = Rules {
        expire_after: Duration::from_hours(24),
        whole_expires_after: Duration::ZERO,
        young_free_bytes: 100 * MIB,
        full_free_bytes: 5 * MIB,
        interval: Duration::from_hours(2),
        ratio_tenths: 1,
        quota: None,
    };

    fn task(number: usize) -> TaskId {
        TaskId::derive(&format!("http://h/{number}"), "", "")
    }

    fn cached(number: usize, bytes: u64, idle: Duration) -> Cached {
        Cached {
            task: task(number),
            stored_bytes: bytes,
            bytes,
            unmeasured_bytes: None,
            unused: idle,
            idle,
            in_use: None,
            pinned: false,
            whole: true,
            awaited_for: Duration::ZERO,
        }
    }

    fn quota(bytes: u64) -> Rules {
        Rules { quota: Some(Quota { bytes, high_percent: 90, low_percent: 50 }), ..RULES }
    }

    fn going(verdicts: &[Verdict]) -> Vec<(TaskId, Reason)> {
        let goes = |verdict: &Verdict| match verdict.fate {
            Fate::Goes(reason) => Some((verdict.cached.task, reason)),
            Fate::Stays(_) => None,
        };
        verdicts.iter().filter_map(goes).collect()
    }

    fn fate_of(verdicts: &[Verdict], task: TaskId) -> Fate {
        verdicts.iter().find(|verdict| verdict.cached.task == task).expect("every file has a verdict").fate
    }

    #[test]
    fn a_whole_file_is_kept_for_longer_than_half_of_one() {
        let rules = Rules { whole_expires_after: Duration::from_hours(72), ..RULES };
        for (whole, hours, expired) in [(false, 23, false), (false, 25, true), (true, 71, false), (true, 73, true)] {
            let file = Cached { whole, ..cached(0, MIB, Duration::from_hours(hours)) };
            assert_eq!(file.is_expired(&rules), expired, "whole {whole}, unused for {hours} h");
        }
    }

    #[test]
    fn with_room_enough_only_what_expired_goes() {
        let files = (0..5).map(|number| cached(number, MIB, Duration::from_hours(6 * number as u64))).collect();
        let verdicts = plan(&RULES, 100 * MIB, files);
        assert_eq!(going(&verdicts), [(task(4), Reason::Expired)]);
        assert_eq!(fate_of(&verdicts, task(0)), Fate::Stays(Stay::Room));
        let next: Vec<TaskId> = verdicts.iter().skip(1).map(|verdict| verdict.cached.task).collect();
        assert_eq!(next, [task(3), task(2), task(1), task(0)], "in the order in which they would go");
        assert_eq!(verdicts[1].expires_in, Some(Duration::from_hours(6)));
    }

    #[test]
    fn time_without_a_service_expires_nothing_but_counts_for_the_order() {
        let hour = Duration::from_hours(1);
        let long_ago = Cached { unused: hour, ..cached(1, MIB, Duration::from_hours(1000)) };
        let verdicts = plan(&RULES, 100 * MIB, vec![cached(0, MIB, hour), long_ago]);
        assert_eq!(going(&verdicts), []);
        assert_eq!(verdicts[0].cached.task, task(1));
    }

    #[test]
    fn of_what_was_unused_for_about_as_long_the_largest_goes_first() {
        let seconds = Duration::from_secs;
        let large_in_use = Cached { in_use: Some(Use::Clients(1)), ..cached(0, 80 * MIB, seconds(127)) };
        let large_pinned = Cached { in_use: Some(Use::Pinned), pinned: true, ..cached(1, 70 * MIB, seconds(127)) };
        let files = vec![
            large_in_use,
            large_pinned,
            cached(2, 10 * MIB, seconds(127)),
            cached(3, 50 * MIB, seconds(63)),
            cached(4, 20 * MIB, seconds(64)),
            cached(5, 10 * MIB, seconds(126)),
            cached(6, MIB, seconds(128)),
            cached(7, 90 * MIB, Duration::from_millis(999)),
            cached(8, MIB, seconds(1)),
        ];
        let order = [6, 4, 2, 5, 3, 8, 7].map(task);
        let made: Vec<TaskId> = make_room(&quota(400 * MIB), 250 * MIB, files.clone())
            .map(|going| going.into_iter().map(|cached| cached.task).collect())
            .expect("all that is unused is enough");
        assert_eq!(made, order);
        let verdicts = plan(&RULES, 100 * MIB, files);
        let shown: Vec<TaskId> = verdicts.iter().map(|verdict| verdict.cached.task).collect();
        assert_eq!(shown[..7], order, "what is explained is what happens");
        assert_eq!(fate_of(&verdicts, task(0)), Fate::Stays(Stay::InUse(Use::Clients(1))));
        assert_eq!(fate_of(&verdicts, task(1)), Fate::Stays(Stay::InUse(Use::Pinned)));
    }

    #[test]
    fn what_was_used_within_the_interval_goes_last_however_large_it_is() {
        let rules = Rules { interval: Duration::from_secs(100), ..RULES };
        let files = vec![cached(0, 90 * MIB, Duration::from_secs(99)), cached(1, MIB, Duration::from_secs(101))];
        let verdicts = plan(&rules, 100 * MIB, files);
        assert_eq!(verdicts[0].cached.task, task(1));
    }

    #[test]
    fn with_little_room_tenths_go_and_what_was_used_lately_goes_last() {
        // The largest was used within the interval: the others go before it.
        let mut files: Vec<Cached> = (0..24).map(|number| cached(number, MIB, Duration::from_hours(3))).collect();
        files.push(cached(24, 9 * MIB, Duration::from_hours(1)));
        let rules = Rules { ratio_tenths: 10, ..RULES };
        assert_eq!(going(&plan(&rules, 99 * MIB, files.clone())).last(), Some(&(task(24), Reason::LittleRoom)));
        let verdicts = plan(&RULES, 99 * MIB, files);
        assert_eq!(going(&verdicts).len(), 3, "a tenth of 25, rounded up");
        assert_eq!(fate_of(&verdicts, task(24)), Fate::Stays(Stay::LaterRound));
        let one = vec![cached(0, MIB, Duration::from_hours(3))];
        assert_eq!(going(&plan(&RULES, 99 * MIB, one)).len(), 1, "the last one goes, too");
    }

    #[test]
    fn with_hardly_any_room_everything_goes_that_is_not_in_use() {
        let using = Cached { in_use: Some(Use::Clients(2)), ..cached(0, MIB, Duration::from_hours(9)) };
        let fetched = Cached { in_use: Some(Use::SourceFetched), ..cached(1, MIB, Duration::from_hours(9)) };
        let just_used = cached(2, MIB, Duration::from_secs(1));
        let verdicts = plan(&RULES, 5 * MIB, vec![using, fetched, just_used, cached(3, MIB, Duration::from_hours(1))]);
        assert_eq!(going(&verdicts), [(task(3), Reason::HardlyAnyRoom)]);
        assert_eq!(fate_of(&verdicts, task(0)), Fate::Stays(Stay::InUse(Use::Clients(2))));
        assert_eq!(fate_of(&verdicts, task(1)), Fate::Stays(Stay::InUse(Use::SourceFetched)));
        assert_eq!(fate_of(&verdicts, task(2)), Fate::Stays(Stay::JustUsed));
    }

    #[test]
    fn nothing_goes_for_a_file_of_unknown_length_unless_there_is_hardly_any_room() {
        let hour = Duration::from_hours(1);
        let fetched = |unmeasured: bool| {
            // A part of a piece is written and not recorded yet: it takes as much room.
            let unmeasured_bytes = unmeasured.then_some(90 * MIB);
            Cached { in_use: Some(Use::SourceFetched), unmeasured_bytes, ..cached(0, 88 * MIB, hour) }
        };
        let going_at = |free: u64, unmeasured| going(&plan(&RULES, free, vec![fetched(unmeasured), cached(1, MIB, hour)]));
        assert_eq!(going_at(10 * MIB, true), [], "without it there would be room");
        assert_eq!(going_at(10 * MIB, false), [(task(1), Reason::LittleRoom)], "it ends, and is worth it");
        assert_eq!(going_at(10 * MIB - 1, true), [(task(1), Reason::LittleRoom)], "there was little room before it came");
        assert_eq!(going_at(5 * MIB, true), [(task(1), Reason::HardlyAnyRoom)]);
        let verdicts = plan(&RULES, 10 * MIB, vec![fetched(true), cached(1, MIB, hour)]);
        assert_eq!(fate_of(&verdicts, task(1)), Fate::Stays(Stay::TakenForNow));
    }

    #[test]
    fn files_of_unknown_length_are_granted_what_they_have_not_written() {
        let growing = |bytes, written| Cached { bytes, unmeasured_bytes: Some(written), ..cached(0, 10 * MIB, Duration::ZERO) };
        let measured = Cached { bytes: 20 * MIB, ..cached(1, 10 * MIB, Duration::ZERO) };
        assert_eq!(granted_bytes(&[measured, growing(20 * MIB, 12 * MIB), growing(13 * MIB, 12 * MIB)]), 9 * MIB);
        assert_eq!(granted_bytes(&[growing(10 * MIB, 12 * MIB)]), 0, "it is about to ask");
    }

    #[test]
    fn thresholds_the_wrong_way_round_are_the_smaller_one() {
        let rules = Rules { young_free_bytes: 5 * MIB, full_free_bytes: 100 * MIB, ..RULES };
        assert_eq!(rules.hardly_any_bytes(), 5 * MIB);
        let one = |free| going(&plan(&rules, free, vec![cached(0, MIB, Duration::from_hours(1))]));
        assert_eq!((one(5 * MIB), one(5 * MIB - 1)), (vec![], vec![(task(0), Reason::HardlyAnyRoom)]));
    }

    #[test]
    fn what_clients_have_yet_to_come_for_expires_later_and_makes_room_like_the_rest() {
        let awaited = Cached { awaited_for: Duration::from_hours(48), ..cached(0, MIB, Duration::from_hours(30)) };
        let verdicts = plan(&RULES, 100 * MIB, vec![awaited]);
        assert_eq!((going(&verdicts), verdicts[0].expires_in), (vec![], Some(Duration::from_hours(18))));
        assert_eq!(going(&plan(&RULES, 5 * MIB, vec![awaited])), [(task(0), Reason::HardlyAnyRoom)]);
        let over = Cached { unused: Duration::from_hours(48), ..awaited };
        assert_eq!(going(&plan(&RULES, 100 * MIB, vec![over])), [(task(0), Reason::Expired)]);
    }

    #[test]
    fn what_is_in_use_never_expires() {
        let using = Cached { in_use: Some(Use::Clients(1)), ..cached(0, MIB, Duration::from_hours(100)) };
        let verdicts = plan(&RULES, 100 * MIB, vec![using]);
        assert_eq!((going(&verdicts), verdicts[0].expires_in), (vec![], None));
    }

    #[test]
    fn beyond_the_high_mark_of_the_quota_files_go_down_to_the_low_one() {
        let file = |number: usize| cached(number, 10 * MIB, Duration::from_secs(100 - number as u64));
        let files: Vec<Cached> = (0..9).map(file).collect();
        assert_eq!(going(&plan(&quota(100 * MIB), 100 * MIB, files.clone())), [], "90 of 100 are not beyond 90 %");
        let files: Vec<Cached> = (0..10).map(file).collect();
        let gone: Vec<_> = going(&plan(&quota(100 * MIB), 100 * MIB, files));
        let expected: Vec<_> = (0..5).map(|number| (task(number), Reason::Quota)).collect();
        assert_eq!(gone, expected, "the longest unused first, until 50 % are left");
    }

    #[test]
    fn what_expires_makes_room_before_anything_else_goes() {
        let mut files: Vec<Cached> = (0..9).map(|number| cached(number, 10 * MIB, Duration::from_secs(1))).collect();
        files.push(cached(9, 10 * MIB, Duration::from_hours(24)));
        assert_eq!(going(&plan(&quota(100 * MIB), 100 * MIB, files)), [(task(9), Reason::Expired)]);
    }

    #[test]
    fn room_is_made_of_what_is_least_worth_keeping_and_no_more_than_is_needed() {
        let files: Vec<Cached> = (0..9).map(|number| cached(number, 10 * MIB, Duration::from_secs(100))).collect();
        let making = |needed, files: Vec<Cached>| {
            let going = make_room(&quota(100 * MIB), needed, files)?;
            Ok::<_, NoRoom>(going.len())
        };
        assert_eq!(making(10 * MIB, files.clone()), Ok(0));
        assert_eq!(making(11 * MIB, files.clone()), Ok(1));
        assert_eq!(making(100 * MIB, files.clone()), Ok(9));
        let too_large = NoRoom { needed: 101 * MIB, quota: 100 * MIB, in_use: 0 };
        assert_eq!(making(101 * MIB, files.clone()), Err(too_large));
        let using: Vec<Cached> = files.into_iter().map(|file| Cached { in_use: Some(Use::Clients(1)), ..file }).collect();
        assert_eq!(making(11 * MIB, using), Err(NoRoom { needed: 11 * MIB, quota: 100 * MIB, in_use: 90 * MIB }));
    }

    #[test]
    fn what_is_promised_to_running_downloads_is_not_promised_twice() {
        let running =
            Cached { stored_bytes: 0, bytes: 60 * MIB, in_use: Some(Use::SourceFetched), ..cached(0, 0, Duration::ZERO) };
        let unused = cached(1, 30 * MIB, Duration::ZERO);
        assert_eq!(make_room(&quota(100 * MIB), 10 * MIB, vec![running, unused]), Ok(vec![]));
        assert_eq!(make_room(&quota(100 * MIB), 40 * MIB, vec![running, unused]), Ok(vec![unused]));
        let no_room = NoRoom { needed: 41 * MIB, quota: 100 * MIB, in_use: 60 * MIB };
        assert_eq!(make_room(&quota(100 * MIB), 41 * MIB, vec![running, unused]), Err(no_room));
        assert_eq!(make_room(&RULES, u64::MAX, vec![running, unused]), Ok(vec![]), "without a quota everything fits");
    }

    proptest::proptest! {
        #[test]
        fn no_plan_takes_what_is_in_use_or_loses_a_file(
            files in proptest::collection::vec((0_u64..50, 0_u64..50, 0_u64..100_000, 0_usize..3), 0..40),
            free in 0_u64..200, quota_bytes in 0_u64..500, tenths in 1_u32..=10,
        ) {
            let file = |(number, &(stored, more, idle, clients)): (usize, &(u64, u64, u64, usize))| Cached {
                stored_bytes: stored * MIB,
                bytes: (stored + more) * MIB,
                in_use: (clients > 0).then_some(Use::Clients(clients)),
                ..cached(number, 0, Duration::from_secs(idle))
            };
            let files: Vec<Cached> = files.iter().enumerate().map(file).collect();
            let rules = Rules { ratio_tenths: tenths, ..quota(quota_bytes * MIB) };
            let verdicts = plan(&rules, free * MIB, files.clone());
            proptest::prop_assert_eq!(verdicts.len(), files.len());
            for verdict in &verdicts {
                let goes = matches!(verdict.fate, Fate::Goes(_));
                proptest::prop_assert!(!(goes && verdict.cached.in_use.is_some()));
            }
            if let Ok(going) = make_room(&rules, 10 * MIB, files.clone()) {
                proptest::prop_assert!(going.iter().all(|cached| cached.in_use.is_none()));
                let used: u64 = files.iter().map(|file| file.bytes).sum();
                let freed: u64 = going.iter().map(|file| file.bytes).sum();
                proptest::prop_assert!(used - freed + 10 * MIB <= quota_bytes * MIB);
            }
        }
    }
}
