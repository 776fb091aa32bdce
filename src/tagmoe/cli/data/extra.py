"""The extra that `tagmoe data` needs."""

from __future__ import annotations

from importlib.util import find_spec

from tagmoe.errors import MissingError


def need_data_extra(*further: str) -> None:
    """Raise MissingError when Lance, Arrow or one of `further` modules is not installed; imports none of them."""
    for name in ("lance", "pyarrow", *further):
        if find_spec(name) is None:
            raise MissingError(f"A store of data needs {name}; run: pip install 'tagmoe[data]'.")
