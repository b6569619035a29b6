//! The thread that watches pods without a link on the host: their interfaces, in their own network namespaces.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use crossbeam_channel::select;

use super::interfaces::LINGER;
use super::news::InterfaceNews;
use crate::agent::board::{Board, Interface, InterfaceStatus};
use crate::agent::reload::{Order, Orders};
use crate::bpf::{Attachments, Disturbed, Link, Namespace, Programs, list_links, list_namespaces};
use crate::config::Config;
use crate::pipeline::Pipeline;
use crate::threads::{Thread, Threads};

/// Between two looks for namespaces that have come or gone: the kernel does not report them.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The interfaces of pods that are watched.
struct Pods {
    programs: Arc<Programs>,
    board: Arc<Board>,
    pipeline: Arc<Pipeline>,
    clsact: bool,
    /// By namespace.
    watched: BTreeMap<u64, Attachments>,
    /// Failures that were logged: namespace and index.
    refused: BTreeSet<(u64, u32)>,
    gone: VecDeque<(Instant, u32)>,
    /// What is known of those that are watched, by index.
    known: BTreeMap<u32, Interface>,
    news: InterfaceNews,
}

/// Starts the thread that looks for pods. Everything is detached when it ends. `None` if the configuration does not ask for it.
pub(in crate::agent) fn start(
    config: &Config,
    programs: Arc<Programs>,
    board: Arc<Board>,
    pipeline: Arc<Pipeline>,
    orders: &Orders,
    threads: &Threads,
) -> Result<Option<Thread<()>>> {
    if !config.pod_namespaces {
        return Ok(None);
    }
    let mut pods = Pods {
        programs,
        board,
        pipeline,
        clsact: config.clsact,
        watched: BTreeMap::new(),
        refused: BTreeSet::new(),
        gone: VecDeque::new(),
        known: BTreeMap::new(),
        news: InterfaceNews::default(),
    };
    let orders = orders.take(None);
    let watching = threads.start("nm-pods", move |stopped| {
        loop {
            pods.look()?;
            let look_at = Instant::now() + LOOK_EVERY;
            while let Some(nap) = look_at.checked_duration_since(Instant::now()) {
                select! {
                    recv(stopped) -> _ => return Ok(()),
                    recv(orders) -> order => pods.obey(order?)?,
                    default(nap) => break,
                }
            }
        }
    });
    watching.map(Some)
}

impl Pods {
    fn obey(&mut self, order: Order) -> Result<()> {
        let Order::Replace(programs, answer) = order else { return Ok(()) };
        self.programs = Arc::clone(&programs);
        let mut troubles = Vec::new();
        for inode in self.watched.keys().copied().collect::<Vec<_>>() {
            let Some(attachments) = self.watched.get_mut(&inode) else { continue };
            let disturbed = attachments.replace(Arc::clone(&programs))?;
            troubles.extend(self.disturbed(inode, &disturbed));
        }
        // Whoever asked may have given up.
        let _ = answer.send(troubles);
        Ok(())
    }

    /// Takes note of disturbed interfaces. Returns what is wrong with those that are not as they should be.
    fn disturbed(&mut self, inode: u64, disturbed: &[Disturbed]) -> Vec<String> {
        let troubles = self.board.disturbed(disturbed);
        for one in disturbed.iter().filter(|one| !one.lost.is_empty() && one.error.is_some()) {
            // It is tried again with each look; the log has what is wrong.
            self.refused.insert((inode, one.index));
            self.leave(one.index);
        }
        let Some(attachments) = self.watched.get(&inode) else { return troubles };
        for index in attachments.indexes() {
            let Some(known) = self.known.get_mut(&index) else { continue };
            if known.look_at(attachments) {
                self.board.put(known);
            }
        }
        troubles
    }

    fn look(&mut self) -> Result<()> {
        let namespaces = list_namespaces()?;
        let ended: Vec<u64> = self.watched.keys().copied().filter(|inode| !namespaces.contains_key(inode)).collect();
        for inode in ended {
            self.keep(inode, &BTreeSet::new());
            self.watched.remove(&inode);
        }
        self.refused.retain(|(inode, _)| namespaces.contains_key(inode));
        for namespace in namespaces.values() {
            let Some(links) = namespace.within(list_links)? else { continue };
            // The namespace may be about to vanish.
            let Ok(links) = links else { continue };
            let wanted = links.into_iter().filter(|link| link.framing.is_some() && link.is_unlinked());
            let wanted: Vec<Link> = wanted.collect();
            self.keep(namespace.inode, &wanted.iter().map(|link| link.index).collect());
            for link in wanted {
                self.watch(namespace, link);
            }
            if let Some(attachments) = self.watched.get_mut(&namespace.inode) {
                let disturbed = attachments.look(usize::MAX)?;
                self.disturbed(namespace.inode, &disturbed);
            }
        }
        while let Some(&(_, index)) = self.gone.front().filter(|(at, _)| *at <= Instant::now()) {
            self.gone.pop_front();
            self.pipeline.retire(index);
            self.board.books().retire(index);
        }
        for line in self.news.report(&self.known, Instant::now()) {
            log::info!("{line}");
        }
        Ok(())
    }

    /// Detaches from interfaces of a namespace that are not `there` any more.
    fn keep(&mut self, inode: u64, there: &BTreeSet<u32>) {
        let Some(attachments) = self.watched.get_mut(&inode) else { return };
        let left: Vec<u32> = attachments.indexes().filter(|index| !there.contains(index)).collect();
        left.iter().for_each(|index| attachments.detach(*index));
        left.into_iter().for_each(|index| self.leave(index));
    }

    /// An interface is not watched any more.
    fn leave(&mut self, index: u32) {
        self.board.remove(index);
        if let Some(known) = self.known.remove(&index) {
            self.news.left(index, &known.name, Instant::now());
        }
        self.gone.push_back((Instant::now() + LINGER, index));
    }

    fn watch(&mut self, namespace: &Namespace, mut link: Link) {
        let new = || Attachments::there(Arc::clone(&self.programs), namespace.clone());
        let attachments = self.watched.entry(namespace.inode).or_insert_with(new);
        if attachments.contains(link.index) {
            return;
        }
        link.name = format!("{}@{}", link.name, namespace.name);
        // Packets are told apart by the index of their interface. The CNIs meant here create devices on the host and move them, so that
        // their indexes are unique.
        if let Some(other) = self.board.name_of(link.index) {
            if self.refused.insert((namespace.inode, link.index)) {
                log::warn!("cannot watch {}: its index {} is that of {other}", link.name, link.index);
            }
            return;
        }
        match attachments.attach(&link, self.clsact) {
            Ok(Some(mode)) => {
                self.refused.remove(&(namespace.inode, link.index));
                let interface = Interface::new(&link, InterfaceStatus::Watched(mode), [0; 2]);
                self.board.put(&interface);
                self.known.insert(link.index, interface);
                self.news.came(link.index, Instant::now());
            }
            Err(error) if self.refused.insert((namespace.inode, link.index)) => {
                log::warn!("cannot watch {}: {error:#}", link.name);
            }
            _ => {}
        }
    }
}
