"""One rank of test_losses_two_ranks.py: run as `python losses_worker.py RANK RANKS STORE INPUT OUTPUT`."""

import sys
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.ranks import process_group
from tests.golden_weights import GOLDEN_CONFIG
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models.clips import ClipsModel, ClipsOutput
from clips_pipeline.models.grad_cache import forward_in_chunks


def main(rank: int, ranks: int, store: str, source: str, target: str) -> None:
    """Compute every case of the input file and write the results."""
    with process_group(rank, ranks, store):
        cases = torch.load(source, weights_only=True)
        torch.save({name: run_case(rank, ranks, case) for name, case in cases.items()}, target)


def run_case(rank: int, ranks: int, saved: dict[str, Any]) -> dict[str, Any]:
    """Compute this rank's rows of a joint batch; return means over ranks of losses and gradients."""
    model = ClipsModel(replace(GOLDEN_CONFIG, contrastive=saved["contrastive"])).double()
    model.load_state_dict(saved["weights"])
    inputs = [tensor.chunk(ranks)[rank] for tensor in saved["inputs"]]
    if saved["towers"] is not None:
        return run_chunked(model, inputs, ranks, saved["towers"])
    output = model(*inputs)
    parts = clips_loss(
        output, model.captioner.head.weight, contrastive_chunk=saved["chunk"], caption_chunk=3, group=dist.group.WORLD
    )
    parts.total.backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            raise AssertionError(f"rank {rank}: {name} has no gradient")
        dist.all_reduce(parameter.grad)
        gradients[name] = parameter.grad / ranks
    losses = torch.stack(list(parts)).detach()
    dist.all_reduce(losses)
    return {"losses": losses / ranks, "gradients": gradients, "targets": len(output.caption_targets_N)}


class ChunkedModel(nn.Module):
    """A model that processes its batch in chunks, as in training."""

    def __init__(self, model: ClipsModel, chunk: int) -> None:
        super().__init__()
        self.model, self.chunk = model, chunk

    def forward(self, *inputs: Tensor) -> ClipsOutput:
        """All rows of this rank."""
        images, web, fragment, target = inputs
        return forward_in_chunks(self.model, images, web, fragment, target, self.chunk)


def run_chunked(model: ClipsModel, inputs: list[Tensor], ranks: int, chunk: int) -> dict[str, Any]:
    """Do the same in chunks under DDP, which averages gradients; count how often each gradient is sent."""
    parallel = DistributedDataParallel(ChunkedModel(model, chunk))
    sent = []

    def count(group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        sent.extend(id(parameter) for parameter in bucket.parameters())
        return allreduce_hook(group, bucket)

    parallel.register_comm_hook(dist.group.WORLD, count)
    output = parallel(*inputs)
    parts = clips_loss(output, model.captioner.head.weight, caption_chunk=3, group=dist.group.WORLD)
    parts.total.backward()
    losses = torch.stack(list(parts)).detach()
    dist.all_reduce(losses)
    return {
        "losses": losses / ranks,
        "gradients": {name: parameter.grad for name, parameter in model.named_parameters()},
        "targets": len(output.caption_targets_N),
        "sent": [sent.count(id(parameter)) for parameter in model.parameters()],
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
