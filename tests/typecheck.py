"""The type checker that the tests put on every annotation: beartype, an int being fine where a float is asked for."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
