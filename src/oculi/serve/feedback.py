r"""True labels that come after the predictions: a bounded store under the prediction's id, the oldest going first.

What a user corrects is the cheapest training data there is; `GET /feedback` hands it to the next training.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from dataclasses import dataclass

from oculi.serve.protocol import BadRequest

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
Label = int | str


def check_id(key: object) -> str:
    """The id, when it is one. Raises BadRequest otherwise."""
    if not (isinstance(key, str) and _ID.fullmatch(key)):
        raise BadRequest(422, "id: expected 1 to 64 letters, digits, - or _")
    return key


def check_label(label: object) -> Label:
    """A class number or name. Raises BadRequest otherwise."""
    number = type(label) is int and 0 <= label < 2**31
    if number or (isinstance(label, str) and 0 < len(label) <= 200):
        return label  # type: ignore[return-value]
    raise BadRequest(422, "label: expected a class number or a name of at most 200 characters")


@dataclass(frozen=True)
class Feedback:
    """The true label of one prediction."""

    id: str
    label: Label

    def to_dict(self) -> dict[str, Label]:
        """Plain values for JSON."""
        return {"id": self.id, "label": self.label}


class FeedbackStore:
    """At most `most` labels in memory, safe to use from several threads."""

    def __init__(self, most: int):
        self.most = most
        self._kept: OrderedDict[str, Feedback] = OrderedDict()
        self._lock = threading.Lock()

    def create(self, key: str, label: Label) -> Feedback:
        """Store a new label. Raises BadRequest 409 when the prediction already has one."""
        with self._lock:
            if key in self._kept:
                raise BadRequest(409, f"{key}: has a label already; PUT replaces it")
            return self._set(key, label)

    def put(self, key: str, label: Label) -> tuple[Feedback, bool]:
        """Store or replace; whether it is new."""
        with self._lock:
            new = key not in self._kept
            return self._set(key, label), new

    def get(self, key: str) -> Feedback:
        """Raises BadRequest 404 when there is none."""
        with self._lock:
            if key not in self._kept:
                raise BadRequest(404, f"{key}: no feedback")
            return self._kept[key]

    def delete(self, key: str) -> None:
        """Raises BadRequest 404 when there is none."""
        with self._lock:
            if self._kept.pop(key, None) is None:
                raise BadRequest(404, f"{key}: no feedback")

    def all(self) -> list[Feedback]:
        """Oldest first."""
        with self._lock:
            return list(self._kept.values())

    def _set(self, key: str, label: Label) -> Feedback:
        self._kept[key] = Feedback(key, label)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return self._kept[key]
