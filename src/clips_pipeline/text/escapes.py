"""Bytes that a text spells instead of holding: `caf\\xc3\\xa9` with backslashes, as many web captions of Recap-DataComp-1B do."""

import re

# Bytes from 0x80 only: those below are letters, or the `\x64` of a path, and no writer spells them so.
_RUN = re.compile(r"(?:\\x[89a-fA-F][0-9a-fA-F])+")


def decode_byte_escapes(text: str) -> str:
    """Each run of spelt bytes that is whole UTF-8 becomes the characters it stands for; all else stays as it is."""
    return _RUN.sub(_decoded, text) if "\\x" in text else text


def _decoded(run: re.Match[str]) -> str:
    try:
        return bytes.fromhex(run[0].replace("\\x", "")).decode()
    except UnicodeDecodeError:
        return run[0]
