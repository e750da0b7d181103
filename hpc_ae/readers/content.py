"""What the star catalog of some raw files holds: bands, columns, and of each star the flags and states.

Shape letters: N stars, B bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hpc_ae.catalog.identity import flag_ids
from hpc_ae.catalog.quality import flag_magnitudes, flag_positions, flag_zeros
from hpc_ae.catalog.records import SurveyBand, SurveyRecord
from hpc_ae.catalog.schema import STAR_COLUMNS
from hpc_ae.catalog.shard import Arrays
from hpc_ae.catalog.states import State, find_states
from hpc_ae.errors import InputError
from hpc_ae.readers.names import ERROR_PREFIX
from hpc_ae.readers.raw_file import RawFile
from hpc_ae.readers.star_rows import StarRows
from hpc_ae.readers.surveys import DEFAULT_SURVEY, Survey, load_survey


@dataclass(frozen=True)
class Content:
    """What a catalog has: our names of what at least one raw file holds, whose bands, whether any may be missing."""

    names: frozenset[str] = frozenset()
    survey: Survey = field(default_factory=lambda: load_survey(DEFAULT_SURVEY))
    has_states: bool = False

    @classmethod
    def of(cls, raws: Sequence[RawFile]) -> Content:
        """Of all raw files. InputError where their bands differ."""
        first = raws[0]
        for raw in raws[1:]:
            if (raw.bands, raw.has_states) != (first.bands, first.has_states):
                raise InputError(
                    "raw files of one catalog differ in their bands",
                    where=raw.path,
                    got=", ".join(raw.bands),
                    expected=f"{', '.join(first.bands)}, as {first.path} has",
                    fix="name the bands of all of them with --survey or --bands, or ingest them apart",
                )
        names = frozenset(name for raw in raws for name in raw.wanted)
        return cls(names, first.survey or load_survey(DEFAULT_SURVEY), first.has_states)

    @property
    def bands(self) -> tuple[str, ...]:
        """The bands."""
        return self.survey.band_names

    @property
    def columns(self) -> list[str]:
        """The datasets of the catalog."""
        absent = set() if "redshift" in self.names else {"redshift"}
        has_errors = any(name.startswith(ERROR_PREFIX) for name in self.names)
        absent |= set() if has_errors else {"magnitude_error"}
        absent |= set() if self.has_states else {"band_state"}
        absent |= set() if self.has_states and has_errors else {"magnitude_limit"}
        return [column.name for column in STAR_COLUMNS if column.name not in absent]

    @property
    def record(self) -> SurveyRecord | None:
        """What the manifest says of the survey, where bands may be missing."""
        if not self.has_states:
            return None
        bands = tuple(SurveyBand(name=band.name, nm=band.nm, system=band.system) for band in self.survey.bands)
        return SurveyRecord(name=self.survey.name, title=self.survey.title, bands=bands, explore=self.survey.explore)

    def flagged(self, rows: StarRows, start: int) -> Arrays:
        """The datasets of the rows, the first of which is row `start` of all inputs."""
        found = {name: getattr(rows, name) for name in self.columns if hasattr(rows, name)}
        if self.has_states:
            found |= self._with_states(rows)
        else:
            found["quality"] = flag_magnitudes(rows.magnitude, rows.missing)
        found["caution"] = flag_positions(rows.ra, rows.dec) | flag_zeros(rows.magnitude)
        if "objid" in self.names:
            found["caution"] |= flag_ids(rows.objid, rows.damaged)
        else:
            found["objid"] = np.arange(start, start + len(rows.objid), dtype=np.int64)
        return {name: found[name] for name in self.columns}

    def _with_states(self, rows: StarRows) -> Arrays:
        """States, limits and quality; magnitudes and errors become NaN, in place, of bands that are not measured."""
        known = np.where(rows.missing, np.uint8(State.UNOBSERVED), rows.known)
        has_errors = rows.magnitude_error.shape == rows.magnitude.shape
        errors = rows.magnitude_error if has_errors else rows.magnitude[:, :0]
        found = find_states(rows.magnitude, errors, known, self.survey.meaning)
        is_absent = found.state != State.MEASURED
        low, high = self.survey.range
        looks_good = (rows.magnitude >= low) & (rows.magnitude <= high)  # a limit, a number that means nothing here
        quality = flag_magnitudes(rows.magnitude, rows.missing | (is_absent & looks_good), (low, high))
        rows.magnitude[is_absent] = np.nan
        if has_errors:
            rows.magnitude_error[is_absent] = np.nan
        return {"band_state": found.state, "magnitude_limit": found.limit, "quality": quality}
