"""The part of a page where one deployment of many is looked at: a table that sorts and filters, and a pane beside it
(``assets/explore.js``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.accounting.bubbles import CAUSE_NAMES
from penstock.explore.charts import readable
from penstock.explore.load_test import Trial
from penstock.explore.result import PointResult
from penstock.explore.slo import shown_ns
from penstock.rendering import page
from penstock.rendering.page import Table

SCRIPT = "explore.js"
BELOW = '<div class="card detail" id="detail-below" hidden></div>'
"""Where the pane opens on a narrow screen, below the picture that was clicked."""

_ASIDE = (
    '<aside class="card detail" id="detail" tabindex="0" aria-label="The chosen deployment">'
    '<p class="soft">A point of a chart, or a row of the table, opens its run here.</p></aside>'
)


def beside_pane(pictures: str, title: str, rows: Table) -> str:
    """Pictures, then the table below ``title``, with the pane at their side. The rows' names are keys of
    ``page.points`` in the data of the document, values :func:`shown_in_pane`; ``page.best`` is the one shown first."""
    points = page.section(
        title,
        '<div class="card" id="points"><div class="filter"><label for="filter" class="small">show those with</label>'
        '<input id="filter" type="search" placeholder="H100 TP2"><span id="count" class="soft small" '
        f'aria-live="polite"></span></div>{page.table(rows)}</div>',
    )
    return f'<div class="with-detail"><div>{pictures}{points}</div>{_ASIDE}</div>'


def shown_in_pane(
    key: str,
    result: PointResult,
    *,
    summary: Sequence[str],
    command: str,
    config: Mapping[str, Any],
    trials: Sequence[Trial] | None = None,
) -> dict[str, Any]:
    """What the pane shows of a deployment; ``trials`` in the place of its own, where others belong to it."""
    trials = result.trials if trials is None else trials
    names = list(trials[0].statistics_ns) if trials else []
    return {
        "key": key,
        "label": result.point.label,
        "summary": list(summary),
        "basis": list(result.basis),
        "trial_head": ["requests/s", "seed", *map(readable, names), "within limits"],
        "trials": [
            [
                "all at once" if trial.rate_per_s is None else f"{trial.rate_per_s:.4g}",
                str(trial.seed),
                *("-" if (ns := trial.statistics_ns.get(name)) is None else shown_ns(ns) for name in names),
                f"{trial.attained:.1%}",
            ]
            for trial in trials
        ],
        "stages": [
            {
                "name": f"instance {stage['instance']} stage {stage['stage']}",
                "parts": [[cause, round(stage[cause], 5)] for cause in CAUSE_NAMES if stage.get(cause)],
            }
            for stage in result.stages
        ],
        "command": command,
        "config": dict(config),
    }
