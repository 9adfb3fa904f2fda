"""Stand-ins for two packages on a machine that has only torch, NumPy, Pillow and simplejpeg.

They check values of configuration files, of which this benchmark reads none. Import this module before the project's.
"""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class _Bound:
    value: Any = None


class _Missing:
    def __class_getitem__(cls, item: object) -> "type[_Missing]":
        return cls

    def __init__(self, *args: object) -> None:
        raise ImportError("pydantic is not installed, so no configuration can be read here")


def install() -> list[str]:
    """Add the stand-ins where a package is missing; return its names."""
    missing = [name for name in ("annotated_types", "pydantic") if name not in sys.modules and not find_spec(name)]
    if "annotated_types" in missing:
        module: Any = ModuleType("annotated_types")
        for name in ("Ge", "Gt", "Le", "Lt"):
            setattr(module, name, type(name, (_Bound,), {}))
        sys.modules["annotated_types"] = module
    if "pydantic" in missing:
        pydantic: Any = ModuleType("pydantic")
        pydantic.TypeAdapter, pydantic.ValidationError = _Missing, type("ValidationError", (Exception,), {})
        core: Any = ModuleType("pydantic_core")
        core.ErrorDetails = dict
        sys.modules |= {"pydantic": pydantic, "pydantic_core": core}
    return missing
