"""All pipelines by name. Importing this module does not load torch: nodes import heavy packages when they run."""

from kedro.pipeline import Pipeline

from clips_pipeline.pipelines.benchmark.pipeline import create_pipeline as benchmark
from clips_pipeline.pipelines.embed.pipeline import create_pipeline as embed
from clips_pipeline.pipelines.evaluate.pipeline import create_pipeline as evaluate
from clips_pipeline.pipelines.export_benchmark.pipeline import create_pipeline as export_benchmark
from clips_pipeline.pipelines.finetune.pipeline import create_pipeline as finetune
from clips_pipeline.pipelines.llava_probe.pipeline import create_pipeline as llava_probe
from clips_pipeline.pipelines.prepare.pipeline import create_pipeline as prepare
from clips_pipeline.pipelines.recaption.pipeline import create_pipeline as recaption
from clips_pipeline.pipelines.register.pipeline import create_pipeline as register
from clips_pipeline.pipelines.search.pipeline import create_pipeline as search
from clips_pipeline.pipelines.study.pipeline import create_pipeline as study
from clips_pipeline.pipelines.suite.pipeline import create_pipeline as suite
from clips_pipeline.pipelines.train.pipeline import create_pipeline as train


def register_pipelines() -> dict[str, Pipeline]:
    """Return all pipelines by name; `pretrain` is the default."""
    stages = {"prepare": prepare(), "train": train(), "evaluate": evaluate(), "register": register()}
    pretrain = stages["prepare"] + stages["train"] + stages["evaluate"] + stages["register"]
    others = {
        "finetune": finetune(),
        "search": search(),
        "study": study(),
        "llava_probe": llava_probe(),
        "benchmark": benchmark(),
        "export_benchmark": export_benchmark(),
        "embed": embed(),
        "recaption": recaption(),
        "suite": suite(),
    }
    return {**stages, "pretrain": pretrain, **others, "__default__": pretrain}
