"""Check both lock files for known vulnerabilities with pip-audit, in an environment of its own (`make audit`).

Ends with 1 for a vulnerability that is found and not in `accepted_vulnerabilities.toml`, else with 0. It says what it
could not check: packages that no reachable index of vulnerabilities knows, Python itself, and C libraries in wheels.
"""

import json
import platform
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "requirements.lock", ROOT / "requirements-bounded.lock"
ACCEPTED = ROOT / ".ci" / "accepted_vulnerabilities.toml"
ENVIRONMENT = ROOT / ".cache" / "audit"
REQUIREMENT = "pip-audit>=2.10,<3"
SERVICES = ("pypi", "osv")
LIMIT_S = 600


@dataclass
class Findings:
    """What is known after some services have answered.

    Attributes:
        checked: packages that some service knows.
        unchecked: packages that none knows.
        found: vulnerabilities: (package, version, names).
        silent: services that did not answer, with the last line of their error.
    """

    checked: set[str] = field(default_factory=set)
    unchecked: set[str] = field(default_factory=set)
    found: set[tuple[str, str, tuple[str, ...]]] = field(default_factory=set)
    silent: dict[str, str] = field(default_factory=dict)

    def add(self, report: Mapping[str, Any]) -> None:
        """Add pip-audit's report in JSON."""
        for package in report["dependencies"]:
            if "skip_reason" in package:
                self.unchecked.add(package["name"])
                continue
            self.checked.add(package["name"])
            for hole in package["vulns"]:
                names = (hole["id"], *sorted(hole.get("aliases", ())))
                self.found.add((package["name"], package["version"], names))
        self.unchecked -= self.checked


def read_accepted(file: Path) -> list[dict[str, Any]]:
    """Return the accepted vulnerabilities."""
    return list(tomllib.loads(file.read_text(encoding="utf-8"))["accepted"])


def summarize(findings: Findings, accepted: Iterable[Mapping[str, Any]]) -> tuple[list[str], bool]:
    """Return the lines of the summary, and whether a vulnerability was found that is not accepted."""
    accepted, lines, open_holes = list(accepted), [], False
    for package, version, names in sorted(findings.found):
        entry = next((one for one in accepted if one["package"] == package and set(one["ids"]) & set(names)), None)
        if entry is None:
            open_holes = True
            lines.append(f"NOT ACCEPTED: {package} {version}: {', '.join(names)}")
        else:
            lines.append(f"accepted: {package} {version}: {names[0]}: {entry['reason']}; {entry['done']}")
    seen = {name for *_, names in findings.found for name in names}
    for one in accepted:
        if not seen & set(one["ids"]):
            where = "not found in this check" if one["package"] in findings.checked else "not checked"
            lines.append(f"{where}, known: {one['package']}: {one['ids'][0]}: {one['reason']}; {one['done']}")
    lines += [f"no answer from {service}: {error}" for service, error in findings.silent.items()]
    if findings.unchecked or not findings.checked:
        lines.append(
            f"could not be checked: {len(findings.unchecked)} packages ({', '.join(sorted(findings.unchecked)[:8])} …)"
        )
    lines.append(f"never checked here: Python {platform.python_version()} itself, and C libraries inside wheels")
    if not findings.checked:
        lines.append("audit: NOTHING could be checked; run it where an index of vulnerabilities can be reached")
    else:
        state = (
            "some are not accepted: update, or add them with a reason" if open_holes else "none that is not accepted"
        )
        lines.append(f"audit: {len(findings.checked)} packages checked, {len(findings.found)} vulnerabilities, {state}")
    return lines, open_holes


def install(environment: Path) -> Path:
    """Return pip-audit's program in an environment of its own, which is made if it is missing."""
    program = environment / "bin" / "pip-audit"
    if not program.exists():
        venv.create(environment, clear=True, with_pip=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, REQUIREMENT], check=True, timeout=LIMIT_S, capture_output=True)  # noqa: S603 - fixed arguments
    return program


def ask(program: Path, service: str, lock: Path, findings: Findings) -> None:
    """Ask one service for all packages of the lock."""
    command = [
        str(program),
        "--requirement",
        str(lock),
        "--disable-pip",
        "--progress-spinner",
        "off",
        "--format",
        "json",
    ]
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            [*command, "--vulnerability-service", service], capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        findings.add(json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        findings.silent[service] = f"nothing within {LIMIT_S} s"
    except (ValueError, KeyError, TypeError):
        findings.silent[service] = (done.stderr.strip().splitlines() or ["no report"])[-1][:300]


def main() -> None:
    """Audit the locks, print the summary, and exit."""
    findings = Findings()
    try:
        program = install(ENVIRONMENT)
    except (OSError, subprocess.SubprocessError) as error:
        findings.silent["all services"] = f"pip-audit cannot be installed ({error})"
    else:
        for service in SERVICES:
            for lock in LOCKS:
                ask(program, service, lock, findings)
            if findings.checked and not findings.unchecked:
                break
    lines, open_holes = summarize(findings, read_accepted(ACCEPTED))
    print("\n".join(lines))
    sys.exit(1 if open_holes else 0)


if __name__ == "__main__":
    main()
