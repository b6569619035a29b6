//! What the kernel reports about our programs and maps.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// A program as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Name.
    pub name: String,
    /// The kernel's id.
    pub id: u32,
    /// Hash of its instructions, in hexadecimal.
    pub tag: String,
    /// Size in bytes of its instructions after verification.
    pub bytes: u32,
    /// Size in bytes of its machine code; 0 if it is interpreted.
    pub compiled_bytes: u32,
    /// Number of runs while the kernel measured them.
    pub runs: u64,
    /// Total time of these runs in nanoseconds.
    pub run_ns: u64,
}

/// A map as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// Name.
    pub name: String,
    /// The kernel's id.
    pub id: u32,
    /// Number of its type, enum bpf_map_type.
    pub map_type: u32,
    /// Size of a key in bytes.
    pub key_bytes: u32,
    /// Size of a value in bytes.
    pub value_bytes: u32,
    /// Largest number of entries; for a ring buffer, its size in bytes.
    pub max_entries: u32,
}

/// What the kernel reports about a program; `None` if it does not.
pub(super) fn program(name: &str, program: BorrowedFd<'_>) -> Option<ProgramInfo> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut size = size_of_val(&info) as u32;
    // SAFETY: `info` is as large as `size` says.
    let err = unsafe { libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut size) };
    (err == 0).then(|| ProgramInfo {
        name: name.to_owned(),
        id: info.id,
        tag: info.tag.iter().map(|byte| format!("{byte:02x}")).collect(),
        bytes: info.xlated_prog_len,
        compiled_bytes: info.jited_prog_len,
        runs: info.run_cnt,
        run_ns: info.run_time_ns,
    })
}

/// What the kernel reports about a map; `None` if it does not.
pub(super) fn map(map: &impl AsFd) -> Option<MapInfo> {
    let mut info = libbpf_sys::bpf_map_info::default();
    let mut size = size_of_val(&info) as u32;
    // SAFETY: `info` is as large as `size` says.
    let err = unsafe { libbpf_sys::bpf_map_get_info_by_fd(map.as_fd().as_raw_fd(), &mut info, &mut size) };
    let name: Vec<u8> = info.name.iter().map(|byte| *byte as u8).collect();
    (err == 0).then(|| MapInfo {
        name: CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned(),
        id: info.id,
        map_type: info.type_,
        key_bytes: info.key_size,
        value_bytes: info.value_size,
        max_entries: info.max_entries,
    })
}
