"""`make audit`: what is accepted has its reason, what is not ends it, and what could not be checked is said."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def audit(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", repository / ".ci" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def report(*packages: dict[str, Any]) -> dict[str, Any]:
    return {"dependencies": list(packages)}


TORCH = {
    "name": "torch",
    "version": "2.7.0",
    "vulns": [{"id": "PYSEC-2026-1", "aliases": ["CVE-2026-24747"], "fix_versions": ["2.10"]}],
}
NEW = {"name": "pillow", "version": "11.3.0", "vulns": [{"id": "CVE-2030-1", "aliases": []}]}
CLEAN = {"name": "numpy", "version": "2.2.6", "vulns": []}
UNKNOWN = {"name": "numpy", "skip_reason": "not found"}


def test_every_accepted_entry_names_a_locked_package_a_reason_and_what_was_done(
    audit: ModuleType, repository: Path
) -> None:
    lock = (repository / "requirements.lock").read_text()
    accepted = audit.read_accepted(audit.ACCEPTED)
    assert accepted
    for entry in accepted:
        assert set(entry) == {"package", "ids", "reason", "done"}
        assert re.search(rf"^{re.escape(entry['package'])}==", lock, re.MULTILINE)
        assert all(re.fullmatch(r"(CVE|GHSA|PYSEC)-[\w-]+", name) for name in entry["ids"])
        assert min(len(entry["reason"]), len(entry["done"])) > 20
    names = [name for entry in accepted for name in entry["ids"]]
    assert len(names) == len(set(names))


def test_only_a_vulnerability_that_is_not_accepted_fails(audit: ModuleType) -> None:
    accepted = audit.read_accepted(audit.ACCEPTED)
    findings = audit.Findings()
    findings.add(report(TORCH, CLEAN))
    lines, fails = audit.summarize(findings, accepted)
    assert not fails
    assert any(line.startswith("accepted: torch 2.7.0: PYSEC-2026-1") for line in lines)
    assert lines[-1] == "audit: 2 packages checked, 1 vulnerabilities, none that is not accepted"
    findings.add(report(NEW))
    lines, fails = audit.summarize(findings, accepted)
    assert fails
    assert (
        lines[1] == "NOT ACCEPTED: pillow 11.3.0: CVE-2030-1" or lines[0] == "NOT ACCEPTED: pillow 11.3.0: CVE-2030-1"
    )


def test_what_could_not_be_checked_is_said(audit: ModuleType) -> None:
    findings = audit.Findings()
    findings.add(report(UNKNOWN))
    findings.silent["osv"] = "no name"
    lines, fails = audit.summarize(findings, audit.read_accepted(audit.ACCEPTED))
    assert not fails
    assert any(line.startswith("could not be checked: 1 packages (numpy") for line in lines)
    assert any(line.startswith("not checked, known: torch: CVE-2026-24747") for line in lines)
    assert "no answer from osv: no name" in lines
    assert any(f"Python {sys.version_info.major}.{sys.version_info.minor}" in line for line in lines)
    assert lines[-1].startswith("audit: NOTHING could be checked")
    # A second service knows the package.
    findings.add(report(CLEAN))
    assert findings.unchecked == set()
