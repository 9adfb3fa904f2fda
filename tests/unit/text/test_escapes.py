"""Decoding of byte escapes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clips_pipeline.text.escapes import decode_byte_escapes


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (r"Lego\xc2\xae set", "Lego® set"),
        (r"caf\xc3\xa9 \xe2\x80\x93 \xF0\x9F\x98\x80", "café – 😀"),
        (r"broken \xc2 and \xe2\x80", r"broken \xc2 and \xe2\x80"),
        (r"C:\x64\temp \n \xzz \x4", r"C:\x64\temp \n \xzz \x4"),
        (r"\\xc2\\xae", r"\\xc2\\xae"),
        ("already ® \\", "already ® \\"),
        ("", ""),
    ],
)
def test_examples(text: str, wanted: str) -> None:
    assert decode_byte_escapes(text) == wanted


@given(st.text())
def test_escaped_bytes_are_decoded(text: str) -> None:
    spelt = "".join(c if ord(c) < 128 else "".join(f"\\x{b:02x}" for b in c.encode()) for c in text if c != "\\")
    assert decode_byte_escapes(spelt) == text.replace("\\", "")


@given(st.text(alphabet="ab \\xcfé"))
def test_texts_without_complete_escapes_do_not_change(text: str) -> None:
    if "\\x" not in text:
        assert decode_byte_escapes(text) == text
