"""Screenshots of docs/images, taken in a real browser from the results that are there: `make screenshots`.

Needs a finished `pretrain`, and chromedriver; with a finished `search`, the dashboard is pictured too. Kedro-Viz, MLflow's UI, the
dashboard and the server of the model are started on loopback for it and stopped afterwards; the reports are opened as files.
"""

import argparse
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from ruamel.yaml import YAML
from tests.browser import Browser, browser

BIN = Path(sys.executable).parent
MLFLOW = "sqlite:///mlruns/mlflow.db"
MAX_BYTES = 150_000
WIDTH = 1280
# MLflow opens a panel for its assistant in every new browser, unless it has been opened and closed.
ASSISTANT = {"fab.autoOpenedOnFirstLoad_v1": "true", "panelOpen_v1": "false"}


@dataclass(frozen=True)
class Results:
    """The results of one environment.

    Attributes:
        env: name of the environment; None for the default.
        root: folder of its results.
    """

    env: str | None
    root: Path

    @property
    def reporting(self) -> Path:
        """Folder of the reports."""
        return self.root / "08_reporting"

    @property
    def study(self) -> Path:
        """Database of the search; it need not exist."""
        return self.root / "07_model_output/search/study.db"

    @property
    def model(self) -> dict[str, object]:
        """The registered model."""
        found: dict[str, object] = json.loads((self.reporting / "registered_model.json").read_text(encoding="utf-8"))
        return found


def find_results(env: str | None) -> Results:
    """Return the results of an environment.

    Raises:
        SystemExit: there are none.
    """
    settings = Path("conf") / (env or "base") / "globals.yml"
    if not settings.is_file():
        raise SystemExit(f"{settings}: no such file; ENV names no environment with results of its own")
    results = Results(env, Path(YAML(typ="safe").load(settings)["results_root"]))
    if not (results.reporting / "registered_model.json").is_file():
        command = f"make pretrain{f' ENV={env}' if env else ''}"
        raise SystemExit(f"{results.reporting}: no results of a training; run `{command}` first")
    return results


@contextmanager
def server(*command: str) -> Iterator[str]:
    """Start a server on a free port of loopback, `{port}` in its command, and yield its address."""
    # Kedro-Viz refuses the ports that the system gives out.
    port = next(port for port in range(20_000, 30_000) if not _answers(port))
    line = [str(BIN / command[0]), *(part.format(port=port) for part in command[1:])]
    # In a session of its own, so that the servers that it starts in turn end with it.
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(line, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)  # noqa: S603
        try:
            _until(lambda: _answers(port) or process.poll() is not None, f"{command[0]} does not answer", 180)
            if process.poll() is not None:
                log.seek(0)
                raise SystemExit(f"{' '.join(line)} has ended:\n{log.read()[-2000:]}")
            yield f"http://127.0.0.1:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def _until(done: Callable[[], object], message: str, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise SystemExit(message)
        time.sleep(0.2)


@dataclass(frozen=True)
class Camera:
    """Takes the pictures.

    Attributes:
        window: the browser.
        folder: to write the pictures to.
    """

    window: Browser
    folder: Path

    def take(
        self,
        name: str,
        url: str,
        wait_for: str,
        then: str = "",
        settle: float = 1.5,
        height: int = 800,
        stored: Mapping[str, str] | None = None,
    ) -> None:
        """Open a page, wait, and write what it shows as `name`.png.

        Args:
            name: of the picture.
            url: of the page.
            wait_for: selector of an element that is there when the page is complete.
            then: a script to run before the picture is taken.
            settle: seconds for what moves to come to rest.
            height: of the window, in pixels.
            stored: settings that the page finds in the browser's storage, such as that its tour was seen.
        """
        if stored:
            pairs = f"Object.entries({json.dumps(stored)}).forEach(([k, v]) => localStorage.setItem(k, v));"
            self.window.before_scripts(f"if (location.protocol === 'http:') {pairs}")
        self.window.open(url, WIDTH, height)
        _until(
            lambda: self.window.run(f"return !!document.querySelector({json.dumps(wait_for)})"),
            f"{name}: {url} shows no {wait_for} within a minute",
            60,
        )
        if then:
            self.window.run(then)
        time.sleep(settle)
        picture = self.folder / f"{name}.png"
        picture.write_bytes(_small(self.window.screenshot()))
        print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


def _small(png: bytes) -> bytes:
    """Return the picture with as many colors as fit into MAX_BYTES, at most 256."""
    with Image.open(io.BytesIO(png)) as full:
        picture = full.convert("RGB")
    for colors in (256, 128, 64, 32, 16):
        stream = io.BytesIO()
        picture.quantize(colors, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            stream, "PNG", optimize=True
        )
        if stream.tell() <= MAX_BYTES:
            break
    return stream.getvalue()


def _scroll_to(heading: str) -> str:
    """Return a script that scrolls to the first heading that begins with these words."""
    return (
        f"[...document.querySelectorAll('h2')].find(e => e.textContent.trim().toLowerCase().startsWith("
        f"{json.dumps(heading.lower())}))?.scrollIntoView(); window.scrollBy(0, -12);"
    )


def _search_for(text: str) -> str:
    """Return a script that types into the first field for text, so that React notices."""
    return (
        "const field = document.querySelector('input[type=text]'); "
        "Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, "
        f"{json.dumps(text)}); field.dispatchEvent(new Event('input', {{bubbles: true}}));"
    )


def reports(camera: Camera, results: Results) -> None:
    """Picture the pages that the pipelines write."""
    report = (results.reporting / "report.html").resolve().as_uri()
    camera.take("report", report, "h1")
    camera.take("report-retrieval", report, "h1", _scroll_to("retrieval"))
    camera.take("report-captions", report, "h1", _scroll_to("captions"))
    camera.take("evaluation", (results.reporting / "evaluation.html").resolve().as_uri(), "h1")
    health = (results.reporting / "data_health.html").resolve().as_uri()
    camera.take("data-health", health, "h1")
    camera.take(
        "data-health-samples", health, "h1", "document.querySelector('img').scrollIntoView(); scrollBy(0, -60);"
    )


def kedro_viz(camera: Camera, results: Results) -> None:
    """Picture the graph."""
    chosen = ("--env", results.env) if results.env else ()
    with server("kedro", "viz", "run", "--no-browser", "--host", "127.0.0.1", "--port", "{port}", *chosen) as url:
        shown = {"graph": True, "sidebar": False, "miniMap": False, "code": False, "slicing": False, "traceback": False}
        settings = json.dumps({"theme": "light", "showFeatureHints": False, "visible": shown})
        then = "[...document.querySelectorAll('button')].find(e => e.textContent === 'Dismiss')?.click()"
        camera.take("kedro-viz", f"{url}/?pid=pretrain", ".pipeline-node", then, 4, 1200, {"KedroViz": settings})


def mlflow(camera: Camera, results: Results) -> None:
    """Picture the runs, the curves of one, and the registered model."""
    from mlflow import MlflowClient

    run = str(results.model["run_id"])
    experiment = MlflowClient(MLFLOW).get_run(run).info.experiment_id
    with server("mlflow", "ui", "--backend-store-uri", MLFLOW, "--workers", "1", "--port", "{port}") as url:
        pages = f"{url}/#/experiments/{experiment}/runs"
        calm = {f"mlflow.assistant.{key}": value for key, value in ASSISTANT.items()}
        camera.take("mlflow-runs", pages, "[role=row] a", settle=4, stored=calm)
        camera.take(
            "mlflow-run", f"{pages}/{run}/model-metrics", ".js-plotly-plot", _search_for("train/loss"), settle=6
        )
        camera.take("mlflow-model", f"{url}/#/models/{results.model['name']}", "[role=row] a, td a", settle=4)


def dashboard(camera: Camera, results: Results) -> None:
    """Picture the search, if there is one."""
    if not results.study.is_file():
        print(f"{results.study}: no search there; its picture stays as it is")
        return
    with server("optuna-dashboard", f"sqlite:///{results.study}", "--port", "{port}") as url:
        camera.take("optuna-dashboard", f"{url}/dashboard/studies/1", ".js-plotly-plot", settle=5)


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", help="environment of the results; the default ones if left out")
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of the pictures")
    arguments = parser.parse_args()
    results = find_results(arguments.env)
    if shutil.which("chromedriver") is None:
        raise SystemExit("chromedriver is not installed (on Debian and Ubuntu: chromium and chromium-driver)")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with browser() as window:
        camera = Camera(window, arguments.out)
        for pages in (kedro_viz, mlflow, dashboard, reports):
            pages(camera, results)


if __name__ == "__main__":
    main()
