"""The shipped container files: what can be checked without Docker."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from served import Served, starting

_NAME = re.compile(r"\b(?:vllm:|penstock_)\w+")


def _instructions(repository: Path) -> dict[str, str]:
    lines = (repository / "deploy/Dockerfile").read_text("utf-8").splitlines()
    pairs = (line.partition(" ") for line in lines if line and not line.startswith("#"))
    return {word: rest for word, _, rest in pairs}


def test_every_metric_of_the_dashboard_exists(repository: Path, server: Served) -> None:
    httpx.post(f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 2, "ignore_eos": True})
    text = httpx.get(f"{server.url}/metrics").text
    there = {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}
    board = json.loads((repository / "deploy/grafana/dashboards/penstock.json").read_text("utf-8"))
    asked: set[str] = set()
    for panel in board["panels"]:
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            found = set(_NAME.findall(target["expr"]))
            assert found, target["expr"]
            asked |= found
    assert asked <= there, asked - there
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_files_of_the_compose_example_exist_and_name_each_other(repository: Path) -> None:
    deploy = repository / "deploy"
    services = yaml.safe_load((deploy / "compose.yaml").read_text("utf-8"))["services"]
    for service in services.values():
        for mount in service.get("volumes", []):
            assert (deploy / mount.split(":")[0]).exists(), mount
    build = services["penstock"]["build"]
    assert (deploy / build["context"] / build["dockerfile"]).exists()
    scraped = yaml.safe_load((deploy / "prometheus.yml").read_text("utf-8"))
    assert scraped["scrape_configs"][0]["static_configs"][0]["targets"] == ["penstock:8000"]
    source = yaml.safe_load((deploy / "grafana/provisioning/datasources/prometheus.yml").read_text("utf-8"))
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    board = json.loads((deploy / "grafana/dashboards/penstock.json").read_text("utf-8"))
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["datasources"][0]["uid"]}


@pytest.mark.parametrize("place", ["Dockerfile", "compose.yaml"])
def test_the_commands_of_the_container_serve(repository: Path, place: str) -> None:
    instructions = _instructions(repository)
    arguments: list[Any] = json.loads(instructions["CMD"])
    if place == "compose.yaml":
        services = yaml.safe_load((repository / "deploy/compose.yaml").read_text("utf-8"))["services"]
        arguments = services["penstock"]["command"]
    entry = json.loads(instructions["ENTRYPOINT"])
    assert entry[:2] == ["penstock", "serve"]
    with starting([*entry[2:], *arguments, "--port", "0"]) as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{url}/health").status_code == 200


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool: apt-get install prometheus")
def test_prometheus_takes_its_configuration(repository: Path) -> None:
    command = f"promtool check config {shlex.quote(str(repository / 'deploy/prometheus.yml'))}"
    checked = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
