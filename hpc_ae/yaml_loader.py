"""YAML as a config may use it: plain values, no surprises."""

from __future__ import annotations

import re
from typing import Any

import yaml

from hpc_ae.errors import InputError


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys and aliases, reads 1e-3 as a number and 24:00:00 as text.

    YAML 1.1 would read 24:00:00 as 86400 (base 60) and 010 as 8.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (the type that PyYAML gives it)
        letter: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:int"]
        for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} occurs twice, line {node.start_mark.line + 1}")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str, where: object) -> Any:
    """Parse YAML with the safe loader; InputError with the line where it is not YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        message = " ".join(str(error).split())
        raise InputError(
            "the config is not valid YAML", where=where, got=message[:300], expected="key: value lines"
        ) from None


def apply_override(values: dict[str, Any], override: str) -> None:
    """Put the value of `section.key=value` in its place among the values of a config; InputError where it is none."""
    key, separator, text = override.partition("=")
    if not separator or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key):
        raise InputError("not an override", where="command line", got=override, expected="section.key=value")
    *sections, last = key.split(".")
    for name in sections:
        below = values.get(name)
        if not isinstance(below, dict):
            below = values[name] = {}
        values = below
    parsed = parse_yaml(text, f"command line, {key}")
    values[last] = text if _has_comment(text) else parsed  # a shell has its own comments: what is typed is meant


def _has_comment(text: str) -> bool:
    """Whether YAML would leave out the end of a text that it can read, from a # on."""
    ends = [token.end_mark.index for token in yaml.scan(text, Loader=_Loader)]
    return text[ends[-2] if len(ends) > 1 else 0 :].lstrip().startswith("#")
