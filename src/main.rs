//! The `larder` program: everything is in the library.

/// Most of what a request takes is gone after a millisecond, in pieces that glibc keeps no lists of.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    larder::cli::main()
}
