"""The documentation is true: links lead somewhere, commands parse, configs load, keys and messages exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer.main
from commands import REPOSITORY

from hpc_ae.cluster import SBATCH_OPTIONS
from hpc_ae.config import check_config, known_keys
from hpc_ae.jobs.cli import app
from hpc_ae.yaml_loader import apply_override, parse_yaml

PAGES = sorted(path for folder in ("", "docs", "benchmarks") for path in (REPOSITORY / folder).glob("*.md"))
CONFIGS = sorted((REPOSITORY / "configs").rglob("*.yaml"))
LAUNCHERS = ("torchrun", "srun", "mpiexec")


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page that are of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def typed(text: str) -> list[list[str]]:
    """The words of every `hpc-ae` command in some shell lines, also after &&, or behind a launcher."""
    found = []
    for line in re.split(r"\n|&&|;", text.replace("\\\n", " ")):
        words = shlex.split(line, comments=True)
        if words and words[0] in LAUNCHERS:
            place = words.index("hpc-ae") if "hpc-ae" in words else words.index("hpc_ae")
            words = ["hpc-ae", *words[place + 1 :]]
        if words and words[0] == "hpc-ae":
            found.append(words[1:])
    return found


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every command in fenced blocks, in `hpc-ae ...` within text, and in comments of configs."""
    found = []
    for path in PAGES:
        texts = blocks(path, "bash")
        texts += [code for code in re.findall(r"`(hpc-ae [^`]+)`", path.read_text()) if code.split()[1].islower()]
        found += [(path.name, words) for text in texts for words in typed(text)]
    for path in CONFIGS:
        lines = re.findall(r"^#\s+(hpc-ae .*)$", path.read_text(), re.MULTILINE)
        found += [(path.name, words) for line in lines for words in typed(line)]
    return found


@pytest.mark.parametrize(("page", "words"), commands(), ids=str)
def test_commands_parse(page: str, words: list[str]) -> None:
    """Every command that a page shows has options and arguments that there are; overrides name real keys."""
    command = typer.main.get_command(app)
    given = [word for word in words if word != "--debug"]
    if given == ["--help"] or given == ["--version"]:
        return
    context = command.make_context("hpc-ae", list(given), resilient_parsing=True)
    while hasattr(command, "resolve_command"):
        _, command, given = command.resolve_command(context, given)  # type: ignore[attr-defined]
        if command.name != "model" and "..." in given:
            return  # a form, not a command
    if not given and len(words) == 1:
        return  # text that speaks of the command
    parsed = command.make_context(command.name, list(given)).params
    for override in parsed.get("overrides") or []:
        if re.fullmatch(r"section\.key=value|KEY=VALUE", override, re.IGNORECASE):
            continue
        values: dict[str, object] = {}
        apply_override(values, override)
        assert override.partition("=")[0] in known_keys(), override


def test_there_are_commands_to_parse() -> None:
    """The pages show commands of every kind that a user types."""
    shown = {words[0] for _, words in commands() if words}
    assert {"run", "status", "logs", "cancel", "check", "plan", "doctor", "init", "verify", "ingest", "model"} <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page is a file of the project, every #anchor a heading of it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+://", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, target


def test_every_page_is_reached_from_the_readme() -> None:
    """The README links to every page of docs/."""
    readme = (REPOSITORY / "README.md").read_text()
    assert [path.name for path in (REPOSITORY / "docs").glob("*.md") if f"docs/{path.name}" not in readme] == []


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=lambda path: path.name)
def test_shown_configs_load(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every YAML block of a page is a config, or part of one."""
    monkeypatch.delenv("SCRATCH", raising=False)
    for block in blocks(page, "yaml"):
        check_config({"run_dir": "x", **parse_yaml(block, page)}, page)


def test_keys_that_pages_name_exist() -> None:
    """Every `section.key` in the text of a page is a key of the config."""
    sections = {key for key in known_keys() if "." not in key}
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for code in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?:[:=][^`]*)?`", page.read_text()):
            if code.split(".")[0] in sections and not code.endswith((".py", ".json", ".yaml", ".h5", ".safetensors")):
                assert code in known_keys(), f"{page.name}: {code}"


def test_messages_of_the_troubleshooting_page_exist() -> None:
    """Every message that the page explains stands in the source."""
    source = "\n".join(path.read_text() for root in ("hpc_ae", "jobs") for path in (REPOSITORY / root).rglob("*.py"))
    messages = re.findall(r"^### (.*)$", (REPOSITORY / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(messages) > 15
    assert [message for message in messages if message not in source] == []


def test_options_of_the_administrators_page_are_those_of_the_code() -> None:
    """The allow-list of sbatch's options is the one that the config model has."""
    text = " ".join((REPOSITORY / "docs" / "administrators.md").read_text().split())
    assert ", ".join(SBATCH_OPTIONS) in text


def test_tests_that_the_promises_name_exist() -> None:
    """Every test file that docs/reliability.md names is there."""
    named = set(re.findall(r"`(tests/\w+\.py)`", (REPOSITORY / "docs" / "reliability.md").read_text()))
    assert len(named) > 8 and [name for name in named if not (REPOSITORY / name).exists()] == []


def tracked_pages() -> list[Path]:
    """Every Markdown file that git tracks."""
    listed = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=REPOSITORY, capture_output=True, text=True)
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name] or PAGES


def test_lines_fit() -> None:
    """No line of a page has more than 120 characters; rows of tables, which cannot be broken, may."""
    long = [
        f"{page.relative_to(REPOSITORY)}:{number}"
        for page in tracked_pages()
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if len(line) > 120 and not line.startswith("|")
    ]
    assert long == []


# What nobody says or searches for, and what stands there instead.
UNSAID = {
    r"\banew\b": "again",
    r"\bfor want of\b": "because ... is missing",
    r"\banother than\b": "not the",
    r"\b(has|have|had) not (the|its|their|one|a|an)\b": "does not have, does not match",
    r"\blacks an?\b": "is missing",
}


def test_words_that_one_would_search_for() -> None:
    """Messages, help and comments in the source, and every page, say what a colleague would say."""
    sources = [path for root in ("hpc_ae", "jobs") for path in (REPOSITORY / root).rglob("*.py")]
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}: {said[0]!r}: say {instead!r}"
        for path in [*tracked_pages(), *sources]
        for number, line in enumerate(path.read_text().splitlines(), 1)
        for words, instead in UNSAID.items()
        if (said := re.search(words, line, re.IGNORECASE))
    ]
    assert found == []
