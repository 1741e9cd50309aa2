r"""Which verbs a system has: what its kind of answer and its hooks allow, less what its recipe says it cannot."""

from __future__ import annotations

import inspect

from oculi.catalogue import BadRecipe, Recipe
from oculi.learn.training import system_class
from oculi.system import System

VERBS = ("train", "predict", "sample", "render", "explain", "attack", "compress", "export", "serve", "monitor")


def cannot(recipe: Recipe) -> dict[str, str]:
    """The verbs that the recipe's system does not have, each with its reason. What is no System has none of them."""
    kind = system_class(recipe)
    if not issubclass(kind, System):
        return dict.fromkeys(VERBS, "it is a method and not a system")
    reasons = {"train": "it does not learn"} if not (kind.can("loss") or kind.can("fit") or kind.can("collect")) else {}
    reasons |= {verb: f"it does not {verb}" for verb in ("sample", "render") if not kind.can(verb)}
    if not kind.can("predict") or "predict" in recipe.cannot:
        reason = recipe.cannot.get("predict", "it does not answer about pictures")
        reasons |= dict.fromkeys(("predict", "explain", "attack", "compress", "export", "serve", "monitor"), reason)
    elif not kind.can("loss"):
        reasons |= dict.fromkeys(("attack", "compress"), "it does not learn by gradient")
    if kind.answer.__name__ != "Classes":
        reasons.setdefault("explain", "it gives no class scores")
    if not _takes_pictures_alone(kind):
        reasons.setdefault("export", "its forward does not take pictures alone")
    return reasons | recipe.cannot


def require(recipe: Recipe, verb: str) -> None:
    """Raise BadRecipe with the reason when the recipe's system cannot do it."""
    reason = cannot(recipe).get(verb)
    if reason is not None:
        raise BadRecipe(f"{recipe.id} cannot {verb}: {reason}")


def _takes_pictures_alone(kind: type) -> bool:
    if "forward" not in vars(kind):
        return False
    needed = [p for p in inspect.signature(kind.forward).parameters.values() if p.default is p.empty]  # type: ignore[attr-defined]
    return len(needed) == 2
