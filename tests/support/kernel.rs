//! The loaded BPF programs, run on injected packets, and the records that they write.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};
use netmon::bpf::{
    App, Books, Bpf, Frame, Hook, Injector, InterfaceBooks, Mode, ObjectStorage, ProgramOptions, Record, Ring,
    RingReader, Sweep, Sweeper, Tally, TimestampSource,
};

/// Options with a little of everything.
pub fn small() -> ProgramOptions {
    ProgramOptions {
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
        injected: true,
    }
}

/// Loaded programs that are not attached, in the state right after loading.
///
/// The verifier takes most of a second for each load, so tests of one process reuse loaded programs: the maps get back
/// their initial contents. After a failed test, its programs are not used again.
pub struct Kernel {
    loaded: Option<Loaded>,
    readers: Vec<RingReader>,
    sweeper: Sweeper,
    books: Books,
}

/// See [`Kernel`].
pub struct Loaded {
    pub bpf: Bpf<'static>,
    rings: Vec<Ring>,
    options: ProgramOptions,
    namespace: PathBuf,
    at_first: Vec<Content>,
}

/// The entries of an array map.
struct Content {
    map: MapHandle,
    keys: Vec<u8>,
    values: Vec<u8>,
}

/// Maximum number of programs that wait for the next test.
static IDLE: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());
/// The number is small because each takes some megabytes of kernel memory.
const IDLE_MOST: usize = 4;

impl Kernel {
    pub fn load(options: ProgramOptions) -> anyhow::Result<Kernel> {
        let namespace = std::fs::read_link("/proc/thread-self/ns/net")?;
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |loaded: &Loaded| loaded.options == options && loaded.namespace == namespace;
        let same = idle.iter().position(is_same);
        let idle_one = same.map(|same| idle.swap_remove(same));
        drop(idle);
        let used = idle_one.is_some();
        let loaded = idle_one.map_or_else(|| Loaded::load(options, namespace), Ok)?;
        let bpf = &loaded.bpf;
        let readers = loaded.rings.iter().map(|ring| ring.reader(bpf.clock())).collect::<anyhow::Result<_>>()?;
        let (sweeper, books) = (bpf.sweeper()?, bpf.books()?);
        let mut kernel = Kernel { loaded: Some(loaded), readers, sweeper, books };
        if used {
            kernel.discard();
            kernel.at_first.iter().try_for_each(Content::restore)?;
        }
        Ok(kernel)
    }

    pub fn injector(&self, hook: Hook, ethernet: bool) -> Injector {
        Injector::new(self.bpf.program(hook, ethernet).unwrap())
    }

    pub fn sweeper(&self) -> &Sweeper {
        &self.sweeper
    }

    /// Reads the records that wait in the rings.
    pub fn drain(&mut self) -> Vec<Record> {
        self.drain_each().into_iter().flatten().collect()
    }

    /// Reads the records that wait in each ring.
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

    /// Empties the rings; returns how many records waited there.
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

    /// Empties the caches and the rings; returns all records.
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

    /// Makes the cache of CPU 0 look as if it were in use.
    pub fn keep_busy(&self) {
        let maps = self.bpf.loader().map_infos();
        let map = MapHandle::from_map_id(maps.iter().find(|map| map.name == "nm_cpus").unwrap().id).unwrap();
        let first = 0u32.to_ne_bytes();
        let mut state = map.lookup(&first, MapFlags::ANY).unwrap().unwrap();
        state[..4].copy_from_slice(&1u32.to_ne_bytes()); // nm_cpu.busy
        map.update(&first, &state, MapFlags::ANY).unwrap();
    }

    /// Numbers of records that were written, and that found no room.
    pub fn record_counts(&self) -> netmon::bpf::RecordCounts {
        self.books.records()
    }

    /// The reader of a ring.
    pub fn reader(&self, ring: usize) -> &RingReader {
        &self.readers[ring]
    }

    /// Counts of what was not measured or not reported, and the clocks in use.
    pub fn misses(&self) -> netmon::bpf::Misses {
        self.books.misses()
    }

    /// The counters of each interface.
    pub fn interfaces(&self) -> BTreeMap<u32, InterfaceBooks> {
        self.books.interfaces()
    }

    /// The counters of all interfaces together.
    pub fn books(&self) -> InterfaceBooks {
        let mut sum = InterfaceBooks::default();
        for books in self.interfaces().into_values() {
            sum += books;
        }
        sum
    }

    /// Injects one packet at the ingress hook and returns its records and the change of the counters.
    pub fn one(&mut self, ethernet: bool, packet: &[u8], frame: Frame) -> (Vec<Record>, InterfaceBooks) {
        let before = self.books();
        let verdict = self.injector(Hook::Ingress, ethernet).inject(packet, frame, 1).unwrap();
        assert_eq!(verdict as i32, -1, "the programs let every packet pass");
        let records = self.flush();
        (records, difference(self.books(), before))
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // A capture's clock has advanced, and cannot be set back.
        let is_reusable = |loaded: &Loaded| loaded.options.timestamps != TimestampSource::Capture;
        let Some(loaded) = self.loaded.take().filter(is_reusable).filter(|_| !std::thread::panicking()) else { return };
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        // Drop the oldest: tests with the same options mostly follow each other.
        if idle.len() == IDLE_MOST {
            idle.remove(0);
        }
        idle.push(loaded);
    }
}

impl Deref for Kernel {
    type Target = Loaded;

    fn deref(&self) -> &Loaded {
        self.loaded.as_ref().unwrap()
    }
}

impl DerefMut for Kernel {
    fn deref_mut(&mut self) -> &mut Loaded {
        self.loaded.as_mut().unwrap()
    }
}

impl Content {
    /// `None` if it is not an array of plain values.
    fn of(map: MapHandle) -> anyhow::Result<Option<Content>> {
        if map.map_type() != MapType::Array {
            return Ok(None);
        }
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (key, value) in map.lookup_batch(map.max_entries(), MapFlags::ANY, MapFlags::ANY)? {
            keys.extend(key);
            values.extend(value);
        }
        anyhow::ensure!(keys.len() == 4 * map.max_entries() as usize, "read {:?}: only in part", map.name());
        Ok(Some(Content { map, keys, values }))
    }

    fn restore(&self) -> anyhow::Result<()> {
        Ok(self.map.update_batch(&self.keys, &self.values, self.map.max_entries(), MapFlags::ANY, MapFlags::ANY)?)
    }
}

impl Loaded {
    fn load(options: ProgramOptions, namespace: PathBuf) -> anyhow::Result<Loaded> {
        // This leaks a few kilobytes for each load, which is simpler than a value that borrows from itself.
        let storage = Box::leak(Box::new(MaybeUninit::<ObjectStorage>::uninit()));
        let mut bpf = Bpf::load(storage, &options)?;
        let rings = bpf.take_rings();
        let mut at_first = Vec::new();
        for map in bpf.loader().map_infos() {
            at_first.extend(Content::of(MapHandle::from_map_id(map.id)?)?);
        }
        Ok(Loaded { bpf, rings, options, namespace, at_first })
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
    assert_eq!(sum, all, "the counters do not add up: {books:?}");
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

/// How the agent should attach here, determined independently of it: a kernel that has TCX supports listing its
/// programs.
pub fn attach_mode() -> Mode {
    let mut options =
        libbpf_sys::bpf_prog_query_opts { sz: size_of::<libbpf_sys::bpf_prog_query_opts>() as _, ..Default::default() };
    // SAFETY: no room for ids is promised; interface 1 is loopback.
    let err = unsafe { libbpf_sys::bpf_prog_query_opts(1, libbpf_sys::BPF_TCX_INGRESS, &mut options) };
    if err == 0 { Mode::Tcx } else { Mode::Clsact }
}

/// False if the kernel has no TCX, and then notes that `test` was not run.
pub fn has_tcx_for(test: &str) -> bool {
    let has = attach_mode() == Mode::Tcx;
    if !has {
        super::not_run(test, "this kernel has no TCX");
    }
    has
}
