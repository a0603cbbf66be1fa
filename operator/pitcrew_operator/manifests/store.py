"""The store of engines as pods reach it: a claim that is mounted, or a bucket that is addressed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from pitcrew_operator.api.common import S3Bucket, dump
from pitcrew_operator.api.store import EngineBucket, EngineStore
from pitcrew_operator.config import Config
from pitcrew_operator.manifests import names, pod
from pitcrew_operator.views import Claim

STORE_MOUNT: Final = "/engines"
SOURCE_KEYS, STORE_KEYS = "", "PITCREW_STORE_"
"""Prefixes of the environment's keys: of checkpoints, and of the store where it has its own."""

_KEYS: Final[Mapping[str, Mapping[str, bool]]] = {
    "AWS_ACCESS_KEY_ID": {},
    "AWS_SECRET_ACCESS_KEY": {},
    "AWS_SESSION_TOKEN": {"optional": True},
}
"""Keys of the Secret, and the SDK's names for them in the environment."""


@dataclass(frozen=True)
class Bucket:
    """A store in object storage: nobody creates it, and nobody can say how much room it has."""

    s3: S3Bucket
    capacity: None = None

    @property
    def name(self) -> str:
        """For people, and for telling stores apart by."""
        return f"s3://{self.s3.bucket}/{self.s3.prefix}".rstrip("/")

    @property
    def uid(self) -> str:
        """Two buckets of one name on two servers are two."""
        return self.s3.endpoint or ""


Store: TypeAlias = Claim | Bucket


def chosen(own: EngineStore, namespace: str, config: Config) -> EngineStore:
    """The store that a spec names, else the operator's own: a part of it for each namespace."""
    if own.claim_name is not None or own.s3 is not None:
        return own
    if config.store_s3 is not None:
        prefix = f"{config.store_s3.prefix}/{namespace}".lstrip("/")
        return EngineStore(s3=config.store_s3.model_copy(update={"prefix": prefix}))
    return EngineStore(claim_name=config.store_claim)


def recorded(store: Store) -> dict[str, Any]:
    """The fields of an `EngineStatus` that say where the engine is."""
    if isinstance(store, Claim):
        return {"claim_name": store.name}
    return {"s3": EngineBucket(**store.s3.model_dump())}


def arguments(store: Store) -> list[str]:
    """The flags of `pitcrew-build` and `pitcrew-engine` that name the store."""
    if isinstance(store, Claim):
        return ["--store", STORE_MOUNT]
    flags = {"--store-endpoint": store.s3.endpoint, "--store-region": store.s3.region}
    given = [word for name, value in flags.items() if value for word in (name, value)]
    return ["--store", store.name, *given]


def environment(store: Store) -> list[dict[str, Any]]:
    """The keys that open the store."""
    return [] if isinstance(store, Claim) else keys(store.s3, STORE_KEYS)


def volumes(store: Store) -> list[dict[str, Any]]:
    """The pod's volumes for it."""
    return [pod.claim_volume("engines", store.name)] if isinstance(store, Claim) else []


def mounts(store: Store) -> list[dict[str, Any]]:
    """The container's mounts of them."""
    return [pod.mount("engines", STORE_MOUNT)] if isinstance(store, Claim) else []


def keys(s3: S3Bucket, prefix: str) -> list[dict[str, Any]]:
    """The keys of object storage; a session token only where the Secret holds one."""
    if s3.credentials_secret_ref is None:
        return []
    secret = dump(s3.credentials_secret_ref)
    return [
        {"name": prefix + name, "valueFrom": {"secretKeyRef": {**secret, "key": name, **more}}}
        for name, more in _KEYS.items()
    ]


def store_manifest(namespace: str, config: Config) -> dict[str, Any]:
    """The default claim. It has no owner: engines outlive any one resource."""
    spec: dict[str, Any] = {
        "accessModes": list(config.store_access_modes),
        "resources": {"requests": {"storage": config.store_size}},
    }
    if config.store_class is not None:
        spec["storageClassName"] = config.store_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": config.store_claim,
            "namespace": namespace,
            "labels": names.labels("store", config.store_claim, {}),
        },
        "spec": spec,
    }
