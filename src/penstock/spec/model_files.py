"""Models by name or file: a Hugging Face ``config.json`` to :class:`ModelSpec`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.errors import Problem, nearest
from penstock.spec.check import shown
from penstock.spec.json_file import Place, read_json
from penstock.spec.model import AttentionKind, DenseMlp, LayerGroup, LayerKind, ModelSpec, MoeMlp

_DENSE = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "granite", "internlm2", "internlm3")
_DTYPES = ("float16", "bfloat16", "float32")
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


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
            path = base / Path(name).expanduser()
            if _is_file(path):
                return path
            if _is_file(path / "config.json"):
                return path / "config.json"
        return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # too long a name, or a directory that cannot be searched
        return False


def load_model(
    name: str, library: ModelLibrary, cluster_directory: Path | None, place: Place, problems: list[Problem]
) -> ModelSpec | None:
    """The model a cluster config names at ``place``; mistakes go to ``problems`` and give None."""
    path = library.find(name, cluster_directory)
    if path is None:
        searched = ", ".join(str(directory) for directory in library.directories) or "no directory of models"
        hint = nearest(name, library.names())
        message = f"unknown model '{name}'{hint} (no such file, and none in {searched})"
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
        self._file = file
        self._data = data
        self._problems: list[Problem] = []

    def read(self, name: str, problems: list[Problem]) -> ModelSpec | None:
        """The model, or None with the reasons added to ``problems``."""
        refusal = self._refusal()
        if refusal is not None:
            problems.append(refusal)
            return None
        hidden = self._count("hidden_size")
        heads = self._count("num_attention_heads")
        kv_heads = self._count("num_key_value_heads", heads)
        head_dim = self._count("head_dim", hidden // heads)
        if heads % kv_heads:
            self._blame("num_key_value_heads", f"must divide num_attention_heads = {heads}, not {kv_heads}")
        if self._data.get("head_dim") is None and hidden % heads and not self._problems:
            self._blame(
                "hidden_size",
                f"must be a multiple of num_attention_heads = {heads} where no head_dim is given",
            )
        kind = self._model_type()
        attention = AttentionKind(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            has_qk_norm=kind in ("qwen3", "qwen3_moe"),
            has_bias=self._flag("attention_bias", kind in ("qwen2", "qwen2_moe")),
        )
        num_layers = self._count("num_hidden_layers")
        mlp = self._moe() or DenseMlp(intermediate_size=self._count("intermediate_size"))
        model = ModelSpec(
            name=name,
            hidden_size=hidden,
            layers=(LayerGroup(LayerKind(attention, mlp), num_layers),),
            vocab_size=self._count("vocab_size"),
            max_position_embeddings=self._count("max_position_embeddings"),
            tie_word_embeddings=self._flag("tie_word_embeddings", kind == "gemma"),
            dtype=self._dtype(),
            model_type=kind,
        )
        self._check_window()
        problems.extend(self._problems)
        return None if self._problems else model

    def _blame(self, key: str, message: str) -> None:
        self._problems.append(Problem(str(Place(self._file, key)), message))

    def _count(self, key: str, default: int | None = None) -> int:
        """A positive integer; 1 after a mistake, so that reading goes on."""
        value = self._data.get(key)
        if value is None and default is not None:
            return max(default, 1)
        if value is None:
            self._problems.append(
                Problem(self._file, f"missing key '{key}': not a decoder-only model's config?")
            )
        elif type(value) is not int:
            self._blame(key, f"must be an integer, not {shown(value)}")
        elif not 0 < value <= 1 << 32:
            self._blame(key, f"must be > 0 and <= 2^32, not {value}")
        else:
            return value
        return 1

    def _flag(self, key: str, default: bool) -> bool:
        value = self._data.get(key)
        if value is not None and not isinstance(value, bool):
            self._blame(key, f"must be true or false, not {shown(value)}")
        return default if value is None else bool(value)

    def _model_type(self) -> str:
        kind = self._data.get("model_type")
        if kind is None:
            architectures = self._data.get("architectures")
            first = architectures[0] if isinstance(architectures, list) and architectures else "llama"
            kind = str(first).removesuffix("ForCausalLM").lower()
        return str(kind)

    def _refusal(self) -> Problem | None:
        """Why this is no decoder-only transformer with grouped-query attention and a gated MLP."""
        data, kind = self._data, self._model_type()
        if data.get("is_encoder_decoder"):
            return Problem(
                self._file, f"'{kind}' is an encoder-decoder: only decoder-only models are simulated"
            )
        if isinstance(data.get("text_config"), Mapping):
            return Problem(
                self._file,
                f"'{kind}' is multi-modal: only text is simulated, so give its text_config as a file",
            )
        if data.get("kv_lora_rank"):
            return Problem(self._file, f"'{kind}' has multi-head latent attention, which is not simulated")
        is_moe = any(data.get(key) for key in _EXPERT_COUNTS)
        if kind not in _DENSE and not is_moe:
            known = ", ".join(_DENSE)
            return Problem(
                str(Place(self._file, "model_type")),
                f"'{kind}' is not simulated{nearest(kind, _DENSE)} (decoder-only with a gated MLP: {known})",
            )
        return None

    def _moe(self) -> MoeMlp | None:
        experts = next((self._count(key) for key in _EXPERT_COUNTS if self._data.get(key)), 0)
        if not experts:
            return None
        return MoeMlp(
            num_experts=experts,
            experts_per_token=self._count("num_experts_per_tok"),
            expert_intermediate_size=self._count("moe_intermediate_size", self._count("intermediate_size")),
        )

    def _dtype(self) -> str:
        """``torch_dtype`` or its newer name ``dtype``; fp8 where the weights are quantised so."""
        quantization = self._data.get("quantization_config")
        if isinstance(quantization, Mapping):
            method = quantization.get("quant_method")
            if method == "fp8":
                return "fp8"
            self._blame(
                "quantization_config",
                f"quantization '{method}' is not simulated: leave quantization_config out and choose a dtype",
            )
        key = "torch_dtype" if self._data.get("torch_dtype") is not None else "dtype"
        value = str(self._data.get(key) or "bfloat16").removeprefix("torch.")
        if value not in (*_DTYPES, "fp8", "int8"):
            self._blame(key, f"must be one of {', '.join(_DTYPES)}, not '{value}'{nearest(value, _DTYPES)}")
        return value

    def _check_window(self) -> None:
        window = self._data.get("sliding_window")
        used = self._data.get("use_sliding_window", True)
        limit = self._data.get("max_position_embeddings")
        if self._moe() is None and used and type(window) is int and type(limit) is int and window < limit:
            self._blame(
                "sliding_window",
                f"attention over a window of {window} tokens is not simulated: null means full attention",
            )
