"""Lower layers import no heavy packages, so that they start fast and can be used alone."""

import subprocess
import sys

import pytest

PIPELINE = ("kedro", "mlflow", "composer", "optuna", "webdataset", "dvc")
FORBIDDEN = {
    "text": (*PIPELINE, "torch", "torchvision", "transformers"),  # tokenizers merges CLIP's byte pairs
    "models": (*PIPELINE, "transformers", "tokenizers"),
    "losses": (*PIPELINE, "transformers", "tokenizers"),
}

# Find the modules on disk, so that new ones are tested too.
IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
names = [package.__name__, *(found.name for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."))]
for name in names:
    importlib.import_module(name)
print(len(names), *sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.parametrize("layer", FORBIDDEN)
def test_layer_loads_nothing_above_it(layer: str) -> None:
    package = f"clips_pipeline.{layer}"
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL, package], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, *loaded = done.stdout.split()
    assert int(count) > 2
    assert "clips_pipeline" in loaded
    assert not set(FORBIDDEN[layer]) & set(loaded)
