"""Penstock: a fast simulator of LLM serving with pipeline parallelism at its centre."""

__version__ = "0.1.0"
