"""One tree of errors a user can cause or meet. Anything else that is raised is a bug and keeps its traceback."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """What `clipctl` leaves with. 2 is click's own word for a wrong command line."""

    OK = 0
    BUG = 1
    USAGE = 2
    INVALID = 3  # a spec, a value or a file that cannot be used
    NOT_FOUND = 4  # no such run, attempt, checkpoint, preset
    REFUSED = 5  # the state of the run does not allow it
    UNAVAILABLE = 6  # store, scheduler or file system did not answer; trying again may help
    DIVERGED = 7  # --follow: the run diverged
    ENDED = 8  # --follow: the run ended otherwise without completing
    NEEDED = 9  # watchdog run: a person is needed
    INTERRUPTED = 130


class ClipctlError(Exception):
    """`message` says what, where and the rule; `hint` is the next command to type."""

    exit_code: ExitStatus = ExitStatus.INVALID
    transient = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidSpec(ClipctlError):
    """A value that breaks a rule; `problems` holds one line for each, all found at once."""

    def __init__(self, problems: tuple[str, ...], hint: str = "") -> None:
        super().__init__("\n".join(problems), hint)
        self.problems = problems


class NotFound(ClipctlError):
    exit_code = ExitStatus.NOT_FOUND


class Refused(ClipctlError):
    """`objections` are the names by which --force may overrule, where it may."""

    exit_code = ExitStatus.REFUSED


class Unavailable(ClipctlError):
    exit_code = ExitStatus.UNAVAILABLE
    transient = True


class Damaged(ClipctlError):
    """A file of ours that cannot be what was written."""

    exit_code = ExitStatus.UNAVAILABLE
