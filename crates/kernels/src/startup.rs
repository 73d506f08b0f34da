//! Code that runs before `main`. These are not kernels; they are here because they need `unsafe`.

use std::sync::atomic::{AtomicBool, Ordering};

static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Whether the program was started without a stdout (`>&-`).
///
/// Before `main` the standard library opens `/dev/null` in its place. Everything printed there is
/// lost without an error, and it cannot be told from a `/dev/null` that the user chose. Always
/// false on other systems than Linux.
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

/// OpenBLAS starts a thread for each CPU while it is loaded. This project has no use for them: it
/// works on shards in parallel. Each of these threads wants a buffer of 128 MiB and spins for ever,
/// before `main` or after it, where `ulimit -v` leaves no room for it. Until OpenBLAS is loaded,
/// only the environment can set it. So the process is bound to one of its CPUs while libraries are
/// loaded.
///
/// A feature, because only programs have a `.preinit_array`: a shared library with one does not link.
#[cfg(all(target_os = "linux", feature = "program"))]
mod one_cpu_while_loading {
    use std::mem::{size_of, zeroed};
    use std::sync::OnceLock;

    use libc::{CPU_ISSET, CPU_SET, CPU_SETSIZE, cpu_set_t, sched_getaffinity, sched_setaffinity};

    /// The CPUs that the process was given.
    static CPUS: OnceLock<cpu_set_t> = OnceLock::new();

    extern "C" fn bind() {
        // SAFETY: a set of CPUs is an array of bits, of which any value is one. The calls read and write no more than its size.
        unsafe {
            let (mut cpus, mut one): (cpu_set_t, cpu_set_t) = (zeroed(), zeroed());
            if sched_getaffinity(0, size_of::<cpu_set_t>(), &raw mut cpus) != 0 {
                return; // more CPUs than a set holds: libraries are loaded as they always were
            }
            let Some(first) = (0..CPU_SETSIZE as usize).find(|&cpu| CPU_ISSET(cpu, &cpus)) else { return };
            CPU_SET(first, &mut one);
            if sched_setaffinity(0, size_of::<cpu_set_t>(), &raw const one) == 0 {
                let _ = CPUS.set(cpus);
            }
        }
    }

    extern "C" fn unbind() {
        if let Some(cpus) = CPUS.get() {
            // SAFETY: gives back the set that was read, of the same size.
            unsafe { sched_setaffinity(0, size_of::<cpu_set_t>(), cpus) };
        }
    }

    // SAFETY: the loader calls it once, on the only thread, before the constructors of all libraries; of these it needs none: it makes
    // two system calls and sets a `OnceLock`, which nobody else holds and which does not allocate.
    #[used]
    #[unsafe(link_section = ".preinit_array")]
    static BIND: extern "C" fn() = bind;

    // SAFETY: as above, after the constructors of all libraries.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static UNBIND: extern "C" fn() = unbind;
}
