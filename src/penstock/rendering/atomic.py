"""See :mod:`penstock.files.writing`."""

from penstock.files.writing import atomic_write, atomic_write_bytes, unwritable

__all__ = ["atomic_write", "atomic_write_bytes", "unwritable"]
