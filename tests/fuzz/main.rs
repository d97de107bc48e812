//! The fuzz targets with every `cargo test`: what was once found, the seeds, and a few thousand inputs
//! made of them, the same ones in every run. `make fuzz` looks for new ones, guided by coverage.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a target fails by panicking"
)]

mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use targets::{TARGETS, Target};

/// The longest input that is made, in bytes.
const INPUT_BYTES_MAX: usize = 4 * 1024;

/// What is put in anywhere: where lists, numbers, quotes and escapes begin, end and overflow.
const WORDS: &[&[u8]] = &[
    b",",
    b";",
    b"=",
    b"\"",
    b"\\",
    b"\n",
    b"\n\n",
    b"\r\n",
    b" ",
    b"\t",
    b"*",
    b"%",
    b"%2f",
    b"%25",
    b"..",
    b"//",
    b"?",
    b"#",
    b"&",
    b":",
    b"-",
    b"W/",
    b"0",
    b"18446744073709551616",
    b"-1",
    b"q=0",
    b"\x00",
    b"\xff",
    b"\xc3\xa9",
    b"{",
    b"}",
    b"[",
    b"]",
    b"GMT",
    b"bytes=",
    b"no-store",
    b"max-age=1",
];

/// Inputs made of seeds, the same in every run (xorshift64).
struct Inputs<'a> {
    seeds: &'a [Vec<u8>],
    state: u64,
}

impl Inputs<'_> {
    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state % bound.max(1) as u64).unwrap_or_default()
    }

    fn seed(&mut self) -> Vec<u8> {
        let at = self.below(self.seeds.len());
        self.seeds[at].clone()
    }

    fn input(&mut self) -> Vec<u8> {
        let mut input = self.seed();
        for _ in 0..=self.below(6) {
            let at = self.below(input.len() + 1);
            let end = (at + self.below(12)).min(input.len());
            let with = match self.below(7) {
                0 => Vec::new(),
                1 => vec![u8::try_from(self.below(256)).unwrap_or_default()],
                2 | 3 => WORDS[self.below(WORDS.len())].to_vec(),
                4 => input[at..end].repeat(1 + self.below(40)),
                5 => {
                    let mut other = self.seed();
                    let from = self.below(other.len() + 1);
                    other.split_off(from)
                }
                _ => {
                    input.truncate(at);
                    continue;
                }
            };
            // Put in, or in place of what stands there.
            let end = if self.below(2) == 0 { at } else { end };
            input.splice(at..end, with);
        }
        input.truncate(INPUT_BYTES_MAX);
        input
    }
}

/// What was found before, one file each.
fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(target.name);
    let Ok(files) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect()
}

#[test]
fn no_input_breaks_a_parser() {
    let only = std::env::var("TARGET").ok();
    let mut broken = Vec::new();
    for target in TARGETS
        .iter()
        .filter(|target| only.as_deref().is_none_or(|only| only == target.name))
    {
        let mut seeds = corpus(target);
        seeds.extend(target.seeds.iter().map(|seed| seed.to_vec()));
        let mut inputs = Inputs {
            seeds: &seeds,
            state: 0x9E37_79B9_7F4A_7C15,
        };
        let made = (0..target.inputs)
            .map(|_| inputs.input())
            .collect::<Vec<_>>();
        let begun = std::time::Instant::now();
        for input in seeds.iter().chain(&made) {
            if catch_unwind(AssertUnwindSafe(|| (target.run)(input))).is_err() {
                broken.push(format!("{}: b\"{}\"", target.name, input.escape_ascii()));
                break;
            }
        }
        println!(
            "{:14} {} inputs in {:?}",
            target.name,
            made.len(),
            begun.elapsed()
        );
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_folder_of_the_corpus_belongs_to_a_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for folder in std::fs::read_dir(corpus).unwrap() {
        let name = folder.unwrap().file_name().into_string().unwrap();
        assert!(TARGETS.iter().any(|target| target.name == name), "{name}");
    }
}
