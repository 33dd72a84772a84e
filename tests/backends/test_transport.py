"""Commands on this host: what they say comes back, and none outlives its time."""

from __future__ import annotations

import os
import time
from pathlib import Path

from clipctl.backends.transport import Completed, Here, with_only


def run(*argv: str, timeout: float = 30.0, stdin: bytes = b"", most: int = 2**20) -> Completed:
    return Here(most=most).run(argv, timeout=timeout, stdin=stdin)


def test_what_a_command_says_and_leaves_with() -> None:
    answer = run("bash", "-c", "cat; echo trouble >&2; exit 3", stdin=b"given")
    assert (answer.code, answer.out, answer.err, answer.failure) == (3, "given", "trouble\n", "trouble")
    assert run("true").failure == ""


def test_large_answers_on_both_streams_do_not_block_each_other() -> None:
    answer = run("bash", "-c", "head -c 300000 /dev/zero | tee /dev/stderr")
    assert (len(answer.out), len(answer.err)) == (300_000, 300_000)


def test_an_answer_without_end_is_no_answer() -> None:
    answer = run("yes", most=1000)
    assert (answer.code, answer.out, answer.failure) == (None, "", "an answer of more than 1000 bytes")


def test_a_command_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    script = f"trap '' TERM INT; (while :; do touch {mark}; sleep 0.05; done) & sleep 100"
    answer = run("bash", "-c", script, timeout=1)
    assert (answer.code, answer.failure) == (None, "no answer within 1 s")
    time.sleep(0.2)
    mark.unlink()
    time.sleep(0.3)
    assert not mark.exists()


def test_a_command_that_closes_its_output_and_hangs_is_ended_too() -> None:
    assert run("bash", "-c", "exec >&- 2>&-; sleep 100", timeout=0.5).failure == "no answer within 0.5 s"


def test_a_program_that_is_not_there_is_an_answer() -> None:
    assert run("no-such-program").failure == "no-such-program: No such file or directory"


def test_bytes_that_are_no_text_do_no_harm() -> None:
    assert run("printf", r"a\xffb").out == "a\N{REPLACEMENT CHARACTER}b"


def test_a_command_can_be_kept_from_the_callers_environment() -> None:
    os.environ["SBATCH_PARTITION"] = "elsewhere"
    try:
        assert run(*with_only({"ONE": "a b", "TWO": ""}), "env").out == "ONE=a b\nTWO=\n"
    finally:
        del os.environ["SBATCH_PARTITION"]
