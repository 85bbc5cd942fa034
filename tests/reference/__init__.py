"""A plain second implementation of vLLM's scheduling, for reading: the opinion the fast engine is held against."""
