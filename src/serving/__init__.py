"""LLMServingSim's entry point, ``python -m serving``, answered by Penstock."""
