"""oculi: every vision system in pure PyTorch, from data to production.

Importing this package loads nothing else; each name below is fetched when it is first used.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "System": "oculi.system",
    "load": "oculi.hub.loading",
    "predict": "oculi.system",
    "save": "oculi.system",
    "Batch": "oculi.types",
    "Sample": "oculi.types",
    "InputContract": "oculi.input_contract",
    "open_data": "oculi.data.sources",
    "build": "oculi.learn.training",
    "train": "oculi.learn.training",
    "evaluate": "oculi.learn.evaluation",
    "reproduce": "oculi.learn.reproduction",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'oculi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
