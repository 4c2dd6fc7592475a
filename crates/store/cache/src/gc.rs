//! Throwing away what is not needed most, until limits hold.
//!
//! 1. A rule says which records may go: unused ones that its filter lets pass, internal ones and those of frontends
//!    only if it is for all, and none that was used within its duration.
//! 2. Its limits say how much is kept ([`Rule::keep`]). Without limits everything that may go goes.
//! 3. Only what nothing stands on can be removed. So records wait in a heap until those above them are gone, and a
//!    record counts as used when one above it was: a whole branch goes before a fresher one is touched.
//! 4. With limits the order is by use: what was used longest ago and least often goes first. Both count as places in
//!    line, so that a year and an hour do not weigh differently.
//!
//! Compat: rules, limits and order as upstream's; but no record counts as used because one above it was removed.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};
use std::time::{Duration, SystemTime};

use filters::Filter;
use tasks::Cx;

use crate::usage::{Care, Survey};
use crate::{Cache, Error, Inner, RecordType, RefId, Usage};

/// Blobs without a record go after this time in any case.
const LOOSE_LIFE: Duration = Duration::from_secs(48 * 3600);
/// Under pressure they go when nobody asked for them for this time.
const LOOSE_PRESSED: Duration = Duration::from_secs(3600);

/// What may be thrown away, and when.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// Which records.
    pub filter: Filter,
    /// Internal records and those of frontends as well.
    pub all: bool,
    /// Not what was used more recently.
    pub keep_duration: Duration,
    /// Bytes that are always kept.
    pub reserved: u64,
    /// Bytes the whole cache may take; 0: no limit.
    pub max_used: u64,
    /// Bytes that should be free on the disk; 0: no matter.
    pub min_free: u64,
}

impl Rule {
    /// The bytes to keep of `total` when so many are free; `None`: nothing has to be kept.
    fn keep(&self, total: u64, free: u64) -> Option<u64> {
        if (self.reserved, self.max_used, self.min_free) == (0, 0, 0) {
            return None;
        }
        let missing = self.min_free.saturating_sub(free);
        let keep = match (self.max_used, missing) {
            (0, 0) if self.min_free > 0 => total,
            (max, 0) => max,
            (0, missing) => total.saturating_sub(missing),
            (max, missing) => max.min(total.saturating_sub(missing)),
        };
        Some(keep.max(self.reserved))
    }

    /// The rule with a limit somewhat below the one that is exceeded.
    fn below(&self, total: u64) -> Self {
        let mut rule = self.clone();
        if total > rule.max_used {
            rule.max_used -= (rule.max_used / 20).min(500_000_000);
        }
        rule
    }

    fn may_remove(&self, record: &Usage, now: SystemTime) -> bool {
        let internal = matches!(
            record.record_type,
            RecordType::Internal | RecordType::Frontend
        );
        let recent = !self.keep_duration.is_zero()
            && now
                .checked_sub(self.keep_duration)
                .is_some_and(|since| record.is_used_since(since));
        !record.in_use
            && (self.all || !(internal || record.shared))
            && !recent
            && record.matches(&self.filter)
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Records removed.
    pub records: u64,
    /// Bytes that were measured for them.
    pub bytes: u64,
}

/// What a pass looks at and how far it goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pass {
    pub(crate) care: Care,
    /// A limit that is exceeded is brought a little below, so that there is some room until the next pass.
    pub(crate) early: bool,
}

impl Cache {
    /// Removes what the rules say, one rule after the other, and calls `removed` for each record. Returns when the
    /// room is free.
    pub async fn prune(
        &self,
        cx: &Cx,
        rules: &[Rule],
        removed: impl FnMut(Usage) + Send + 'static,
    ) -> Result<Pruned, Error> {
        let pass = Pass {
            care: Care::Doomed,
            early: false,
        };
        self.prune_with(cx, rules, pass, removed).await
    }

    pub(crate) async fn prune_with(
        &self,
        cx: &Cx,
        rules: &[Rule],
        pass: Pass,
        removed: impl FnMut(Usage) + Send + 'static,
    ) -> Result<Pruned, Error> {
        let (inner, work, rules) = (self.inner.clone(), cx.clone(), rules.to_vec());
        let pruned = tasks::blocking(move || inner.prune(&work, &rules, pass, removed)).await?;
        cx.run(self.settle_removals()).await?;
        if pruned.bytes > 0 {
            self.inner.balance_less(pruned.bytes);
        }
        Ok(pruned)
    }
}

impl Inner {
    fn prune(
        &self,
        cx: &Cx,
        rules: &[Rule],
        pass: Pass,
        mut removed: impl FnMut(Usage),
    ) -> Result<Pruned, Error> {
        let now = (self.clock)();
        let survey = self.survey(cx, pass.care)?;
        let mut total = survey.total();
        self.measured(total, survey.records.len());
        let before = |age| now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH);
        total -= self.drop_loose(&survey.loose, before(LOOSE_LIFE))?;
        let mut pruned = Pruned::default();
        let mut forest = Forest::new(&survey);
        for rule in rules {
            let free = disk(&self.root)?.free;
            let keep = if pass.early {
                rule.below(total).keep(total, free)
            } else {
                rule.keep(total, free)
            };
            if keep.is_some_and(|keep| total <= keep) {
                continue;
            }
            if rule.all && rule.keep_duration.is_zero() && rule.filter.is_everything() {
                total -= self
                    .drop_loose(&survey.loose, before(LOOSE_PRESSED))?
                    .min(total);
            }
            let mut branch = forest.begin(&survey, |record| rule.may_remove(record, now));
            while keep.is_none_or(|keep| total > keep) {
                cx.check()?;
                let Some(next) = branch.next() else {
                    break;
                };
                let record = &survey.records[next];
                match self.remove(&record.id) {
                    Ok(_) => {
                        forest.gone(next, &survey, &mut branch);
                        total = total.saturating_sub(record.size);
                        pruned.records += 1;
                        pruned.bytes += record.size;
                        removed(record.clone());
                    }
                    // Somebody came meanwhile.
                    Err(Error::InUse { .. } | Error::NotFound { .. }) => {}
                    Err(err) => return Err(err),
                }
            }
        }
        Ok(pruned)
    }
}

/// The disk the state is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes.
    pub total: u64,
    /// Bytes that are not in use.
    pub free: u64,
    /// The part of it that is not kept for the superuser.
    pub available: u64,
}

/// The disk that holds a path.
pub fn disk(path: &std::path::Path) -> Result<Disk, Error> {
    let stat =
        rustix::fs::statvfs(path).map_err(|err| Error::io("look at the disk")(err.into()))?;
    Ok(Disk {
        total: stat.f_blocks * stat.f_frsize,
        free: stat.f_bfree * stat.f_frsize,
        available: stat.f_bavail * stat.f_frsize,
    })
}

/// How records stand on each other, by their places in the survey.
struct Forest {
    parents: Vec<Vec<usize>>,
    /// How many stand on it.
    children: Vec<usize>,
    /// The last use of it or of anything above.
    used: Vec<Option<SystemTime>>,
    present: Vec<bool>,
}

/// Records that may go, those first that should.
struct Branch {
    ready: BinaryHeap<Candidate>,
    /// The urgency of those that wait for what stands on them; `None`: they stay.
    waiting: Vec<Option<f64>>,
}

#[derive(Debug, PartialEq)]
struct Candidate {
    /// The smaller, the sooner it goes.
    place: f64,
    id: RefId,
    index: usize,
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        other
            .place
            .total_cmp(&self.place)
            .then_with(|| other.id.cmp(&self.id))
    }
}

impl Forest {
    fn new(survey: &Survey) -> Self {
        let records = &survey.records;
        let places: HashMap<&RefId, usize> = records
            .iter()
            .enumerate()
            .map(|(place, record)| (&record.id, place))
            .collect();
        let mut children = vec![0; records.len()];
        let parents: Vec<Vec<usize>> = records
            .iter()
            .map(|record| {
                let mut parents: Vec<usize> = record
                    .parents
                    .iter()
                    .filter_map(|parent| places.get(parent).copied())
                    .collect();
                parents.sort_unstable();
                parents.dedup();
                for parent in &parents {
                    children[*parent] += 1;
                }
                parents
            })
            .collect();
        let mut forest = Self {
            parents,
            children,
            used: records.iter().map(|record| record.last_used).collect(),
            present: vec![true; records.len()],
        };
        forest.hand_down_uses();
        forest
    }

    /// Whatever was used above counts below, from the leaves on.
    fn hand_down_uses(&mut self) {
        let mut left = self.children.clone();
        let mut ready: Vec<usize> = (0..left.len()).filter(|place| left[*place] == 0).collect();
        while let Some(place) = ready.pop() {
            for &parent in &self.parents[place] {
                self.used[parent] = self.used[parent].max(self.used[place]);
                left[parent] -= 1;
                if left[parent] == 0 {
                    ready.push(parent);
                }
            }
        }
    }

    /// Those that are still there and `may` go.
    fn begin(&self, survey: &Survey, may: impl Fn(&Usage) -> bool) -> Branch {
        let records = &survey.records;
        let chosen: Vec<usize> = (0..records.len())
            .filter(|place| self.present[*place] && may(&records[*place]))
            .collect();
        let by_time = places_in_line(&chosen, |place| self.used[place]);
        let by_count = places_in_line(&chosen, |place| records[place].usage_count);
        let mut branch = Branch {
            ready: BinaryHeap::new(),
            waiting: vec![None; records.len()],
        };
        for ((place, time), count) in chosen.iter().zip(by_time).zip(by_count) {
            branch.waiting[*place] = Some(time + count);
        }
        for place in chosen {
            if self.children[place] == 0 {
                branch.push(place, &records[place].id);
            }
        }
        branch
    }

    /// A record was removed; those below it may be ready now.
    fn gone(&mut self, place: usize, survey: &Survey, branch: &mut Branch) {
        self.present[place] = false;
        for &parent in &self.parents[place] {
            self.children[parent] -= 1;
            if self.children[parent] == 0 {
                branch.push(parent, &survey.records[parent].id);
            }
        }
    }
}

impl Branch {
    fn push(&mut self, index: usize, id: &RefId) {
        if let Some(place) = self.waiting[index].take() {
            self.ready.push(Candidate {
                place,
                id: id.clone(),
                index,
            });
        }
    }

    fn next(&mut self) -> Option<usize> {
        Some(self.ready.pop()?.index)
    }
}

/// For each of `chosen` its place between 0 and 1 in a line ordered by `of`; equal ones have the same.
fn places_in_line<T: Ord>(chosen: &[usize], of: impl Fn(usize) -> T) -> Vec<f64> {
    let mut distinct: Vec<T> = chosen.iter().map(|place| of(*place)).collect();
    distinct.sort_unstable();
    distinct.dedup();
    #[allow(clippy::cast_precision_loss, reason = "nobody has so many records")]
    let share = |at: usize| at as f64 / distinct.len() as f64;
    let place = |value: T| share(distinct.partition_point(|other| *other < value));
    chosen.iter().map(|index| place(of(*index))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GB: u64 = 1_000_000_000;

    fn rule(reserved: u64, max_used: u64, min_free: u64) -> Rule {
        Rule {
            reserved,
            max_used,
            min_free,
            ..Rule::default()
        }
    }

    #[test]
    fn limits_say_how_much_is_kept() {
        assert_eq!(rule(0, 0, 0).keep(9, 9), None);
        assert_eq!(rule(0, 5, 0).keep(9, 0), Some(5));
        assert_eq!(
            rule(7, 5, 0).keep(9, 0),
            Some(7),
            "what is reserved is kept"
        );
        assert_eq!(rule(0, 0, 3).keep(9, 3), Some(9), "enough is free");
        assert_eq!(rule(0, 0, 3).keep(9, 1), Some(7), "two are missing");
        assert_eq!(rule(0, 5, 3).keep(9, 3), Some(5));
        assert_eq!(rule(0, 8, 3).keep(9, 1), Some(7));
        assert_eq!(rule(2, 8, 30).keep(9, 1), Some(2));
        assert_eq!(rule(2, 0, 0).keep(9, 0), Some(2));
        assert_eq!(
            rule(GB, 10 * GB, 20 * GB).keep(5 * GB, 30 * GB),
            Some(10 * GB)
        );
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// `name: parents, last use, count`.
    fn survey(records: &[(&str, &[&str], u64, u64)]) -> Survey {
        let id = |name: &str| RefId::parse(name).expect("an id");
        Survey {
            records: records
                .iter()
                .map(|(name, parents, used, count)| Usage {
                    id: id(name),
                    mutable: false,
                    in_use: name.starts_with('x'),
                    size: 1,
                    parents: parents.iter().map(|name| id(name)).collect(),
                    created: at(0),
                    last_used: (*used > 0).then(|| at(*used)),
                    usage_count: *count,
                    description: String::new(),
                    record_type: if name.starts_with('i') {
                        RecordType::Internal
                    } else {
                        RecordType::Regular
                    },
                    shared: false,
                })
                .collect(),
            ..Survey::default()
        }
    }

    fn order(survey: &Survey, rule: &Rule) -> String {
        let mut forest = Forest::new(survey);
        let mut branch = forest.begin(survey, |record| rule.may_remove(record, at(1000)));
        let mut order = Vec::new();
        while let Some(next) = branch.next() {
            forest.gone(next, survey, &mut branch);
            order.push(survey.records[next].id.to_string());
        }
        order.join(" ")
    }

    #[test]
    fn what_was_used_longest_ago_and_least_goes_first() {
        let records = survey(&[
            ("a", &[], 30, 1),
            ("b", &[], 10, 1),
            ("c", &[], 20, 1),
            ("d", &[], 20, 9),
            ("e", &[], 0, 1),
        ]);
        assert_eq!(order(&records, &Rule::default()), "e b c a d");
    }

    #[test]
    fn a_branch_goes_from_its_leaves_down_before_a_fresher_one() {
        let records = survey(&[
            ("a", &[], 5, 1),
            ("b", &["a"], 6, 1),
            ("c", &["b"], 10, 1),
            ("f", &[], 1, 1),
            ("g", &["f"], 20, 1),
        ]);
        assert_eq!(order(&records, &Rule::default()), "c b a g f");
    }

    #[test]
    fn what_is_in_use_internal_or_recent_stays_and_so_does_what_it_stands_on() {
        let records = survey(&[
            ("a", &[], 5, 1),
            ("x", &["a"], 6, 1),
            ("b", &[], 7, 1),
            ("i", &["b"], 8, 1),
            ("c", &[], 990, 1),
            ("d", &["c"], 9, 1),
        ]);
        assert_eq!(order(&records, &Rule::default()), "d c");
        let all = Rule {
            all: true,
            keep_duration: Duration::from_secs(100),
            ..Rule::default()
        };
        assert_eq!(order(&records, &all), "i b d");
        let filter = Filter::parse(&["type==internal"]).expect("a filter");
        let filtered = Rule {
            filter,
            ..all.clone()
        };
        assert_eq!(order(&records, &filtered), "i");
    }

    #[test]
    fn a_parent_named_twice_is_counted_once() {
        let records = survey(&[("a", &[], 5, 1), ("m", &["a", "a"], 6, 1)]);
        assert_eq!(order(&records, &Rule::default()), "m a");
    }
}
