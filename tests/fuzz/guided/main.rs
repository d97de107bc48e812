//! One program for every target: `LARDER_FUZZ_TARGET` says which. libFuzzer brings the inputs, and
//! finds the target's seeds in the folder `LARDER_FUZZ_SEEDS`.
#![no_main]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a target fails by panicking"
)]

#[path = "../targets.rs"]
mod targets;

use std::sync::OnceLock;
use targets::Target;

fn target() -> &'static Target {
    static TARGET: OnceLock<&'static Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("LARDER_FUZZ_TARGET").unwrap_or_default();
        let known = targets::TARGETS.iter();
        let names: Vec<&str> = known.clone().map(|target| target.name).collect();
        let found = known.clone().find(|target| target.name == name);
        found.unwrap_or_else(|| panic!("no target `{name}`; there are {}", names.join(", ")))
    })
}

fn plant() {
    let Some(folder) = std::env::var_os("LARDER_FUZZ_SEEDS") else {
        return;
    };
    for (number, seed) in target().seeds.iter().enumerate() {
        let file = std::path::Path::new(&folder).join(format!("seed-{number}"));
        std::fs::write(file, seed).expect("the folder of the seeds");
    }
}

libfuzzer_sys::fuzz_target!(init: plant(), |bytes: &[u8]| (target().run)(bytes));
