"""One rank of test_compiled.py: run as `python compiled_worker.py RANK RANKS STORE INPUT OUTPUT`."""

import sys
from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.ranks import process_group
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.parallel import DistributedDataParallel

from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models.blocks import use_implementation
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.compiled import compile_blocks
from clips_pipeline.models.grad_cache import forward_in_chunks
from clips_pipeline.models.sizes import ClipsConfig

CHUNK = 2


class InChunks(nn.Module):
    """What `ComposerClips` does with a batch, for DDP to wrap."""

    def __init__(self, config: ClipsConfig) -> None:
        super().__init__()
        self.clips = ClipsModel(config)

    def forward(self, *inputs: Tensor) -> Any:
        """Compute the features and the captioner's states."""
        return forward_in_chunks(self.clips, *inputs, CHUNK)


def main(rank: int, ranks: int, store: str, source: str, target: str) -> None:
    """Take two steps' gradients with compiled blocks, and with plain ones; write losses, gradients and counts of graphs."""
    from tests.distributed.test_compiled import CONFIG

    with process_group(rank, ranks, store):
        saved = torch.load(source, weights_only=True)
        results = {name: run(name == "compiled", CONFIG, saved, rank, ranks) for name in ("plain", "compiled")}
        torch.save(results, target)


def run(compiled: bool, config: ClipsConfig, saved: dict[str, Any], rank: int, ranks: int) -> dict[str, Any]:
    """Return losses and gradients of this rank's rows, one pair for each batch, and the number of graphs after each."""
    from torch._dynamo.backends.debugging import aot_eager

    graphs: list[GraphModule] = []

    def backend(graph: GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    module = InChunks(config)
    module.clips.load_state_dict(saved["weights"])
    use_implementation(module, "plain")
    if compiled:
        compile_blocks(module, backend)
    parallel = DistributedDataParallel(module)
    steps, counts = [], []
    for batch in saved["batches"]:
        parallel.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = parallel(*(tensor.chunk(ranks)[rank] for tensor in batch))
            total = clips_loss(output, module.clips.captioner.head.weight, group=dist.group.WORLD).total
        # Another number of threads, as in PyTorch's thread for the backward pass on a GPU, lets Dynamo compile for the second run
        # of a chunk; see `start_backward_threads`.
        torch.set_num_threads(2)
        total.backward()
        torch.set_num_threads(1)
        steps.append([total.detach(), *(p.grad.clone() for p in module.parameters())])
        counts.append(len(graphs))
    return {"steps": steps, "graphs": counts}


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
