//! Whether stdout was open when the program started. No kernel: it is in this crate because it needs `unsafe`.

use std::sync::atomic::{AtomicBool, Ordering};

static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether the program was started without a stdout (`>&-`).
///
/// Before `main` the standard library opens `/dev/null` in its place, where all that is printed is lost without an error, and which
/// cannot be told from one that the user chose. Always false off Linux.
pub fn stdout_was_closed() -> bool {
    WAS_CLOSED.load(Ordering::Relaxed)
}

#[cfg(target_os = "linux")]
extern "C" fn look() {
    // SAFETY: asks for the flags of a descriptor by number, which need not be open.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    WAS_CLOSED.store(flags == -1, Ordering::Relaxed);
}

// SAFETY: the loader calls each function of this section once, on the first thread and before the standard library starts, which
// `look` does not need. It passes arguments, which a C function may leave alone.
#[cfg(target_os = "linux")]
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;
