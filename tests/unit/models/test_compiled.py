"""Compiled blocks: loss and every gradient equal those of plain blocks, also in a copy of the model."""

import copy
import dataclasses

import pytest
import torch
from tests.unit.models.test_exactness import batch, build
from torch._dynamo.utils import counters

from clips_pipeline.losses.total import clips_loss
from clips_pipeline.models import compiled
from clips_pipeline.models.clips import ClipsModel
from clips_pipeline.models.compiled import compile_blocks
from clips_pipeline.models.grad_cache import forward_in_chunks
from clips_pipeline.models.rows import attention
from clips_pipeline.models.rows.layout import step_layout


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


@pytest.mark.slow  # the compiler traces for half a minute
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("reads", ["queries", "tokens"])
@pytest.mark.parametrize("padding", ["attend", "mask"])
def test_the_path_of_a_gpu_has_no_graph_break_and_no_batch_adds_a_graph(padding, reads):
    """On the meta device, which has the attention of a GPU; chunks of 2 rows, and one of 1 in the first batch."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    config = build(padding).config
    config = dataclasses.replace(config, captioner=dataclasses.replace(config.captioner, inputs=reads))
    with torch.device("meta"):
        model = ClipsModel(config).to(torch.bfloat16)
    torch._dynamo.reset()
    counters.clear()
    compile_blocks(model, backend)
    counts = []
    for size, longest in ((5, 5), (7, 4), (6, 6)):
        images, *ids = batch(size=size, longest_text=longest, longest_target=longest)
        layout = step_layout(config, *ids, chunk=2).to("meta")
        inputs = images.to("meta", torch.bfloat16), *(tensor.to("meta") for tensor in ids)
        output = forward_in_chunks(model, *inputs, 2, layout=layout)
        clips_loss(output, model.captioner.head.weight).total.backward()
        counts.append(len(graphs))
    assert counts == [counts[0]] * 3
    assert not counters["graph_break"]
    calls = [str(node.target) for graph in graphs for node in graph.graph.nodes]
    assert any("_flash_attention_forward" in call for call in calls)


def test_whether_a_gpu_has_flash_is_a_constant_of_the_graph(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    torch._dynamo.reset()
    compiled_one = torch.compile(lambda x: x + 1 if attention._new_enough(0) else x, backend="eager", fullgraph=True)
    assert float(compiled_one(torch.zeros(()))) == 1.0


def test_without_a_compiler_it_is_refused(monkeypatch):
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="install g"):
        compile_blocks(build())
