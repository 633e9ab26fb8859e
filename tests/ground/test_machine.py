import os

import pytest

from nuclei.machine import free_space, usable_memory, usable_threads

GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Lay out /proc and /sys of a machine with 64 threads: called with the text of each file."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)

    def lay_out(**files):
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text + "\n")
        return tmp_path

    return lay_out


def test_a_machine_without_limits_is_used_whole(machine):
    root = machine(**{"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"})
    assert usable_threads(root, {}) == 64
    assert usable_threads(root / "no such folder", {}) == 64


def test_threads_that_a_process_is_pinned_to_count(machine, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert usable_threads(machine(), {}) == 2


@pytest.mark.parametrize(("quota", "threads"), [("400000 100000", 4), ("150000 100000", 1), ("20000 100000", 1)])
def test_a_containers_quota_of_threads_counts(machine, quota, threads):
    # In a container, /proc may tell its path on the host.
    root = machine(**{"proc/self/cgroup": "0::/system.slice/docker-1", "sys/fs/cgroup/cpu.max": quota})
    assert usable_threads(root, {}) == threads


def test_the_quota_of_a_group_around_counts_too(machine):
    groups = {
        "proc/self/cgroup": "0::/user.slice/job",
        "sys/fs/cgroup/user.slice/cpu.max": "300000 100000",
        "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000",
    }
    assert usable_threads(machine(**groups), {}) == 3


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize(("quota", "threads"), [("600000", 6), ("-1", 64)])
def test_quotas_of_old_control_groups_count(machine, mount, quota, threads):
    groups = {
        "proc/self/cgroup": "5:memory:/job\n4:cpu,cpuacct:/job\n1:name=systemd:/job\n0::/",
        f"sys/fs/cgroup/{mount}/job/cpu.cfs_quota_us": quota,
        f"sys/fs/cgroup/{mount}/job/cpu.cfs_period_us": "100000",
    }
    assert usable_threads(machine(**groups), {}) == threads


def test_a_slurm_task_takes_no_more_than_it_was_given(machine):
    assert usable_threads(machine(), {"SLURM_CPUS_PER_TASK": "8"}) == 8
    assert usable_threads(machine(), {"SLURM_CPUS_PER_TASK": "100"}) == 64
    assert usable_threads(machine(), {"SLURM_CPUS_PER_TASK": "many"}) == 64


def test_memory_is_that_of_the_machine_or_of_the_container(machine):
    root = machine(**{"proc/meminfo": f"MemTotal:       {64 * GIB // 1024} kB\nMemFree: 1 kB"})
    assert usable_memory(root) == 64 * GIB
    machine(**{"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "max"})
    assert usable_memory(root) == 64 * GIB
    machine(**{"sys/fs/cgroup/memory.max": str(2 * GIB)})
    assert usable_memory(root) == 2 * GIB


def test_memory_limits_of_old_control_groups_count(machine):
    groups = {
        "proc/meminfo": f"MemTotal: {64 * GIB // 1024} kB",
        "proc/self/cgroup": "5:memory:/job",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(3 * GIB),
    }
    assert usable_memory(machine(**groups)) == 3 * GIB


def test_where_nothing_tells_memory_is_unknown(tmp_path):
    assert usable_memory(tmp_path) is None


def test_space_is_that_of_the_disk_a_new_folder_will_lie_on(tmp_path):
    assert 0 < free_space(tmp_path / "not" / "yet") == pytest.approx(free_space(tmp_path), rel=0.05)
