"""Other layouts of the model on disk, in and out."""
