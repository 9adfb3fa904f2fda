"""webdataset's parts that read and write tars, without torch where nobody has loaded it yet.

`import webdataset` imports torch for its `WebLoader`, which is not used here: 380 MB and two seconds of processor time for each
process of `prepare`. Where torch is not installed webdataset has stand-ins, so torch is hidden for the length of this import;
afterwards webdataset is forgotten, so that whoever imports it later gets the whole.
"""

import sys
from functools import cache
from types import SimpleNamespace


@cache
def parts() -> SimpleNamespace:
    """`TarWriter`, `tar_file_expander`, `group_by_keys` and `ignore_and_continue`."""
    if "torch" in sys.modules or "webdataset" in sys.modules:
        return _imported()
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        return _imported()
    finally:
        for name in [name for name in sys.modules if name == "torch" or name.partition(".")[0] == "webdataset"]:
            del sys.modules[name]


def _imported() -> SimpleNamespace:
    from webdataset.handlers import ignore_and_continue
    from webdataset.tariterators import group_by_keys, tar_file_expander
    from webdataset.writer import TarWriter

    return SimpleNamespace(
        TarWriter=TarWriter,
        tar_file_expander=tar_file_expander,
        group_by_keys=group_by_keys,
        ignore_and_continue=ignore_and_continue,
    )
