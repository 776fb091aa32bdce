"""The garbage collector is paused while a command imports and loads, and runs again afterwards."""

from __future__ import annotations

import gc

import pytest

from tagmoe.cli.models import collector_paused, load_model, plan_memory, quiet_libraries
from tagmoe.errors import TagMoEError


def test_it_runs_again_also_after_an_error_and_stays_off_where_it_was() -> None:
    assert gc.isenabled()
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), collector_paused():
        _ = 1 / 0
    assert gc.isenabled()


def test_it_is_paused_while_a_model_is_loaded(model, tmp_path, monkeypatch) -> None:
    from tagmoe.pipeline.memory import placing

    seen = []
    load = placing.load_pipeline
    monkeypatch.setattr(placing, "load_pipeline", lambda *words: seen.append(gc.isenabled()) or load(*words))
    quiet_libraries()
    load_model(model, threads=1, plan=plan_memory(model))
    with pytest.raises(TagMoEError):
        load_model(tmp_path / "none")
    assert seen == [False]
    assert gc.isenabled()
