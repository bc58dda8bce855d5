"""The reader of /proc: which processes are machines, their vCPUs' times, caps and weights."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from controller.sources.machines import VcpuFacts
from controller.sources.procreader import ProcReader, cgroup_weight, machine_name


def fake_proc(
    root: Path, pid: int, comm: str, cmdline: bytes, threads: Mapping[int, tuple[str, str]]
) -> None:
    (root / str(pid)).mkdir(parents=True)
    (root / f"{pid}/comm").write_text(f"{comm}\n")
    (root / f"{pid}/cmdline").write_bytes(cmdline)
    times = " ".join(["0"] * 11 + ["3", "2"] + ["0"] * 20)  # utime and stime, in hundredths
    (root / f"{pid}/stat").write_text(f"{pid} (a (b) S) {times}\n")
    (root / f"{pid}/cgroup").write_text("0::/machine.slice/a.scope/libvirt/emulator\n")
    for tid, (name, schedstat) in threads.items():
        (root / f"{pid}/task/{tid}").mkdir(parents=True)
        (root / f"{pid}/task/{tid}/comm").write_text(f"{name}\n")
        (root / f"{pid}/task/{tid}/cgroup").write_text("0::/machine.slice/a.scope/libvirt/vcpu\n")
        (root / f"{pid}/task/{tid}/schedstat").write_text(f"{schedstat}\n")


def test_machines_are_found_by_their_threads(tmp_path: Path) -> None:
    proc, cgroups = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir()
    (proc / "stat").write_text("cpu  1 2 3\ncpu0 1 0 1 250 50 0\ncpu1 1 0 1 100 0 0\nintr 5\n")
    scope = cgroups / "machine.slice/a.scope"
    scope.mkdir(parents=True)
    (scope / "cpu.weight").write_text("250\n")
    (scope / "cpu.max").write_text("150000 100000\n")
    fake_proc(
        proc,
        100,
        "qemu-system-x86",
        b"qemu-system-x86_64\0-name\0guest=web,debug-threads=on\0-smp\0002\0",
        {
            100: ("qemu-system-x86", "1 1 1"),
            101: ("CPU 0/TCG", "1000 20 3"),
            102: ("CPU 1/TCG", "2000 30 3"),
            103: ("call_rcu", "9 9 9"),
        },
    )
    fake_proc(proc, 200, "firecracker", b"firecracker\0--id\0fc\0", {201: ("fc_vcpu 0", "5 6 7")})
    fake_proc(proc, 300, "cloud-hyperviso", b"cloud-hypervisor\0", {301: ("vcpu0", "8 9 1")})
    fake_proc(proc, 400, "bash", b"bash\0", {400: ("CPU 0/KVM", "8 9 1")})
    reader = ProcReader(proc, cgroups, lambda tid: {tid % 2})
    facts = reader.read(0)
    assert facts.idle == {0: 3.0, 1: 1.0}
    assert set(facts.machines) == {"web", "fc", "process 300"}
    web = facts.machines["web"]
    assert web.vcpus == {0: VcpuFacts(1000, 20, frozenset({1})), 1: VcpuFacts(2000, 30, frozenset({0}))}
    assert (web.cap, web.weight) == (1.5, 250)
    assert web.beside == 50_000_000 - 3000
    assert [reader.machine(pid) for pid in (100, 200, 300, 400, 1)] == [
        "web",
        "fc",
        "process 300",
        None,
        None,
    ]
    (proc / "100/task/101/schedstat").write_text("7000 20 3\n")  # the file is kept open
    assert reader.read(0.5).machines["web"].vcpus[0].run == 7000
    (proc / "100/task/104").mkdir()  # a vCPU that was plugged in
    (proc / "100/task/104/comm").write_text("CPU 2/TCG\n")
    (proc / "100/task/104/schedstat").write_text("4 4 4\n")
    (proc / "100/task/104/cgroup").write_text("0::/machine.slice/a.scope/libvirt/vcpu\n")
    (scope / "cpu.weight").write_text("50\n")
    fake_proc(proc, 500, "kvm", b"kvm\0-name\0web\0", {501: ("CPU 0/KVM", "1 2 3")})
    assert "web (500)" not in reader.read(0.6).machines
    assert "web (500)" in reader.read(1.2).machines
    assert set(reader.read(1.2).machines["web"].vcpus) == {0, 1, 2}
    for _ in range(4):  # each machine has its turn
        facts = reader.read(1.2)
    assert facts.machines["web"].weight == 50
    for file in (proc / "200").rglob("schedstat"):
        file.write_text("")
    assert "fc" not in reader.read(1.3).machines
    reader.close()


def test_a_threads_own_times(tmp_path: Path) -> None:
    """A thread of this process is a vCPU by its name: real affinity, schedstat, and end."""
    done, named = threading.Event(), threading.Event()
    tids: list[int] = []

    def be_a_vcpu() -> None:
        ctypes.CDLL(None).prctl(15, b"CPU 3/KVM", 0, 0, 0)  # PR_SET_NAME
        tids.append(threading.get_native_id())
        named.set()
        done.wait()

    thread = threading.Thread(target=be_a_vcpu)
    thread.start()
    named.wait()
    (tmp_path / "stat").write_text("cpu0 0 0 0 0 0\n")
    (tmp_path / str(os.getpid())).mkdir()
    (tmp_path / f"{os.getpid()}/comm").write_text("qemu-system-x86\n")
    for name in ("task", "stat", "cmdline", "cgroup"):
        (tmp_path / f"{os.getpid()}/{name}").symlink_to(f"/proc/self/{name}")
    open_before = len(os.listdir("/proc/self/fd"))
    reader = ProcReader(tmp_path)
    try:
        (found,) = reader.read(0).machines.values()
        assert set(found.vcpus) == {3}
        assert found.vcpus[3].cpus == os.sched_getaffinity(tids[0])
        assert found.vcpus[3].run > 0
    finally:
        done.set()
        thread.join()
    while reader.read(0.1).machines:  # the kernel may take a moment to end it
        pass
    reader.close()
    assert len(os.listdir("/proc/self/fd")) == open_before


@pytest.mark.parametrize(
    ("cmdline", "name"),
    [
        (b"qemu\0-name\0guest=a b,debug-threads=on\0", "a b"),
        (b"qemu\0-name\0plain\0", "plain"),
        (b"/usr/bin/kvm\0-id\0009\0-name\0vm,debug-threads=on\0", "vm"),
        (b"firecracker\0--id\0f1\0", "f1"),
        (b"qemu\0-smp\0001\0", ""),
        (b"", ""),
    ],
)
def test_names_of_machines(cmdline: bytes, name: str) -> None:
    assert machine_name(cmdline) == name


def test_weights_of_both_cgroup_versions(tmp_path: Path) -> None:
    proc = tmp_path / "cgroup"
    proc.write_text("3:cpu,cpuacct:/m/a.scope/vcpu0\n")
    (tmp_path / "cpu,cpuacct/m/a.scope").mkdir(parents=True)
    (tmp_path / "cpu,cpuacct/m/a.scope/cpu.shares").write_text("2048\n")
    assert cgroup_weight(tmp_path, proc) == 200
    assert cgroup_weight(tmp_path, tmp_path / "none") == 100


@pytest.mark.parametrize("group", ["machine/qemu-1-web.libvirt-qemu", "m.slice/qemu-1-web.scope/libvirt"])
def test_libvirts_cgroups_of_machine_emulator_and_vcpus(tmp_path: Path, group: str) -> None:
    """Without systemd and with it: a machine's weight is its whole group's, its cap is the vCPUs' own."""
    proc, cpu = tmp_path / "proc", tmp_path / "cgroup/cpu"
    proc.mkdir()
    (proc / "stat").write_text("cpu0 1 0 1 250 50 0\n")
    threads = {101: ("CPU 0/KVM", "1 2 3"), 102: ("CPU 1/KVM", "4 5 6"), 103: ("CPU 2/KVM", "7 8 9")}
    fake_proc(proc, 100, "qemu-system-x86", b"qemu\0-name\0guest=web\0", threads)
    whole = cpu / group.removesuffix("/libvirt")
    quotas = {whole: -1, cpu / group / "emulator": 20000, cpu / group / "vcpu0": 50000}
    quotas |= {cpu / group / "vcpu1": 70000, cpu / group / "vcpu2": -1}
    for folder, quota in quotas.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")
        (folder / "cpu.shares").write_text("2048\n" if folder == whole else "1024\n")
    (proc / "100/cgroup").write_text(f"1:cpu:/{group}/emulator\n")
    for number, tid in enumerate(threads):
        (proc / f"100/task/{tid}/cgroup").write_text(f"1:cpu:/{group}/vcpu{number}\n")
    reader = ProcReader(proc, tmp_path / "cgroup", lambda tid: {0})
    web = reader.read(0).machines["web"]
    assert web.cap == pytest.approx(0.5 + 0.7 + 1.0)
    assert web.weight == 200
    (whole / "cpu.cfs_quota_us").write_text("150000\n")
    reader.read(2.0)
    assert reader.read(2.1).machines["web"].cap == 1.5
    reader.close()
