//! Attaches the programs to the interfaces of a network namespace, and makes sure that they stay attached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::net::if_::if_indextoname;

use super::chain;
use super::hooks::{Hooks, Mode, is};
use super::links::Link;
use super::namespaces::Namespace;
use super::programs::Programs;
use super::record::Hook;

/// The watched interfaces of a network namespace. Dropping it detaches the programs.
pub struct Attachments {
    programs: Arc<Programs>,
    /// `None`: the namespace of the calling thread.
    namespace: Option<Namespace>,
    attached: BTreeMap<u32, Attached>,
    /// Index of the interface that was checked last.
    looked: u32,
}

struct Attached {
    name: String,
    hooks: Hooks,
    /// Why it runs other programs than it should, if it does.
    outdated: Option<String>,
}

/// An interface whose hooks were not as they should be.
#[derive(Debug)]
pub struct Disturbed {
    /// Interface index.
    pub index: u32,
    /// Its name when the programs were attached.
    pub name: String,
    /// Hooks from which somebody has removed the program.
    pub lost: Vec<Hook>,
    /// Why they could not be restored, if so. If a program was lost as well, the interface is no longer watched.
    pub error: Option<anyhow::Error>,
}

impl Attachments {
    pub(super) fn new(programs: Arc<Programs>) -> Attachments {
        Attachments { programs, namespace: None, attached: BTreeMap::new(), looked: 0 }
    }

    /// For another namespace than that of the calling thread; every operation enters it.
    pub fn there(programs: Arc<Programs>, namespace: Namespace) -> Attachments {
        let mut there = Attachments::new(programs);
        there.namespace = Some(namespace);
        there
    }

    /// Runs `act` in the namespace; `None` if that has gone.
    fn within<T>(&mut self, act: impl FnOnce(&mut Attachments) -> T) -> Result<Option<T>> {
        match self.namespace.clone() {
            None => Ok(Some(act(self))),
            Some(namespace) => namespace.within(|| act(self)),
        }
    }

    /// Attaches the programs to both hooks of `link`. Returns the mode used, or `None` if the interface has gone meanwhile. With
    /// `clsact`, TCX is never used.
    ///
    /// # Errors
    ///
    /// The packets of the interface are neither Ethernet nor IP, or the kernel refuses.
    pub fn attach(&mut self, link: &Link, clsact: bool) -> Result<Option<Mode>> {
        let attached = self.within(|here| here.attach_here(link, clsact))?;
        attached.unwrap_or(Ok(None))
    }

    fn attach_here(&mut self, link: &Link, clsact: bool) -> Result<Option<Mode>> {
        let framing = link.framing.context("its packets are neither Ethernet nor IP")?;
        let pair = self.programs.pair(framing)?;
        let put = || Hooks::put(link, framing, &pair, (!clsact).then(|| self.programs.tcx()));
        let mut result = put();
        // Once more: the interface may have been moved to another namespace and back, and lost the qdisc just added.
        if result.as_ref().is_err_and(|error| !is(error, &[Errno::ENODEV])) {
            result = put();
        }
        match result {
            Ok(hooks) => {
                let mode = hooks.mode();
                let attached = Attached { name: link.name.clone(), hooks, outdated: None };
                self.attached.insert(link.index, attached);
                Ok(Some(mode))
            }
            Err(error) if is_gone(link.index, &error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the attached programs one after the other, each atomically: either the old or the new program sees every packet.
    /// If that fails at a hook, the old program stays. Returns the interfaces that were disturbed, or are now.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered.
    pub fn replace(&mut self, programs: Arc<Programs>) -> Result<Vec<Disturbed>> {
        self.programs = programs;
        self.keep(|_| true)
    }

    /// Checks whether everything is still attached as it should be, and restores it if not, at up to `most` interfaces,
    /// continuing where the last check ended. Returns the interfaces that were disturbed.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered.
    pub fn look(&mut self, most: usize) -> Result<Vec<Disturbed>> {
        let all: Vec<u32> = self.indexes().collect();
        let start = all.partition_point(|index| *index <= self.looked);
        let next: Vec<u32> = all.iter().copied().cycle().skip(start).take(most.min(all.len())).collect();
        self.looked = next.last().copied().unwrap_or_default();
        self.keep(|index| next.contains(&index))
    }

    /// The same for the interfaces with these indexes.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered.
    pub fn look_at(&mut self, indexes: &BTreeSet<u32>) -> Result<Vec<Disturbed>> {
        self.keep(|index| indexes.contains(&index))
    }

    fn keep(&mut self, wanted: impl Fn(u32) -> bool) -> Result<Vec<Disturbed>> {
        if !self.attached.keys().any(|index| wanted(*index)) {
            return Ok(Vec::new());
        }
        let kept = self.within(|here| {
            let mut disturbed = Vec::new();
            for (&index, attached) in here.attached.iter_mut().filter(|(index, _)| wanted(**index)) {
                disturbed.extend(attached.keep(index, &here.programs));
            }
            // A single hook would show only half of each conversation.
            for Disturbed { index, lost, error, .. } in &disturbed {
                if !lost.is_empty() && error.is_some() {
                    here.detach_here(*index);
                }
            }
            disturbed
        })?;
        Ok(kept.unwrap_or_default())
    }

    /// Whether the interface is watched.
    pub fn contains(&self, index: u32) -> bool {
        self.attached.contains_key(&index)
    }

    /// Number of watched interfaces.
    pub fn len(&self) -> usize {
        self.attached.len()
    }

    /// Indexes of the watched interfaces.
    pub fn indexes(&self) -> impl Iterator<Item = u32> + '_ {
        self.attached.keys().copied()
    }

    /// How the programs are attached to a watched interface.
    pub fn mode(&self, index: u32) -> Option<Mode> {
        self.attached.get(&index).map(|attached| attached.hooks.mode())
    }

    /// Why a watched interface runs other programs than it should, if it does.
    pub fn outdated(&self, index: u32) -> Option<&str> {
        self.attached.get(&index)?.outdated.as_deref()
    }

    /// Names of the programs that see the packets of a watched interface before ours, for ingress and egress.
    ///
    /// # Errors
    ///
    /// The namespace cannot be entered, or the programs cannot be listed.
    pub fn programs_before(&mut self, index: u32) -> Result<[Vec<String>; 2]> {
        let Some(attached) = self.attached.get(&index) else { return Ok(Default::default()) };
        let mode = attached.hooks.mode();
        let before = self.within(|here| chain::before(index, mode, &here.programs.ids()))?;
        before.unwrap_or_else(|| Ok(Default::default()))
    }

    /// Whether no interface is watched.
    pub fn is_empty(&self) -> bool {
        self.attached.is_empty()
    }

    /// Detaches the programs from an interface, if it is watched.
    pub fn detach(&mut self, index: u32) {
        if self.attached.contains_key(&index) {
            self.leave(|here| here.detach_here(index));
        }
    }

    /// Detaches the programs from all interfaces.
    pub fn detach_all(&mut self) {
        if !self.attached.is_empty() {
            self.leave(|here| std::mem::take(&mut here.attached).into_values().for_each(|one| one.hooks.take_away()));
        }
    }

    fn detach_here(&mut self, index: u32) {
        if let Some(attached) = self.attached.remove(&index) {
            attached.hooks.take_away();
        }
    }

    fn leave(&mut self, act: impl FnOnce(&mut Attachments)) {
        if let Err(error) = self.within(act) {
            log::error!("filters may be left behind: {error:#}");
        }
    }
}

impl Drop for Attachments {
    fn drop(&mut self) {
        self.detach_all();
    }
}

impl Attached {
    fn keep(&mut self, index: u32, programs: &Programs) -> Option<Disturbed> {
        let (mut lost, mut trouble) = (Vec::new(), None);
        let pair = match programs.pair(self.hooks.framing) {
            Ok(pair) => pair,
            Err(error) => {
                self.outdated = Some(format!("{error:#}"));
                return Some(Disturbed { index, name: self.name.clone(), lost, error: Some(error) });
            }
        };
        for (hook, kept) in [Hook::Ingress, Hook::Egress].into_iter().zip(self.hooks.keep(&pair)) {
            if kept.lost {
                lost.push(hook);
            }
            match kept.result {
                // The kernel is about to report that.
                Err(error) if is_gone(index, &error) => return None,
                Err(error) => trouble = trouble.or(Some(error)),
                Ok(()) => {}
            }
        }
        self.outdated = trouble.as_ref().map(|error| format!("{error:#}"));
        if lost.is_empty() && trouble.is_none() {
            return None;
        }
        Some(Disturbed { index, name: self.name.clone(), lost, error: trouble })
    }
}

/// Whether the interface has gone. It stops being a device some time before it loses its name.
fn is_gone(index: u32, error: &anyhow::Error) -> bool {
    is(error, &[Errno::ENODEV]) || if_indextoname(index).is_err_and(|errno| errno == Errno::ENXIO)
}
