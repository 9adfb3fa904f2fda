"""The scaling model, against numbers computed by hand."""

import json
from pathlib import Path

import pytest
from benchmarks import scaling, scaling_model
from benchmarks.scaling_model import Costs, Messages, Network

# 100 GB/s within a machine of 8, 50 GB/s between machines, 10 microseconds a hop.
NETWORK = Network(per_machine=8, inside=100e9, between=50e9, latency_s=10e-6)
# 2 s at 1,000 samples, 0.3 s at 100: the larger batch is the more efficient one.
STEPS = [(1_000, 2.0), (100, 0.3)]


def test_collectives_take_bytes_over_bandwidth_and_hops() -> None:
    # A ring of 8: 7/8 of 8 GB at 100 GB/s, and 7 hops.
    assert NETWORK.all_gather(8e9, 8) == pytest.approx(0.07 + 70e-6)
    # Two machines: 15/16 of 8 GB at 50 GB/s, and 15 hops.
    assert NETWORK.all_gather(8e9, 16) == pytest.approx(0.15 + 150e-6)
    # Twice the bytes of the ring, and up and down a tree of three and of four levels.
    assert NETWORK.all_reduce(8e9, 8) == pytest.approx(0.14 + 60e-6)
    assert NETWORK.all_reduce(8e9, 16) == pytest.approx(0.3 + 80e-6)
    assert NETWORK.all_gather(8e9, 1) == NETWORK.all_reduce(8e9, 1) == 0.0
    # A fast network does not make the links within a machine faster.
    assert Network(8, 100e9, 400e9, 0.0).all_reduce(8e9, 16) == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("samples", "floor", "seconds"),
    [
        (1_000, 0.0, 2.0),
        (100, 0.0, 0.3),
        (550, 0.0, 1.15),  # half way between them
        (2_000, 0.0, 4.0),
        (50, 0.0, 0.15),
        (10, 0.05, 0.05),  # 0.03 s by proportion
    ],
)
def test_compute_between_and_beyond_the_known_steps(samples: int, floor: float, seconds: float) -> None:
    assert scaling_model.compute_seconds(STEPS, samples, floor) == pytest.approx(seconds)


def test_messages_have_the_size_of_the_model() -> None:
    # L/14: 414,247,425 parameters with the stored position table of 257 x 1,024, which is computed here, and a captioner.
    found = scaling_model.messages_of("l14", 84, 32_768)
    towers = 414_247_425 - 257 * 1_024
    captioner = found.gradients // 4 - towers
    assert round(captioner / 1e6, 1) == 111.1
    assert found.checkpoint == 3 * found.gradients
    assert found.features == 32_768 * 3 * 768 * 4
    assert scaling_model.messages_of("l14", 84, 16, kinds=2).features == 16 * 2 * 768 * 4
    half = scaling_model.messages_of("l14", 84, 32_768, communication="bf16")
    assert (2 * half.gradients, 2 * half.features, half.checkpoint) == (
        found.gradients,
        found.features,
        found.checkpoint,
    )


def test_gradients_hide_behind_the_backward_pass_of_the_last_chunk() -> None:
    messages = Messages(gradients=10_000_000_000, features=0, checkpoint=0)
    network = Network(8, 100e9, 50e9, 0.0)
    # All-reduce on 8: 0.175 s. The backward pass of a step of 0.15 s is 0.1 s.
    assert scaling_model.exposed_gradients(messages, 0.15, 1, 8, network) == pytest.approx(0.075)
    # In three chunks, a third of it.
    assert scaling_model.exposed_gradients(messages, 0.15, 3, 8, network) == pytest.approx(0.175 - 0.1 / 3)
    # Long steps hide all but the last bucket of 25 MiB.
    assert scaling_model.exposed_gradients(messages, 3.0, 1, 8, network) == pytest.approx(
        2 * 7 / 8 * 25 * 2**20 / 100e9
    )
    assert scaling_model.exposed_gradients(messages, 0.15, 1, 1, network) == 0.0


def test_a_step_is_the_sum_of_its_parts() -> None:
    messages = Messages(gradients=16_000_000_000, features=800_000_000, checkpoint=1_000_000_000)
    network = Network(8, 100e9, 50e9, 0.0)
    costs = Costs(host_s=0.005, checkpoint_rate=0.5e9, checkpoint_steps=100)
    row = scaling_model.scaled_step(16, 1_600, STEPS, messages, network, costs)
    assert row.samples_per_gpu == 100
    assert row.compute == pytest.approx(0.3)
    # 15/16 of 0.8 GB at 50 GB/s, and the gradients back.
    assert row.gather == row.gather_backward == pytest.approx(0.015)
    # 30/16 of 16 GB at 50 GB/s is 0.6 s, of which the backward pass hides 0.2 s.
    assert row.gradients == pytest.approx(0.4)
    # 2 s for a checkpoint, every 100 steps.
    assert row.other == pytest.approx(0.025)
    step = 0.3 + 0.015 + 0.015 + 0.4 + 0.025
    assert row.step == pytest.approx(step)
    # The best known rate is 500 samples a second of one GPU.
    assert row.efficiency == pytest.approx(100 / step / 500)
    assert row.samples_per_day == pytest.approx(1_600 / step * 86_400)


def test_one_gpu_has_the_given_step() -> None:
    row = scaling_model.scaled_step(1, 1_000, STEPS, Messages(10, 10, 10), NETWORK, Costs())
    assert (row.step, row.efficiency) == (2.0, 1.0)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"--batch 1000 cannot be divided over 3 GPUs"):
        scaling_model.scaled_step(3, 1_000, STEPS, Messages(1, 1, 1), NETWORK, Costs())


def test_the_command_reads_the_lines_of_the_gpu_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"part": "machine", "torch": "2"},
        {"part": "speed:a", "case": "tiny-64-mask", "side": "ours compiled", "batch": 64, "seconds": 0.5},
        {"part": "speed:b", "case": "tiny-64-mask-chunk2", "side": "ours compiled", "batch": 256, "seconds": 3.0},
        {"part": "speed:a", "case": "tiny-64-mask", "side": "plain eager", "batch": 64, "seconds": 9.0},
        {"part": "speed:a", "case": "tiny-64-mask", "side": "ours eager", "batch": 64, "error": "out of memory"},
        {"part": "speed:c", "case": "tiny-64-attend", "side": "ours compiled", "batch": 64, "seconds": 9.0},
        {"part": "speed:a", "ended": "ok"},
    ]
    file = tmp_path / "results.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    given = ["--results", str(file), "--size", "tiny", "--pixels", "64", "--padding", "mask", "--batch", "512"]
    scaling.main([*given, "--gpus", "2", "8", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["steps_of_one_gpu"].startswith("measured")
    assert found["messages"]["features"] == 512 * 3 * 128 * 4
    assert [row["compute"] for row in found["rows"]] == [3.0, 0.5]
    scaling.main([*given, "--gpus", "8"])
    printed = capsys.readouterr().out
    assert "Steps of one GPU: measured" in printed
    assert "| 8 | 64 | 500 |" in printed
    with pytest.raises(
        SystemExit, match=r"no step of tiny-64-mask \(ours eager\); it has tiny-64-attend \(ours compiled\)"
    ):
        scaling.main([*given, "--side", "ours eager"])


@pytest.mark.parametrize("wrong", [[], ["--step", "512"], ["--step", "0:1"], ["--step", "8:1", "--between", "0"]])
def test_wrong_arguments_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        scaling.main(wrong)
    assert "error: " in capsys.readouterr().err
