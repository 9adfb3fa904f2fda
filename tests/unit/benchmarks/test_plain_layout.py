"""The padded layout in plain PyTorch against that of open_clip's towers and against the model, in float64."""

import torch
from benchmarks.plain import PlainLayout
from benchmarks.step_peer import PublishedLayout, copy_weights
from tests.unit.models.test_exactness import batch, build

from clips_pipeline.losses.total import clips_loss


def test_losses_and_gradients_of_all_three() -> None:
    model = build("attend")
    images, web, fragment, target = batch(longest_text=8, longest_target=7, targets=9)
    plain = PlainLayout(model.config).double().copy_weights(model)
    peer = PublishedLayout(model.config).double()
    copy_weights(model, peer)
    ours = clips_loss(model(images, web, fragment, target), model.captioner.head.weight).total
    # The peers' captioners compute as many positions as there are queries.
    theirs = plain(images, web, fragment, target), peer(images, web, fragment, target)
    # The published loss divides by the number of targets plus 1e-8; open_clip adds no 1e-8 to the length of a row.
    for other in theirs:
        torch.testing.assert_close(other, ours, rtol=1e-7, atol=0)
    ours.backward()
    theirs[0].backward()
    found = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name].grad, parameter.grad, rtol=0, atol=1e-7)
