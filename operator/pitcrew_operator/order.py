"""What one LLMEngine asks for at this moment, and the names that follow from it.

Two digests tell two questions apart. `spec_hash` covers what the author of the spec said; `inputs`
covers what else decides an engine: the builder's image, the nodes' GPUs, volumes and prompts. Neither is the
identity: that is the builder's own answer, from which `key` follows. So a new builder image leads to
a new question, and only another answer to another build.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from pitcrew_builder.spec import BuildSpec, HuggingFaceSource, Platform, Target
from pitcrew_operator.api.common import dump
from pitcrew_operator.api.prompts import ConfigMapKey
from pitcrew_operator.api.version import Answer
from pitcrew_operator.config import Config
from pitcrew_operator.gpus import GpuPool
from pitcrew_operator.manifests import names
from pitcrew_operator.manifests.builder_pod import image_of
from pitcrew_operator.manifests.store import Store
from pitcrew_operator.views import Claim, Engine

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Order:
    """Everything that decides what is built. Raises ValueError where the layout cannot be."""

    engine: Engine
    config: Config
    store: Store
    source: Claim | None = None
    """The claim that holds the checkpoint, where it lies on a volume."""
    prompts: Mapping[ConfigMapKey, str | None] = field(default_factory=dict)
    """Digest of each ConfigMap's key that the spec names; None where it is not there."""
    pool: GpuPool | None = None
    """The GPUs that a plan is for; None for other targets, and where no node tells of any."""

    @property
    def source_uid(self) -> str | None:
        """The volume of the checkpoint; once it was looked at it may go, and nothing changes."""
        if self.source is not None:
            return self.source.uid
        resolution = self.engine.status.resolution
        return resolution.source_uid if resolution else None

    @property
    def image(self) -> str:
        """The builder's image."""
        return image_of(self.engine, self.config)

    @cached_property
    def request(self) -> BuildSpec:
        """The build as it is asked for. Plans of target `tensorrt` name the machines they are for."""
        measured = self.engine.spec.target is Target.TENSORRT and self.pool is not None
        platform = Platform.model_validate(self.platform) if measured else None
        return self.engine.spec.build_spec(platform)

    @property
    def platform(self) -> dict[str, str]:
        """The pool's platform; empty where there is none."""
        return self.pool.platform if self.pool else {}

    @cached_property
    def spec_hash(self) -> str:
        """8 hex digits over what the author of the spec said."""
        spec = self.engine.spec
        return names.digest(
            {
                "build": _document(spec.build_spec()),
                "model": dump(spec.model),
                "store": dump(spec.store),
                "image": spec.build.image,
            }
        )

    @cached_property
    def inputs(self) -> str:
        """8 hex digits over all that a look at the sources depends on."""
        pool = self.pool
        return names.digest(
            {
                "spec": self.spec_hash,
                "build": _document(self.request),
                "prompts": [[key.name, key.key, sha] for key, sha in self.prompts.items()],
                "claims": [self.store.uid, self.source_uid],
                "image": self.image,
                "gpu": [pool.product, pool.memory] if pool else None,
                "trigger": self.engine.spec.rebuild_policy.trigger,
            }
        )

    @property
    def settings(self) -> str:
        """8 hex digits over how the build Job runs."""
        return names.digest(dump(self.engine.spec.build))

    @property
    def moves(self) -> bool:
        """Whether the same spec may lead to another checkpoint tomorrow."""
        sources = [self.request.source, *(adapter.source for adapter in self.request.adapters)]
        return not all(
            isinstance(source, HuggingFaceSource) and _COMMIT.fullmatch(source.revision)
            for source in sources
        )

    @property
    def look_name(self) -> str:
        """Name of the Job that looks at the sources."""
        document = {"owner": self.engine.meta.uid, "inputs": self.inputs}
        return names.job_name(self.engine.meta.name, "resolve", names.digest(document))

    def key(self, answer: Answer) -> str:
        """12 hex digits that stand for one build: its engine, its store and what it has to show.

        Where the answer is no engine id, it means something in its place only.
        """
        proof = self.request.proof
        return names.digest(
            {
                "engine": answer.key,
                "place": None
                if answer.engine_id
                else [dump(self.engine.spec.model), self.source_uid],
                "store": [self.store.name, self.store.uid],
                "proof": _document(proof) if proof else None,
            },
            12,
        )

    def job_name(self, answer: Answer) -> str:
        """Name of the build Job: that of every LLMEngine of the namespace with this key."""
        return names.job_name(answer.model.rsplit("/", 1)[-1], "build", self.key(answer))

    def pinned(self, answer: Answer) -> BuildSpec:
        """The request at the commits that were looked at: a branch may move before the build."""
        request = self.request
        commits = answer.adapter_commits
        return request.model_copy(
            update={
                "source": _at(request.source, answer.commit),
                "adapters": tuple(
                    each.model_copy(update={"source": _at(each.source, commit)})
                    for each, commit in zip(request.adapters, commits, strict=True)
                ),
            }
        )


def _at(source: Any, commit: str) -> Any:  # noqa: ANN401 (any kind of source, and the same kind)
    if isinstance(source, HuggingFaceSource):
        return source.model_copy(update={"revision": commit})
    return source


def _document(model: Any) -> dict[str, Any]:  # noqa: ANN401 (any pydantic model)
    document: dict[str, Any] = model.model_dump(mode="json", by_alias=True)
    return document
