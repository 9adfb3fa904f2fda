"""Methods and caption lengths side by side."""
