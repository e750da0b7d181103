"""What a file that is made to be shared leaves out: values in which people keep passwords and tokens.

Reports, manifests, models and fetched files are handed on. They say that a variable was set, not to what; the private
config.yaml and the batch scripts of a run directory hold the values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

HIDDEN = "(not shown)"
_OVERRIDE = re.compile(r"(cluster(?:\.(?:environment|setup)(?:\.\w+)*)?)=")
_USER = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s@]+@")
_PARAMETER = re.compile(r"([?&;])([\w.%-]+)=[^&;#\s)'\"]*")
_SECRET = re.compile(
    r"token|secret|passw|pwd|auth|sig|credential|session|jwt|api_?-?key|access_?-?key|^key$", re.IGNORECASE
)


def shared_config(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a config without those that a job's environment and its shell lines hold."""
    cluster = values["cluster"]
    hidden = {
        "environment": dict.fromkeys(cluster["environment"], HIDDEN),
        "setup": [HIDDEN for _ in cluster["setup"]],
    }
    return {**values, "cluster": {**cluster, **hidden}}


def shared_words(words: Iterable[str]) -> list[str]:
    """The words of a command line, without the values of such overrides and without secrets in addresses."""
    return [_shared_word(word) for word in words]


def shared_text(text: str) -> str:
    """A URL, or a text with URLs in it, without names and passwords of users and without the values of parameters that
    are called like secrets.
    """
    return _PARAMETER.sub(_shared_parameter, _USER.sub(rf"\1{HIDDEN}@", text))


def _shared_word(word: str) -> str:
    if found := _OVERRIDE.match(word):
        return f"{found[1]}={HIDDEN}"
    return shared_text(word)


def _shared_parameter(found: re.Match[str]) -> str:
    mark, name = found.groups()
    return f"{mark}{name}={HIDDEN}" if _SECRET.search(name) else found[0]
