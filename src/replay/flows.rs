//! Turns the worker's records into flows in a table that runs by the capture's clock. Flows are printed once nothing
//! more can be added to them.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::io::{self, Write};

use crate::bpf::{Record, Tally};
use crate::config::Security;
use crate::flow::{Directory, Flow, FlowEvent, Sink, Table, TableLimits};
use crate::line::{Line, LineContext};
use crate::output::FlowWriter;
use crate::pipeline::worker;
use crate::sinks::detect::{Detective, Nowhere, SpotterMarks};

/// The flows of a capture.
pub(super) struct Flows<W: Write> {
    table: Option<Table<SpotterMarks>>,
    limits: TableLimits,
    /// Bytes that each packet of a record counts in excess.
    surplus: u64,
    book: Book<W>,
}

/// Collects and prints the flows that are over, in the order of their start as far as memory allows: as many wait as
/// the table may hold.
pub(super) struct Book<W: Write> {
    writer: FlowWriter<W>,
    context: LineContext,
    waiting: BinaryHeap<Reverse<Waiting>>,
    most: usize,
    pub(super) printed: u64,
    pub(super) evicted: u64,
    pub(super) undecodable: u64,
    pub(super) accounted: Tally,
    pub(super) duplicate: Tally,
    /// Looks for what is hostile, if the configuration asks for it.
    detective: Detective,
    /// The first write error; nothing is written after it.
    failure: Option<io::Error>,
}

impl<W: Write> Flows<W> {
    pub(super) fn new(limits: TableLimits, security: &Security, writer: FlowWriter<W>) -> Flows<W> {
        let book = Book {
            writer,
            context: LineContext::default(),
            waiting: BinaryHeap::new(),
            most: limits.max_flows,
            printed: 0,
            evicted: 0,
            undecodable: 0,
            accounted: Tally::default(),
            duplicate: Tally::default(),
            detective: Detective::new(security, 0),
            failure: None,
        };
        Flows { table: None, limits, surplus: 0, book }
    }

    /// Sets what is known about the capture, as far as it was read.
    pub(super) fn set_context(&mut self, context: &LineContext) {
        if self.book.context != *context {
            self.book.context = context.clone();
        }
    }

    /// Sets how many bytes each packet of later records counts in excess.
    pub(super) fn correct(&mut self, surplus: u32) {
        self.surplus = surplus.into();
    }

    /// The write error, if there was one; it is returned once.
    pub(super) fn failure(&mut self) -> Option<io::Error> {
        self.book.failure.take()
    }

    /// Prints all remaining flows; those that have not ended by `now_ns` are active.
    pub(super) fn finish(mut self, now_ns: u64) -> (Book<W>, io::Result<()>) {
        if let Some(mut table) = self.table.take() {
            table.settle(now_ns, &mut self.book);
            for flow in table.iter() {
                self.book.keep(flow);
            }
            self.book.tell(now_ns);
            // What has to wait for more is judged by what there is.
            self.book.tell(now_ns.saturating_add(SETTLED_NS));
        }
        while let Some(Reverse(waiting)) = self.book.waiting.pop() {
            self.book.print(&waiting.0);
        }
        let result = match self.book.failure.take() {
            Some(failure) => Err(failure),
            None => self.book.writer.finish(),
        };
        (self.book, result)
    }
}

impl<W: Write + Send + 'static> worker::Consumer for Flows<W> {
    fn records(&mut self, records: &[Record]) {
        let Flows { table, limits, surplus, book } = self;
        let Some(first) = records.first() else { return };
        let table = table.get_or_insert_with(|| Table::new(*limits, first.first_ns));
        for record in records {
            // If times go back a little, the last packet may be the earlier one.
            let (first_ns, last_ns) = (record.first_ns.min(record.last_ns), record.first_ns.max(record.last_ns));
            let bytes = record.bytes.saturating_sub(record.packets * *surplus);
            table.merge(&Record { bytes, first_ns, last_ns, ..record.clone() }, book);
        }
    }

    fn undecodable(&mut self, count: u64) {
        self.book.undecodable += count;
    }

    fn tick(&mut self, now_ns: u64) {
        if let Some(table) = &mut self.table {
            table.expire(now_ns, &mut self.book);
            self.book.tell(now_ns);
        }
    }
}

/// Judges wait no longer than this.
const SETTLED_NS: u64 = 300_000_000_000;

impl<W: Write> Book<W> {
    /// Logs what looks hostile, as the agent does.
    fn tell(&mut self, now_ns: u64) {
        self.detective.tick(now_ns, &Nowhere);
        for event in self.detective.events(self.context.clock_offset_ns) {
            log::warn!("security: {}: {}, at {}", event.kind.name(), event.message, event.time);
        }
    }

    /// Queues a complete flow, to be printed in its turn.
    fn keep(&mut self, flow: &Flow) {
        self.waiting.push(Reverse(Waiting(flow.clone())));
        while self.waiting.len() > self.most {
            if let Some(Reverse(waiting)) = self.waiting.pop() {
                self.print(&waiting.0);
            }
        }
    }

    fn print(&mut self, flow: &Flow) {
        if self.failure.is_some() {
            return;
        }
        self.printed += 1;
        let line = Line::new(self.printed, flow, &self.context);
        self.failure = self.writer.write(&line).err();
    }
}

/// A capture has no names for the ends of flows.
impl<W: Write> Directory for Book<W> {}

impl<W: Write> Sink for Book<W> {
    type Mark = SpotterMarks;

    fn handle(&mut self, event: FlowEvent<'_>, flow: &Flow, mark: &mut SpotterMarks) {
        let tally = |record: &Record| Tally { packets: record.packets, bytes: record.bytes };
        match event {
            FlowEvent::Sent { record, .. } => self.accounted += tally(record),
            FlowEvent::Duplicate(record) => self.duplicate += tally(record),
            FlowEvent::Evicted => self.evicted += 1,
            FlowEvent::Removed => self.keep(flow),
            _ => {}
        }
        self.detective.handle(event, flow, mark);
    }
}

/// Ordered by start, and for equal starts by their ends, so that a capture is always printed in the same way.
struct Waiting(Flow);

impl Waiting {
    fn order(&self) -> impl Ord + use<> {
        let Waiting(flow) = self;
        (flow.first_ns, flow.v6(), flow.protocol, flow.key().ends)
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Waiting) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Waiting {}
