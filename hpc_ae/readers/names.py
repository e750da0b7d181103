"""The names under which other people's files hold what a star catalog has, in the order they are tried.

docs/columns.md shows these tables; a test holds it to them. Names are in lower case, as they are compared whatever
their case; `{b}` is the band.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpc_ae.catalog.schema import DEFAULT_BANDS

ERROR_PREFIX = "err_"
EXTINCTION_PREFIX = "extinction_"
RAW_PREFIX = "raw:"  # raw:7 is column 7 as it stands in the file: text, where it is text


@dataclass(frozen=True)
class Family:
    """A way to name five magnitudes (or fluxes): `label` for `--magnitudes`, names and errors with `{b}` for the band.

    `errors` stand behind the names that follow from the columns' own. `unit` is that of fluxes by convention.
    """

    label: str
    names: tuple[str, ...]
    errors: tuple[str, ...] = ("err_{b}",)
    is_flux: bool = False
    unit: str = ""
    is_dereddened: bool = False


BARE = "{b}"
FAMILIES: tuple[Family, ...] = (
    Family("ugriz", (BARE,), ("modelmagerr_{b}",)),
    Family(
        "psfMag",
        (
            "psfmag_{b}",
            "psf_mag_{b}",
            "psfmag{b}",
            "{b}_psfmag",
            "{b}psfmag",
            "{b}_psf",
            "psf_{b}",
            "{b}psf",
            "{b}pmag",
        ),
    ),
    Family("modelMag", ("modelmag_{b}", "model_mag_{b}", "modelmag{b}", "{b}_modelmag", "{b}_model", "model_{b}")),
    Family(
        "cModelMag",
        (
            "cmodelmag_{b}",
            "cmodel_mag_{b}",
            "cmodelmag{b}",
            "{b}_cmodelmag",
            "{b}_cmodel",
            "cmodel_{b}",
            "mag_{b}_cmodel",
        ),
    ),
    Family(
        "dered",
        ("dered_{b}", "{b}_dered", "dered_mag_{b}", "{b}mag_dered"),
        ("modelmagerr_{b}", "err_{b}"),
        False,
        "",
        True,
    ),
    Family(
        "mag", ("{b}mag", "{b}_mag", "mag_{b}", "magnitude_{b}", "{b}_magnitude"), ("magnitude_error_{b}", "err_{b}")
    ),
    Family(
        "SDSS",
        ("sdss_{b}", "{b}_sdss", "sdss_{b}_mag", "sdss_mag_{b}", "{b}_sdss_mag", "{b}_mag_sdss", "{b}mag_sdss"),
        ("sdss_err_{b}", "err_{b}"),
    ),
    Family("petroMag", ("petromag_{b}", "petro_mag_{b}", "{b}_petromag")),
    Family("fiberMag", ("fibermag_{b}", "fiber_mag_{b}", "fiber2mag_{b}")),
    Family("psfFlux", ("psfflux_{b}",), (), True, "nanomaggy"),
    Family("modelFlux", ("modelflux_{b}",), (), True, "nanomaggy"),
    Family("cModelFlux", ("cmodelflux_{b}",), (), True, "nanomaggy"),
    Family("LSST_psfFlux", ("{b}_psfflux",), (), True, "nJy"),
    Family("LSST_cModelFlux", ("{b}_cmodelflux",), (), True, "nJy"),
    Family("flux", ("flux_{b}", "{b}_flux", "{b}flux", "psf_flux_{b}", "model_flux_{b}"), (), True),
    Family("dered_flux", ("dered_flux_{b}",), (), True, "", True),
)
NAMES: dict[str, tuple[str, ...]] = {
    "objid": (
        *("objid", "obj_id", "photoobjid", "photo_objid", "sdss_objid", "bestobjid", "objectid", "object_id"),
        *("source_id", "sourceid", "coadd_object_id", "id"),
    ),
    "ra": (
        *("ra", "raj2000", "ra_j2000", "ra_icrs", "_raj2000", "_ra", "ra_deg", "radeg", "right_ascension", "ramean"),
        *("alpha", "alpha_j2000", "alpha_deg", "coord_ra", "ra_rad", "rarad", "ra_radians", "alpha_rad"),
    ),
    "dec": (
        *("dec", "dej2000", "decj2000", "dec_j2000", "de_icrs", "dec_icrs", "_dej2000", "_de", "dec_deg", "decdeg"),
        *("dedeg", "declination", "decmean", "delta", "delta_j2000", "delta_deg", "coord_dec", "dec_rad", "decrad"),
        *("dec_radians", "delta_rad"),
    ),
    "redshift": ("redshift", "z_spec", "zspec", "specz", "spec_z", "z_sp", "zsp", "spz"),
}
# Names that are coordinates only where the other one is there too: alpha alone may be a spectral slope.
PAIRS = {"alpha": "delta", "delta": "alpha", "_ra": "_de", "_de": "_ra", "ramean": "decmean", "decmean": "ramean"}
WITHIN_FIELD = ("run", "camcol", "field")  # beside these SDSS's column id counts the objects of a field
RADIANS = ("ra_rad", "rarad", "ra_radians", "alpha_rad", "dec_rad", "decrad", "dec_radians", "delta_rad")
EITHER_ANGLE = ("coord_ra", "coord_dec")  # radians in files of the LSST pipelines, degrees in tables made of them
EXTINCTIONS = ("extinction_{b}", "a_{b}", "a{b}", "{b}_extinction", "ext_{b}", "a_sdss_{b}")
REDDENINGS = ("ebv", "e_bv", "e(b-v)", "ebmv", "ebv_sfd", "sfd_ebv", "ebv_sfd98")
# Surveys whose bands are not SDSS's, and what is in the names of their columns, of which one may be mapped by hand.
FOREIGN = (
    ("Gaia", r"phot_(g|bp|rp)|^(g|bp|rp)mag$|_jkc_"),
    ("Pan-STARRS", r"mean(psf|kron|ap)mag|_ps1_|^ps1?_"),
    ("DES", r"wavg_mag|mag_auto|_des_"),
    ("2MASS", r"^(j|h|ks?)_?m(ag)?$"),
    ("WISE", r"^w[1-4](mag|mpro|$)"),
    ("GALEX", r"[fn]uv"),
)
# A column z that has one of these beside it, and no error columns of four other bands, may be a redshift.
REDSHIFT_COMPANY = ("zerr", "z_err", "zwarning", "z_warning", "zwarn", "z_conf", "zconf")
# Shown by inspect and useful with --keep; a star catalog does not hold them.
SELECTORS = {
    "type": ("type", "phototype", "objtype", "probpsf"),
    "class": ("class", "sourcetype", "spectrotype", "cl", "spcl", "subclass"),
    "clean": ("clean", "flags_clean", "q_mode", "mode"),
}
ERRORS = tuple(ERROR_PREFIX + band for band in DEFAULT_BANDS)
TARGETS = (*NAMES, *DEFAULT_BANDS, *ERRORS)


def error_patterns(pattern: str, family: Family) -> tuple[str, ...]:
    """How the errors of columns named `pattern` may be named, those that follow from the name itself first."""
    word = "flux" if family.is_flux else "mag"
    own = [f"err_{pattern}", f"{pattern}_err", f"{pattern}err", f"e_{pattern}", f"sigma_{pattern}", f"{pattern}_error"]
    if word in pattern:
        own += [pattern.replace(word, word + end) for end in ("err", "_err", "_error")]
    return tuple(dict.fromkeys([*own, f"{pattern}_sigma", *family.errors]))


def inverse_variance_patterns(pattern: str) -> tuple[str, ...]:
    """How the inverse variances of fluxes named `pattern` may be named."""
    return (
        *(pattern.replace("flux", "flux" + end) for end in ("ivar", "_ivar") if "flux" in pattern),
        *(f"{pattern}_ivar", f"ivar_{pattern}", f"{pattern}ivar"),
    )
