"""The error tree. Every message says what, where, got, expected and what to do.

HpcAeError            exit status 1: the work failed
├── DamageError       exit status 1: a file is not what its record says
├── WorkError         exit status 1: disk full, lost process, failed job
│   └── LostConnection  exit status 1: another rank is gone
└── InputError        exit status 2: command line, config or input is wrong
    └── StaleError    exit status 2: an existing output was made from something else
"""

from __future__ import annotations

import re

_CONTROLS = (*range(0x20), 0x7F, *range(0x80, 0xA0))
_DIRECTIONS = (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))
_SHOWN = {code: f"\\x{code:02x}" for code in _CONTROLS if chr(code) not in "\n\t\r"}
_SHOWN |= {code: f"\\u{code:04x}" for code in _DIRECTIONS}
_RETURN = re.compile(r"\r(?!\n)")


class HpcAeError(Exception):
    """Base of all errors that hpc_ae raises on purpose; printed without a traceback."""

    exit_status = 1

    def __init__(
        self, what: str, *, where: object = "", got: object = "", expected: object = "", fix: str = ""
    ) -> None:
        self.what, self.where, self.got, self.expected, self.fix = (
            harmless(str(part)) for part in (what, where, got, expected, fix)
        )
        parts = {"where": self.where, "got": self.got, "expected": self.expected, "to do": self.fix}
        lines = [self.what] + [f"  {name + ':':<10}{text}" for name, text in parts.items() if text]
        super().__init__("\n".join(lines))


class DamageError(HpcAeError):
    """A file is truncated, altered or missing: its content does not match what was recorded."""


class WorkError(HpcAeError):
    """The work could not be done although the input is right."""


class LostConnection(WorkError):
    """Another rank of the same job is gone: killed, or its node is lost. What this rank was doing is not at fault."""


class InputError(HpcAeError):
    """The command line, the config or an input file is wrong; nothing has been written."""

    exit_status = 2


class StaleError(InputError):
    """An output is there that was made from another config, model or catalog."""


def printable(text: str) -> str:
    """Text of a foreign file or library without control characters, which a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def harmless(text: str) -> str:
    """Text of any origin on its way to a terminal: lines and tabs stay, every other character that a terminal would
    obey (escapes, the second set of controls, changes of the direction of writing) is shown by its number.
    """
    return _RETURN.sub(r"\\r", text.translate(_SHOWN))
