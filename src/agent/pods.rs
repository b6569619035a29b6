//! The thread that watches pods which have no link on the host: their interfaces, in their own network namespaces.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use crossbeam_channel::{RecvTimeoutError, Sender, bounded};

use super::interfaces::LINGER;
use super::live::Order;
use super::news::News;
use super::shared::Shared;
use crate::bpf::{Attachments, Link, Namespace, Programs, list_links, list_namespaces};
use crate::config::Config;
use crate::metrics::{Interface, InterfaceStatus};

/// Nobody tells of namespaces that come and go.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Kinds of interfaces that have no other end on the host.
pub(crate) const KINDS: [&str; 5] = ["macvlan", "macvtap", "ipvlan", "ipvtap", "physical"];

/// The interfaces of pods that are watched.
struct Pods {
    attachments: Attachments,
    shared: Arc<Shared>,
    clsact: bool,
    /// Indexes of those that are watched, by namespace.
    watched: BTreeMap<u64, BTreeSet<u32>>,
    /// Complained about: namespace and index.
    refused: BTreeSet<(u64, u32)>,
    gone: VecDeque<(Instant, u32)>,
    /// What is known of those that are watched, by index.
    known: BTreeMap<u32, Interface>,
    news: News,
}

/// The running thread.
pub(super) struct Watching {
    thread: JoinHandle<Result<Attachments>>,
    stop: Sender<()>,
}

impl Watching {
    /// Looks for pods, and goes on doing so on a thread. `None` if that is not asked for.
    pub(super) fn start(config: &Config, attachments: Attachments, shared: Arc<Shared>) -> Result<Option<Watching>> {
        if !config.pod_namespaces {
            return Ok(None);
        }
        let (stop, stopped) = bounded::<()>(0);
        let mut pods = Pods {
            attachments,
            shared,
            clsact: config.clsact,
            watched: BTreeMap::new(),
            refused: BTreeSet::new(),
            gone: VecDeque::new(),
            known: BTreeMap::new(),
            news: News::default(),
        };
        let orders = pods.shared.live.take_orders(None);
        let thread = Builder::new()
            .name("nm-pods".to_owned())
            .spawn(move || {
                loop {
                    pods.look().inspect_err(|error| log::error!("{error:#}"))?;
                    if stopped.recv_timeout(LOOK_EVERY) != Err(RecvTimeoutError::Timeout) {
                        return Ok(pods.attachments);
                    }
                    for order in orders.try_iter() {
                        if let Order::Replace(programs, _done) = order {
                            pods.replace(programs);
                        }
                    }
                }
            })
            .context("start the thread that watches pods")?;
        Ok(Some(Watching { thread, stop }))
    }

    /// It failed or panicked.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the thread; everything is still attached.
    pub(super) fn stop(self) -> Result<Attachments> {
        drop(self.stop);
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => bail!("the thread that watches pods panicked"),
        }
    }
}

impl Pods {
    fn replace(&mut self, programs: Arc<Programs>) {
        for (index, error) in self.attachments.replace(programs) {
            let name = self.shared.name_of(index).unwrap_or_else(|| index.to_string());
            log::error!("{name} keeps the programs as they were before: {error:#}");
        }
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
            // It may be on its way out.
            let Ok(links) = links else { continue };
            let wanted = links.into_iter().filter(|link| link.framing.is_some() && KINDS.contains(&link.kind.as_str()));
            let wanted: Vec<Link> = wanted.collect();
            self.keep(namespace.inode, &wanted.iter().map(|link| link.index).collect());
            for link in wanted {
                self.watch(namespace, link)?;
            }
        }
        while let Some(&(_, index)) = self.gone.front().filter(|(at, _)| *at <= Instant::now()) {
            self.gone.pop_front();
            self.shared.retire(index);
        }
        for line in self.news.tell(&self.known, Instant::now()) {
            log::info!("{line}");
        }
        Ok(())
    }

    /// Lets go of those in a namespace that are not there any more.
    fn keep(&mut self, inode: u64, there: &BTreeSet<u32>) {
        let Some(watched) = self.watched.get_mut(&inode) else { return };
        let left: Vec<u32> = watched.difference(there).copied().collect();
        for index in left {
            watched.remove(&index);
            self.attachments.detach(index);
            self.shared.forget(index);
            if let Some(known) = self.known.remove(&index) {
                self.news.left(index, &known.name, Instant::now());
            }
            self.gone.push_back((Instant::now() + LINGER, index));
        }
    }

    fn watch(&mut self, namespace: &Namespace, mut link: Link) -> Result<()> {
        let watched = self.watched.entry(namespace.inode).or_default();
        if watched.contains(&link.index) {
            return Ok(());
        }
        link.name = format!("{}@{}", link.name, namespace.name);
        // Packets are told apart by the index of their interface. The devices of the CNIs meant here are made on the host and moved,
        // so that theirs are unique.
        if let Some(other) = self.shared.name_of(link.index) {
            if self.refused.insert((namespace.inode, link.index)) {
                log::warn!("cannot watch {}: its index {} is that of {other}", link.name, link.index);
            }
            return Ok(());
        }
        let attached = namespace.within(|| self.attachments.attach(&link, self.clsact))?;
        match attached {
            Some(Ok(Some(mode))) => {
                watched.insert(link.index);
                let interface = Interface::new(&link, InterfaceStatus::Watched(mode), [0; 2]);
                self.shared.know(&interface);
                self.known.insert(link.index, interface);
                self.news.came(link.index, Instant::now());
            }
            Some(Err(error)) if self.refused.insert((namespace.inode, link.index)) => {
                log::warn!("cannot watch {}: {error:#}", link.name);
            }
            _ => {}
        }
        Ok(())
    }
}
