"""A Hugging Face tokenizer from its files: ``tokenizer.json``, and the chat template beside it."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.errors import Problem, UserError
from penstock.files.reading import read_text
from penstock.server.errors import ApiError
from penstock.server.tokenizer import chat_ml

_MOST_FILLER = 512


class FileTokenizer:
    """``path`` is a ``tokenizer.json``, or a directory that has one; a ``tokenizer_config.json`` or
    ``chat_template.jinja`` beside it gives the chat template, ChatML stands in where there is none.

    Raises:
        UserError: the files cannot be read.
    """

    def __init__(self, path: str, option: str = "--tokenizer") -> None:
        from tokenizers import Tokenizer

        file = Path(path)
        if file.is_dir():
            file = file / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_str(read_text(file))
            self._template, self._special = _chat_template(file.parent)
        except UserError as error:
            raise UserError([Problem(option, str(problem)) for problem in error.problems]) from None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises plain Exception, and panics that are none
            told = " ".join(str(error).split())[:200]
            raise UserError([Problem(option, f"{file} is no tokenizer: {told}")]) from None
        vocabulary: Mapping[str, int] = self._tokenizer.get_vocab(with_added_tokens=False)
        self.max_chars_per_token = max(map(len, vocabulary), default=1)
        self.filler = self._plain_words(vocabulary)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> array[int]:
        """See :class:`~penstock.server.tokenizer.Tokenizer`."""
        return array("i", self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """See :class:`~penstock.server.tokenizer.Tokenizer`; ids beyond the vocabulary say nothing."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def piece(self, token_id: int) -> str:
        """See :class:`~penstock.server.tokenizer.Tokenizer`."""
        return self._tokenizer.decode([token_id], skip_special_tokens=False)

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """See :class:`~penstock.server.tokenizer.Tokenizer`.

        Raises:
            ApiError: the template does not take such messages.
        """
        if self._template is None:
            return chat_ml(messages, add_generation_prompt=add_generation_prompt)
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=add_generation_prompt, **self._special
            )
        except ApiError:
            raise
        except Exception as error:  # a template is a program of its own
            raise ApiError(f"The chat template does not take this conversation: {error}") from None

    def _plain_words(self, vocabulary: Mapping[str, int]) -> tuple[int, ...]:
        """Tokens that are a word with the space before it, else any that show something."""
        found: list[int] = []
        shown: list[int] = []
        for token_id in sorted(vocabulary.values()):
            text = self._tokenizer.decode([token_id], skip_special_tokens=True)
            if text.startswith(" ") and text[1:].isascii() and text[1:].isalpha() and text.islower():
                found.append(token_id)
            elif text.isprintable() and text.strip():
                shown.append(token_id)
            if len(found) >= _MOST_FILLER:
                break
        return tuple(found or shown[:_MOST_FILLER] or [0])


def _chat_template(directory: Path) -> tuple[Any, dict[str, str]]:
    """The template, None where there is none, and the special tokens by name."""
    config: dict[str, Any] = {}
    file = directory / "tokenizer_config.json"
    if file.is_file():
        config = json.loads(read_text(file))
    source = config.get("chat_template")
    if isinstance(source, list):
        source = next((one["template"] for one in source if one.get("name") == "default"), None)
    beside = directory / "chat_template.jinja"
    if beside.is_file():
        source = read_text(beside)
    special: dict[str, str] = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        value = config.get(name)
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str):
            special[name] = text
    if not isinstance(source, str):
        return None, special
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    functions: dict[str, Any] = {"raise_exception": _refuse}
    return environment.from_string(source, functions), special


def _refuse(message: str) -> None:
    """What templates call for conversations that they do not take."""
    raise ApiError(message)
