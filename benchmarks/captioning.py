"""Captions per second: beam search with kept keys and values and in batches, beside the naive forms, and parallel decoding.

    python -m benchmarks.captioning [--sizes tiny mini] [--images 16] [--width 4] [--json]

`naive` searches the captions of one image at a time; for method coca it computes all positions at every step. Weights are
random and EOS is never written, so every caption has the full length. The sides alternate, and results are medians over rounds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

ROUNDS = 3


def sides(size: str, inputs: str, images: int, width: int) -> dict[str, Callable[[int], Any]]:
    """Return the decoders by name; each takes the number of images to caption."""
    import torch
    from tests import naive_decoding

    from clips_pipeline.evaluation.inference.beam_search import PositionSteps, SpecialIds, beam_search
    from clips_pipeline.evaluation.inference.caption_decoding import LENGTH_PENALTY, decode_parallel, log_probabilities
    from clips_pipeline.models.cached_decoding import CachedCaptioner
    from clips_pipeline.models.clips import ClipsModel
    from clips_pipeline.models.sizes import SIZES

    torch.manual_seed(0)
    config = SIZES[size]
    assert config.captioner is not None
    model = ClipsModel(replace(config, captioner=replace(config.captioner, inputs=inputs))).eval()
    captioner = model.captioner
    assert captioner is not None
    size_px = config.vision.image_size
    images_BCHW = torch.randn(images, 3, size_px, size_px)
    web_ids_BL = torch.randint(5, config.text.vocab_size, (images, config.text.context_length))
    special_ids = SpecialIds(1, 2, (0, 2))
    length = captioner.config.queries - 1
    options = {"width": width, "length_penalty": LENGTH_PENALTY}

    def naive(count: int) -> None:
        for at in range(count):
            if inputs == "tokens":
                steps = naive_decoding.next_from_prefix(model, images_BCHW[at], special_ids.bos)
            else:
                log_p_BQV = log_probabilities(model, images_BCHW[at : at + 1], web_ids_BL[at : at + 1])
                steps = naive_decoding.next_from_positions(log_p_BQV[0])
            naive_decoding.beam_search(steps, length, special_ids, **options)

    @torch.no_grad()
    def batched(count: int, batch: int) -> None:
        for low in range(0, count, batch):
            some, web = images_BCHW[low : low + batch], web_ids_BL[low : low + batch]
            if inputs == "tokens":
                steps: Any = CachedCaptioner(captioner, model.vision(some).tokens_BPD)
            else:
                steps = PositionSteps(log_probabilities(model, some, web))
            beam_search(steps, len(some), length, special_ids, **options)

    found: dict[str, Callable[[int], Any]] = {
        "naive": naive,
        "one at a time": lambda count: batched(count, 1),
        "batches of 8": lambda count: batched(count, 8),
    }
    if inputs == "queries":
        found["parallel"] = lambda count: [
            decode_parallel(log_probabilities(model, some, web), special_ids)
            for some, web in zip(images_BCHW.split(8), web_ids_BL.split(8), strict=True)
        ]
    return found


def measure(size: str, inputs: str, images: int, width: int) -> dict[str, Any]:
    """Return captions per second of each side."""
    rates: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, decode in sides(size, inputs, images, width).items():
            # The naive side of method coca is slow, and its time is proportional to the number of images.
            count = max(1, images // 8) if name == "naive" and inputs == "tokens" else images
            started = time.perf_counter()
            decode(count)
            rates.setdefault(name, []).append(count / (time.perf_counter() - started))
    method = "coca" if inputs == "tokens" else "clips"
    return {
        "size": size,
        "method": method,
        "width": width,
        "captions_per_s": {name: statistics.median(found) for name, found in rates.items()},
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "mini"])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    rows = [
        measure(size, inputs, options.images, options.width)
        for size in options.sizes
        for inputs in ("queries", "tokens")
    ]
    if options.json:
        print(json.dumps(rows))
        return
    for row in rows:
        rates = row["captions_per_s"]
        told = ", ".join(f"{name} {rate:.2f}/s ({rate / rates['naive']:.1f} x)" for name, rate in rates.items())
        print(f"{row['size']} {row['method']} width {row['width']}: {told}")


if __name__ == "__main__":
    main()
