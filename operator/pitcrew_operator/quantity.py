"""Kubernetes quantities: `200m`, `1.5Gi`, `2`."""

import re
from decimal import Decimal
from typing import Final

_DECIMAL: Final = {"m": -1, "": 0, "k": 1, "M": 2, "G": 3, "T": 4, "P": 5, "E": 6}
_BINARY: Final = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_FORM: Final = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")


def parse_quantity(value: int | str) -> Decimal:
    """The number that a quantity stands for. Raises ValueError for anything else."""
    match = _FORM.match(str(value))
    if not match:
        raise ValueError(f"{value!r} is not a quantity; write it like 512Mi, 2 or 200m")
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _BINARY:
        return number * Decimal(1024 ** _BINARY[suffix])
    return number.scaleb(3 * _DECIMAL[suffix])
