//! Storage of the flows: chunks that never move, so that growing copies nothing.

use super::Flow;

const CHUNK: usize = 4096;

/// Flows by index.
#[derive(Default)]
pub(super) struct Slab {
    chunks: Vec<Vec<Option<Flow>>>,
    free: Vec<u32>,
}

impl Slab {
    pub(super) fn insert(&mut self, flow: Flow) -> u32 {
        if let Some(i) = self.free.pop() {
            if let Some(slot) = self.slot(i) {
                *slot = Some(flow);
            }
            return i;
        }
        if self.chunks.last().is_none_or(|c| c.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let chunk = self.chunks.len() - 1;
        self.chunks[chunk].push(Some(flow));
        (chunk * CHUNK + self.chunks[chunk].len() - 1) as u32
    }

    fn slot(&mut self, i: u32) -> Option<&mut Option<Flow>> {
        self.chunks.get_mut(i as usize / CHUNK)?.get_mut(i as usize % CHUNK)
    }

    pub(super) fn get(&self, i: u32) -> Option<&Flow> {
        self.chunks.get(i as usize / CHUNK)?.get(i as usize % CHUNK)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, i: u32) -> Option<&mut Flow> {
        self.slot(i)?.as_mut()
    }

    pub(super) fn remove(&mut self, i: u32) -> Option<Flow> {
        let flow = self.slot(i)?.take();
        if flow.is_some() {
            self.free.push(i);
        }
        flow
    }

    /// The flows of a chunk.
    pub(super) fn page(&self, page: usize) -> Option<impl Iterator<Item = &Flow>> {
        Some(self.chunks.get(page)?.iter().flatten())
    }

    /// Flows from an index on, each with its index.
    pub(super) fn places(&self, from: u32) -> impl Iterator<Item = (u32, &Flow)> {
        let (first, skipped) = (from as usize / CHUNK, from as usize % CHUNK);
        self.chunks.iter().enumerate().skip(first).flat_map(move |(number, chunk)| {
            let slots = chunk.iter().enumerate().skip(if number == first { skipped } else { 0 });
            slots.filter_map(move |(slot, flow)| Some(((number * CHUNK + slot) as u32, flow.as_ref()?)))
        })
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flow> {
        self.chunks.iter_mut().flatten().flatten()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.chunks.iter().flatten().flatten()
    }
}
