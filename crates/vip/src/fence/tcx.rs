//! Programs of the kind `tcx`, which run before every filter of `tc` and can let packets pass by these.
//!
//! Not here: what to make of them.

use std::io;

use super::tc::Hook;

// linux/bpf.h, since Linux 6.6
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// The kernel takes as many at most (`BPF_MPROG_MAX`).
const PROGRAMS_MAX: usize = 64;

/// The part of `union bpf_attr` that asks for programs.
#[repr(C)]
#[derive(Default)]
struct Query {
    interface: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    padding: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The ids of the programs on the interface, in their order. A kernel that does not know the kind has none.
pub(super) fn programs(interface: u32, hook: Hook) -> io::Result<Vec<u32>> {
    let attach_type = match hook {
        Hook::Ingress => BPF_TCX_INGRESS,
        Hook::Egress => BPF_TCX_EGRESS,
    };
    let mut ids = [0_u32; PROGRAMS_MAX];
    let program_ids = ids.as_mut_ptr() as u64;
    let mut query = Query { interface, attach_type, program_ids, count: PROGRAMS_MAX as u32, ..Query::default() };
    // SAFETY: the structure and the array it points to are valid for the call, with the sizes that are said.
    let status = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if status == 0 {
        return Ok(ids.into_iter().take(query.count as usize).collect());
    }
    match io::Error::last_os_error() {
        // An older kernel, or no program was ever there.
        error if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(Vec::new()),
        error => Err(error),
    }
}
