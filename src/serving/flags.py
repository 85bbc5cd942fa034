"""Options of LLMServingSim that Penstock has under another name, or not at all.

Refused with one sentence where they would change the result; accepted with a notice where they cannot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import StrictStr

from penstock.cli.described import flag_name
from penstock.cli.run import Translation
from penstock.errors import Problem
from penstock.spec.check import Raw, check_members
from penstock.spec.option_table import About, described
from penstock.spec.refusals import BLOCK_COPY, LOCAL_OFFLOADING
from serving.defaults import default_requests


def _ignored(text: str, metavar: str | None = None) -> About:
    return About("llmservingsim", text, "", metavar)


class Flags(Raw):
    """The options; None = not given."""

    request_routing_policy: Annotated[
        Literal["LOAD", "RR", "RAND", "CUSTOM"] | None, _ignored("Another name of --router")
    ] = None
    network_backend: Annotated[Literal["analytical", "ns3"] | None, _ignored("ns3 is not simulated")] = None
    expert_routing_policy: Annotated[
        Literal["BALANCED", "RR", "RAND", "CUSTOM"] | None,
        _ignored("Loads are those expected of random routing"),
    ] = None
    enable_local_offloading: Annotated[bool | None, _ignored("No effect: kernel times include it")] = None
    enable_block_copy: Annotated[bool | None, _ignored("No effect: layers are costed alike anyway")] = None
    skip_prefill: Annotated[bool | None, _ignored("Not simulated")] = None
    run_id: Annotated[
        StrictStr | None,
        About("llmservingsim", "Stands for {run_id} in paths of outputs", "run", "NAME"),
    ] = None
    inputs_root: Annotated[
        StrictStr | None, _ignored("No effect: no intermediate inputs are written", "PATH")
    ] = None
    cleanup_inputs: Annotated[bool | None, _ignored("No effect, as above")] = None


OPTIONS = described(Flags)
DEFAULT_RUN_ID = "run"


def translate(given: Mapping[str, Any]) -> Translation:
    """What all options given to ``python -m serving`` come to as options of ``penstock run``."""
    problems: list[Problem] = []
    foreign = {name: value for name, value in given.items() if name in Flags.model_fields}
    options = {name: value for name, value in given.items() if name not in Flags.model_fields}
    flags = check_members(Flags, foreign, lambda loc: flag_name(str(loc[0])) if loc else "", problems).value
    problems += [Problem(flag_name(name), why) for name, why in _refusals(flags).items()]
    router = _router(flags.request_routing_policy, options.get("router"), problems)
    return Translation(
        # LLMServingSim has no host; who asks for one gets it.
        options=options | {"router": router, "engine_overhead": options.get("engine_overhead") or "none"},
        run_id=flags.run_id or DEFAULT_RUN_ID,
        default_requests=default_requests,
        logs_words=True,
        notices=[f"{flag_name(name)}: {why}" for name, why in _notices(flags).items()],
        problems=problems,
    )


def _router(policy: str | None, router: str | None, problems: list[Problem]) -> str | None:
    if policy == "CUSTOM" and router is None:
        problems.append(Problem("--request-routing-policy", "CUSTOM needs --router module:Class"))
    if policy not in (None, "CUSTOM") and router not in (None, policy):
        message = f"'{router}' contradicts --request-routing-policy {policy}"
        problems.append(Problem("--router", message))
    return router if policy in (None, "CUSTOM") else policy


def _refusals(flags: Flags) -> dict[str, str]:
    """Those that cannot be honoured, each with the reason."""
    refused: dict[str, str] = {}
    if flags.skip_prefill:
        refused["skip_prefill"] = (
            "runs without prefill are not simulated: LLMServingSim runs the prompts too, unmeasured"
        )
    if flags.expert_routing_policy == "CUSTOM":
        refused["expert_routing_policy"] = (
            "a routing function of one's own is not simulated: give an instance's expert_popularity"
        )
    if flags.network_backend == "ns3":
        refused["network_backend"] = (
            "ns3 is not simulated, nor does it run in LLMServingSim: the network is 'analytical'; "
            "shared_node_links of a cluster config lets hops contend"
        )
    return refused


def _notices(flags: Flags) -> dict[str, str]:
    """Those that change nothing, each with the reason."""
    notices: dict[str, str] = {}
    if flags.enable_block_copy:
        notices["enable_block_copy"] = BLOCK_COPY
    if flags.enable_local_offloading:
        notices["enable_local_offloading"] = LOCAL_OFFLOADING
    if flags.expert_routing_policy == "RR":
        notices["expert_routing_policy"] = (
            "RR has no effect: experts are loaded as expected of random routing (LLMServingSim's RR sends all tokens "
            "to the first experts)"
        )
    given = (name for name in ("inputs_root", "cleanup_inputs") if getattr(flags, name) is not None)
    return notices | dict.fromkeys(given, "has no effect: no intermediate inputs are written")
