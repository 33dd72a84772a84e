"""I1 to I6 and I8 of a watched run, asked after every step of every test that has a watchdog.

- I1 one job at most has live ranks: `Living`, five times a second.
- I2 nothing is submitted while a job may live: each intent follows the end of the job before it.
- I3 every accepted job is known two ticks later, and none of an ended job waits or runs.
- I4 a run is completed only with a sound last checkpoint.
- I5 an attempt starts from the newest sound checkpoint before the trouble, at most the rollback before it.
- I6 settings change after a divergence only, and what changed is stored.
- I8 the questions to Slurm in one tick: `Counted`.

I7, that the database says what the run folders say, is asked at the end: `clipctl db check`.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipctl.store.home import DATABASE
from tests.cluster import Cluster
from tests.story.counted import Calls
from tests.story.living import Living
from tests.story.run_files import Record, RunFiles, Saved

PUBLISHED_MEANWHILE = 3.0  # seconds between a look at the checkpoints and the intent that rests on it
WATCHDOG = "watchdog"


@dataclass
class Invariants:
    cluster: Cluster
    home: Path
    root: Path
    living: Living
    strangers: Counter[str] = field(default_factory=Counter)  # ids of jobs that are ours, by ticks in which nobody knew
    judged: set[tuple[str, int]] = field(default_factory=set)

    def check(self, calls: Calls, stops: int) -> None:
        """AssertionError: all that is wrong, a line each. `stops`: of the tick that made the calls."""
        assert not (wrong := [*calls.excess(stops), *self.violations(calls)]), "\n".join(wrong)

    def violations(self, calls: Calls) -> Iterator[str]:
        yield from self.living.violations
        runs = [RunFiles(folder) for folder in sorted(self.root.glob("runs/*"))]
        queue = {} if calls.unanswered else self.queue()
        for run in runs:
            yield from overtaken(run)
            yield from blind(run, calls)
            yield from self._orphans(run, queue)
            yield from done_without_proof(run)
            for intent in run.intents():
                if (run.name, intent["attempt"]) not in self.judged:
                    self.judged.add((run.name, intent["attempt"]))
                    yield from unfounded(run, intent)
                    yield from unexplained(run, intent)

    def queue(self) -> dict[str, tuple[str, str]]:
        """Comments of clipctl's jobs to their ids and states; empty where the controller does not answer."""
        asked = self.cluster.run("squeue", "--noheader", "--format=%k|%A|%T", check=False)
        rows = (line.split("|") for line in asked.stdout.splitlines() if line.startswith("clipctl:"))
        return {comment: (job, state) for comment, job, state in rows}

    def _orphans(self, run: RunFiles, queue: Mapping[str, tuple[str, str]]) -> Iterator[str]:
        issued = {f"clipctl:{run.name}:{entry['attempt']}:{entry['nonce']}": entry for entry in run.intents()}
        ended = {entry["nonce"] for entry in run.entries("end")}
        mine = {comment: row for comment, row in queue.items() if comment.split(":")[1] == run.name}
        for comment, (job, state) in mine.items():
            if comment not in issued:
                yield f"I3: job {job} of {run.name} was intended by nobody"
            elif issued[comment]["nonce"] in ended and state in ("PENDING", "RUNNING"):
                yield f"I2: job {job} of {run.name} is {state}, and its end is written down"
        live = [job for job, state in mine.values() if state != "COMPLETING"]
        if len(live) > 1:
            yield f"I3: {run.name} has {len(live)} jobs: {live}"
        self._count_strangers([job for job, _ in mine.values()])
        yield from (f"I3: job {job} is known to nobody" for job, ticks in self.strangers.items() if ticks > 2)

    def _count_strangers(self, mine: list[str]) -> None:
        known = self.known() if mine else set()
        self.strangers = Counter({job: self.strangers[job] + 1 for job in mine if job not in known})

    def known(self) -> set[str]:
        """Ids that the store has, whether sbatch said them or a look found them by their nonce."""
        with closing(sqlite3.connect(f"file:{self.home / DATABASE}?mode=ro", uri=True)) as store:
            return {row[0] for row in store.execute("select scheduler_id from jobs")}


def overtaken(run: RunFiles) -> Iterator[str]:
    """I2: attempt n + 1 is intended after the end of n's job was written down, or after its refusal."""
    over: set[str] = set()
    before: Record | None = None
    for entry in run.entries():
        if entry["kind"] == "end" or (entry["kind"] == "answer" and entry["answer"] == "rejected"):
            over.add(entry["nonce"])
        elif entry["kind"] == "intent":
            if before is not None and before["nonce"] not in over:
                yield f"I2: attempt {entry['attempt']} of {run.name} was intended while {before['attempt']} might live"
            before = entry


def blind(run: RunFiles, calls: Calls) -> Iterator[str]:
    """I2: where squeue did not answer a tick submits only after a job whose script has left its code."""
    if not (calls.unanswered and calls.count("sbatch")):
        return
    ends = run.entries("end")
    if ends and not ends[-1]["basis"].startswith("exit.json"):
        yield f"I2: {run.name} was submitted in a tick to which squeue gave no answer"


def done_without_proof(run: RunFiles) -> Iterator[str]:
    """I4."""
    if not (run.completed or run.entries("complete")):
        return
    epochs = run.attempt(len(run.intents()))["train"]["epochs"]
    last = [saved for saved in run.line(len(run.intents())) if saved.epochs_done == epochs]
    if not any(saved.sound for saved in last):
        yield f"I4: {run.name} is completed without a sound epoch_{epochs}.pt"


def unfounded(run: RunFiles, intent: Record) -> Iterator[str]:
    """I5, of one attempt but the first; asked right after its intent, before anything is pruned."""
    number, parent = intent["attempt"], intent["parent"]
    if number == 1 or intent["actor"] != WATCHDOG:
        return
    sound = [saved for saved in run.line(number - 1) if saved.sound]
    chosen = next((saved for saved in sound if parent and saved.place == parent["path"]), None)
    if parent is not None and chosen is None:
        yield f"I5: attempt {number} starts from {parent['path']}, which is not sound or not on its line"
        return
    diverged = [item for item in run.incidents(number - 1) if item["kind"] == "diverged"]
    if diverged:
        yield from _rolled_back(number, chosen, sound, diverged[0], run.rollback)
        return
    there = [saved for saved in sound if saved.time < intent["time"] - PUBLISHED_MEANWHILE]
    newest = max((saved.samples_seen for saved in there), default=0)
    if newest > (chosen.samples_seen if chosen else 0):
        yield f"I5: attempt {number} starts from {parent and parent['path']}, with {newest} samples saved"


def _rolled_back(
    number: int, chosen: Saved | None, sound: list[Saved], incident: Record, rollback: int
) -> Iterator[str]:
    onset, border = incident["samples_seen"], incident["epoch"] - 1 - rollback
    if chosen is not None and chosen.samples_seen >= onset:
        yield f"I5: attempt {number} starts from {chosen.place}, of after the onset at {onset} samples"
    enough = max((saved.samples_seen for saved in sound if (saved.epochs_done, saved.step_in_epoch) <= (border, 0)),
                 default=0)  # fmt: skip
    if (chosen.samples_seen if chosen else 0) < enough:
        yield f"I5: attempt {number} starts from {chosen and chosen.place}, older than the rollback asks for"


def unexplained(run: RunFiles, intent: Record) -> Iterator[str]:
    """I6, of one attempt but the first."""
    number = intent["attempt"]
    if number == 1:
        return
    first, before, now = (flat(run.attempt(n)["train"]) for n in (1, number - 1, number))
    stored = {key.removeprefix("train."): value for key, value in intent["patch"].items() if key.startswith("train.")}
    differing = {key: value for key, value in now.items() if first.get(key) != value}
    if differing != flat(stored):
        yield f"I6: attempt {number} differs from the launch by {differing}, and {stored} is stored"
    changed = sorted(key for key in now if before.get(key) != now[key])
    diverged = any(item["kind"] == "diverged" for item in run.incidents(number - 1))
    if changed and not diverged and intent["actor"] == WATCHDOG:
        yield f"I6: attempt {number} changes {changed} without a divergence"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted paths to values; lists as they are."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return found
