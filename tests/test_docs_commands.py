"""Every command of the pages runs, or stands in ``docs_commands.toml`` with a reason; its options exist either way."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.main import main
from penstock.cli.registry import COMMANDS, load_command
from serving.__main__ import main as serving_main
from serving.flags import OPTIONS

PROGRAMS = (
    "penstock",
    "python",
    "make",
    "pip",
    "vllm",
    "git",
    "docker",
    "curl",
    "hf",
    "npm",
    "uv",
    "uvx",
    "export",
)
COMMAND = re.compile(rf"^ *((?:[\w./-]+/)?(?:{'|'.join(PROGRAMS)}) [^\n]*)$", re.MULTILINE)
LISTED = tomllib.loads((Path(__file__).parent / "docs_commands.toml").read_text("utf-8"))


def commands_of(text: str) -> list[str]:
    """Every command line of a page: continued lines joined, comments left out."""
    text = text.replace("\\\n", " ")
    blocks = re.findall(r"(?ms)^```(?:sh|console)?\n(.*?)^```", text)
    blocks += re.findall(r"(?m)^    [a-z./].*$", re.sub(r"(?ms)^```.*?^```", "", text))
    found = [line for block in blocks for line in COMMAND.findall(block)]
    return [re.sub(r" +", " ", re.sub(r"\s+#.*$", "", line)).strip() for line in found]


def pages(repository: Path) -> dict[str, str]:
    paths = [
        repository / "README.md",
        repository / "PYPI.md",
        *sorted((repository / "docs").glob("[a-z]*.md")),
    ]
    return {path.name: path.read_text("utf-8") for path in paths}


def reason(page: str, command: str) -> int | None:
    """The place in the list of what says why a command is not run, or None."""
    for place, entry in enumerate(LISTED["not_run"]):
        told = command.startswith(entry["begins"]) if "begins" in entry else entry["holds"] in command
        if page in entry["pages"] and told:
            return place
    return None


def test_what_is_not_run_is_still_there(repository: Path) -> None:
    used = {
        (reason(page, command), page)
        for page, text in pages(repository).items()
        for command in commands_of(text)
    }
    stale = [
        (entry.get("begins", entry.get("holds")), page)
        for place, entry in enumerate(LISTED["not_run"])
        for page in entry["pages"]
        if (place, page) not in used
    ]
    assert stale == []
    assert all(entry["why"] for entry in LISTED["not_run"])


def test_tests_named_as_reasons_exist(repository: Path) -> None:
    named = {
        name for entry in LISTED["not_run"] for name in re.findall(r"tests/[\w/]+(?:\.py)?", entry["why"])
    }
    assert named
    assert [name for name in sorted(named) if not (repository / name).exists()] == []


def test_every_command_has_the_program_s_options(repository: Path) -> None:
    found = [(page, command) for page, text in pages(repository).items() for command in commands_of(text)]
    inline = [
        (page, " ".join(span.split()))
        for page, text in pages(repository).items()
        for span in re.findall(r"`(penstock [a-z]+ [^`]*-[^`]*)`", text)
    ]
    assert len(found) > 80
    wrong = [
        f"{page}: {command}: {why}"
        for page, command in [*found, *inline]
        if command.startswith("penstock ") and (why := _fault(command)) is not None
    ]
    assert wrong == []


def _fault(command: str) -> str | None:
    """An option or a command that the program does not have, or None."""
    words = shlex.split(command.replace("…", "x").replace("&&", ";").partition(";")[0])[1:]
    if words[0] not in COMMANDS:
        return None if words[0].startswith("-") else f"no command {words[0]}"
    target: Any = load_command(words[0])
    rest = words[1:]
    while rest and rest[0] in getattr(target, "commands", ()):
        target, rest = target.commands[rest[0]], rest[1:]
    known = {name for parameter in target.params for name in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help", "-h"} | {option.flag for option in OPTIONS}
    given = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    unknown = [word for word in given if word not in known]
    return f"no option {unknown}" if unknown else None


RUN = [
    page
    for page, text in pages(Path(__file__).parents[1]).items()
    if any(reason(page, command) is None for command in commands_of(text))
]


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    page: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "workloads", "examples"):
        (tmp_path / name).symlink_to(repository / name)
    for command in commands_of(pages(repository)[page]):
        if reason(page, command) is not None:
            continue
        words = shlex.split(_short(command))
        words = [LISTED["words"].get(word, word) for word in words]
        is_serving = words[:3] == ["python", "-m", "serving"]
        assert is_serving or words[0] == "penstock", (
            f"{command}: run it, or say in docs_commands.toml why not"
        )
        with pytest.raises(SystemExit) as left:
            (serving_main if is_serving else main)(words[3 if is_serving else 1 :])
        assert left.value.code in (0, None), (command, capsys.readouterr().err)
        capsys.readouterr()


def _short(command: str) -> str:
    for text, shorter in LISTED["shorter"].items():
        command = command.replace(text, shorter)
    return command
