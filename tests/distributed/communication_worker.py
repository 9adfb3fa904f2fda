"""One rank of test_communication.py: run as `python communication_worker.py RANK RANKS STORE INPUT OUTPUT`."""

import sys
from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.ranks import process_group
from tests.golden_weights import GOLDEN_CONFIG
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from clips_pipeline.losses.gather import gather_rows
from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models.blocks import Block
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.training import sharding
from clips_pipeline.training.communication import feature_dtype, set_communication
from clips_pipeline.training.config import LaunchConfig


def main(rank: int, ranks: int, store: str, source: str, target: str) -> None:
    """Compute everything of the input file and write the results."""
    with process_group(rank, ranks, store):
        saved = torch.load(source, weights_only=True)
        results = {"gather": run_gather(rank, saved["rows"], saved["gradients"])}
        for name, (wrapping, communication) in saved["cases"].items():
            results[name] = run_model(rank, ranks, wrapping, communication, saved)
        torch.save(results, target)


def run_gather(rank: int, rows_XBE: list[Tensor], gradients_XGE: list[Tensor]) -> dict[str, Tensor]:
    """Gather this rank's rows in bfloat16, and send this rank's gradient back."""
    own_BE = rows_XBE[rank].requires_grad_()
    gathered_GE = gather_rows(own_BE, dist.group.WORLD, torch.bfloat16)
    gathered_GE.backward(gradients_XGE[rank])
    assert own_BE.grad is not None
    return {"gathered": gathered_GE.detach(), "gradient": own_BE.grad}


def run_model(rank: int, ranks: int, wrapping: str, communication: Any, saved: dict[str, Any]) -> dict[str, Any]:
    """Compute this rank's rows of a joint batch under autocast; return the mean loss, gradients and the types seen."""
    model = ClipsModel(GOLDEN_CONFIG)
    model.load_state_dict(saved["weights"])
    launch = LaunchConfig(communication=communication, precision="amp_bf16", device="gpu")
    seen = []
    block = next(module for module in model.modules() if isinstance(module, Block))
    if wrapping == "ddp":
        parallel = DistributedDataParallel(model)
    else:
        parallel = sharding.reshape_scalars(model)
        # As Composer does, with the settings of `sharding.parallelism_config`.
        reduced = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16 if communication == "bf16" else None)
        for module in model.modules():
            if isinstance(module, Block):
                fully_shard(module, mp_policy=reduced)
        fully_shard(model, mp_policy=reduced)
        sharding.check_sharded("fsdp2", model)
        block.register_forward_pre_hook(lambda module, _: seen.extend({str(p.dtype) for p in module.parameters()}))
    set_communication(parallel, launch, uses_chunks=False)
    inputs = [tensor.chunk(ranks)[rank] for tensor in saved["inputs"]]
    with torch.autocast("cpu", torch.bfloat16):
        output = parallel(*inputs)
        output = output._replace(logit_scale=output.logit_scale.reshape(()))
        head_VD = model.captioner.head.weight
        parts = clips_loss(output, head_VD, group=dist.group.WORLD, sent_as=feature_dtype(launch.communication))
    parts.total.backward()
    gradients = {
        name: sharding.full_tensor(parameter.grad).reshape(saved["weights"][name].shape)
        for name, parameter in model.named_parameters()
    }
    loss = parts.total.detach()
    dist.all_reduce(loss)
    kept = sorted({str(parameter.dtype) for parameter in model.parameters()})
    return {"loss": loss / ranks, "gradients": gradients, "seen": sorted(set(seen)), "kept": kept}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
