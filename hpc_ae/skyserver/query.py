"""A SQL query cut into pages: TOP n rows above a key, in the order of the key.

The text stays the user's own. Only its outer clauses are found, so that the page's condition lands in the right place;
SkyServer joins the lines of a query, so comments, which would swallow what follows them, are taken out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files

from hpc_ae.errors import InputError

MOST_PAGE_ROWS = 500_000  # SkyServer refuses a larger TOP
_TOKEN = re.compile(
    r"(?P<gap>(?:\s|--[^\n]*|/\*.*?\*/)+)|'(?:[^']|'')*'|\"[^\"]*\"|\[[^\]]*\]|(?P<word>\w+)|.", re.DOTALL
)
_KEY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
# What may stand between the parentheses of a subquery only.
_REFUSED = {
    "INTO": "the answer comes to this machine, not into a table",
    "ORDER": "pages are in the order of the key",
    "OFFSET": "pages are cut by the key",
    "OPTION": "hints are not passed on",
    "UNION": "put the union into FROM (...) AS one",
    "EXCEPT": "put the query into FROM (...) AS one",
    "INTERSECT": "put the query into FROM (...) AS one",
    "PERCENT": "TOP takes a number",
    "TIES": "TOP takes a number",
}


@dataclass(frozen=True)
class PagedQuery:
    """A query's outer clauses. `top` is the number after TOP, None where there is none: all rows."""

    select: str
    columns: str
    condition: str
    tail: str
    key: str
    top: int | None

    @property
    def key_column(self) -> str:
        """The key's name in the header of an answer."""
        return self.key.rpartition(".")[2]

    def column_names(self) -> list[str] | None:
        """The names that an answer's header must have, lower case; "" where one cannot be told, None where `*` is."""
        items: list[list[str]] = [[]]
        for word, _ in _at_depth_zero(_tokens(self.columns, "")):
            if word.upper() == "FROM":
                break
            if word == ",":
                items.append([])
            elif word != " ":
                items[-1].append(word)
        if any(item[-1:] == ["*"] for item in items):
            return None
        names = [_column_name(item) for item in items]
        return [name if names.count(name) == 1 else "" for name in names]

    @property
    def text(self) -> str:
        """The whole query on one line, without TOP: what decides which rows there are."""
        where = f" WHERE {self.condition}" if self.condition else ""
        return f"{self.select} {self.columns}{where}{self.tail}"

    def page(self, num_rows: int, above: int | None = None, until: int | None = None) -> str:
        """The query of a page: at most num_rows rows with above < key <= until, lowest keys first."""
        conditions = [self.condition] if self.condition else []
        conditions += [f"{self.key} > {above}"] if above is not None else []
        conditions += [f"{self.key} <= {until}"] if until is not None else []
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        return f"{self.select} TOP {num_rows} {self.columns}{where}{self.tail} ORDER BY {self.key}"


def lecture_query() -> str:
    """The SQL of the lecture that this project grew out of, with the id added."""
    return (files("hpc_ae.skyserver") / "sky_query.sql").read_text()


def parse_query(sql: str, key: str, where: object) -> PagedQuery:
    """The outer clauses of a SELECT, to be paged by `key`, a column of integers such as p.objid.

    InputError where it cannot be paged; `where` is the file's name for the message.
    """
    if not _KEY.fullmatch(key):
        raise InputError("not the name of a column", where="--key", got=key, expected="a name such as p.objid")
    tokens = _tokens(sql, where)
    words = [token.upper() for token in tokens]
    if not words or words[0] != "SELECT":
        raise InputError("not a SELECT query", where=where, got=sql.strip()[:60], expected="SELECT ... FROM ...")
    start = 1
    while start < len(words) and words[start] in (" ", "DISTINCT", "ALL"):
        start += 1
    select = "".join(tokens[:start]).strip()
    top, start = _read_top(tokens, start, where)
    outer = _outer_words(words, start, where)
    if "FROM" not in outer:
        raise InputError("the query has no FROM", where=where, expected="SELECT ... FROM ... [WHERE ...]")
    end = min((outer[name] for name in ("GROUP", "HAVING") if name in outer), default=len(tokens))
    middle = outer.get("WHERE", end)
    condition = "".join(tokens[middle + 1 : end]).strip()
    if any(word == "OR" for word, _ in _at_depth_zero(words[middle + 1 : end])):
        condition = f"({condition})"
    tail = "".join(tokens[end:]).strip()
    columns = "".join(tokens[start:middle]).strip()
    return PagedQuery(select, columns, condition, f" {tail}" if tail else "", key, top)


def _column_name(item: list[str]) -> str:
    """What SQL Server calls a selected item: its alias or column; "" where that is not its last word."""
    last = item[-1].strip('[]"').lower() if item and "=" not in item else ""
    return last if re.fullmatch(r"[a-z_]\w*", last) else ""


def _tokens(sql: str, where: object) -> list[str]:
    """Words, strings and signs; each run of spaces, line ends and comments is one space."""
    tokens = [" " if match["gap"] else match[0] for match in _TOKEN.finditer(sql.strip().rstrip(";").strip())]
    tokens = tokens[1:] if tokens and tokens[0] == " " else tokens
    wrong = {"'", '"', "[", ";"} & set(tokens)
    if wrong:
        what = "more than one statement" if wrong == {";"} else "a quote or bracket is not closed"
        raise InputError(what, where=where, got=" ".join(sorted(wrong)), expected="one SELECT")
    return tokens


def _read_top(tokens: list[str], start: int, where: object) -> tuple[int | None, int]:
    """The number after TOP and where the columns begin."""
    if start >= len(tokens) or tokens[start].upper() != "TOP":
        return None, start
    number = re.match(r"\s*(?:(\d+)|\(\s*(\d+)\s*\))\s", "".join(tokens[start + 1 :]))
    if number is None or int(number[1] or number[2]) < 1:
        raise InputError(
            "cannot read TOP", where=where, got="".join(tokens[start : start + 4]), expected="TOP 255000, a number"
        )
    taken, end = 0, start + 1
    while taken < number.end():
        taken += len(tokens[end])
        end += 1
    return int(number[1] or number[2]), end


def _at_depth_zero(words: list[str]) -> list[tuple[str, int]]:
    """The words outside all parentheses, with their places."""
    found, depth = [], 0
    for place, word in enumerate(words):
        depth += (word == "(") - (word == ")")
        if depth == 0:
            found.append((word, place))
    return found


def _outer_words(words: list[str], start: int, where: object) -> dict[str, int]:
    """Where the outer clauses begin; InputError where one of them cannot be paged."""
    if words.count("(") != words.count(")"):
        raise InputError("parentheses do not match", where=where, got=f"{words.count('(')} (, {words.count(')')} )")
    outer: dict[str, int] = {}
    for word, place in _at_depth_zero(words[start:]):
        if word in _REFUSED:
            raise InputError(
                f"the query's {word} cannot be paged", where=where, expected=_REFUSED[word], fix=f"remove {word}"
            )
        if word in ("FROM", "WHERE", "GROUP", "HAVING"):
            outer.setdefault(word, start + place)
    return outer
