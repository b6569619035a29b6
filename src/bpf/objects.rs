//! What the kernel says of our programs and maps.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// A program in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Name.
    pub name: String,
    /// The kernel's id.
    pub id: u32,
    /// Hash of its instructions.
    pub tag: String,
    /// Bytes of its instructions, as the verifier left them.
    pub bytes: u32,
    /// Bytes of machine code; 0: it is interpreted.
    pub compiled_bytes: u32,
    /// Times it ran, where the kernel counts that.
    pub runs: u64,
    /// Time it took, where the kernel measures that.
    pub run_ns: u64,
}

/// A map in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// Name.
    pub name: String,
    /// The kernel's id.
    pub id: u32,
    /// Number of its type.
    pub map_type: u32,
    /// Bytes of a key.
    pub key_bytes: u32,
    /// Bytes of a value.
    pub value_bytes: u32,
    /// Entries at most.
    pub max_entries: u32,
}

/// Of a program; `None` if the kernel does not say.
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

/// Of a map; `None` if the kernel does not say.
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
