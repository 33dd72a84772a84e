"""Hands one script to submitit: `python -P -m clipctl.backends.submission SCRIPT NONCE MINUTES CUDA_VISIBLE_DEVICES?`.

A process of its own, in a session of its own: submitit starts its controller as a child that keeps the caller's
terminal and output, so a Ctrl-C would end it half-way, and `clipctl launch | tee log` would last as long as the job.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from trainer.contract import NONCE_VARIABLE

FOLDER = "submitit"  # in the job's folder: submitit's pickles and logs


def main(arguments: list[str]) -> None:
    script, nonce, minutes, *devices = arguments
    from submitit import LocalExecutor

    executor = LocalExecutor(Path(script).parent / FOLDER)
    executor.update_parameters(timeout_min=float(minutes))
    # Only strings and the standard library are pickled: no change of our code can break a job in the queue.
    executor.submit(subprocess.call, task(script, nonce, devices), stdin=subprocess.DEVNULL)


def task(script: str, nonce: str, devices: list[str]) -> list[str]:
    """`bash script` in a session of its own, with the job's mark.

    `--fork --wait`: what submitit's process ends when its time is up, or is interrupted, is setsid and not the script.
    submitit hides all GPUs where it is asked for none; `devices` undoes that.
    """
    restored = [f"CUDA_VISIBLE_DEVICES={devices[0]}"] if devices else ["-u", "CUDA_VISIBLE_DEVICES"]
    return ["setsid", "--fork", "--wait", "env", *restored, f"{NONCE_VARIABLE}={nonce}", "bash", script]


if __name__ == "__main__":
    main(sys.argv[1:])
