//! The loaded programs, run on injected packets, and the records they write.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::time::Duration;

use libbpf_rs::{MapCore, MapFlags, MapHandle};
use netmon::bpf::{
    App, Books, Bpf, Frame, Hook, Injector, InterfaceBooks, Mode, ObjectStorage, Options, Record, RingReader, Sweep,
    Sweeper, Tally, TimestampSource,
};

/// Options with a little of everything.
pub fn small() -> Options {
    Options {
        rings: 1,
        ring_records: 1 << 16,
        batch: 1000,
        cache_slots: 1 << 14,
        idle: Duration::from_secs(1),
        report: Duration::from_secs(2),
        forget: 30,
        timestamps: TimestampSource::Kernel,
        latency: Some(Duration::from_secs(1)),
        apps: App::all(),
        decapsulation: true,
    }
}

/// Loaded programs that are attached to nothing. One at a time in a thread: the rings have one reader each.
pub struct Kernel {
    pub bpf: Bpf<'static>,
    readers: Vec<RingReader>,
    sweeper: Sweeper,
    books: Books,
}

impl Kernel {
    pub fn load(options: Options) -> anyhow::Result<Kernel> {
        // A few kilobytes a test: simpler than a value that borrows from itself.
        let storage = Box::leak(Box::new(MaybeUninit::<ObjectStorage>::uninit()));
        let mut bpf = Bpf::load(storage, &options)?;
        let readers = bpf.take_rings().iter().map(|r| r.reader(bpf.clock())).collect::<anyhow::Result<_>>()?;
        let (sweeper, books) = (bpf.sweeper()?, bpf.books()?);
        Ok(Kernel { bpf, readers, sweeper, books })
    }

    pub fn injector(&self, hook: Hook, ethernet: bool) -> Injector {
        Injector::new(self.bpf.program(hook, ethernet).unwrap())
    }

    pub fn sweeper(&self) -> &Sweeper {
        &self.sweeper
    }

    /// What waits in the rings.
    pub fn drain(&mut self) -> Vec<Record> {
        self.drain_each().into_iter().flatten().collect()
    }

    /// What waits in each ring.
    pub fn drain_each(&mut self) -> Vec<Vec<Record>> {
        let drain = |reader: &mut RingReader| {
            let (mut all, mut batch) = (Vec::new(), Vec::new());
            loop {
                assert_eq!(reader.read(4096, &mut batch), 0, "undecodable records");
                if batch.is_empty() {
                    return all;
                }
                all.append(&mut batch);
            }
        };
        self.readers.iter_mut().map(drain).collect()
    }

    /// Empties the rings; how many records waited there.
    pub fn discard(&mut self) -> usize {
        let mut count = 0;
        let mut batch = Vec::new();
        for reader in &mut self.readers {
            while reader.read(256, &mut batch) > 0 || !batch.is_empty() {
                count += batch.len();
            }
        }
        count
    }

    /// Everything out of caches and rings.
    pub fn flush(&mut self) -> Vec<Record> {
        let mut all = self.drain();
        loop {
            self.sweeper.sweep(Sweep::All).unwrap();
            all.append(&mut self.drain());
            if self.sweeper.is_empty() {
                return all;
            }
        }
    }

    /// From now on the cache of CPU 0 looks as if it were in use.
    pub fn keep_busy(&self) {
        let maps = self.bpf.loader().unwrap().map_infos();
        let map = MapHandle::from_map_id(maps.iter().find(|map| map.name == "nm_cpus").unwrap().id).unwrap();
        let first = 0u32.to_ne_bytes();
        let mut state = map.lookup(&first, MapFlags::ANY).unwrap().unwrap();
        state[..4].copy_from_slice(&1u32.to_ne_bytes()); // nm_cpu.busy
        map.update(&first, &state, MapFlags::ANY).unwrap();
    }

    /// The records that were written, and those that found no room.
    pub fn record_counts(&self) -> netmon::bpf::RecordCounts {
        self.books.records()
    }

    /// The reader of a ring.
    pub fn reader(&self, ring: usize) -> &RingReader {
        &self.readers[ring]
    }

    /// What was not measured or not told, and by which clocks.
    pub fn misses(&self) -> netmon::bpf::Misses {
        self.books.misses()
    }

    /// The books of each interface.
    pub fn interfaces(&self) -> BTreeMap<u32, InterfaceBooks> {
        self.books.interfaces()
    }

    /// The books of all interfaces.
    pub fn books(&self) -> InterfaceBooks {
        let mut sum = InterfaceBooks::default();
        for books in self.interfaces().into_values() {
            sum += books;
        }
        sum
    }

    /// Injects one packet at the ingress hook and returns what became of it.
    pub fn one(&mut self, ethernet: bool, packet: &[u8], frame: Frame) -> (Vec<Record>, InterfaceBooks) {
        let before = self.books();
        let verdict = self.injector(Hook::Ingress, ethernet).inject(packet, frame, 1).unwrap();
        assert_eq!(verdict as i32, -1, "the programs let every packet pass");
        let records = self.flush();
        (records, difference(self.books(), before))
    }
}

/// Packets and bytes of records.
pub fn total(records: &[Record]) -> Tally {
    let mut sum = Tally::default();
    for r in records {
        sum += Tally { packets: r.packets, bytes: r.bytes };
    }
    sum
}

/// seen + decapsulated = recorded + ignored + lost.
pub fn assert_conserved(books: &InterfaceBooks, recorded: Tally) {
    let mut sum = recorded;
    sum += books.not_ip;
    sum += books.malformed;
    sum += books.left_out;
    sum += books.ring_full;
    let mut all = books.seen();
    all += books.decapsulated;
    assert_eq!(sum, all, "the books do not balance: {books:?}");
}

fn minus(a: Tally, b: Tally) -> Tally {
    Tally { packets: a.packets - b.packets, bytes: a.bytes - b.bytes }
}

pub fn difference(a: InterfaceBooks, b: InterfaceBooks) -> InterfaceBooks {
    InterfaceBooks {
        ingress: minus(a.ingress, b.ingress),
        egress: minus(a.egress, b.egress),
        whole: [a.whole[0] - b.whole[0], a.whole[1] - b.whole[1]],
        not_ip: minus(a.not_ip, b.not_ip),
        malformed: minus(a.malformed, b.malformed),
        left_out: minus(a.left_out, b.left_out),
        ring_full: minus(a.ring_full, b.ring_full),
        decapsulated: minus(a.decapsulated, b.decapsulated),
    }
}

/// How the agent is to attach here, told without its help: a kernel that has TCX knows how to list its programs.
pub fn attach_mode() -> Mode {
    let mut options =
        libbpf_sys::bpf_prog_query_opts { sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as _, ..Default::default() };
    // SAFETY: no room for ids is promised; interface 1 is loopback.
    let err = unsafe { libbpf_sys::bpf_prog_query_opts(1, libbpf_sys::BPF_TCX_INGRESS, &mut options) };
    if err == 0 { Mode::Tcx } else { Mode::Clsact }
}

/// False where the kernel has no TCX: tells so of `test`.
pub fn has_tcx_for(test: &str) -> bool {
    let has = attach_mode() == Mode::Tcx;
    if !has {
        super::not_run(test, "this kernel has no TCX");
    }
    has
}
