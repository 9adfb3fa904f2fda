"""Training: the only package that imports Composer. `launch` is what the rest of the program calls."""
