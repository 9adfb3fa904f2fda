"""The data health report: caption lengths, histograms, and what looks wrong."""

__all__ = ["caption_lengths", "data_health", "findings", "histograms"]
