//! Files that come from outside, as hostile as can be: none is a panic, none hangs, and none takes more memory than `check`
//! allows. The long search is `scripts/fuzz`; this is what each change must pass.

#[path = "../fuzz/src/check.rs"]
#[expect(unreachable_pub, reason = "a module of the fuzz crate's library, too")]
mod check;
#[path = "../fuzz/src/columnar.rs"]
#[expect(unreachable_pub, reason = "a module of the fuzz crate's library, too")]
mod columnar;
mod memory;
mod round_trips;
mod seeds;
mod smoke;
mod unsafe_code;
