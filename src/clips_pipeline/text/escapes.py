"""Decoding of byte escapes such as `caf\\xc3\\xa9`, which many web captions of Recap-DataComp-1B contain literally."""

import re

# Only bytes from 0x80: lower ones are ASCII, which is not escaped, so `\x64` is part of a path.
_RUN = re.compile(r"(?:\\x[89a-fA-F][0-9a-fA-F])+")


def decode_byte_escapes(text: str) -> str:
    """Replace each run of byte escapes that is valid UTF-8 by its characters. Other text does not change."""
    return _RUN.sub(_decoded, text) if "\\x" in text else text


def _decoded(run: re.Match[str]) -> str:
    try:
        return bytes.fromhex(run[0].replace("\\x", "")).decode()
    except UnicodeDecodeError:
        return run[0]
