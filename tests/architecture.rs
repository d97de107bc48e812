//! Holds the floors: a room uses lower floors only, never its neighbours; the lowest know no I/O.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a pure room may not know.
const IMPURE: [&str; 6] = [
    "tokio",
    "hyper",
    "redis",
    "serde_yaml",
    "tracing",
    "std::net::Tcp",
];
/// Rooms that decide and do nothing else.
const PURE_ROOMS: [&str; 2] = ["semantics", "route"];
/// Rooms for everyone: they use no other room.
const GROUND: [&str; 1] = ["secret"];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every file of the crate, with its path below `src/`.
fn files() -> Vec<(String, String)> {
    fn walk(folder: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(&source(), &mut paths);
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let name = path
                .strip_prefix(source())
                .unwrap()
                .to_string_lossy()
                .into_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// Room → floor, from the table that opens `src/lib.rs`.
fn floors() -> BTreeMap<String, u32> {
    let text = std::fs::read_to_string(source().join("lib.rs")).unwrap();
    let mut floors = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let Some((floor, rooms)) = line.split_once('|') else {
            continue;
        };
        let Ok(floor) = floor.trim().parse::<u32>() else {
            continue;
        };
        for room in rooms
            .split("[`")
            .skip(1)
            .filter_map(|rest| rest.split('`').next())
        {
            floors.insert(room.to_owned(), floor);
        }
    }
    for room in GROUND {
        floors.entry(room.to_owned()).or_insert(0);
    }
    floors
}

/// The room a file is in: `cache/codec.rs` and `cache.rs` are in `cache`.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// Code without comments; tests at the end of a file may use what they like.
fn code(text: &str) -> String {
    text.lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Rooms named by `crate::room` and `crate::{room, room::…}`.
fn used(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for after in code.split("crate::").skip(1) {
        let word = |text: &str| -> String {
            text.chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect()
        };
        let Some(group) = after.strip_prefix('{') else {
            rooms.push(word(after));
            continue;
        };
        let (mut depth, mut at_start) = (1, true);
        for (place, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => at_start = true,
                c if at_start && depth == 1 && !c.is_whitespace() => {
                    rooms.push(word(&group[place..]));
                    at_start = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    rooms
}

#[test]
fn a_room_uses_lower_floors_only() {
    let floors = floors();
    assert!(
        floors.len() > 8,
        "the table in src/lib.rs is not understood: {floors:?}"
    );
    let mut wrong = Vec::new();
    for (file, text) in files() {
        let room = room(&file);
        // Files of tests alone may reach anywhere, as tests at the end of a file may.
        let for_tests = ["tests.rs", "testing.rs"]
            .iter()
            .any(|end| file.ends_with(end));
        if room == "lib" || room == "main" || for_tests {
            continue;
        }
        let Some(floor) = floors.get(room) else {
            wrong.push(format!("{file}: `{room}` has no floor in src/lib.rs"));
            continue;
        };
        for other in used(&code(&text)) {
            // Words that are no room are macros and the like.
            if let Some(other_floor) = floors.get(&other)
                && other != room
                && !GROUND.contains(&other.as_str())
                && other_floor >= floor
            {
                wrong.push(format!(
                    "{file}: floor {floor} uses `{other}` on floor {other_floor}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rooms_that_decide_know_no_socket_no_yaml_and_write_no_log() {
    let mut wrong = Vec::new();
    for (file, text) in files()
        .iter()
        .filter(|(file, _)| PURE_ROOMS.contains(&room(file)))
    {
        for (number, line) in code(text).lines().enumerate() {
            for name in IMPURE {
                let names_it = [
                    format!("use {name}"),
                    format!(" {name}::"),
                    format!("({name}::"),
                    format!("<{name}::"),
                ]
                .iter()
                .any(|form| format!(" {line}").contains(form));
                if names_it {
                    wrong.push(format!("{file}, code line {}: {}", number + 1, line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_file_opens_by_saying_what_it_owns() {
    let silent: Vec<String> = files()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(file, _)| file)
        .collect();
    // A binary that only calls the library may say nothing while it has three lines.
    let silent: Vec<_> = silent
        .into_iter()
        .filter(|file| {
            file != "main.rs"
                || std::fs::read_to_string(source().join(file))
                    .unwrap()
                    .lines()
                    .count()
                    > 3
        })
        .collect();
    assert!(silent.is_empty(), "{silent:?}");
}

#[test]
fn the_reader_of_uses_sees_plain_nested_and_grouped_ones() {
    let code = "use crate::cache::Cache; use crate::{limit::{A, B}, route, semantics::Reason}; crate::clock::now()";
    assert_eq!(
        used(code),
        ["cache", "limit", "route", "semantics", "clock"]
    );
}
