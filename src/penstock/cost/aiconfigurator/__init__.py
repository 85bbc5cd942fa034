"""Kernel times from AIConfigurator's database, which NVIDIA measured with vLLM, SGLang and TensorRT-LLM.

The tables come with the wheel ``aiconfigurator-core`` (extra ``penstock[aiconfigurator]``). :mod:`.wheel` finds and
reads them, :mod:`.gemm`, :mod:`.attention` and :mod:`.all_reduce` make times of any shape of them, and :mod:`.source`
puts those together for a model.
"""
