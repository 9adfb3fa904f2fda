"""Images and texts per second of both towers, beside open_clip's model and onnxruntime with the same weights.

    python -m benchmarks.inference [--sizes tiny s16] [--batches 1 64] [--padding attend] [--json]

`ours` is the model as `clips_pipeline.load` uses it. `plain` are the plain modules (`models/plain.py`), which exports
contain. `open_clip` needs `padding: attend`. Weights are random; images are normalized tensors and texts are rows of 8 to
30 ids, so neither decoding nor tokenizing is measured. The sides alternate, and results are medians over rounds, also of
the ratios within a round.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 5
SECONDS = 2.0


def build(size: str, padding: str) -> dict[str, dict[str, Callable[[Any], Any]]]:
    """Return the encoders by side and tower."""
    import torch
    from onnxruntime import InferenceSession

    from benchmarks.step import config_of
    from clips_pipeline.interop.export.onnx_form import INPUTS, write_tower
    from clips_pipeline.interop.export.transformers_form import plain_towers
    from clips_pipeline.models.clips import ClipsModel

    torch.manual_seed(0)
    model = ClipsModel(config_of(size, padding)).eval()
    vision, text = plain_towers(model)
    sides: dict[str, dict[str, Callable[[Any], Any]]] = {
        "ours": {"vision": model.encode_image, "text": model.encode_text},
        "plain": {"vision": vision, "text": text},
    }
    with tempfile.TemporaryDirectory() as folder:
        sessions = {}
        for tower, module in (("vision", vision), ("text", text)):
            file = Path(folder) / f"{tower}.onnx"
            write_tower(module, inputs(model.config, tower, 2), INPUTS[tower], file)
            sessions[tower] = InferenceSession(str(file), providers=["CPUExecutionProvider"])
    sides["onnxruntime"] = {
        tower: lambda batch, tower=tower: sessions[tower].run(None, {INPUTS[tower]: batch.numpy()})
        for tower in sessions
    }
    if padding == "attend":
        import open_clip

        from clips_pipeline.interop.export.open_clip_form import model_config
        from clips_pipeline.interop.open_clip import to_state_dict

        described = model_config(model.config, "wordpiece")
        peer = open_clip.model.CLIP(**described).eval()
        peer.load_state_dict(to_state_dict(model))
        sides["open_clip"] = {
            "vision": lambda batch: peer.encode_image(batch, normalize=True),
            "text": lambda batch: peer.encode_text(batch, normalize=True),
        }
    return sides


def inputs(config: Any, tower: str, count: int) -> Any:
    """Return images (B, 3, H, W), or rows of ids (B, L) of 8 to 30 tokens."""
    import torch

    draws = torch.Generator().manual_seed(1)
    if tower == "vision":
        return torch.randn(count, 3, config.vision.image_size, config.vision.image_size, generator=draws)
    ids_BL = torch.zeros(count, config.text.context_length, dtype=torch.int64)
    for row in ids_BL:
        length = int(torch.randint(8, 31, (), generator=draws))
        row[:length] = torch.randint(5, config.text.vocab_size, (length,), generator=draws)
    ids_BL[:, -1] = 4
    return ids_BL


def rate(encode: Callable[[Any], Any], batch: Any) -> float:
    """Return items per second."""
    encode(batch)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS / ROUNDS or not done:
        encode(batch)
        done += len(batch)
    return done / (time.perf_counter() - started)


def measure(size: str, padding: str, batches: list[int]) -> list[dict[str, Any]]:
    """Return one row per tower and batch size: items per second of each side, and ours beside it."""
    import torch

    from benchmarks.step import config_of

    sides, rows = build(size, padding), []
    with torch.inference_mode():
        for tower in ("vision", "text"):
            for count in batches:
                batch = inputs(config_of(size, padding), tower, count)
                rounds = [{name: rate(side[tower], batch) for name, side in sides.items()} for _ in range(ROUNDS)]
                rates = {name: statistics.median(one[name] for one in rounds) for name in sides}
                ratios = {
                    name: statistics.median(one["ours"] / one[name] for one in rounds)
                    for name in sides
                    if name != "ours"
                }
                rows.append({"size": size, "tower": tower, "batch": count, "per_s": rates, "ours_beside": ratios})
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "s16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--padding", choices=["attend", "mask"], default="attend")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = [row for size in options.sizes for row in measure(size, options.padding, options.batches)]
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        rates = ", ".join(f"{name} {value:,.1f}/s" for name, value in row["per_s"].items())
        ratios = ", ".join(f"{value:.2f} x {name}" for name, value in row["ours_beside"].items())
        print(f"{row['size']} {row['tower']} batch {row['batch']}: {rates}; ours {ratios}")


if __name__ == "__main__":
    main()
