"""Write the table of options in docs/options.md from the option table of the code."""

from __future__ import annotations

from pathlib import Path

from penstock.spec.option_table import Option, run_options

PAGE = Path(__file__).resolve().parent.parent / "docs" / "options.md"
BEGIN, END = "<!-- begin: python tools/update_options_page.py -->\n", "<!-- end -->\n"


def table() -> str:
    """A row per option."""
    rows = ["| option | takes | meaning | default | where |", "|---|---|---|---|---|"]
    return "\n".join([*rows, *map(_row, run_options())]) + "\n"


def _row(option: Option) -> str:
    takes = ", ".join(f"`{choice}`" for choice in option.choices) or option.metavar.lower().replace(
        "|", " or "
    )
    places = {"everywhere": "", "command line": "command line only", "python": "Python only"}
    where = "also per instance" if option.per_instance else places[option.about.on]
    return f"| `{option.name}` | {takes} | {option.about.text} | {option.default} | {where} |"


def page(text: str) -> str:
    """The page with its table replaced."""
    head, _, rest = text.partition(BEGIN)
    return head + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
