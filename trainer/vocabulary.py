"""Class names and prompt templates of zero-shot sets, in the order of their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.contract import Classes


class EvaluationError(Exception):
    """A zero-shot set that cannot be scored; one line that says why. Never a reason to lose an epoch."""


@dataclass(frozen=True)
class Vocabulary:
    names: Sequence[str]
    templates: Sequence[Callable[[str], str] | str]  # functions of a name, or texts with {}


def vocabulary(classes: Classes) -> Vocabulary:
    """The texts of `ZeroShot.classes`."""
    return VOCABULARIES[classes]()


def _imagenet() -> Vocabulary:
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    return Vocabulary(IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES)


def _digits() -> Vocabulary:
    return Vocabulary(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
        ("a handwritten {}", "a photo of a handwritten {}", "a scan of the digit {}", "the number {} on paper"),
    )


VOCABULARIES: dict[Classes, Callable[[], Vocabulary]] = {Classes.IMAGENET: _imagenet, Classes.DIGITS: _digits}
