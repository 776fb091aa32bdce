"""Requests that follow, and that break, the server's own OpenAPI document: schemathesis finds nothing."""

from __future__ import annotations

import pytest
from support.serving import PlainPainter, serving

from tagmoe.serve.limits import Limits

schemathesis = pytest.importorskip("schemathesis")


@pytest.mark.slow_but_first
@pytest.mark.parametrize(("examples", "phases"), [(4, ("fuzzing",)), (200, ("examples", "coverage", "fuzzing"))])
def test_schemathesis_finds_nothing(examples: int, phases: tuple[str, ...]) -> None:
    from schemathesis.config import SchemathesisConfig
    from schemathesis.engine import from_schema
    from schemathesis.engine.events import EngineFinished, FatalError, NonFatalError

    config = SchemathesisConfig.from_dict(
        {
            "seed": 0,
            "generation": {"max-examples": examples, "deterministic": True},
            "phases": {name: {"enabled": name in phases} for name in ("examples", "coverage", "fuzzing", "stateful")},
            # A text is a picture or it is none, which no schema can say; a size may be too large for the model.
            "checks": {"positive_data_acceptance": {"enabled": False}},
        }
    )
    with serving(PlainPainter(), limits=Limits(wait=0)) as server:
        document = server.url.removesuffix("v1") + "openapi.json"
        schema = schemathesis.openapi.from_url(document, config=config)
        events = list(from_schema(schema).execute())
        assert server.engine.places == 0
    errors = [event for event in events if isinstance(event, FatalError | NonFatalError)]
    assert errors == []
    (end,) = (event for event in events if isinstance(event, EngineFinished))
    said = "\n\n".join(f"{failure.operation}: {failure.title}\n{failure.message[:1500]}" for failure in end.failures)
    assert not end.failures, said
    statuses = {
        interaction.response.status_code
        for event in events
        if hasattr(event, "recorder")
        for interaction in event.recorder.interactions.values()
        if interaction.response is not None
    }
    assert {200, 400} <= statuses, "good and bad requests were made"
