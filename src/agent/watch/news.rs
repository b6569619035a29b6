//! Log lines about interfaces that come and go. Pods do so in large numbers, and the log has to stay readable: interfaces that come
//! together are reported together, once it is settled whose they are. Pure: time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::agent::board::{Interface, InterfaceStatus};

/// A pod's link is created first, and moved to the pod a moment later: only then is it known to face a workload.
const SETTLED: Duration = Duration::from_secs(1);
/// A report waits no longer than this, even if more interfaces keep coming.
const WAIT_MOST: Duration = Duration::from_secs(5);
/// Shortest and longest time between two reports: it doubles with each one.
const PAUSES: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(60)];
/// After this long without a report the next one is soon again.
const CALM: Duration = Duration::from_secs(120);
/// Most names of similar interfaces in one line; `netmon-cli status` has all.
const NAMES: usize = 32;

type Known = BTreeMap<u32, Interface>;

/// Interfaces that have come or gone and are not in the log yet.
#[derive(Default)]
pub(super) struct InterfaceNews {
    came: BTreeSet<u32>,
    left: Vec<String>,
    /// How many came and went without being reported.
    brief: usize,
    /// By index of each reported interface, whether it was reported to face a workload.
    faces: BTreeMap<u32, bool>,
    /// When the first and the latest of these changes were.
    since: Option<(Instant, Instant)>,
    /// When the last report was.
    reported: Option<Instant>,
    pause: Duration,
}

impl InterfaceNews {
    /// An interface is watched from now on.
    pub(super) fn came(&mut self, index: u32, now: Instant) {
        self.came.insert(index);
        self.stamp(now);
    }

    /// An interface is not watched any more.
    pub(super) fn left(&mut self, index: u32, name: &str, now: Instant) {
        self.faces.remove(&index);
        if self.came.remove(&index) {
            self.brief += 1;
        } else {
            self.left.push(name.to_owned());
        }
        self.stamp(now);
    }

    /// Checks whether any faces a workload now, or no longer does.
    pub(super) fn look(&mut self, known: &Known, now: Instant) {
        let otherwise = |index, faces| known.get(index).is_some_and(|interface| interface.workload != faces);
        let changed = self.faces.iter().any(|(index, faces)| otherwise(index, *faces));
        if changed && self.since.is_none() {
            self.stamp(now);
        }
    }

    fn stamp(&mut self, now: Instant) {
        let (first, _) = self.since.unwrap_or((now, now));
        self.since = Some((first, now));
    }

    /// When the next report is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let (first, latest) = self.since?;
        let settled = (latest + SETTLED).min(first + WAIT_MOST);
        Some(self.reported.map_or(settled, |reported| settled.max(reported + self.pause)))
    }

    /// The lines for the log, if a report is due.
    pub(super) fn report(&mut self, known: &Known, now: Instant) -> Vec<String> {
        if self.due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.report_at_once(known, now)
    }

    /// The lines for the log, even if more changes may be about to come.
    pub(super) fn report_at_once(&mut self, known: &Known, now: Instant) -> Vec<String> {
        self.since = None;
        let calm = self.reported.is_none_or(|reported| now.saturating_duration_since(reported) >= CALM);
        self.pause = if calm { PAUSES[0] } else { (2 * self.pause).clamp(PAUSES[0], PAUSES[1]) };
        self.reported = Some(now);
        let mut lines = Vec::new();
        let mut groups: BTreeMap<(&str, &str, bool), Vec<&str>> = BTreeMap::new();
        let mut turned: [Vec<&str>; 2] = Default::default();
        let came = std::mem::take(&mut self.came);
        for interface in known.values() {
            let InterfaceStatus::Watched(mode) = &interface.status else { continue };
            let faces = interface.workload;
            if came.contains(&interface.index) {
                groups.entry((&interface.kind, mode.name(), faces)).or_default().push(&interface.name);
                self.faces.insert(interface.index, faces);
            } else if let Some(said) = self.faces.get_mut(&interface.index).filter(|said| **said != faces) {
                *said = faces;
                turned[usize::from(faces)].push(&interface.name);
            }
        }
        let count: usize = groups.values().map(Vec::len).sum();
        let mut brief = match std::mem::take(&mut self.brief) {
            0 => None,
            1 => Some("1 interface came and went".to_owned()),
            count => Some(format!("{count} interfaces came and went")),
        };
        if count > 0 {
            let groups = groups.iter().map(|((kind, mode, faces), names)| {
                let face = if names.len() == 1 { ", faces a workload" } else { ", face a workload" };
                format!("{} ({kind}, {mode}{})", shorten(names), if *faces { face } else { "" })
            });
            let number = if count > 1 { format!("{count} interfaces: ") } else { String::new() };
            let parts: Vec<String> = groups.chain(brief.take()).collect();
            lines.push(format!("watching {number}{}", parts.join("; ")));
        }
        for (names, what) in turned.iter().zip(["facing no workload any more", "found to face a workload"]) {
            if !names.is_empty() {
                lines.push(format!("{what}: {}", shorten(names)));
            }
        }
        let left = std::mem::take(&mut self.left);
        let names: Vec<&str> = left.iter().map(String::as_str).collect();
        if !names.is_empty() {
            let parts: Vec<String> = std::iter::once(shorten(&names)).chain(brief.take()).collect();
            lines.push(format!("not watching any more: {}", parts.join("; ")));
        }
        lines.extend(brief);
        lines
    }
}

fn shorten(names: &[&str]) -> String {
    match names.split_at_checked(NAMES) {
        Some((shown, more)) if !more.is_empty() => format!("{} and {} more", shown.join(", "), more.len()),
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::{Link, Mode};

    struct Log {
        news: InterfaceNews,
        known: Known,
        start: Instant,
        lines: Vec<(u64, String)>,
    }

    impl Log {
        fn new() -> Log {
            Log { news: InterfaceNews::default(), known: Known::new(), start: Instant::now(), lines: Vec::new() }
        }

        /// An interface of this number comes, or faces a workload or not.
        fn set(&mut self, index: u32, workload: bool, ms: u64) {
            let link = Link::sample(index, &format!("veth{index}"), "veth");
            let status = InterfaceStatus::Watched(Mode::Tcx);
            let interface = Interface { workload, ..Interface::new(&link, status, [0; 2]) };
            let now = self.start + Duration::from_millis(ms);
            if self.known.insert(index, interface).is_none() {
                self.news.came(index, now);
            }
            self.news.look(&self.known, now);
        }

        fn remove(&mut self, index: u32, ms: u64) {
            let gone = self.known.remove(&index).unwrap();
            self.news.left(index, &gone.name, self.start + Duration::from_millis(ms));
        }

        /// Time goes on.
        fn until(&mut self, ms: u64) -> Vec<String> {
            let now = self.start + Duration::from_millis(ms);
            let lines = self.news.report(&self.known, now);
            self.lines.extend(lines.iter().map(|line| (ms, line.clone())));
            lines
        }
    }

    #[test]
    fn a_burst_is_one_line_and_says_which_face_a_workload() {
        let mut log = Log::new();
        for index in 1..=20 {
            let ms = u64::from(index) * 50;
            log.set(index, false, ms);
            assert!(log.until(ms).is_empty());
            // The container gets its end a moment later.
            log.set(index, index != 3, ms + 30);
        }
        assert!(log.until(1900).is_empty(), "the last one may not be settled yet");
        let names: Vec<String> = (1..=20).filter(|index| *index != 3).map(|index| format!("veth{index}")).collect();
        let wanted =
            format!("watching 20 interfaces: veth3 (veth, tcx); {} (veth, tcx, face a workload)", names.join(", "));
        assert_eq!(log.until(2000), [wanted]);
        assert_eq!(log.until(100_000), [""; 0]);
    }

    #[test]
    fn a_workload_is_reported_once_it_is_known() {
        let mut log = Log::new();
        log.set(1, false, 0);
        assert_eq!(log.until(1000), ["watching veth1 (veth, tcx)"]);
        log.set(1, true, 20_000);
        assert_eq!(log.until(21_000), ["found to face a workload: veth1"]);
        log.set(1, false, 300_000);
        assert_eq!(log.until(301_000), ["facing no workload any more: veth1"]);
        log.remove(1, 600_000);
        assert_eq!(log.until(601_000), ["not watching any more: veth1"]);
    }

    #[test]
    fn what_came_and_went_is_only_counted() {
        let mut log = Log::new();
        log.set(1, true, 0);
        log.until(1000);
        for index in 2..=9 {
            log.set(index, true, 200_000);
            log.remove(index, 200_500);
        }
        assert_eq!(log.until(201_500), ["8 interfaces came and went"]);
        log.set(2, true, 400_000);
        log.remove(2, 400_100);
        log.remove(1, 400_100);
        assert_eq!(log.until(401_100), ["not watching any more: veth1; 1 interface came and went"]);
    }

    #[test]
    fn whoever_keeps_on_coming_does_not_fill_the_log() {
        let mut log = Log::new();
        // For a quarter of an hour a pod comes every 8 seconds, and the one before it goes.
        let mut lines = 0;
        for second in 0..900u64 {
            if second % 8 == 0 {
                let index = second as u32 / 8 + 1;
                log.set(index, true, second * 1000);
                if index > 1 {
                    log.remove(index - 1, second * 1000 + 500);
                }
            }
            for tenth in 0..10 {
                lines += log.until(second * 1000 + tenth * 100).len();
            }
        }
        assert!((10..50).contains(&lines), "{lines}: {:#?}", log.lines);
        // If they do not stop coming, there is a report after some seconds all the same.
        let mut log = Log::new();
        for ms in (0..7000).step_by(500) {
            log.set(ms as u32 + 1, true, ms);
            log.until(ms);
        }
        assert_eq!(log.lines.first().map(|(ms, _)| *ms), Some(5000));
    }
}
