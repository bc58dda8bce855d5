"""``python -m bench.real_cores``: do the workers follow the cores of this machine that are really idle?

One balancer with the embedded controller and ``--workers 1..2`` (max = cores) goes through five phases: other
work (pure-Python loops, one per core) comes and goes while requests press, and in the end the requests stop.
It must not grow while others use the cores, grow when they stop, give back when they return, and shrink when
the load ends. Needs wrk. Exits with 1 when it does otherwise.

The load generator needs CPU on the same machine, and with small requests it takes so much that no core is
idle; pylb then rightly doesn't grow. So this load costs the balancer much and the others little: answers of
1,000 chunks of 8 bytes, as a language model's tokens are sent (but at once), whose framing a worker follows
chunk by chunk in Python, while wrk parses them in C and the server writes them from one constant.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from rich.progress import Progress

from bench.rig import wrk
from bench.rig.balancer import Balancer
from bench.rig.command import console, need, parser
from bench.rig.origins import TOKENS, origin
from bench.rig.report import in_words, pyplot, write

SAMPLE_SECONDS = 0.5
CONNECTIONS = 16  # of wrk, all keep-alive
RATES = ("requests", "idle", "busy", "bench", "others")


@dataclass
class Phase:
    """Some seconds of one kind, the number of workers that they must lead to, and how soon (seconds)."""

    name: str
    seconds: int
    others: bool
    load: bool
    workers: int
    within: float
    after: float = -1.0  # seconds until it was so; -1: never
    changes: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Reached in time, by a single change (none where it was so at the start)."""
        return 0 <= self.after <= self.within and self.changes == (self.after > 0)

    def mean(self, what: str) -> float:
        """Of the last two thirds of the phase, when it has settled."""
        settled = [float(sample[what]) for sample in self.samples[len(self.samples) // 3 :]]
        return sum(settled) / max(1, len(settled))


def phases(cores: int) -> list[Phase]:
    """Growing and giving back may take 5 s; with no load the policy waits for 10 s first."""
    return [
        Phase("requests press, others use all cores", 10, True, True, 1, 0.0),
        Phase("requests press, the others have stopped", 12, False, True, cores, 5.0),
        Phase("requests press, the others are back", 10, True, True, 1, 5.0),
        Phase("requests press, the others have stopped", 12, False, True, cores, 5.0),
        Phase("no requests", 6 + 13 * (cores - 1), False, False, 1, 13.0 * (cores - 1)),
    ]


def _spin() -> None:
    while True:
        sum(range(10_000))


@contextmanager
def other_work(processes: int) -> Iterator[list[int]]:
    """Pure-Python loops; gives their pids."""
    spawn = multiprocessing.get_context("spawn")
    spinning = [spawn.Process(target=_spin, daemon=True) for _ in range(processes)]
    for process in spinning:
        process.start()
    try:
        yield [process.pid or 0 for process in spinning]
    finally:
        for process in spinning:
            process.terminate()
            process.join()


def start_wrk(port: int, seconds: int) -> subprocess.Popen[str]:
    """The load generator, for some seconds."""
    command = wrk.command(f"http://127.0.0.1:{port}", wrk.Load("/", CONNECTIONS), seconds)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


class Look:
    """The differences between two looks at the machine and the balancer."""

    def __init__(self, balancer: Balancer) -> None:
        self._balancer = balancer
        self._began = time.monotonic()
        self._before: dict[str, float] = {}

    def sample(self, spinning: list[int]) -> dict[str, Any]:
        """The number of workers, and rates since the last sample: cores, requests per second."""
        status = self._balancer.status()
        now = {"at": time.monotonic() - self._began, "requests": float(status["totals"]["requests"])}
        now["idle"] = sum(cpu.idle + cpu.iowait for cpu in psutil.cpu_times(percpu=True))
        bench = [psutil.Process(), *psutil.Process().children()]
        not_bench = {self._balancer.process.pid, *spinning}
        now["bench"] = sum(sum(p.cpu_times()[:2]) for p in bench if p.pid not in not_bench)
        before, self._before = self._before or now, now
        seconds = max(now["at"] - before["at"], 1e-3)
        rates = {key: max(0.0, (now[key] - before[key]) / seconds) for key in ("requests", "idle", "bench")}
        busy = sum(worker["busy"] for worker in status["workers"])
        rates["others"] = len(psutil.cpu_times(percpu=True)) - rates["idle"] - rates["bench"] - busy
        scaling = status["scaling"]
        return {"at": now["at"], "workers": scaling["target"], "reason": scaling["reason"], "busy": busy,
                "granted": scaling["granted_cores"], "grant": scaling["grant_reason"]} | rates  # fmt: skip


def run(plan: list[Phase], balancer: Balancer, cores: int) -> wrk.Seen:
    """Go through the phases; gives what wrk counted."""
    look = Look(balancer)
    load: subprocess.Popen[str] | None = None
    with ExitStack() as stack, Progress(console=console, transient=True) as progress:
        bar = progress.add_task("", total=sum(phase.seconds for phase in plan))
        for phase in plan:
            with other_work(cores if phase.others else 0) as spinning:
                if load is None:
                    time.sleep(2.0)  # the measured idleness is of the past second
                    load = start_wrk(balancer.port, sum(phase.seconds for phase in plan if phase.load))
                    stack.callback(load.kill)
                changes = balancer.log.read_text().count("scaling from")
                began = time.monotonic()
                while (passed := time.monotonic() - began) < phase.seconds:
                    sample = look.sample(spinning)
                    phase.samples.append(sample)
                    workers = sample["workers"]
                    phase.changes = balancer.log.read_text().count("scaling from") - changes
                    if workers == phase.workers and phase.after < 0:
                        phase.after = passed if phase.changes else 0.0
                    progress.update(bar, advance=SAMPLE_SECONDS, description=f"{phase.name}: {workers}")
                    time.sleep(SAMPLE_SECONDS)
            console.log(f"{phase.name}: {workers} workers, {sample['reason']}")
        assert load is not None
        return wrk.parse(load.communicate(timeout=30)[0])


def draw(plan: list[Phase], path: Path) -> None:
    """Workers, cores and requests over time."""
    samples = [sample for phase in plan for sample in phase.samples][1:]
    at = [sample["at"] for sample in samples]
    figure, (top, middle, bottom) = pyplot().subplots(3, 1, figsize=(9, 7), sharex=True, layout="constrained")
    top.step(at, [sample["workers"] for sample in samples], where="post", color="#3b7dd8", linewidth=2)
    top.set(ylabel="workers", ylim=(0, plan[1].workers + 0.5))
    middle.plot(at, [sample["idle"] for sample in samples], color="#2e9e5b", label="idle")
    middle.plot(at, [sample["busy"] for sample in samples], color="#3b7dd8", label="used by workers")
    middle.plot(at, [sample["others"] for sample in samples], color="#c2552d", linewidth=0.8, label="others")
    middle.plot(at, [sample["bench"] for sample in samples], color="grey", label="wrk, server, bench")
    middle.set(ylabel="cores", ylim=(0, plan[1].workers + 0.1))
    middle.legend(loc="center right", fontsize=8)
    bottom.plot(at, [sample["requests"] for sample in samples], color="#c2552d")
    bottom.set(ylabel="requests/s", xlabel="seconds", ylim=(0, None))
    for phase in plan:
        for axes in (top, middle, bottom):
            if phase.others:
                axes.axvspan(phase.samples[0]["at"], phase.samples[-1]["at"], color="black", alpha=0.08)
        top.text(phase.samples[0]["at"], 0.1, phase.name.replace(", ", ",\n"), fontsize=7)
    figure.savefig(path, dpi=120)


def report(plan: list[Phase], seen: wrk.Seen, log: list[str], folder: Path) -> None:
    """JSON, Markdown and PNG."""
    rows = []
    for phase in plan:
        facts = {key: value for key, value in asdict(phase).items() if key != "samples"}
        rows.append(facts | {"holds": phase.holds, "mean": {what: phase.mean(what) for what in RATES}})
    about = {"wrk": vars(seen), "log": log, "phases": rows}
    lines = [
        "# Workers follow idle cores", "", f"Written by `python -m bench.real_cores`. {in_words()}.", "",
        (__doc__ or "").split("\n\n")[2].replace("\n", " ").strip()
        + f" wrk has {CONNECTIONS} keep-alive connections; nothing is pinned.", "",
        "| phase | s | workers | after | bar | changes | | req/s | idle | pylb's use | bench's | others' |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
        *(f"| {p.name} | {p.seconds} | {p.workers} | {p.after:.1f} s | {p.within:g} s | {p.changes} | "
          f"{'holds' if p.holds else 'MISSED'} | {p.mean('requests'):.0f} | {p.mean('idle'):.2f} | "
          f"{p.mean('busy'):.2f} | {p.mean('bench'):.2f} | {p.mean('others'):.2f} |" for p in plan), "",
        "Rates are means of the last two thirds of each phase, in cores; a change more than the one that is "
        "wanted is a miss, too. Others: this run's loops, and strangers, whose claims pylb must honour. "
        f"wrk: {seen.requests} requests, {seen.failed} failed.", "",
        "![over time](real_cores.png)", "", "The balancer's log:", "", "```", *log, "```",
    ]  # fmt: skip
    write("real_cores", about, lines, folder)
    draw(plan, folder / "real_cores.png")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--shorter", type=float, default=1, help="divides the time of each phase [1]")
    chosen = options.parse_args()
    need(options, "wrk")
    plan = phases(cores := len(os.sched_getaffinity(0)))
    for phase in plan:
        phase.seconds = max(2, round(phase.seconds / chosen.shorter))
    with origin(TOKENS) as server, Balancer("--workers", f"1..{cores}", servers=(server,)) as balancer:
        seen = run(plan, balancer, cores)
    report(plan, seen, balancer.log.read_text().splitlines(), chosen.out)
    sys.exit(0 if all(phase.holds for phase in plan) else 1)


if __name__ == "__main__":
    main()
