"""LLMServingSim's shipped runs beside ours: which they are, and the rules by which they differ."""
