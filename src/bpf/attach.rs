//! Attaches the programs to the interfaces of a network namespace, and sees to it that they stay there.

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

/// The interfaces of a network namespace that are watched. Dropping it detaches.
pub struct Attachments {
    programs: Arc<Programs>,
    /// `None`: that of the calling thread.
    namespace: Option<Namespace>,
    attached: BTreeMap<u32, Attached>,
    /// Index of the interface that was looked at last.
    looked: u32,
}

struct Attached {
    name: String,
    hooks: Hooks,
    /// Why it has other programs than it is to have.
    outdated: Option<String>,
}

/// An interface whose hooks were not as they are to be.
#[derive(Debug)]
pub struct Disturbed {
    /// Interface index.
    pub index: u32,
    /// Its name when it was attached to.
    pub name: String,
    /// Hooks from which somebody has taken the program.
    pub lost: Vec<Hook>,
    /// Why they are not as they are to be by now. If any is lost, the interface is not watched any more.
    pub error: Option<anyhow::Error>,
}

impl Attachments {
    pub(super) fn new(programs: Arc<Programs>) -> Attachments {
        Attachments { programs, namespace: None, attached: BTreeMap::new(), looked: 0 }
    }

    /// Of another namespace than the calling thread's: whatever is done is done there.
    pub fn there(programs: Arc<Programs>, namespace: Namespace) -> Attachments {
        let mut there = Attachments::new(programs);
        there.namespace = Some(namespace);
        there
    }

    /// `None`: the namespace has gone.
    fn within<T>(&mut self, act: impl FnOnce(&mut Attachments) -> T) -> Result<Option<T>> {
        match self.namespace.clone() {
            None => Ok(Some(act(self))),
            Some(namespace) => namespace.within(|| act(self)),
        }
    }

    /// Attaches both hooks of `link`; the mode that was used, `None` if the interface is gone meanwhile. Tries TCX first unless
    /// `clsact` is asked for.
    pub fn attach(&mut self, link: &Link, clsact: bool) -> Result<Option<Mode>> {
        let attached = self.within(|here| here.attach_here(link, clsact))?;
        attached.unwrap_or(Ok(None))
    }

    fn attach_here(&mut self, link: &Link, clsact: bool) -> Result<Option<Mode>> {
        let framing = link.framing.context("its packets are neither Ethernet nor IP")?;
        let pair = self.programs.pair(framing)?;
        let put = || Hooks::put(link, framing, &pair, clsact);
        let mut result = put();
        // Once more: it may have been to another namespace and come back without the qdisc it had just got.
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

    /// Puts other programs in the place of those that are attached, one after the other, each in one step: every packet is seen by
    /// the one or the other. Where that fails the old one stays. Those that were disturbed, or are now.
    pub fn replace(&mut self, programs: Arc<Programs>) -> Result<Vec<Disturbed>> {
        self.programs = programs;
        self.keep(|_| true)
    }

    /// Looks whether everything is still attached as it should be, and sees to it that it is: at `most` interfaces, from where the last
    /// look ended. Those that were not.
    pub fn look(&mut self, most: usize) -> Result<Vec<Disturbed>> {
        let all: Vec<u32> = self.indexes().collect();
        let start = all.partition_point(|index| *index <= self.looked);
        let next: Vec<u32> = all.iter().copied().cycle().skip(start).take(most.min(all.len())).collect();
        self.looked = next.last().copied().unwrap_or_default();
        self.keep(|index| next.contains(&index))
    }

    /// The same at certain interfaces.
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
            // A hook alone would show half of each conversation.
            for Disturbed { index, lost, error, .. } in &disturbed {
                if !lost.is_empty() && error.is_some() {
                    here.detach_here(*index);
                }
            }
            disturbed
        })?;
        Ok(kept.unwrap_or_default())
    }

    /// The interface is watched.
    pub fn contains(&self, index: u32) -> bool {
        self.attached.contains_key(&index)
    }

    /// How many are watched.
    pub fn len(&self) -> usize {
        self.attached.len()
    }

    /// Indexes of those that are watched.
    pub fn indexes(&self) -> impl Iterator<Item = u32> + '_ {
        self.attached.keys().copied()
    }

    /// Why a watched interface runs other programs than it is to, if it does.
    pub fn outdated(&self, index: u32) -> Option<&str> {
        self.attached.get(&index)?.outdated.as_deref()
    }

    /// Names of the programs that have packets of a watched interface before ours, for ingress and egress.
    pub fn programs_before(&mut self, index: u32) -> Result<[Vec<String>; 2]> {
        let Some(attached) = self.attached.get(&index) else { return Ok(Default::default()) };
        let mode = attached.hooks.mode();
        let before = self.within(|here| chain::before(index, mode, &here.programs.ids()))?;
        before.unwrap_or_else(|| Ok(Default::default()))
    }

    /// Nothing is watched.
    pub fn is_empty(&self) -> bool {
        self.attached.is_empty()
    }

    /// Detaches from an interface.
    pub fn detach(&mut self, index: u32) {
        if self.attached.contains_key(&index) {
            self.leave(|here| here.detach_here(index));
        }
    }

    /// Detaches from all.
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
                // The kernel is about to tell.
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

/// It is no device any more some time before it has no name any more.
fn is_gone(index: u32, error: &anyhow::Error) -> bool {
    is(error, &[Errno::ENODEV]) || if_indextoname(index).is_err_and(|errno| errno == Errno::ENXIO)
}
