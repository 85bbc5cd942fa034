"""How fast Penstock is: ``python -m benchmarks`` (``make bench``) measures, prints a table and writes JSON.

Every case runs in a process of its own, so that peak memory is its own. Nothing here asserts a time.
"""
