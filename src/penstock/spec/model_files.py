"""Models by name or file: a Hugging Face ``config.json`` to :class:`ModelSpec`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from penstock.errors import Problem, nearest
from penstock.files.json_text import read_json
from penstock.files.place import Place, home_expanded
from penstock.spec.check import shown
from penstock.spec.config_members import ConfigMembers
from penstock.spec.layers import layer_runs
from penstock.spec.model import ModelSpec
from penstock.spec.model_dtypes import read_dtypes
from penstock.spec.model_families import DENSE_FAMILIES, MOE_FAMILIES, family_of, missing_for, read_layers

_OUTER_MEMBERS = ("tie_word_embeddings", "torch_dtype", "dtype", "quantization_config", "architectures")
"""What a multi-modal config may say outside its ``text_config``."""


HOW_TO_GET = (
    "the path of its config.json works too: hf download ORG/NAME config.json --local-dir DIR, then name DIR"
)
"""How to use a model that has no name here."""


@dataclass(frozen=True, slots=True)
class ModelLibrary:
    """Where ``model_name`` is looked up: ``<directory>/<name>.json``, the first directory that has it."""

    directories: tuple[Path, ...]

    @classmethod
    def near(cls, cluster_directory: Path | None) -> ModelLibrary:
        """``../model`` beside the cluster config's directory,
        ``configs/model`` here, and what comes with Penstock."""
        package = Path(__file__).resolve().parents[1]
        candidates = [] if cluster_directory is None else [cluster_directory / ".." / "model"]
        candidates += [
            Path("configs/model"),
            package / "data" / "models",
            package.parents[1] / "configs" / "model",
        ]
        return cls(tuple(path for path in candidates if path.is_dir()))

    def names(self) -> Iterator[str]:
        """All models that can be named."""
        for directory in self.directories:
            for path in sorted(directory.rglob("*.json")):
                yield path.relative_to(directory).with_suffix("").as_posix()

    def named(self, name: str) -> Path | None:
        """The file behind a name of this library."""
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return None
        paths = (directory / f"{name}.json" for directory in self.directories)
        return next((path for path in paths if _is_file(path)), None)

    def find(self, name: str, cluster_directory: Path | None) -> Path | None:
        """The file behind a name, or behind a path (absolute, from here, or from the cluster config)."""
        named = self.named(name)
        if named is not None:
            return named
        for base in (Path(), cluster_directory or Path()):
            path = base / home_expanded(name)
            if _is_file(path):
                return path
            if _is_file(path / "config.json"):
                return path / "config.json"
        return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (
        OSError,
        ValueError,
    ):  # too long a name, a null byte in it, or a directory that cannot be searched
        return False


def load_model(
    name: str, library: ModelLibrary, cluster_directory: Path | None, place: Place, problems: list[Problem]
) -> ModelSpec | None:
    """The model a cluster config names at ``place``; mistakes go to ``problems`` and give None."""
    path = library.find(name, cluster_directory)
    if path is None:
        searched = ", ".join(str(directory) for directory in library.directories) or "no directory of models"
        hint = nearest(name, library.names())
        message = f"unknown model '{name}'{hint} (no such file, and none in {searched}); {HOW_TO_GET}"
        problems.append(Problem(str(place), message))
        return None
    data = read_json(path, problems)
    if data is None:
        return None
    if not isinstance(data, Mapping):
        problems.append(Problem(str(path), f"must be an object, not {shown(data)}"))
        return None
    if path == library.named(name):
        label = name
    else:
        given = data.get("_name_or_path")
        label = given if isinstance(given, str) and given else _name_of(path)
    return _ConfigReader(str(path), data).read(label, problems)


def _name_of(path: Path) -> str:
    """A model's name from its file's: the directory of a ``config.json``, else the file's stem."""
    resolved = path.resolve()
    return resolved.parent.name if resolved.name == "config.json" else resolved.stem


class _ConfigReader:
    """One config.json; members that serving does not depend on are not looked at."""

    def __init__(self, file: str, data: Mapping[str, Any]) -> None:
        text = data.get("text_config")
        self._nested = isinstance(text, Mapping)
        if isinstance(text, Mapping):
            # Of a multi-modal model the language model; what both levels may say, the inner one says first.
            outer = {key: data[key] for key in _OUTER_MEMBERS if data.get(key) is not None}
            data = {**outer, "model_type": data.get("model_type"), **cast("Mapping[str, Any]", text)}
        self._file = file
        self._config = ConfigMembers(file, data, "text_config" if self._nested else "")

    def read(self, name: str, problems: list[Problem]) -> ModelSpec | None:
        """The model, or None with the reasons added to ``problems``."""
        family = family_of(self._model_type())
        refusal = self._refusal(family)
        if refusal is not None:
            problems.append(refusal)
            return None
        config = self._config
        hidden = config.count("hidden_size")
        layers = layer_runs(read_layers(config, family))
        dtype, expert_dtype, attention_dtype = read_dtypes(config)
        model = ModelSpec(
            name=name,
            hidden_size=hidden,
            layers=layers,
            vocab_size=config.count("vocab_size"),
            max_position_embeddings=config.count("max_position_embeddings"),
            tie_word_embeddings=config.flag("tie_word_embeddings", family == "gemma"),
            has_norm_bias=family == "phimoe",
            has_head_bias=config.flag("lm_head_bias", False),
            dtype=dtype,
            expert_dtype=expert_dtype,
            attention_dtype=attention_dtype,
            model_type=self._model_type(),
            notes=("text alone: encoders of images or sound are not simulated",) if self._nested else (),
        )
        problems.extend(dict.fromkeys(config.problems))
        return None if config.problems else model

    def _model_type(self) -> str:
        data = self._config.data
        kind = data.get("model_type")
        if kind is None:
            architectures = data.get("architectures")
            first = architectures[0] if isinstance(architectures, list) and architectures else "llama"
            kind = str(first).removesuffix("ForCausalLM").lower()
        return str(kind)

    def _refusal(self, family: str) -> Problem | None:
        """Why this is no model whose layers are known."""
        data, kind = self._config.data, self._model_type()
        if data.get("is_encoder_decoder"):
            return Problem(
                self._file, f"'{kind}' is an encoder-decoder: only decoder-only models are simulated"
            )
        missing = missing_for(family)
        if missing is not None:
            return Problem(self._config.place("model_type"), f"'{kind}' is not simulated: it has {missing}")
        known = (*DENSE_FAMILIES, *MOE_FAMILIES)
        if family in known:
            return None
        hint = nearest(kind, known)
        return Problem(
            self._config.place("model_type"),
            f"'{kind}' is not simulated{hint} (decoder-only with a gated MLP: {', '.join(DENSE_FAMILIES)}; with a "
            f"mixture of experts: {', '.join(MOE_FAMILIES)})",
        )
