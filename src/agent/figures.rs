//! Whose figures are on the page of metrics.

use super::served::Served;
use crate::clients::{Clients, Reason};
use crate::http::Guard;
use crate::sinks;
use crate::sinks::metrics::{Families, Family, FigureList, Figures, Reading};

/// The list: an owner of figures that is not here has none on the page.
pub(super) fn figures() -> FigureList<Served> {
    FigureList::default()
        .with(|served: &Served| &*served.pipeline)
        .with_all(sinks::figures(), |served: &Served| served.pipeline.sinks())
        .with(|served: &Served| &*served.board)
        .with(|served: &Served| &*served.throttle)
        .with(|served: &Served| &*served.reload)
        .with_optional(|served: &Served| served.names.as_ref())
        .with(|served: &Served| &served.clients)
        .with_optional(|served: &Served| served.guard.as_deref())
        .with(|served: &Served| &served.process)
}

/// The name of every metric there may be.
pub fn metric_names() -> impl Iterator<Item = &'static str> {
    figures().metric_names().collect::<Vec<_>>().into_iter()
}

impl Figures for Clients {
    const FAMILIES: &'static [Family] = &[Family::counter(
        "netmon_clients_turned_away_total",
        "Clients of the agent's own servers that were refused, or closed to make way for others.",
    )];

    fn collect(&self, _: &Reading, families: &mut Families) {
        for (server, turned) in self.turned() {
            for reason in Reason::ALL {
                let labels = [("server", server), ("reason", reason.name())];
                families.add("netmon_clients_turned_away_total", &labels, turned.of(reason) as f64);
            }
        }
    }
}

impl Figures for Guard {
    const FAMILIES: &'static [Family] = &[
        Family::counter(
            "netmon_web_config_reloads_total",
            "Times that a changed web configuration, certificate or key was taken.",
        ),
        Family::counter(
            "netmon_web_config_reload_failures_total",
            "Times that a changed web configuration, certificate or key was refused, because something was wrong with it.",
        ),
    ];

    fn collect(&self, _: &Reading, families: &mut Families) {
        let (taken, refused) = self.reloads();
        families.add("netmon_web_config_reloads_total", &[], taken as f64);
        families.add("netmon_web_config_reload_failures_total", &[], refused as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_family_has_one_owner() {
        let (all, mut names) = (metric_names(), BTreeSet::new());
        let twice: Vec<&str> = all.filter(|name| !names.insert(*name)).collect();
        assert!(twice.is_empty(), "{twice:?}");
        assert!(names.len() > 70, "{names:?}");
    }
}
