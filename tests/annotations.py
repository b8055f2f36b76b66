"""How the annotations of the package, shapes of arrays among them, are checked while tests run."""

import numbers

from beartype import BeartypeConf, BeartypeHintOverrides, beartype

NUMBERS = {float: numbers.Real, int: numbers.Integral}  # NumPy's scalars too, and whole numbers where float stands

check = beartype(conf=BeartypeConf(hint_overrides=BeartypeHintOverrides(NUMBERS)))
