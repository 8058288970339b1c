//! Memory that this process can have: the machine's, or its container's if that is less.
//!
//! Linux tells it in `/proc/meminfo` and, for containers, in the limits of the process's control groups (versions 1 and
//! 2). On other systems a figure that suits a laptop stands in.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Share of the memory that the pool of operators has by default. The rest is for memory that no pool counts: decoders,
/// batches in flight, footers, the allocator, and the rest of the machine. Functions use the same share.
pub const POOL_PERCENT: u64 = 60;

/// Size of the pool if the system does not tell its memory.
const POOL_BYTES_UNKNOWN: u64 = 2 << 30;

/// Returns the default of `memory_bytes_max`: [`POOL_PERCENT`] of [`memory_bytes`]. The machine is asked once per
/// process.
pub fn pool_bytes() -> u64 {
    static POOL_BYTES: OnceLock<u64> = OnceLock::new();
    *POOL_BYTES.get_or_init(|| memory_bytes().map_or(POOL_BYTES_UNKNOWN, |bytes| bytes / 100 * POOL_PERCENT))
}

/// Returns the memory that this process can have; None if the system does not tell.
pub fn memory_bytes() -> Option<u64> {
    memory_under(Path::new("/"))
}

/// Returns the most memory that this process has had in RAM until now; None if the system does not tell.
pub fn process_peak_bytes() -> Option<u64> {
    kilobytes(&read(Path::new("/proc/self/status"))?, "VmHWM:")
}

/// Returns the same for a system whose `proc` and `sys` are folders of `root`.
fn memory_under(root: &Path) -> Option<u64> {
    let installed = read(&root.join("proc/meminfo")).and_then(|text| installed_bytes(&text));
    let groups = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| limit_files(root, line));
    let limits = limits.filter_map(|file| read(&file)?.trim().parse::<u64>().ok());
    // Without a limit, version 1 writes a number beyond any machine, and version 2 a word.
    limits.chain(installed).filter(|bytes| *bytes > 0).min()
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Reads `MemTotal:       24680036 kB`.
fn installed_bytes(meminfo: &str) -> Option<u64> {
    kilobytes(meminfo, "MemTotal:")
}

/// Finds the line of a name, and returns its kilobytes in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}

/// Returns the files with the limits of a control group and of all groups above it. The line is from
/// `/proc/self/cgroup`: `0::/a/b` is of version 2, `7:memory:/a/b` of version 1. A container often sees its own group
/// as the root, whatever the line says.
fn limit_files(root: &Path, line: &str) -> Vec<PathBuf> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { return Vec::new() };
    let (mount, file) = match controllers {
        "" => ("sys/fs/cgroup", "memory.max"),
        controllers if controllers.split(',').any(|name| name == "memory") => {
            ("sys/fs/cgroup/memory", "memory.limit_in_bytes")
        }
        _ => return Vec::new(),
    };
    let groups = Path::new(group.trim_start_matches('/')).ancestors();
    groups.map(|group| root.join(mount).join(group).join(file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_this_process_is_known_on_linux() {
        let peak = process_peak_bytes();
        assert_eq!(peak.is_some(), cfg!(target_os = "linux"));
        assert!(peak.is_none_or(|bytes| bytes > 1 << 20), "{peak:?}");
        assert_eq!(kilobytes("Name:\tx\nVmHWM:\t    5 kB\n", "VmHWM:"), Some(5 << 10));
        assert_eq!(kilobytes("VmHWM: much", "VmHWM:"), None);
    }

    const MEMINFO: &str = "MemTotal:       1000 kB\nMemFree:        10 kB\n";

    #[track_caller]
    fn check(files: &[(&str, &str)], expect: Option<u64>) {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        assert_eq!(memory_under(root.path()), expect, "{files:?}");
    }

    #[test]
    fn the_least_limit_counts() {
        let machine = ("proc/meminfo", MEMINFO);
        check(&[], None);
        check(&[("proc/meminfo", "MemFree: 10 kB\n")], None);
        check(&[machine], Some(1_024_000));
        let version_2 = ("proc/self/cgroup", "0::/a/b\n");
        check(&[machine, version_2, ("sys/fs/cgroup/a/b/memory.max", "max\n")], Some(1_024_000));
        check(&[machine, version_2, ("sys/fs/cgroup/a/b/memory.max", "5000\n")], Some(5000));
        check(
            &[machine, version_2, ("sys/fs/cgroup/a/b/memory.max", "5000\n"), ("sys/fs/cgroup/a/memory.max", "4000\n")],
            Some(4000),
        );
        check(&[machine, version_2, ("sys/fs/cgroup/memory.max", "3000\n")], Some(3000));
        let version_1 = ("proc/self/cgroup", "9:cpu,cpuacct:/c\n7:memory:/docker/x\n");
        check(&[machine, version_1, ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000\n")], Some(2000));
        let none = ("sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "9223372036854771712\n");
        check(&[machine, version_1, none], Some(1_024_000));
    }

    #[test]
    fn the_default_pool_is_60_percent_of_the_memory() {
        let expect = memory_bytes().map_or(POOL_BYTES_UNKNOWN, |bytes| bytes / 100 * POOL_PERCENT);
        assert_eq!(pool_bytes(), expect);
    }
}
