"""Loads what is served: a verified directory, its language, and an engine that is ready to step."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pitcrew_builder.chat import find_template
from pitcrew_builder.manifest import Manifest
from pitcrew_runtime.adapters.library import AdapterLibrary
from pitcrew_runtime.adapters.startup import LoraSettings, open_library
from pitcrew_runtime.assembly import Tuning, assemble
from pitcrew_runtime.constraints.compiler import Compiler
from pitcrew_runtime.core.engine import Engine
from pitcrew_runtime.engine_directory import EngineDirectory, open_engine
from pitcrew_runtime.server.translate import Language
from pitcrew_runtime.text.manner import manner_of
from pitcrew_runtime.text.template import ChatTemplate
from pitcrew_runtime.text.tokenizer import Tokenizer

VERIFYING = "verifying the engine's files"
LOADING = "loading the engine"


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine that has not run yet."""

    name: str
    """What clients call it."""
    manifest: Manifest
    engine: Engine
    language: Language
    library: AdapterLibrary | None
    """None where the engine takes no adapters."""


def load(
    path: Path,
    name: str | None,
    world_size: int,
    tuning: Tuning,
    lora: LoraSettings,
    tell: Callable[[str], None],
) -> Loaded:
    """Load the engine under `path`, telling each stage. Raises a `StartupError`."""
    tell(VERIFYING)
    directory = open_engine(path, world_size)
    speculation = tuning.speculation
    draft = open_engine(speculation.draft, 1) if speculation and speculation.draft else None
    tell(LOADING)
    engine = assemble(directory, tuning, draft)
    language = load_language(directory, engine.limits.max_sequence_length)
    manifest = directory.manifest
    name = name or manifest.identity.slug
    library = open_library(manifest, name, lora)
    return Loaded(name, manifest, engine, language, library)


def load_language(directory: EngineDirectory, max_length: int) -> Language:
    """Tokenizer and chat template, where the engine has them; raises `EngineCorrupt`."""
    model = directory.manifest.model
    tokenizer_path = directory.file("tokenizer/tokenizer.json")
    if tokenizer_path is None:
        return Language(None, None, model, max_length)
    config_path = directory.file("tokenizer/tokenizer_config.json")
    config = config_path.read_bytes() if config_path else b"{}"
    text = tokenizer_path.read_bytes()
    tokenizer = Tokenizer.load(text, config)
    template_path = directory.file("tokenizer/chat_template.jinja")
    source = find_template(
        tokenizer.config, template_path.read_text(encoding="utf-8") if template_path else None
    )
    return Language(
        tokenizer,
        ChatTemplate(source, tokenizer.special_tokens) if source is not None else None,
        model,
        max_length,
        Compiler(text.decode(), model.eos_token_ids, model.vocab_size),
        manner_of(source, tokenizer),
    )
