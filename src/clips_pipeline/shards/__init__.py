"""Sources, tar shards, their index, and the loader that trains from them."""
