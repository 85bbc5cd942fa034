"""Write a tokenizer of one word per token, for benchmarks that want one: python tools/serve_tokenizer.py DIR.

`penstock serve --tokenizer DIR` takes it, and so do `vllm bench serve --tokenizer DIR` and GuideLLM.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

WORDS = 8192

directory = Path(sys.argv[1])
directory.mkdir(parents=True, exist_ok=True)
vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"w{number}": number for number in range(3, WORDS)}
tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
tokenizer.save(str(directory / "tokenizer.json"))
config = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": 100_000,
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "clean_up_tokenization_spaces": False,
}
(directory / "tokenizer_config.json").write_text(json.dumps(config))
