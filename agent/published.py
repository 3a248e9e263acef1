"""Functions that other packages publish, as entry points."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from agent.errors import ConfigError
from agent.resources import trust


def published_function(group: str, name: str) -> Callable[..., Any]:
    """The function that is published under a name in a group; its package is imported.

    Raises ConfigError, whatever goes wrong in the package.
    """
    published = {found.name: found for found in entry_points(group=group)}
    found = published.get(name)
    if found is None:
        known = ", ".join(sorted(published)) or "none; install the package that publishes it"
        raise ConfigError(
            f"entry_point: no installed package publishes {name!r} in the group {group}; "
            f"known are: {known}"
        )
    trust()
    try:
        function = found.load()
    except Exception as error:
        said = " ".join(str(error).split())  # on one line, as all errors are
        raise ConfigError(
            f"entry_point: {found.value} cannot be loaded: {type(error).__name__}: {said}"
        ) from error
    if not callable(function):
        raise ConfigError(f"entry_point: {found.value} is not a function; publish one")
    loaded: Callable[..., Any] = function
    return loaded
