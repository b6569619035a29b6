//! Access to internals of the library: the maps of loaded programs, and single runs of the sweep program.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libbpf_rs::{MapCore, MapHandle};
use libbpf_sys::bpf_prog_info;
use netmon::bpf::numbers::MOST_GROUP_SETS;

/// The ids of a program's maps, and its name.
fn describe(program: &OwnedFd) -> (Vec<u32>, String) {
    let mut ids = [0u32; 64];
    let mut info =
        bpf_prog_info { nr_map_ids: ids.len() as u32, map_ids: ids.as_mut_ptr() as u64, ..Default::default() };
    let mut length = size_of::<bpf_prog_info>() as u32;
    // SAFETY: info and the ids are as large as their lengths say.
    let err = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut length) };
    assert_eq!(err, 0, "look at a program");
    let name = info.name.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect();
    (ids[..info.nr_map_ids as usize].to_vec(), name)
}

/// The map `name` of a loaded program.
pub fn map_of(program: &OwnedFd, name: &str) -> MapHandle {
    let maps = describe(program).0.into_iter().map(|id| MapHandle::from_map_id(id).unwrap());
    maps.into_iter().find(|m| m.name() == name).unwrap()
}

/// The sweep program that was loaded with `program`: the one that shares maps with it.
pub fn sweep_program_of(program: &OwnedFd) -> OwnedFd {
    let cpus = map_of(program, "nm_cpus").info().unwrap().info.id;
    let mut id = 0;
    // SAFETY: the kernel writes the next id, into our integer.
    while unsafe { libbpf_sys::bpf_prog_get_next_id(id, &mut id) } == 0 {
        // SAFETY: a system call on an integer.
        let fd = unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) };
        if fd < 0 {
            continue; // a program of another test, unloaded in the meantime
        }
        // SAFETY: a new descriptor that nobody else has.
        let candidate = unsafe { OwnedFd::from_raw_fd(fd) };
        let (maps, name) = describe(&candidate);
        if name == "nm_sweep" && maps.contains(&cpus) {
            return candidate;
        }
    }
    panic!("no sweep program");
}

/// Runs the sweep program on `cpu` with nothing to sweep; true if it yielded because it met a packet.
pub fn meets_a_packet(sweep: &OwnedFd, cpu: usize) -> bool {
    // The arguments of nm_sweep: no group has such a set.
    let mut args: [u64; 5] = [cpu as u64, 0, 0, MOST_GROUP_SETS.into(), 0];
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
        ctx_in: args.as_mut_ptr().cast(),
        ctx_size_in: size_of_val(&args) as _,
        flags: libbpf_sys::BPF_F_TEST_RUN_ON_CPU,
        cpu: cpu as u32,
        ..Default::default()
    };
    // SAFETY: the options and what they point to outlive the call.
    let err = unsafe { libbpf_sys::bpf_prog_test_run_opts(sweep.as_raw_fd(), &mut options) };
    assert_eq!(err, 0, "run the sweep program");
    options.retval == u32::MAX // NM_SWEEP_BUSY
}
