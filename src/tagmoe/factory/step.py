"""What every step of a plan has."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tagmoe.config.part import Part

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=10**6)]


class Step(Part):
    """survive: share of rows that is thought to pass; seconds: thought to be spent on a row. Both are for the estimate
    before a run, until there are measured ones."""

    step: str
    survive: Share | None = None
    seconds: Seconds | None = None
