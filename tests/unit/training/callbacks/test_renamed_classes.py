"""Checkpoints of an earlier version have other class names: Composer stores callbacks and algorithms under them."""

import pytest
import torch
from composer.core import Algorithm, Callback, State
from composer.devices import DeviceCPU
from composer.loggers import Logger
from tests.unit.training.test_composer_parts import Line

from clips_pipeline.training.callbacks.caption_log import CaptionLog
from clips_pipeline.training.callbacks.data_wait import DataWaitMonitor
from clips_pipeline.training.callbacks.divergence import DivergenceMonitor
from clips_pipeline.training.callbacks.heartbeat import HeartbeatCallback
from clips_pipeline.training.callbacks.image_schedule import ImageScheduleUpdate
from clips_pipeline.training.callbacks.logit_scale import LogitScaleClamp
from clips_pipeline.training.callbacks.retrieval import RetrievalCallback
from clips_pipeline.training.callbacks.sample_trace import SampleTrace
from clips_pipeline.training.callbacks.stop_request import StopRequestMonitor
from clips_pipeline.training.resume.checkpoint_callback import CheckpointCallback
from clips_pipeline.training.sharding import ParameterGathering

STATELESS = (
    CaptionLog,
    DataWaitMonitor,
    DivergenceMonitor,
    HeartbeatCallback,
    RetrievalCallback,
    StopRequestMonitor,
    CheckpointCallback,
    ParameterGathering,
)


def state_of(trace: SampleTrace) -> State:
    model = Line()
    return State(
        rank_zero_seed=0,
        run_name="run",
        model=model,
        optimizers=torch.optim.SGD(model.parameters(), lr=1.0),
        device=DeviceCPU(),
        algorithms=[LogitScaleClamp(lambda state: False)],
        callbacks=[DivergenceMonitor(lambda: None), trace],
    )


def test_only_the_sample_trace_has_state() -> None:
    assert all(cls.state_dict is Callback.state_dict for cls in STATELESS)
    assert all(cls.state_dict is Algorithm.state_dict for cls in (LogitScaleClamp, ImageScheduleUpdate))
    assert SampleTrace.__qualname__ == "SampleTrace"


def test_a_checkpoint_with_the_former_names_is_loaded() -> None:
    before, now = SampleTrace(lambda state: False), SampleTrace(lambda state: False)
    before.skipped["broken image"] = 3
    saved = state_of(before).state_dict()
    saved["callbacks"]["StopOnDivergence"] = saved["callbacks"].pop("DivergenceMonitor")
    saved["algorithms"] = [("ClampTemperature", value) for _, value in saved["algorithms"]]
    resumed = state_of(now)
    with pytest.warns(UserWarning, match="is not in the state_dict"):
        resumed.load_state_dict(saved, Logger(resumed))
    assert now.skipped == before.skipped
