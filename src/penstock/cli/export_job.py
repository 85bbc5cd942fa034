"""Steps of a run to execution traces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.api import load_scenario
from penstock.cli.described import flag_name
from penstock.cost.step_cost import StepShape
from penstock.cost.step_rows import StepRows
from penstock.engine.build import build_instances
from penstock.engine.observer import Observer, StepView
from penstock.engine.simulation import Simulation
from penstock.errors import Problem, UserError
from penstock.files.use import FileUse
from penstock.recording.records import TurnChunk
from penstock.rendering.chakra import ChakraExport, TracedStep, chakra_schema


@dataclass(frozen=True, slots=True, kw_only=True)
class ChakraQuestion:
    """The options of ``penstock export chakra``."""

    cluster: str
    dataset: str
    output: str
    name: str
    instance: int
    steps: str
    durations: str
    options: Mapping[str, Any]


def export_chakra(question: ChakraQuestion) -> None:
    """Run, and write the traces.

    Raises:
        UserError: a mistake in the options or inputs, or an instance whose rows are not known.
    """
    problems: list[Problem] = []
    first, last = _range(question.steps, problems)
    if question.durations not in ("us", "ns"):
        problems.append(Problem("--durations", f"must be us or ns, not '{question.durations}'"))
    if not question.name or "/" in question.name:
        problems.append(Problem("--name", "must be the name of a file, without directories"))
    try:
        scenario = load_scenario(question.cluster, question.dataset, question.options, flag_name)
    except UserError as error:
        raise UserError([*problems, *error.problems]) from None
    instances = scenario.cluster.instances
    if question.instance >= len(instances):
        problems.append(
            Problem("--instance", f"there is no instance {question.instance}: there are {len(instances)}")
        )
    else:
        spec = instances[question.instance]
        files = [
            Path(question.output) / f"{question.name}.{npu}.et" for npu in range(spec.tp_size * spec.pp_size)
        ]
        reads = {"CLUSTER": question.cluster, "--dataset": question.dataset}
        problems += FileUse(reads=reads, writes={"--output": files}).problems()
    if problems:
        raise UserError(problems)
    chakra_schema()
    root = Path(scenario.options.profile_root) if scenario.options.profile_root else None
    built = build_instances(scenario.cluster, root)
    chosen = built[question.instance]
    spec = chosen.spec
    layers = spec.model.cut(chosen.deployment.layers)
    try:
        rows = StepRows(spec, scenario.cluster, layers, chosen.cost.stage, root)
    except LookupError as error:
        raise UserError([Problem("--instance", f"{question.instance} cannot be exported: {error}")]) from None
    watch = StepWatch(question.instance, spec.pp_size, last)
    simulation = Simulation(
        scenario.cluster,
        scenario.workload,
        scenario.options,
        sinks=[watch],
        observers=[watch],
        built=built,
    )
    simulation.run()
    steps = watch.steps()[first:last]
    if not steps:
        raise UserError([Problem("--steps", f"the run has {watch.count} steps on that instance")])
    unit = "ns" if question.durations == "ns" else "us"
    export = ChakraExport(rows, spec.tp_size, spec.pp_size, unit)
    for step in steps:
        export.add(step)
    source = f"penstock: steps {first} to {first + len(steps) - 1} of instance {question.instance}"
    for path in export.write(Path(question.output), question.name, source):
        print(path)


class StepWatch(Observer):
    """Notes what the first ``limit`` steps of an instance hold, and when its stages start them."""

    def __init__(self, instance: int, pp_size: int, limit: int) -> None:
        self.count = 0
        self._instance = instance
        self._pp_size = pp_size
        self._limit = limit
        self._held: list[StepShape] = []
        self._starts: list[tuple[int, ...]] = []
        self._sampled: list[int] = []

    def step_scheduled(self, step: StepView) -> None:
        """Note the contexts."""
        if step.instance == self._instance and len(self._held) < self._limit:
            chunks = [(new, computed) for _, new, computed in step.scheduled if new > 1]
            contexts = [computed for _, new, computed in step.scheduled if new == 1]
            self._held.append(
                StepShape(
                    prefill_tokens=sum(new for new, _ in chunks),
                    prefill_context=sum(computed for _, computed in chunks),
                    decodes=len(contexts),
                    decode_context=sum(contexts),
                    min_context=min(contexts, default=0),
                    max_context=max(contexts, default=0),
                )
            )

    def accept(self, chunk: TurnChunk) -> None:
        """Note times, and how many sequences get a token."""
        if chunk.instance != self._instance:
            return
        has_tokens = chunk.column("tokens") > 0
        self.count += int(has_tokens.sum())
        starts = [chunk.stage(stage, "start")[has_tokens].tolist() for stage in range(self._pp_size)]
        self._starts += zip(*starts, strict=True)
        self._sampled += chunk.column("sampled")[has_tokens].tolist()

    def steps(self) -> list[TracedStep]:
        """All noted."""
        return [
            TracedStep(
                number,
                StepShape(
                    held.prefill_tokens,
                    held.prefill_context,
                    held.decodes,
                    held.decode_context,
                    held.min_context,
                    held.max_context,
                    sampled,
                ),
                starts,
            )
            for number, (held, starts, sampled) in enumerate(
                zip(self._held, self._starts, self._sampled, strict=False)
            )
        ]


def _range(text: str, problems: list[Problem]) -> tuple[int, int]:
    first, sign, last = text.partition(":")
    if sign and first.isdecimal() and last.isdecimal() and int(first) < int(last):
        return int(first), int(last)
    problems.append(Problem("--steps", f"must be FROM:TO with FROM < TO, such as 0:4, not '{text}'"))
    return 0, 1
