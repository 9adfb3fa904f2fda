"""Probes of towers on real shards: each runs once, and bad input is one error."""

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.interop.export_models import write_model

from clips_pipeline.config import ConfigError, from_mapping, to_mapping
from clips_pipeline.data.prepare.run import prepare
from clips_pipeline.data.scenes.source import ScenesConfig, ScenesSource
from clips_pipeline.data.shards.index import load_index
from clips_pipeline.data.storage.files import StorageConfig
from clips_pipeline.llava import features, job
from clips_pipeline.llava.config import LanguageConfig, LlavaProbeConfig, QuestionsConfig
from clips_pipeline.llava.job import ProbeJob
from clips_pipeline.llava.questions import balanced_questions
from clips_pipeline.llava.run import ProbeSetup, Tower, check_probes, plan_probes, run_probes
from clips_pipeline.study.run import StudyError
from clips_pipeline.text.tokenizers.wordpiece import WordPieceTokenizer

SCENES = ScenesConfig(train=64, validation=32, test=32, image_size=32)
CONFIG = LlavaProbeConfig(
    methods=("clip", "clips"),
    seeds=(0,),
    questions=QuestionsConfig(train=300, validation=300, test=300),
    language=LanguageConfig(16, 1, 2),
    epochs=1.0,
    evaluations=1,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, fixtures_dir) -> Path:
    root = tmp_path_factory.mktemp("probe")
    prepare(ScenesSource(SCENES), root / "shards")
    tokenizer = WordPieceTokenizer.from_vocab(fixtures_dir / "bert_base_uncased_vocab.txt")
    (root / "study" / "models").mkdir(parents=True)
    model = write_model(root, tokenizer)
    for name in ("aaaa", "bbbb"):
        shutil.copytree(model, root / "study" / "models" / name)
    return root


@pytest.fixture
def setup(folder) -> ProbeSetup:
    version = load_index(folder / "shards").version
    return ProbeSetup(CONFIG, SCENES, folder / "shards", version, StorageConfig(), folder / "cache")


@pytest.fixture
def towers(folder) -> list[Tower]:
    models = folder / "study" / "models"
    return [Tower("clip", 0, models / "aaaa", 0.01), Tower("clips", 0, models / "bbbb", 0.02)]


@pytest.mark.slow
def test_each_probe_runs_once(towers, setup, tmp_path):
    first = run_probes(towers, setup, tmp_path)
    assert [(one.row, one.seed) for one in first] == [("clip", 0), ("clips", 0), ("untrained", 0), ("blind", 0)]
    assert len({len(one.answers) for one in first}) == 1
    # The two towers have the same weights, and their probes the same seed.
    assert first[0].answers == first[1].answers
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("results/*.json")}
    assert len(kept) == 4
    # A killed start leaves some results: only the missing one is computed, to the same answers.
    (missing,) = [path for path in kept if json.loads(path.read_text())["row"] == "untrained"]
    missing.unlink()
    assert [one.answers for one in run_probes(towers, setup, tmp_path)] == [one.answers for one in first]
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items() if path != missing)


def test_a_job_writes_answers_to_every_test_question(towers, setup, tmp_path):
    jobs = plan_probes(towers, setup, tmp_path)
    assert [one.row for one in jobs] == ["clip", "clips", "untrained", "blind"]
    (tmp_path / "results").mkdir()
    asked = balanced_questions(SCENES, "test", 300, 0)
    for planned in jobs[1:]:
        job.run(planned)
        found = json.loads(Path(planned.result).read_text())
        assert (found["row"], len(found["answers"])) == (planned.row, len(asked))
    # With hours: 0 no process starts, and the results are the finished ones.
    without = replace(setup, config=replace(CONFIG, hours=0.0))
    assert [one.row for one in run_probes(towers, without, tmp_path)] == ["clips", "untrained", "blind"]
    Path(jobs[1].result).rename(tmp_path / "kept")
    with pytest.raises(StudyError, match=r"llava_probe.hours: 0 was too short for a probe of a trained tower"):
        run_probes(towers, without, tmp_path)
    (tmp_path / "kept").rename(jobs[1].result)
    # Nor with all results there.
    Path(jobs[0].result).write_text(Path(jobs[1].result).read_text())
    assert [one.row for one in run_probes(towers, setup, tmp_path)] == ["clips", "clips", "untrained", "blind"]


def test_a_probe_depends_on_what_it_reads_only(towers, setup, tmp_path):
    def names(**changes):
        jobs = plan_probes(towers, replace(setup, config=replace(CONFIG, **changes)), tmp_path)
        return {one.row: Path(one.result).name for one in jobs}

    assert names(parallel_runs=7, tower_samples=9, hours=1.0, methods=("clips",)) == names()
    changed = names(epochs=2.0)
    assert not set(changed.values()) & set(names().values())
    planned = plan_probes(towers, setup, tmp_path)[0]
    assert from_mapping(ProbeJob, json.loads(json.dumps(to_mapping(planned))), "job") == planned


def test_a_damaged_tower_is_one_error(towers, setup, folder, tmp_path):
    broken = folder / "study" / "models" / "cccc"
    shutil.copytree(towers[0].folder, broken)
    (broken / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(
        ConfigError, match=r"the tower of mixture, seed 0: .*model.safetensors: cannot be read.* delete .*cccc"
    ):
        plan_probes([*towers, Tower("mixture", 0, broken, 0.0)], setup, tmp_path)
    shutil.rmtree(broken)
    with pytest.raises(ConfigError, match=r"the tower of mixture, seed 0: .*config.json: no such file"):
        plan_probes([*towers, Tower("mixture", 0, broken, 0.0)], setup, tmp_path)


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_that_is_not_there_is_one_error(towers, setup, tmp_path, layer):
    wrong = replace(setup, config=replace(CONFIG, vision_layer=layer))
    with pytest.raises(
        ConfigError, match=rf"vision_layer: {layer} does not exist, the tower has 2 blocks; use -3 to 2"
    ):
        plan_probes(towers, wrong, tmp_path)


@pytest.mark.parametrize("change", [{"seed": 1}, {"train": 65}])
def test_shards_of_other_scenes_are_one_error(towers, setup, tmp_path, capsys, change):
    wrong = plan_probes(towers, replace(setup, scenes=replace(SCENES, **change)), tmp_path)[0]
    wrong.save(tmp_path / "job.json")
    assert job.main([str(tmp_path / "job.json")]) == 1
    assert "split 'train' does not contain the scenes of prepare.source.scenes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "scenes", "message"),
    [
        ({}, {}, ""),
        ({"vision_layer": 3}, {}, "vision_layer: 3 does not exist"),
        ({"questions": QuestionsConfig(train=9, validation=9, test=9)}, {}, "too few for the"),
        ({}, {"seed": 1}, "does not contain the scenes"),
    ],
)
def test_what_cannot_work_is_refused_before_towers_are_trained(folder, changes, scenes, message):
    config, wrong = replace(CONFIG, **changes), replace(SCENES, **scenes)
    with pytest.raises(ConfigError, match=message) if message else nullcontext():
        check_probes(config, wrong, folder / "shards", None, depth=2)


def test_without_transformers_the_extra_is_named(monkeypatch, towers, setup, tmp_path):
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'clips-pipeline\[transformers\]'"):
        run_probes(towers, setup, tmp_path)


def test_importing_the_package_needs_no_transformers():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from clips_pipeline.llava import config, features, figure, job, model, questions, results, run, summary, training\n"
        "print([name for name in ('mlflow', 'kedro', 'composer') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": []}, "llava_probe.methods: empty; name at least one"),
        ({"seeds": [1, 1]}, "contains duplicates; remove them"),
        ({"language": {"width": 30, "heads": 4}}, "width: 30 is not a multiple of 8, twice the heads; use 24"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(LlavaProbeConfig, changes, "llava_probe")
