"""Runs of two light ranks on this machine, with the real watchdog over them."""

from __future__ import annotations

from tests.e2e.conftest import desk as desk  # a fixture
