r"""COCO's matching of detections with objects for many IoU thresholds and area ranges at once.

A detection, best score first, takes the free object of its class and picture with the largest overlap of at least the
threshold; a tie goes to the later object, an ignored object is taken only when no other can be, and a crowd region may
be taken again and again. Whether it is taken is one yes or no for each threshold and range ("question"): up to 62 of them
share the bits of one integer, and the n-th detections of all classes and pictures move in one step, so that the cost
is that of the pairs which overlap enough, not of all detections.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from oculi.metrics.instances import Array, ranks

BITS = 62


@dataclass
class Matches:
    """For detections with the indices `row`, the only ones that may match: took an object, took an ignored one.

    taken: which objects were taken; each `... x questions`, the questions being thresholds x ranges. links: for every
    word of questions, which of `row` and which object, and the word that says for which questions they match.
    """

    row: Array
    hit: Array
    excused: Array
    taken: Array
    links: list[tuple[Array, Array, Array]]

    def partner(self, question: int = 0) -> Array:
        """The object that each detection of `row` took, -1 for none."""
        word, bit = divmod(question, BITS)
        who, what, given = self.links[word]
        some = (given >> bit) & 1 > 0
        partner = np.full(len(self.row), -1)
        partner[who[some]] = what[some]
        return partner


def greedy(
    i: Array, j: Array, overlap: Array, group: Array, crowd: Array, ignored: Array, thresholds: Array
) -> Matches:
    """Match along the pairs (`i` rising, `j`) of detections and objects.

    group: that of each detection, which are sorted by group and falling score; crowd: `objects`, ignored: `objects x ranges`.
    """
    least = np.repeat(np.minimum(thresholds, 1 - 1e-10), ignored.shape[1])
    barred = np.tile(ignored, len(thresholds))
    order = np.lexsort((-j, -overlap, i))
    i, j, overlap = i[order], j[order], overlap[order]
    row, at = np.unique(i, return_inverse=True)
    turn = ranks(group[row])
    blocks = [slice(first, first + BITS) for first in range(0, len(least), BITS)]
    parts = [_one_word(at, j, overlap, turn, crowd, barred[:, b], least[b]) for b in blocks]
    words, links = zip(*parts, strict=True)
    hit, excused, taken = (np.concatenate(answer, 1) for answer in zip(*words, strict=True))
    return Matches(row, hit, excused, taken, list(links))


def _one_word(
    at: Array, j: Array, overlap: Array, turn: Array, crowd: Array, barred: Array, least: Array
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    """Matching for at most 62 questions; pairs by detection and falling preference."""
    weight = 1 << np.arange(len(least), dtype=np.int64)
    reached = np.zeros(len(at), dtype=np.int64)
    for level in np.unique(least):
        reached |= np.where(overlap >= level, weight[least == level].sum(), 0)
    ignored = barred @ weight if len(barred) else np.zeros(0, dtype=np.int64)
    first, second = reached & ~ignored[j], reached & ignored[j]
    wish = np.concatenate([first, second])
    pair = np.flatnonzero(wish)
    who, what, wish = np.tile(at, 2)[pair], np.tile(j, 2)[pair], wish[pair]
    inner = np.argsort(who, kind="stable")  # the wishes of one detection: objects that count, then ignored ones
    who, what, wish = who[inner], what[inner], wish[inner]
    place = ranks(who)
    step = turn[who] * (1 + int(place.max(initial=0))) + place
    order = np.argsort(step, kind="stable")
    who, what, wish = who[order], what[order], wish[order]
    done, excused, taken = (np.zeros(n, dtype=np.int64) for n in (len(turn), len(turn), len(crowd)))
    single, given = np.where(crowd, 0, -1), np.zeros_like(wish)
    cuts = np.flatnonzero(np.diff(step[order])) + 1
    for low, high in zip(np.r_[0, cuts], np.r_[cuts, len(who)], strict=True):
        d, o = who[low:high], what[low:high]
        got = given[low:high] = wish[low:high] & ~(done[d] | (taken[o] & single[o]))
        done[d] |= got
        taken[o] |= got
        excused[d] |= got & ignored[o]
    answers = _bits(done, len(least)), _bits(excused, len(least)), _bits(taken, len(least))
    return answers, (who, what, given)


def _bits(words: Array, count: int) -> Array:
    octets = words.astype("<i8").view(np.uint8).reshape(-1, 8)
    return np.unpackbits(octets, axis=1, bitorder="little")[:, :count].astype(bool)
