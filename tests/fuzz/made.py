"""Files that Penstock itself writes and reads again."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path

from fuzz.kind import state, write
from penstock.cli.main import main


def made(files: Mapping[str, bytes], line: str, keep: str) -> dict[str, bytes]:
    """What a command leaves whose name begins with ``keep``."""
    with tempfile.TemporaryDirectory(prefix="fuzz-made-") as place:
        write(files, Path(place))
        quiet = io.StringIO()
        with (
            contextlib.chdir(place),
            contextlib.redirect_stdout(quiet),
            contextlib.redirect_stderr(quiet),
            contextlib.suppress(SystemExit),
        ):
            main(line.split())
        return {name: data for name, data in state(Path(place)).items() if name.startswith(keep)}


TOKENIZER = (
    '{"version": "1.0", "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, '
    '"rstrip": false, "normalized": false, "special": true}], "normalizer": null, "pre_tokenizer": null, '
    '"post_processor": null, "decoder": null, "model": {"type": "WordLevel", "vocab": {"<s>": 0, "a": 1, " the": 2}, '
    '"unk_token": "<s>"}}'
)
_TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
TOKENIZER_CONFIG = f'{{"chat_template": "{_TEMPLATE}", "bos_token": {{"content": "a"}}}}'
