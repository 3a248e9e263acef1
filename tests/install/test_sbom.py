"""`scripts/sbom` names all that the agent runs with."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import distribution, version
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.install.machine import CHECKOUT

EXTRAS = ("dsmr", "mbus", "modbus", "nmea")


def needed(name: str, extras: frozenset[str], found: set[str]) -> set[str]:
    """What a package requires here, directly and not, as the index's own library reads it."""
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        marker = requirement.marker
        wanted = marker is None or any(marker.evaluate({"extra": e}) for e in (*extras, ""))
        next_name = canonicalize_name(requirement.name)
        if wanted and next_name not in found:
            found.add(next_name)
            needed(next_name, frozenset(requirement.extras), found)
    return found


@pytest.fixture(scope="module")
def bom() -> Any:
    done = subprocess.run(
        [sys.executable, CHECKOUT / "scripts/sbom"], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def of_kind(bom: Any, kind: str) -> list[Any]:
    return [each for each in bom["components"] if each["purl"].startswith(f"pkg:{kind}/")]


def test_what_is_in_the_dashboard_is_named(bom: Any) -> None:
    about = json.loads((CHECKOUT / "agent/server/dashboard/package.json").read_text())
    inside = of_kind(bom, "npm")
    assert {each["name"]: each["version"] for each in inside} == about["dependencies"]
    assert all(each["licenses"] == [{"expression": "MIT"}] for each in inside)
    [root] = [each for each in bom["dependencies"] if "edge-sync-agent" in each["ref"]]
    assert {each["bom-ref"] for each in inside} <= set(root["dependsOn"])


def test_every_dependency_is_named(bom: Any) -> None:
    named = {component["name"] for component in of_kind(bom, "pypi")}
    assert named == needed("edge-sync-agent", frozenset(EXTRAS), set())
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    direct = list(project["dependencies"])
    direct += [each for extra in EXTRAS for each in project["optional-dependencies"][extra]]
    assert {canonicalize_name(Requirement(each).name) for each in direct} <= named
    assert "pytest" not in named


def test_with_its_version_and_licence(bom: Any) -> None:
    pinned = (CHECKOUT / "constraints.txt").read_text().splitlines()
    for component in of_kind(bom, "pypi"):
        name = component["name"]
        assert component["version"] == version(name)
        assert component["purl"] == f"pkg:pypi/{name}@{version(name)}"
        assert name == "pip" or f"{name}=={version(name)}" in pinned
        [licence] = component["licenses"]
        told = licence.get("expression") or licence["license"]["name"]
        assert told != "unknown"
        assert 2 < len(told) < 80
    main = bom["metadata"]["component"]
    assert (main["name"], main["licenses"]) == ("edge-sync-agent", [{"expression": "Apache-2.0"}])


def test_as_cyclonedx_has_it(bom: Any) -> None:
    """What the schema demands, and that its references lead somewhere."""
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.6", 1)
    parts = [bom["metadata"]["component"], *bom["components"]]
    refs = [part["bom-ref"] for part in parts]
    assert len(set(refs)) == len(refs)
    assert sorted(each["ref"] for each in bom["dependencies"]) == sorted(refs)
    for each in bom["dependencies"]:
        assert set(each["dependsOn"]) <= set(refs)
