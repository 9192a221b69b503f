"""Free memory is what the tightest limit leaves, of the machine and of every control group around the process."""

from pathlib import Path

import pytest

from soberano.core.memory import free_memory

GIB = 1 << 30
MEMINFO = "MemTotal:       16777216 kB\nMemFree:        1 kB\nMemAvailable:    8388608 kB\n"  # 8 GiB


def files(root: Path, texts: dict[str, object]) -> Path:
    for name, text in {"proc/meminfo": MEMINFO, **texts}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


def version_2(folder: str, most: object, taken: int, cached: int) -> dict[str, object]:
    stat = f"anon {taken - cached}\nactive_file {cached - 1}\ninactive_file 1"
    at = f"sys/fs/cgroup{folder}"
    return {f"{at}/memory.max": most, f"{at}/memory.current": taken, f"{at}/memory.stat": stat}


def version_1(folder: str, most: int, taken: int, cached: int) -> dict[str, object]:
    stat = f"active_file 0\ninactive_file 0\ntotal_active_file 1\ntotal_inactive_file {cached - 1}"
    at = f"sys/fs/cgroup/memory{folder}"
    return {f"{at}/memory.limit_in_bytes": most, f"{at}/memory.usage_in_bytes": taken, f"{at}/memory.stat": stat}


V1 = "4:memory:/job\n3:cpuset:/\n0::/"
CASES: dict[str, tuple[dict[str, object], int]] = {
    "no groups": ({}, 8 * GIB),
    "version 2, no limit": ({"proc/self/cgroup": "0::/job"} | version_2("/job", "max", GIB, 9), 8 * GIB),
    "version 2": ({"proc/self/cgroup": "0::/job"} | version_2("/job", 4 * GIB, 3 * GIB, 2 * GIB), 3 * GIB),
    "version 2, a wider group is tighter": (
        {"proc/self/cgroup": "0::/all/job"}
        | version_2("/all/job", 4 * GIB, GIB, 9)
        | version_2("/all", 4 * GIB, 3 * GIB, GIB),
        2 * GIB,
    ),
    "version 2, a container that sees its own group as the first": (
        {"proc/self/cgroup": "0::/host/job"} | version_2("", 4 * GIB, 2 * GIB, GIB),
        3 * GIB,
    ),
    "version 2, more than the machine has": (
        {"proc/self/cgroup": "0::/"} | version_2("", 99 * GIB, 2 * GIB, GIB),
        8 * GIB,
    ),
    "version 2, nothing left": ({"proc/self/cgroup": "0::/"} | version_2("", GIB, 3 * GIB, 9), 0),
    "version 1": ({"proc/self/cgroup": V1} | version_1("/job", 4 * GIB, 3 * GIB, GIB), 2 * GIB),
    "version 1, no limit": ({"proc/self/cgroup": V1} | version_1("/job", (1 << 63) - 4096, GIB, 9), 8 * GIB),
    "version 1 in a container": ({"proc/self/cgroup": V1} | version_1("", 4 * GIB, 3 * GIB, GIB), 2 * GIB),
}


@pytest.mark.parametrize("name", CASES)
def test_the_tightest_limit_counts(name: str, tmp_path: Path):
    texts, free = CASES[name]
    assert free_memory(files(tmp_path, texts)) == free


def test_a_system_that_says_nothing(tmp_path: Path):
    assert free_memory(tmp_path) > 0


def test_this_machine():
    assert 0 < free_memory() < 1 << 62
