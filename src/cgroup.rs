//! How much memory this process may have, and how much it has, by what its control group says
//! (cgroups(7); version 2, or version 1). Reads a few small files, and decides nothing.

use std::path::{Component, Path, PathBuf};

/// Version 1 says that there is no limit by a number that no machine reaches.
const NO_LIMIT: u64 = 1 << 62;

/// The memory of a control group, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What its processes have, without what the kernel would give back without being asked twice.
    pub used: u64,
    /// What they may have: beyond it they are slowed down, or killed.
    pub limit: u64,
}

impl Memory {
    /// What is left.
    #[must_use]
    pub const fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// What this machine says; see [`Memory::read`]. In a debug build it reads below
    /// `LARDER_TEST_ROOT`, where that is set.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        #[cfg(debug_assertions)]
        if let Some(root) = std::env::var_os("LARDER_TEST_ROOT") {
            return Self::read(Path::new(&root));
        }
        Self::read(Path::new("/"))
    }

    /// The memory of this process's group, or of the one above it that has less left; `None` where
    /// nothing limits it, or nothing can be read. `root` is `/`, or where a test has put such files.
    #[must_use]
    pub fn read(root: &Path) -> Option<Self> {
        let groups = std::fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
        let (files, base, group) = Files::find(&groups)?;
        let base = root.join(base);
        let mut tightest: Option<Self> = None;
        for folder in folders(&base, group) {
            if let Some(memory) = files.read(&folder)
                && tightest.is_none_or(|before| memory.left() < before.left())
            {
                tightest = Some(memory);
            }
        }
        tightest
    }
}

/// What the files of a version are called.
struct Files {
    limits: &'static [&'static str],
    used: &'static str,
    /// The line of `memory.stat` with what was read from files and is not in use.
    idle: &'static str,
}

const VERSION_2: Files = Files {
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    idle: "inactive_file",
};

const VERSION_1: Files = Files {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    idle: "total_inactive_file",
};

impl Files {
    /// Which version counts memory, where its files are, and which group this process is in. Lines are
    /// `number:controllers:path`; those of version 2 have no controllers.
    fn find(groups: &str) -> Option<(Self, &'static str, &str)> {
        let lines = groups.lines().filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.split_once(':')
        });
        let counts = |controllers: &str| controllers.split(',').any(|one| one == "memory");
        if let Some((_, path)) = lines.clone().find(|(controllers, _)| counts(controllers)) {
            return Some((VERSION_1, "sys/fs/cgroup/memory", path));
        }
        let (_, path) = lines
            .clone()
            .find(|(controllers, _)| controllers.is_empty())?;
        Some((VERSION_2, "sys/fs/cgroup", path))
    }

    fn read(&self, folder: &Path) -> Option<Memory> {
        let text = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
        let number = |file: &str| text(file)?.trim().parse::<u64>().ok();
        let limits = self.limits.iter().filter_map(|file| number(file));
        let limit = limits.filter(|limit| *limit < NO_LIMIT).min()?;
        let used = number(self.used)?;
        let stat = text("memory.stat").unwrap_or_default();
        let idle = stat.lines().find_map(|line| {
            let (name, bytes) = line.split_once(' ')?;
            (name == self.idle).then(|| bytes.trim().parse::<u64>().ok())?
        });
        Some(Memory {
            used: used.saturating_sub(idle.unwrap_or_default()),
            limit,
        })
    }
}

/// The folder of `group` and those above it, down to `base`. Within a container only `base` is there,
/// and means the container's own.
fn folders(base: &Path, group: &str) -> Vec<PathBuf> {
    let mut folders = vec![base.to_owned()];
    for part in Path::new(group).components() {
        if let (Component::Normal(name), Some(above)) = (part, folders.last()) {
            folders.push(above.join(name));
        }
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with these files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn read(files: &[(&str, &str)]) -> Option<(u64, u64)> {
        Memory::read(root(files).path()).map(|memory| (memory.used, memory.limit))
    }

    const GROUP: (&str, &str) = ("proc/self/cgroup", "0::/shop/larder\n");
    const IN_A_CONTAINER: (&str, &str) = ("proc/self/cgroup", "0::/\n");

    #[test]
    fn the_group_or_one_above_it_with_less_left_counts() {
        let own = [
            GROUP,
            ("sys/fs/cgroup/shop/larder/memory.max", "1000\n"),
            ("sys/fs/cgroup/shop/larder/memory.high", "900\n"),
            ("sys/fs/cgroup/shop/larder/memory.current", "500\n"),
            (
                "sys/fs/cgroup/shop/larder/memory.stat",
                "anon 1\ninactive_file 100\n",
            ),
        ];
        assert_eq!(read(&own), Some((400, 900)));
        let above = [
            ("sys/fs/cgroup/shop/memory.max", "5000\n"),
            ("sys/fs/cgroup/shop/memory.current", "4900\n"),
        ];
        assert_eq!(read(&[&own[..], &above].concat()), Some((4_900, 5_000)));
        let without = [GROUP, ("sys/fs/cgroup/shop/larder/memory.max", "max\n")];
        assert_eq!(
            read(
                &[
                    &without[..],
                    &[("sys/fs/cgroup/shop/larder/memory.current", "1")]
                ]
                .concat()
            ),
            None
        );
    }

    #[test]
    fn within_a_container_its_own_group_is_the_root() {
        let files = [
            IN_A_CONTAINER,
            ("sys/fs/cgroup/memory.max", "1000"),
            ("sys/fs/cgroup/memory.high", "max"),
            ("sys/fs/cgroup/memory.current", "10"),
        ];
        assert_eq!(read(&files), Some((10, 1_000)));
    }

    #[test]
    fn version_1_says_the_same_in_other_words() {
        let groups = (
            "proc/self/cgroup",
            "5:cpu,cpuacct:/x\n4:memory:/docker/abc\n0::/\n",
        );
        let files = [
            groups,
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1500"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "inactive_file 1\ntotal_inactive_file 300",
            ),
        ];
        assert_eq!(read(&files), Some((1_200, 2_000)));
        let none = [
            groups,
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712",
            ),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1500"),
        ];
        assert_eq!(read(&none), None);
    }

    #[test]
    fn where_nothing_can_be_read_there_is_no_limit() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[IN_A_CONTAINER]), None);
        for nonsense in ["", "x", "-1", "0::", "::::\n0::/../..", "1:memory"] {
            let files = [
                ("proc/self/cgroup", nonsense),
                ("sys/fs/cgroup/memory.max", nonsense),
            ];
            assert_eq!(read(&files), None, "{nonsense}");
        }
    }
}
