"""Data health report: caption lengths, histograms and findings."""

__all__ = ["caption_lengths", "data_health", "findings", "histograms"]
