//! What the server's threads cost, as the kernel counts it: on a shared machine a rate changes with the neighbours,
//! the time a request takes on a core hardly does.

use crate::Outcome;
use crate::figures::per_second;
use std::collections::BTreeMap;
use std::time::Duration;

/// The kernel counts in hundredths of a second (`USER_HZ`, fixed for what it tells processes).
const TICKS_PER_SECOND: u32 = 100;

/// Ticks on a core so far, by the threads' names.
#[derive(Debug, Default)]
pub struct CpuTime(BTreeMap<String, u32>);

impl CpuTime {
    /// Of a process and, as `driver`, of this one.
    pub fn read(process: u32) -> Outcome<Self> {
        let mut ticks: BTreeMap<String, u32> = BTreeMap::new();
        for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
            let stat = std::fs::read_to_string(thread?.path().join("stat"))?;
            let (name, used) = parse(&stat)?;
            *ticks.entry(name).or_default() += used;
        }
        let (_, driver) = parse(&std::fs::read_to_string("/proc/self/stat")?)?;
        ticks.insert("driver".to_owned(), driver);
        Ok(Self(ticks))
    }

    /// Microseconds for each of `count` things since `before`, the largest shares first.
    pub fn since(&self, before: &Self, count: u32) -> String {
        let used = |name: &String, ticks: &u32| ticks.saturating_sub(before.0.get(name).copied().unwrap_or(0));
        let mut shares: Vec<(&String, u32)> = self.0.iter().map(|(name, ticks)| (name, used(name, ticks))).collect();
        shares.sort_unstable_by_key(|(_, ticks)| std::cmp::Reverse(*ticks));
        let micros =
            |ticks: u32| per_second(ticks, Duration::from_secs(count.into())) * 1e6 / f64::from(TICKS_PER_SECOND);
        let total: u32 = shares.iter().map(|(_, ticks)| ticks).sum();
        let shares: Vec<String> = shares
            .iter()
            .filter(|(_, ticks)| *ticks > 0)
            .map(|(name, ticks)| format!("{name} {:.0}", micros(*ticks)))
            .collect();
        format!("{:.0} us ({})", micros(total), shares.join(", "))
    }
}

/// The name and the ticks of a line of `/proc/*/stat`: the name is in brackets, user and system time are the
/// fourteenth and fifteenth field (proc(5)).
fn parse(stat: &str) -> Outcome<(String, u32)> {
    let (front, fields) = stat.rsplit_once(')').ok_or("the kernel tells no CPU time")?;
    let name = front.split_once('(').map_or("", |(_, name)| name).to_owned();
    let mut ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
    let (user, system) = (ticks.next().ok_or("no user time")??, ticks.next().ok_or("no system time")??);
    Ok((name, user + system))
}
