"""What lies beside a file that is fetched: of which query it is, how far it is, and where to go on."""

from __future__ import annotations

from typing import ClassVar

from hpc_ae.provenance import Provenance
from hpc_ae.record import Record

FETCH_FORMAT = "hpc_ae/fetch"
FETCH_VERSION = 1


class FetchQuery(Record):
    """What decides the content of the file; the size of a page does not. Bounds of the key are text: they may be above
    2^53.
    """

    nulls: ClassVar = frozenset({"num_stars", "above", "until"})
    url: str
    sql: str
    key: str
    num_stars: int | None
    above: str | None
    until: str | None


class FetchState(Record):
    """How far a fetch is: rows and pages on disk, rows that share a key with another, the header, the last page's last
    key, and how many of its rows are not kept but asked for again.
    """

    nulls: ClassVar = frozenset({"header", "last_key"})
    num_rows: int = 0
    num_pages: int = 0
    num_repeated: int = 0
    header: list[str] | None = None
    last_key: str | None = None
    pending: int = 0
    complete: bool = False

    def looking_further(self) -> FetchState:
        """The state for a look at what is above the last key, whose own rows do not come again then."""
        return self.model_copy(update={"pending": 0})


class FetchRecord(Record):
    """`num_bytes` of the file count, and have this digest."""

    format_version: ClassVar = FETCH_VERSION
    format: str = FETCH_FORMAT
    version: int = FETCH_VERSION
    complete: bool
    query: FetchQuery
    num_bytes: int
    content_digest: str
    state: FetchState
    provenance: Provenance
