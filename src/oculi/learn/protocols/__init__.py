"""How each kind of answer is scored, one file per kind: `score(system, splits, split) -> {metric: value}`."""
