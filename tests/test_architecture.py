"""The rules of the house, read off the source: who imports whom, how long things are, what is annotated."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
APPLICATION = REPOSITORY / "jobs"  # installed as hpc_ae.jobs, by a link
SOURCES = sorted(path for root in ("hpc_ae", "jobs") for path in (REPOSITORY / root).rglob("*.py"))
NAMES = [str(path.relative_to(REPOSITORY)) for path in SOURCES]
GROUND = {
    "config",
    "cluster",
    "sections",
    "yaml_loader",
    "files",
    "errors",
    "interpreter",
    "layout",
    "private",
    "provenance",
    "version",
    "reading",
    "record",
    "secrets",
}
ROOMS = {path.name for path in (REPOSITORY / "hpc_ae").iterdir() if (path / "__init__.py").exists()} - {"jobs"}

# The arrows that the drawing in docs/architecture.md shows: room -> room.
ROOM_ARROWS = {("readers", "catalog"), ("runtime", "model"), ("formats", "catalog"), ("formats", "analysis")} | {
    *(("survey", room) for room in ("catalog", "analysis", "formats", "model", "report", "runtime")),
    *(("training", room) for room in ("catalog", "analysis", "model", "runtime")),
}
# What each file of the ground floor stands on.
GROUND_ARROWS = {(name, "errors") for name in GROUND - {"errors"}} | {
    ("config", "files"),
    ("config", "yaml_loader"),
    ("config", "cluster"),
    ("config", "layout"),
    ("config", "sections"),
    ("config", "secrets"),
    ("cluster", "sections"),
    ("sections", "reading"),
    ("record", "files"),
    ("provenance", "record"),
    ("provenance", "secrets"),
    ("provenance", "version"),
}
# Foreign library: the files that may import it, by the beginning of their paths.
DOORS = {
    "h5py": ("hpc_ae/catalog/", "hpc_ae/readers/", "hpc_ae/formats/hdf5_table.py"),
    "zstandard": ("hpc_ae/formats/streams.py",),
    "pyarrow": ("hpc_ae/readers/", "hpc_ae/catalog/arrow.py", "hpc_ae/formats/"),
    "onnx": ("hpc_ae/model_export",),
    "onnxruntime": ("hpc_ae/model_export",),
    "torch.distributed": ("hpc_ae/runtime/",),
    "mpi4py": ("hpc_ae/runtime/",),
    "requests": ("hpc_ae/skyserver/",),
    "cdshealpix": ("hpc_ae/catalog/sky.py",),
    "submitit": ("jobs/",),
    "typer": ("jobs/",),
    "matplotlib": ("hpc_ae/report/",),
    "jinja2": ("hpc_ae/report/page.py",),
}


@cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> set[str]:
    """Full names of everything a file imports, inside functions too; `from a import b` is a.b."""
    found = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def place(module: str) -> str:
    """Where a module of hpc_ae lives: a ground floor's name, a room's, a verb's, or "" for the package itself."""
    parts = module.split(".")
    known = (REPOSITORY / "hpc_ae" / parts[1]).is_dir() or (REPOSITORY / "hpc_ae" / f"{parts[1]}.py").exists()
    return parts[1] if known else ""


def module_name(path: Path) -> str:
    """`hpc_ae.catalog.shard` for hpc_ae/catalog/shard.py; a package's name for its __init__.py."""
    name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
    return f"hpc_ae.{name}" if path.is_relative_to(APPLICATION) else name


def arrows() -> Iterator[tuple[str, str]]:
    """(importer's place, imported place) for all imports within hpc_ae that leave their place."""
    for path in SOURCES:
        if path.is_relative_to(APPLICATION) or module_name(path) in ("hpc_ae", "hpc_ae.__main__"):
            continue
        here = place(module_name(path))
        for name in imports(path):
            if name.startswith("hpc_ae.") and place(name) not in ("", here):
                yield here, place(name)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a file."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def public_functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions of a module and methods of its public classes whose names have no underscore in front."""
    tree = parse(path)
    holders = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_")]
    for holder in holders:
        for node in holder.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                yield node


def tracked_files() -> list[Path]:
    """Files that git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPOSITORY, capture_output=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [REPOSITORY / os.fsdecode(name) for name in listed.stdout.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


def test_library_does_not_know_the_application() -> None:
    """No file of hpc_ae imports hpc_ae.jobs, but the door of `python -m hpc_ae`; none imports a folder beside it."""
    library = [path for path in SOURCES if not path.is_relative_to(APPLICATION) and path.name != "__main__.py"]
    used = {(str(path), name) for path in library for name in imports(path)}
    assert not {one for one in used if one[1].startswith("hpc_ae.jobs")}
    assert not {
        name for path in SOURCES for name in imports(path) if name.split(".")[0] in ("jobs", "tests", "configs")
    }


def test_verbs_do_not_import_each_other() -> None:
    """A verb uses rooms and the ground floor only."""
    verbs = {path.stem for path in (REPOSITORY / "hpc_ae").glob("*.py")} - GROUND - {"__init__", "__main__"}
    assert {"simulate", "ingest", "train", "encode", "postprocess", "verify"} <= verbs
    assert not {arrow for arrow in arrows() if arrow[0] in verbs and arrow[1] in verbs}


def test_rooms_stand_on_the_ground_and_know_no_config() -> None:
    """A room imports no verb and not the config: it takes plain values."""
    below = (GROUND - {"config"}) | ROOMS
    assert not {arrow for arrow in arrows() if arrow[0] in ROOMS and arrow[1] not in below}


def test_rooms_use_each_other_as_drawn() -> None:
    """The arrows between rooms are those that the drawing in docs/architecture.md shows."""
    assert {arrow for arrow in arrows() if set(arrow) <= ROOMS} == ROOM_ARROWS
    drawing = (REPOSITORY / "docs" / "architecture.md").read_text()
    shown = set(re.findall(r"`(\w+) -> (\w+)`", drawing))
    assert {arrow for arrow in shown if set(arrow) <= ROOMS} == ROOM_ARROWS


def test_drawing_names_every_room_verb_and_file_of_jobs() -> None:
    """Nothing of the house is missing in docs/architecture.md."""
    drawing = (REPOSITORY / "docs" / "architecture.md").read_text()
    names = {f"{room}/" for room in ROOMS} | {
        path.name for root in ("hpc_ae", "jobs") for path in (REPOSITORY / root).glob("*.py")
    }
    assert not {name for name in names - {"__init__.py"} if name not in drawing}


def test_ground_floor_stands_on_itself() -> None:
    """The ground floor imports errors and nothing above itself."""
    assert {arrow for arrow in arrows() if arrow[0] in GROUND} <= GROUND_ARROWS


def test_package_itself_is_cheap() -> None:
    """hpc_ae/__init__.py offers open_catalog and its version, and imports no other module of the house."""
    names = imports(REPOSITORY / "hpc_ae" / "__init__.py")
    offered = {"hpc_ae.catalog.catalog.open_catalog", "hpc_ae.version.__version__"}
    assert {name for name in names if name.startswith("hpc_ae")} == offered


def test_python_is_started_in_one_place() -> None:
    """Only interpreter.py names what to start; a damaged shard is read by a line of code, doctor shows it."""
    users = {name for name in NAMES if "sys.executable" in (REPOSITORY / name).read_text()}
    assert users == {"hpc_ae/interpreter.py", "hpc_ae/catalog/check.py", "jobs/doctor.py"}


@pytest.mark.parametrize("library", DOORS)
def test_one_door_per_foreign_library(library: str) -> None:
    """A foreign library is imported only where its door is."""
    users = {
        name
        for path, name in zip(SOURCES, NAMES, strict=True)
        if any(f"{used}.".startswith(f"{library}.") for used in imports(path))
    }
    assert not {name for name in users if not name.startswith(DOORS[library])}
    assert users


@pytest.mark.parametrize("name", NAMES)
def test_sizes(name: str) -> None:
    """No file above 400 lines, no function above 60, at most 6 parameters (a command's are its options)."""
    path = REPOSITORY / name
    assert len(path.read_text().splitlines()) <= 400
    long = {one.name: one.end_lineno - one.lineno + 1 for one in functions(path) if one.end_lineno is not None}
    assert not {key: lines for key, lines in long.items() if lines > 60}
    if not re.fullmatch(r"jobs/cli\w*\.py", name):
        assert not {one.name for one in functions(path) if num_parameters(one) > 6}


def num_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Parameters of a function, `self` and `cls` not counted."""
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return len([one for one in every if one.arg not in ("self", "cls")])


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_is_a_tuple_of_several_things(name: str) -> None:
    """What belongs together has a name and named parts: a tuple of different types is no parameter, nor an alias."""
    path = REPOSITORY / name
    given = {
        f"{function.name}({one.arg})": one.annotation
        for function in functions(path)
        for one in [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        if one.annotation is not None
    }
    aliases = {ast.unparse(node.targets[0]): node.value for node in parse(path).body if isinstance(node, ast.Assign)}
    mixed = {key for key, annotation in given.items() if any(map(is_mixed_tuple, ast.walk(annotation)))}
    assert not mixed | {key for key, value in aliases.items() if is_mixed_tuple(value)}


def is_mixed_tuple(node: ast.AST) -> bool:
    """Whether an annotation is `tuple[A, B]` of different types."""
    if not isinstance(node, ast.Subscript) or ast.unparse(node.value) != "tuple":
        return False
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return len({ast.unparse(part) for part in parts} - {"..."}) > 1


@pytest.mark.parametrize("name", NAMES)
def test_public_functions_are_annotated_and_documented(name: str) -> None:
    """Every public function has a docstring and annotations, every file a docstring."""
    path = REPOSITORY / name
    assert ast.get_docstring(parse(path))
    for function in public_functions(path):
        assert ast.get_docstring(function), f"{function.name} has no docstring"
        given = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        bare = [one.arg for one in given if one.annotation is None and one.arg not in ("self", "cls")]
        assert not bare, f"{function.name}: {bare} not annotated"
        assert function.returns is not None, f"{function.name}: result not annotated"


def own_modules(path: Path) -> set[str]:
    """The modules of the house that a file imports, inside functions and for type checkers too."""
    names = {module_name(source) for source in SOURCES}
    found = set()
    for name in imports(path):
        while name and name not in names:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {"", module_name(path)}


def test_no_circles() -> None:
    """No module imports itself by way of others, not even inside a function."""
    left = {module_name(path): own_modules(path) for path in SOURCES}
    while free := {name for name, used in left.items() if not used & left.keys()}:
        left = {name: used for name, used in left.items() if name not in free}
    while unused := left.keys() - {one for used in left.values() for one in used}:  # stands on a circle, is in none
        left = {name: used for name, used in left.items() if name not in unused}
    assert not left


def parameters() -> Iterator[tuple[str, ast.arg]]:
    """(where, parameter) of every annotated parameter of every function."""
    for path, name in zip(SOURCES, NAMES, strict=True):
        for function in functions(path):
            every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            yield from ((f"{name}:{function.lineno} {function.name}", one) for one in every if one.annotation)


def test_no_options_are_gathered_by_locals() -> None:
    """What a command was told has names and types: `locals()` has neither."""
    calls = (node for path in SOURCES for node in ast.walk(parse(path)) if isinstance(node, ast.Call))
    assert not [call.lineno for call in calls if ast.unparse(call.func) == "locals"]


def test_no_verb_takes_the_whole_config() -> None:
    """A function of the library takes settings and paths; only the application knows a run's whole config."""
    taken = {where for where, one in parameters() if one.annotation and "RunConfig" in ast.unparse(one.annotation)}
    assert not {where for where in taken if where.startswith("hpc_ae/") and not where.startswith("hpc_ae/config.py")}


def test_dictionaries_of_anything_are_few() -> None:
    """Records have types: `dict[str, Any]` is for JSON and YAML on its way to one."""
    lines = [line for path in SOURCES for line in path.read_text().splitlines() if "dict[str, Any]" in line]
    assert len(lines) < 40


def path_parts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of the texts that are joined to a path with `/` or that look like a file's whole name."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            texts = node.right.values if isinstance(node.right, ast.JoinedStr) else [node.right]
            for text in texts:
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    yield node.lineno, text.value
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"\w+\.\w+", node.value):
            yield node.lineno, node.value


def test_files_of_a_run_are_named_in_one_place() -> None:
    """The names of the files and directories of a run stand in hpc_ae/layout.py alone."""
    layout = REPOSITORY / "hpc_ae" / "layout.py"
    names = {text for _, text in path_parts(layout)} - {"-", "_", ".json"}
    assert {"config.yaml", "manifest.json", "model.json", "checkpoints", "encoding", "jobs", "logs", "rank-"} <= names
    found = {
        f"{path.relative_to(REPOSITORY)}:{line}: {text}"
        for path in SOURCES
        if path != layout
        for line, text in path_parts(path)
        if text in names
    }
    assert not found


def test_functions_are_short() -> None:
    """The median function has 12 lines at most, nine of ten 35 at most."""
    lengths = sorted((one.end_lineno or 0) - one.lineno + 1 for path in SOURCES for one in functions(path))
    assert lengths[len(lengths) // 2] <= 12
    assert lengths[len(lengths) * 9 // 10] <= 35


def test_no_machine_is_named() -> None:
    """No tracked file names a path of one machine or a package registry's host."""
    is_everywhere = REPOSITORY.parent in (Path("/"), Path("/tmp"), Path("/var/tmp"), Path("/root"))
    here = re.escape(str(REPOSITORY if is_everywhere else REPOSITORY.parent))
    homes = r"/home/\w|/Users/\w|" + "/".join(["", "work", r"\w"]) + "|" + "/".join(["", "tmp", r"dev\b"])
    hosts = r"https?://[\w.-]*(pypi|pythonhosted|anaconda|artifactory|nexus)[\w.-]*|--(extra-)?index-url"
    pattern = re.compile(f"{here}/|{homes}|{hosts}")
    found = []
    for path in tracked_files():
        if path == Path(__file__) or path.suffix in (".png", ".h5", ".parquet", ".gz"):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(REPOSITORY)}:{number}: {line.strip()[:100]}")
    assert not found


def test_tests_use_public_names() -> None:
    """No test imports a private name of the package: what it promises is tested the way others use it."""
    private = [
        f"{path.name}: {name}"
        for path in sorted((REPOSITORY / "tests").glob("*.py"))
        for name in imports(path)
        if name.startswith("hpc_ae.") and re.search(r"\._[a-z]", name, re.IGNORECASE)
    ]
    assert private == []
