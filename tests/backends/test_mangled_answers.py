"""Answers cut, torn, interleaved and made up: never a crash, never a job that is not ours."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, strategies as st

from clipctl.backends import slurm_codec as codec
from clipctl.backends.comparison import differences
from clipctl.backends.sbatch import understood
from clipctl.backends.slurm_codec import Row
from clipctl.backends.transport import Completed
from clipctl.diagnose import diagnose
from clipctl.domain import Accepted, Evidence, JobIdentity, Limits, Rejected, Unknown
from tests.backends.answers import INTENT, MARK, UID, job, recorded

SEVERAL = [job(number) for number in range(1, 10)]
STRANGERS = [job(1, run_id="ffffffff"), job(1, intent=INTENT + 86400), job(0)]
NOISE = (
    MARK,
    f"{MARK}{MARK}",
    "\n",
    "\r\n",
    "\0",
    "\u2028",
    "|",
    "99999999999999999999",
    "-1",
    "12_[3-5%1]",
    "12+0",
    "CANCELLED by root",
    "REVOKED",
    "Tue 24 Nov 2026",
    "<html>",
    "squeue: error: Munge encode failed: Failed to access socket\n",
    "slurm_load_jobs error: Socket timed out on send/recv operation\n",
    "clipctl-ffffffff",
    "clipctl:demo:1:",
    "\N{FULLWIDTH DIGIT ONE}",
)


@st.composite
def mangled(draw: st.DrawFn, text: str) -> str:
    for _ in range(draw(st.integers(1, 4))):
        start, end = sorted(draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
        noise = draw(st.sampled_from(NOISE) | st.text(max_size=20))
        torn = [text[:start], text[:start] + text[end:], text[:end] + text[start:]]
        dirty = [text[:start] + noise + text[start:], text[:start] + noise + text[start + len(noise) :]]
        text = draw(st.sampled_from(torn + dirty))
    return text


def judge(row: Row) -> None:
    """Whatever was made of an answer, only a job that it calls ended has."""
    seen = Evidence(
        attempt=1, time=INTENT, job=row.report, observed=True, submitted=True, claimed=True, uid=UID, log_tail=NOISE
    )
    incident = diagnose(seen, Limits(), now=INTENT)
    assert (incident is not None and not incident.alive) is row.report.over


def check(rows: list[Row] | None, choose: Callable[[list[Row], JobIdentity, int], Row | None]) -> None:
    for identity in SEVERAL:
        row = choose(rows or [], identity, UID)
        assert row is None or (row.name, row.report.nonce) == (identity.job_name, identity.nonce)
        if row is not None:
            judge(row)
    assert [choose(rows or [], identity, UID) for identity in STRANGERS] == [None, None, None]


@given(mangled(recorded("queue")))
def test_of_squeue(text: str) -> None:
    check(codec.queue_rows(text, MARK), codec.own_queued)


@given(mangled(recorded("accounting")))
def test_of_sacct(text: str) -> None:
    check(codec.accounting_rows(text, MARK), codec.own_ended)


@given(mangled(recorded("partitions")))
def test_of_scontrol(text: str) -> None:
    assert all(size >= 0 for size in codec.partition_sizes(text).values())
    assert isinstance(differences({"nodes": "2", "time": "24:00:00", "gres": "gpu:4"}, text), tuple)


@given(mangled("Welcome!\n4711;juwels\n"), mangled("sbatch: error: Batch job submission failed: Invalid qos\n"))
def test_of_sbatch(out: str, err: str) -> None:
    for code in (0, 1, 124, 127, None):
        answer = understood(Completed(code=code, out=out, err=err))
        assert isinstance(answer, (Rejected, Unknown)) or (code == 0 and answer.scheduler_id.isascii())
        assert not isinstance(answer, Accepted) or answer.scheduler_id.isdecimal()
