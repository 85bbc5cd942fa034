"""The approximation and tokenizer files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import UserError
from penstock.server.answers import Answerer
from penstock.server.errors import ApiError
from penstock.server.tokenizer import ApproximateTokenizer
from penstock.server.tokenizer_file import FileTokenizer
from penstock.workload.lengths import parse_lengths

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


@settings(max_examples=20, deadline=None)
@given(st.text(max_size=200))
def test_the_approximation_gives_text_back(text: str) -> None:
    tokenizer = ApproximateTokenizer(2**31 - 1)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_equal_beginnings_have_equal_ids() -> None:
    tokenizer = ApproximateTokenizer(128_256)
    one, other = tokenizer.encode("You are kind. Say a"), tokenizer.encode("You are kind. Say another thing")
    assert one[:5] == other[:5]
    filler = tokenizer.decode(tokenizer.filler)
    assert tokenizer.encode(filler).tolist() == list(tokenizer.filler)


def test_prose_has_about_four_tokens_for_three_words() -> None:
    text = Path(__file__).parents[2].joinpath("LICENSE").read_text()
    tokens = len(ApproximateTokenizer(128_256).encode(text))
    assert 1.2 < tokens / len(text.split()) < 1.8


def tokenizer_files(directory: Path) -> Path:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["the queue and the model and the cache"] * 9, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"chat_template": TEMPLATE, "bos_token": {"content": "<s>"}}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def test_a_tokenizer_file_is_used_with_its_chat_template(tmp_path: Path) -> None:
    tokenizer = FileTokenizer(str(tokenizer_files(tmp_path)))
    text = "the queue, größer"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.render_chat([{"role": "user", "content": "Hi"}]) == "<s>[user] Hi\n[assistant]"
    with pytest.raises(ApiError, match="no tools"):
        tokenizer.render_chat([{"role": "tool", "content": "Hi"}])
    answer = Answerer(tokenizer, parse_lengths("fixed:8", "x")).answer(tokenizer.encode("x"), max_tokens=20)
    words = tokenizer.decode(answer.ids).split()
    assert len(words) == len(answer.ids) == 8
    assert answer.finish_reason == "stop"


@pytest.mark.parametrize("content", [None, "{}", "no json"])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError) as caught:
        FileTokenizer(str(tmp_path))
    assert caught.value.problems[0].where == "--tokenizer"


def test_answers_follow_from_the_request() -> None:
    tokenizer = ApproximateTokenizer(1000)
    answerer = Answerer(tokenizer, parse_lengths("uniform:5,50", "x"))
    prompt = tokenizer.encode("What is new?")
    assert answerer.answer(prompt, max_tokens=99) == answerer.answer(prompt, max_tokens=99)
    assert answerer.answer(prompt, max_tokens=3).finish_reason == "length"
    assert len(answerer.answer(prompt, max_tokens=77, ignore_eos=True).ids) == 77
    assert len(answerer.answer(prompt, max_tokens=99, min_tokens=60).ids) == 60
    lengths = {len(answerer.answer(prompt, max_tokens=99, seed=seed).ids) for seed in range(40)}
    assert len(lengths) > 10
    echo = Answerer(tokenizer, parse_lengths("fixed:9", "x"), "echo").answer(prompt, max_tokens=99)
    assert tokenizer.decode(echo.ids).startswith("What is new?What is")
