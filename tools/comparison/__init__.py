"""Parts of ``tools/compare_checkouts.py``."""
