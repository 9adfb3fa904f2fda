"""Samples parted by their keys alone, so that those which are added later move no other one."""

import hashlib


def place_of(key: str) -> float:
    """A number from 0 to below 1 that follows from the key, evenly spread over many keys."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
