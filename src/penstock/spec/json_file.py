"""See :mod:`penstock.files`."""

from penstock.files.json_text import read_json
from penstock.files.place import Place

__all__ = ["Place", "read_json"]
