"""Transfer: what was learned on one task put to use on another."""
