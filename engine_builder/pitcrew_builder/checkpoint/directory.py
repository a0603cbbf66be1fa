"""A checkpoint's files: which ones count, and that none of them leads elsewhere."""

from dataclasses import dataclass
from pathlib import Path

from pitcrew_builder.checkpoint.config import parse_object
from pitcrew_builder.checkpoint.safetensors import AGAIN, TensorInfo, read_header
from pitcrew_builder.errors import CheckpointCorrupt, CheckpointNotFound, CheckpointUnsafe

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    GENERATION_CONFIG,
    CONFIG,
)
"""Files of a checkpoint that the engine directory carries under `tokenizer/`."""

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Kind:
    """What the files of a checkpoint are called, by what it is a checkpoint of."""

    config: str
    small: tuple[str, ...]
    """Files that are read whole, the configuration among them."""
    single: str
    """The weights, where they are one file."""
    index: str | None
    """What names the weights, where they are several."""


GPTQ_CONFIG, MODELOPT_CONFIG = "quantize_config.json", "hf_quant_config.json"
"""Where AutoGPTQ and ModelOpt say how they quantized, beside the configuration or alone."""

MODEL = Kind(CONFIG, (*TOKENIZER_FILES, GPTQ_CONFIG, MODELOPT_CONFIG), SINGLE, INDEX)
ADAPTER = Kind("adapter_config.json", ("adapter_config.json",), "adapter_model.safetensors", None)

SMALL_FILE_LIMIT = 128 << 20
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@dataclass(frozen=True, slots=True)
class Directory:
    """A checkpoint directory. No file of it may resolve to a place outside `root`."""

    path: Path
    root: Path

    @classmethod
    def of(cls, path: Path) -> "Directory":
        """Open a directory. In the hub cache's layout, links may lead to the repository's blobs."""
        if not path.is_dir():
            raise CheckpointNotFound(
                f"{path} is no directory; check the path, and that its volume is mounted"
            )
        repository = path.parent.parent
        cached = path.parent.name == "snapshots" and (repository / "blobs").is_dir()
        return cls(path, (repository if cached else path).resolve())

    def has(self, name: str) -> bool:
        """Whether a file of that name is there."""
        return (self.path / name).exists()

    def file(self, name: str) -> Path:
        """The path of a file. Raises where it is missing, leads outside, or is no plain file."""
        if Path(name).name != name:
            raise CheckpointUnsafe(f"{name!r} is no plain file name; remove it from the checkpoint")
        path = self.path / name
        if not path.exists():
            raise CheckpointNotFound(
                f"{self.path} holds no {name}; copy the whole checkpoint there"
            )
        target = path.resolve()
        if not target.is_relative_to(self.root):
            raise CheckpointUnsafe(
                f"{name} is a link that leaves the checkpoint ({target}); put the file itself there"
            )
        if not target.is_file():
            raise CheckpointUnsafe(f"{name} is no plain file; put the file itself there")
        return path

    def read_small(self, name: str) -> bytes:
        """The bytes of a file that is read whole; a size limit keeps memory bounded."""
        path = self.file(name)
        size = path.stat().st_size
        if size > SMALL_FILE_LIMIT:
            raise CheckpointCorrupt(
                f"{name} has {size} bytes, more than {SMALL_FILE_LIMIT} that Pitcrew reads; {AGAIN}"
            )
        return path.read_bytes()

    def small_files(self, kind: Kind = MODEL) -> tuple[str, ...]:
        """The configuration and tokenizer files that are there."""
        return tuple(name for name in kind.small if self.has(name))


def weight_files(directory: Directory, kind: Kind = MODEL) -> tuple[str, ...]:
    """The index, where there is one, and the safetensors files that hold the weights."""
    if kind.index is not None and directory.has(kind.index):
        return (kind.index, *shards(directory.read_small(kind.index)))
    if directory.has(kind.single):
        return (kind.single,)
    names = sorted(item.name for item in directory.path.iterdir())
    raise no_safetensors(names, str(directory.path), kind)


def no_safetensors(
    names: list[str], where: str, kind: Kind = MODEL
) -> CheckpointUnsafe | CheckpointNotFound:
    """The error for a checkpoint without safetensors, which may have pickles instead."""
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        return CheckpointUnsafe(
            f"{where} has its weights as pickle files only ({', '.join(pickles[:3])}), which can "
            f"run code when read; convert them to safetensors"
        )
    return CheckpointNotFound(
        f"{where} holds no {' and no '.join(filter(None, (kind.single, kind.index)))}; point to a "
        f"whole checkpoint"
    )


def shards(index: bytes) -> tuple[str, ...]:
    """The files that an index names, in order."""
    entries = parse_object(index, INDEX).get("weight_map")
    if not isinstance(entries, dict) or not entries:
        raise CheckpointCorrupt(f"{INDEX}: weight_map is missing or empty; {AGAIN}")
    names = {name for name in entries.values() if isinstance(name, str)}
    unfit = [str(name) for name in entries.values() if not _is_shard_name(name)]
    if unfit:
        raise CheckpointUnsafe(f"{INDEX}: weight_map names {unfit[0][:200]!r}, no safetensors file")
    return tuple(sorted(names))


def read_tensors(directory: Directory, kind: Kind = MODEL) -> dict[str, TensorInfo]:
    """Every tensor of the checkpoint by name, from validated headers."""
    files = [name for name in weight_files(directory, kind) if name != kind.index]
    tensors: dict[str, TensorInfo] = {}
    for name in files:
        for tensor in read_header(directory.file(name)).values():
            if tensor.name in tensors:
                raise CheckpointCorrupt(
                    f"{name}: tensor '{tensor.name}' is in {tensors[tensor.name].file.name} too; "
                    f"{AGAIN}"
                )
            tensors[tensor.name] = tensor
    return tensors


def _is_shard_name(name: object) -> bool:
    return isinstance(name, str) and Path(name).name == name and name.endswith(".safetensors")
