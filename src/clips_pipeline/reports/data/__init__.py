"""Data health report: caption lengths, histograms and findings."""

__all__ = ["caption_lengths", "data_health", "data_look", "findings", "histograms", "look_terminal", "readings"]
