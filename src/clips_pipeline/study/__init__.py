"""The paper in miniature: methods side by side, and what shorter captions do. Many trainings, one table."""
