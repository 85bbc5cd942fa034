"""LLMServingSim 2.0's shipped results beside ours, and how long both take.

    python tools/beside_llmservingsim.py results DATA
    python tools/beside_llmservingsim.py times DATA
    python tools/beside_llmservingsim.py results DATA --update-docs

DATA is the folder ``data/llmservingsim`` of docs/data.md: ``configs``, ``outputs``, ``perf``, ``workloads``.
``results`` takes about a minute. With ``--update-docs`` the table goes into docs/from-llmservingsim.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from upstream.compare import beside, mean_tpot_ms, mean_ttft_ms
from upstream.runs import RUNS
from upstream.times import times

PAGE = Path(__file__).resolve().parent.parent / "docs" / "from-llmservingsim.md"
_HEADER = (
    "| run | TTFT ms theirs, ours | TPOT ms theirs, ours | equal with the members below | equal by its rules "
    "| why ours differ |"
)


def results(data: Path) -> Iterator[str]:
    """The table, line by line."""
    yield _HEADER
    yield "|---|---|---|---|---|---|"
    for run in RUNS:
        both = beside(run, data)
        equal, count = both.equal(both.with_members)
        ruled = "not replayed" if both.by_rules is None else f"{both.equal(both.by_rules)[0]:,}"
        cells = (
            run.name,
            f"{mean_ttft_ms(both.theirs):.3f}, {mean_ttft_ms(both.ours):.3f}",
            f"{mean_tpot_ms(both.theirs):.3f}, {mean_tpot_ms(both.ours):.3f}",
            f"{equal:,} of {count:,}",
            ruled,
            "; ".join(run.why),
        )
        yield f"| {' | '.join(cells)} |"


def update(page: Path, name: str, lines: list[str]) -> None:
    """Put ``lines`` between the page's marks ``name``."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(f"<!-- begin: {name} -->\n", 1)
    after = rest.split("<!-- end -->", 1)[1]
    page.write_text(
        f"{before}<!-- begin: {name} -->\n" + "\n".join(lines) + f"\n<!-- end -->{after}", encoding="utf-8"
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("results", "times"))
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--update-docs", action="store_true")
    arguments = parser.parse_args()
    lines: list[str] = []
    table = {"results": results, "times": times}[arguments.what]
    for line in table(arguments.data):
        print(line, flush=True)
        lines.append(line)
    if arguments.update_docs:
        update(PAGE, f"python tools/beside_llmservingsim.py {arguments.what} DATA", lines)


if __name__ == "__main__":
    main()
