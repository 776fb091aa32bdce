"""Tests of diffusers that our classes fail on purpose, by name, with the reason. Each is a strict expected failure."""

from __future__ import annotations

DIFFERENCES: dict[str, str] = {}
