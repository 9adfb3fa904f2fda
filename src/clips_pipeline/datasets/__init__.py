"""Kedro dataset classes of this project: files and folders by path, remote shards, previews of reports and images."""

__all__ = ["folder", "remote", "report"]
