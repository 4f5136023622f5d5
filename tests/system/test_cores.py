"""CPU limits of containers and batch systems, and cores that other programs use."""

import time

import pytest

from seqsetvae.system import resources as cores


def group(tmp_path, line, files):
    """A control group: its line in /proc/self/cgroup, and the hierarchy of limits."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "membership").write_text(line)
    return tmp_path / "membership", tmp_path


@pytest.mark.parametrize(
    ("line", "files", "limit"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/job/step\n", {"job/cpu.max": "400000 100000", "job/step/cpu.max": "max 100000"}, 4.0),  # the parent's
        ("0::/job/step\n", {"job/cpu.max": "400000 100000", "job/step/cpu.max": "200000 100000"}, 2.0),
        (
            "4:cpu,cpuacct:/docker/ab\n1:memory:/x\n",
            {"cpu/docker/ab/cpu.cfs_quota_us": "50000\n", "cpu/docker/ab/cpu.cfs_period_us": "100000\n"},
            0.5,
        ),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("0::/\n", {"cpu.max": "damaged\n"}, None),
        ("damaged", {}, None),
    ],
)
def test_the_limit_is_the_smallest_of_the_group_and_its_parents(tmp_path, line, files, limit):
    assert cores.allowed_cores(*group(tmp_path, line, files)) == limit


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert cores.allowed_cores(tmp_path / "none", tmp_path) is None


@pytest.mark.parametrize(("allowed", "threads"), [(None, 16), (64.0, 16), (2.5, 2), (0.5, 1)])
def test_no_more_threads_than_cores(monkeypatch, allowed, threads):
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert cores.fitting_threads(16, allowed) == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    assert cores.fitting_threads(16, allowed) == 16


@pytest.mark.parametrize(("waited", "warns"), [(1.0, False), (5.0, True)])
def test_a_busy_machine_is_said(monkeypatch, capsys, waited, warns):
    asked, readings = [], [(100.0, 50.0), (110.0, 50.0 + waited)]
    monkeypatch.setattr(cores, "running_and_waiting", lambda: asked.append(0) or readings[len(asked) - 1])
    with cores.watched_cores(2, seconds=0.01):
        deadline = time.monotonic() + 5
        while len(asked) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    printed = capsys.readouterr().out
    assert ("OMP_NUM_THREADS=1" in printed) == warns
    assert ("2 threads waited 33% of the time" in printed) == warns


def test_one_thread_is_not_watched(monkeypatch):
    monkeypatch.setattr(cores, "running_and_waiting", lambda: pytest.fail("one thread waits for no other"))
    with cores.watched_cores(1):
        pass


def test_the_system_tells_how_long_threads_ran():
    if not cores.THREADS.exists():
        pytest.skip("only Linux tells how long a thread waited for a core")
    ran, waited = cores.running_and_waiting()
    assert ran > 0 <= waited
