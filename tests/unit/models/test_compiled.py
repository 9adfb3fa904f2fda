"""Compiled blocks: loss and every gradient equal those of plain blocks, also in a copy of the model."""

import copy

import pytest
import torch
from tests.unit.models.test_exactness import batch, build

from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models import compiled
from clips_pipeline.models.compiled import compile_blocks


def gradients(model, inputs):
    total = clips_loss(model(*inputs), model.captioner.head.weight).total
    return [total, *torch.autograd.grad(total, list(model.parameters()))]


@pytest.mark.slow  # the compiler traces for half a minute
# Dynamo makes an instance of an autograd function while it traces `Packing`, and asks tensors for their gradient; it means to
# hide both warnings, which does not help where warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("padding", ["attend", "mask"])
def test_loss_and_every_gradient_also_of_a_copy(padding):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model, inputs = build(padding), batch()
    expected = gradients(model, inputs)
    names = list(model.state_dict())
    torch._dynamo.reset()
    compile_blocks(model, backend)
    assert list(model.state_dict()) == names
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.captioner.queries_QD.add_(1.0)
        twin.text.blocks[0].mlp.c_proj.bias.add_(1.0)
    for ours, theirs in zip(gradients(model, inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    assert len(graphs) > 2
    moved = build(padding)
    moved.load_state_dict(twin.state_dict())
    for ours, theirs in zip(gradients(twin, inputs), gradients(moved, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_without_a_compiler_it_is_refused(monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="install g"):
        compile_blocks(build())
