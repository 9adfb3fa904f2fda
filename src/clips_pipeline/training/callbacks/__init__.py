"""Composer callbacks and algorithms of a training."""

__all__ = [
    "caption_log",
    "data_wait",
    "divergence",
    "heartbeat",
    "image_schedule",
    "logit_scale",
    "moving_average",
    "retrieval",
    "sample_trace",
    "stop_request",
]
