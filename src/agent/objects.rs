//! The agent's programs and maps in the kernel, for the control socket.

use super::reload::Reload;
use crate::bpf::{MapInfo, ProgramInfo};
use crate::control::{MapObject, Objects, ProgramObject};

/// The programs and maps.
pub(super) fn objects(reload: &Reload) -> Objects {
    let program = |info: ProgramInfo| {
        let ProgramInfo { name, id, tag, bytes, compiled_bytes, runs, run_ns } = info;
        ProgramObject { name, id, tag, bytes, compiled_bytes, runs, run_ns }
    };
    let map = |info: MapInfo| {
        let MapInfo { name, id, map_type, key_bytes, value_bytes, max_entries } = info;
        MapObject { name, id, map_type, key_bytes, value_bytes, max_entries }
    };
    Objects {
        programs: reload.program_times().infos().into_iter().map(program).collect(),
        maps: reload.maps().into_iter().map(map).collect(),
    }
}
