//! Tells when a configuration file changes. The reload itself is not this room's business.
//!
//! Directories are watched, not files: editors replace files, and Kubernetes swaps the symlink
//! beside them (`..data`), so that the file itself never sees an event. And they are looked at now and
//! then without any event: some file systems send none, and the kernel gives out only so many watches.

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Quiet time after the last event before a change is told: a save is several events.
const SETTLE: Duration = Duration::from_millis(200);

/// Pause between two looks at the files where no event comes.
const LOOK: Duration = Duration::from_secs(5);

/// A running watch; dropping it ends it.
pub struct Watch {
    _watcher: Option<RecommendedWatcher>,
    _alive: SyncSender<()>,
}

/// Calls `changed`, on a thread of its own, each time the content of one of `files` is another: at
/// once where the kernel tells of it, after [`LOOK`] where it does not.
///
/// Errors: there is no thread to be had.
pub fn watch(
    files: Vec<PathBuf>,
    changed: impl FnMut() + Send + 'static,
) -> Result<Watch, std::io::Error> {
    // One slot is enough: an event that finds it taken has been heard of already.
    let (sender, receiver) = sync_channel(1);
    let watcher = events(&files, sender.clone())
        .inspect_err(|error| tracing::debug!(%error, "the kernel tells of no changed files"))
        .ok();
    let before = fingerprint(&files);
    std::thread::Builder::new()
        .name("config-watch".into())
        .spawn(move || listen(&receiver, &files, before, changed))?;
    Ok(Watch {
        _watcher: watcher,
        _alive: sender,
    })
}

fn events(files: &[PathBuf], tell: SyncSender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // Reading the file must not look like a change of it.
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = tell.try_send(());
        }
    })?;
    let mut directories: Vec<PathBuf> = files.iter().map(|file| directory(file)).collect();
    directories.sort();
    directories.dedup();
    for directory in &directories {
        watcher.watch(directory, RecursiveMode::NonRecursive)?;
    }
    Ok(watcher)
}

/// Ends when the [`Watch`], which holds the senders, is dropped.
fn listen(events: &Receiver<()>, files: &[PathBuf], before: u64, mut changed: impl FnMut()) {
    let mut known = before;
    loop {
        let mut patience = LOOK;
        loop {
            match events.recv_timeout(patience) {
                Ok(()) => patience = SETTLE,
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        let now = fingerprint(files);
        if now != known {
            known = now;
            changed();
        }
    }
}

/// Changes when the content of a file does; a file that is away, as amid a swap, changes nothing yet.
fn fingerprint(files: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files {
        std::fs::read(file).unwrap_or_default().hash(&mut hasher);
    }
    hasher.finish()
}

fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_changed_file_is_told_once_and_a_touched_one_never() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("proxy.yaml");
        std::fs::write(&file, "a").unwrap();
        let (sender, receiver) = channel();
        let _watch = watch(vec![file.clone()], move || sender.send(()).unwrap()).unwrap();
        std::fs::write(&file, "a").unwrap();
        std::fs::write(dir.path().join("other"), "b").unwrap();
        assert!(receiver.recv_timeout(SETTLE * 3).is_err());
        std::fs::write(&file, "b").unwrap();
        receiver.recv_timeout(PATIENCE).unwrap();
        assert!(receiver.recv_timeout(SETTLE * 3).is_err());
    }

    #[test]
    #[cfg(unix)]
    fn a_swapped_symlink_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for version in ["v1", "v2"] {
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("proxy.yaml"), version).unwrap();
        }
        std::os::unix::fs::symlink("v1", at("..data")).unwrap();
        std::os::unix::fs::symlink("..data/proxy.yaml", at("proxy.yaml")).unwrap();
        let (sender, receiver) = channel();
        let _watch = watch(vec![at("proxy.yaml")], move || sender.send(()).unwrap()).unwrap();
        std::os::unix::fs::symlink("v2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        receiver.recv_timeout(PATIENCE).unwrap();
    }
}
