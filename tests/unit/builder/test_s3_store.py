"""The engine store in object storage, against a real server."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from botocore.awsrequest import AWSPreparedRequest

from pitcrew_builder.errors import (
    EngineCorrupt,
    InvalidSpec,
    StorageRefused,
    StorageUnreachable,
)
from pitcrew_builder.manifest import MANIFEST_NAME, Manifest
from pitcrew_builder.pipeline import Places, build
from pitcrew_builder.progress import Tracker
from pitcrew_builder.report import Phase, Progress, Succeeded
from pitcrew_builder.s3.address import S3Address
from pitcrew_builder.s3.objects import Objects
from pitcrew_builder.s3.upload import abort_uploads, upload
from pitcrew_builder.spec import BuildSpec, LocalSource
from pitcrew_builder.store import Store, open_engine
from pitcrew_builder.store.address import open_store
from pitcrew_builder.store.s3 import GRACE, UPLOAD, S3Store
from tests.unit.builder import checkpoints
from tests.unit.builder.s3_server import CutOff, S3Server, cut_off_at, watching

MIB = 1 << 20


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built engine on this machine, in a store of its own."""
    root = tmp_path_factory.mktemp("built")
    spec = BuildSpec(source=LocalSource(path=str(checkpoints.write(root / "tiny")), name="tiny"))
    done = build(spec, Places(root / "local", root / "cache"), Tracker(lambda _: None))
    return root / "local" / done.path


def _store(objects: Objects, tmp_path: Path, hours: float = 0) -> S3Store:
    """A store whose clock is ahead by some hours."""
    return S3Store(objects, tmp_path / "work", lambda: datetime.now(UTC) + timedelta(hours=hours))


def _later(objects: Objects, tmp_path: Path) -> S3Store:
    return _store(objects, tmp_path, hours=GRACE.total_seconds() / 3600 + 1)


def _publish(store: S3Store, engine: Path) -> Manifest:
    return store.publish(engine, open_engine(engine, digests=False).identity)


def _paths(objects: Objects) -> list[str]:
    return [item.path for item in objects.list()]


def test_an_engine_comes_back_as_it_went(engine: Path, s3: S3Server, tmp_path: Path) -> None:
    store = _store(s3.bucket(), tmp_path)
    sent: list[int] = []
    manifest = store.publish(engine, open_engine(engine).identity, sent.append)
    path = manifest.identity.relative_path
    assert sum(sent) == manifest.size_bytes
    assert [kept.path for kept in store.engines()] == [path]
    assert store.find(manifest.identity, digests=True) == manifest
    (tmp_path / "copy").mkdir()
    assert store.fetch(path, tmp_path / "copy") == manifest
    assert open_engine(tmp_path / "copy") == manifest
    assert store.read_file(path, "rank0/model.onnx") == (engine / "rank0/model.onnx").read_bytes()


def test_a_build_finds_what_another_machine_published(s3: S3Server, tmp_path: Path) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    spec = BuildSpec(source=LocalSource(path=str(checkpoint), name="tiny"))
    address = s3.bucket().address
    done = [
        build(spec, Places(address, tmp_path / machine), Tracker(lambda _: None))
        for machine in ("a", "b")
    ]
    assert [item.cached for item in done] == [False, True]
    assert done[1].seconds < 2
    assert done[0].manifest_sha256 == done[1].manifest_sha256
    assert list((tmp_path / "a" / "staging").iterdir()) == []


def test_builders_racing_for_one_id_make_one_engine(s3: S3Server, tmp_path: Path) -> None:
    checkpoint = checkpoints.write(tmp_path / "tiny")
    spec = BuildSpec(source=LocalSource(path=str(checkpoint), name="tiny"))
    objects = s3.bucket()
    builders = 4
    barrier = threading.Barrier(builders)
    outcomes: list[Succeeded] = []

    def run(number: int) -> None:
        waited = False

        def sink(progress: Progress) -> None:
            nonlocal waited
            if progress.phase is Phase.PUBLISH and not waited:
                waited = True
                barrier.wait(timeout=60)

        places = Places(objects.address, tmp_path / f"machine{number}")
        outcomes.append(build(spec, places, Tracker(sink)))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(builders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome.cached for outcome in outcomes) == [False, True, True, True]
    assert len({outcome.manifest_sha256 for outcome in outcomes}) == 1
    _store(objects, tmp_path).open(outcomes[0].path)
    assert sum(path.endswith(MANIFEST_NAME) for path in _paths(objects)) == 1


def test_a_publication_cut_off_at_any_request_shows_nothing_or_all(
    engine: Path, s3: S3Server, tmp_path: Path
) -> None:
    objects = s3.bucket()
    store = _store(objects, tmp_path)
    number, whole = 0, False
    while not whole:
        number += 1
        objects.delete(_paths(objects))
        try:
            with cut_off_at(objects, number):
                _publish(store, engine)
            whole = True
        except CutOff:
            pass
        for kept in store.engines():
            store.open(kept.path)
        manifest = _publish(store, engine)
        assert _later(objects, tmp_path).clean() == 0
        assert len(_paths(objects)) == len({entry.sha256 for entry in manifest.files}) + 1
    assert number > len(manifest.files) + 4


def test_what_a_cut_off_upload_left_is_removed_after_the_grace(
    engine: Path, s3: S3Server, tmp_path: Path
) -> None:
    objects = s3.bucket()
    with pytest.raises(CutOff), cut_off_at(objects, 5):
        _publish(_store(objects, tmp_path), engine)
    assert _store(objects, tmp_path).clean() == 0
    assert any(path.endswith(UPLOAD) for path in _paths(objects))
    assert _later(objects, tmp_path).clean() == 1
    assert _paths(objects) == []


def test_the_mark_of_an_upload_cut_off_behind_its_manifest_is_removed_after_the_grace(
    engine: Path, s3: S3Server, tmp_path: Path
) -> None:
    """A build that finds the engine uploads nothing, and so removes no mark."""
    objects = s3.bucket()
    manifest = _publish(_store(objects, tmp_path), engine)
    path = manifest.identity.relative_path
    whole = _paths(objects)
    objects.put(f"{path}/{UPLOAD}", b"{}")
    assert _store(objects, tmp_path).find(manifest.identity) is not None
    assert _store(objects, tmp_path).clean() == 0
    assert _paths(objects) != whole
    assert _later(objects, tmp_path).clean() == 1
    assert _paths(objects) == whole
    _store(objects, tmp_path).open(path)


def test_an_engine_that_is_removed_while_its_mark_goes_keeps_one(
    engine: Path, s3: S3Server, tmp_path: Path
) -> None:
    objects = s3.bucket()
    path = _publish(_store(objects, tmp_path), engine).identity.relative_path
    objects.put(f"{path}/{UPLOAD}", b"{}")
    mine, removed = Objects(objects.address), False

    def remove_first(request: AWSPreparedRequest) -> None:
        nonlocal removed
        if request.method == "POST" and "delete" in str(request.url) and not removed:
            removed = True
            mine.delete([f"{path}/{MANIFEST_NAME}"])

    with watching(objects, remove_first):
        assert _later(objects, tmp_path).clean() == 1
    assert removed
    assert f"{path}/{UPLOAD}" in _paths(objects)


def test_a_removed_engine_serves_the_readers_that_had_begun(
    engine: Path, s3: S3Server, tmp_path: Path
) -> None:
    objects = s3.bucket()
    store = _store(objects, tmp_path)
    path = _publish(store, engine).identity.relative_path
    (tmp_path / "copy").mkdir()
    removed = False

    def remove_once(_: int) -> None:
        nonlocal removed
        if not removed:
            removed = True
            store.remove(path)
            store.clean()

    store.fetch(path, tmp_path / "copy", remove_once)
    open_engine(tmp_path / "copy")
    assert list(store.engines()) == []
    with pytest.raises(EngineCorrupt, match="was removed"):
        store.open(path)
    assert _later(objects, tmp_path).clean() == 1
    assert _paths(objects) == []


def test_a_removed_engine_can_be_published_again(
    engine: Path, s3: S3Server, tmp_path: Path
) -> None:
    objects = s3.bucket()
    store = _store(objects, tmp_path)
    manifest = _publish(store, engine)
    store.remove(manifest.identity.relative_path)
    sent: list[str] = []
    with watching(objects, lambda request: sent.append(str(request.url))):
        assert _publish(store, engine) == manifest
    assert not [url for url in sent if "/files/" in url and "list-type" not in url]


def _lose(objects: Objects, path: str) -> None:
    objects.delete([path])


def _shorten(objects: Objects, path: str) -> None:
    objects.put(path, b"?")


def _spoil(objects: Objects, path: str) -> None:
    content = bytearray(objects.read(path) or b"")
    content[0] ^= 1
    objects.put(path, bytes(content))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_lose, "model.onnx.data is missing"),
        (_shorten, "has 1 bytes instead of"),
        (_spoil, "does not have the digest"),
    ],
)
def test_a_damaged_engine_is_told_and_published_anew(
    spoil: Callable[[Objects, str], None], told: str, engine: Path, s3: S3Server, tmp_path: Path
) -> None:
    objects = s3.bucket()
    store = _store(objects, tmp_path)
    manifest = _publish(store, engine)
    path = manifest.identity.relative_path
    (data,) = [item for item in manifest.files if item.path.endswith(".data")]
    spoil(objects, f"{path}/files/{data.sha256}")
    with pytest.raises(EngineCorrupt, match=told):
        store.open(path)
    (tmp_path / "copy").mkdir()
    with pytest.raises(EngineCorrupt, match=told):
        store.fetch(path, tmp_path / "copy")
    assert store.find(manifest.identity, digests=True) is None
    if spoil is not _spoil:
        assert _publish(store, engine) == manifest
        store.open(path)


def test_a_manifest_cannot_write_outside_of_the_target(
    engine: Path, s3: S3Server, tmp_path: Path
) -> None:
    objects = s3.bucket()
    store = _store(objects, tmp_path)
    manifest = _publish(store, engine)
    path = manifest.identity.relative_path
    text = manifest.to_json().replace('"rank0/model.onnx.data"', '"../outside"')
    objects.put(f"{path}/{MANIFEST_NAME}", text.encode())
    (tmp_path / "copy").mkdir()
    with pytest.raises(EngineCorrupt, match="leads out"):
        store.fetch(path, tmp_path / "copy")
    assert not (tmp_path / "outside").exists()


def test_a_cut_off_upload_goes_on_with_its_parts(s3: S3Server, tmp_path: Path) -> None:
    objects = s3.bucket()
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * (13 * MIB // 256))
    # List uploads, create, then the second of three parts.
    with pytest.raises(CutOff), cut_off_at(objects, 4):
        upload(objects, "big", file, lambda _: None, part=5 * MIB)
    assert _paths(objects) == []
    sent: list[str] = []
    amounts: list[int] = []
    with watching(objects, lambda request: sent.append(f"{request.method} {request.url}")):
        upload(objects, "big", file, amounts.append, part=5 * MIB)
    parts = [line for line in sent if line.startswith("PUT") and "partNumber" in line]
    assert len(parts) < 3
    assert sum(amounts) == 13 * MIB
    (item,) = objects.list("big")
    objects.download(item, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


def test_forgotten_parts_are_given_up(s3: S3Server, tmp_path: Path) -> None:
    objects = s3.bucket()
    file = tmp_path / "file"
    file.write_bytes(bytes(11 * MIB))
    with pytest.raises(CutOff), cut_off_at(objects, 4):
        upload(objects, "big", file, lambda _: None, part=5 * MIB)
    # This server dates every upload to one day in 2010.
    assert abort_uploads(objects, datetime(2010, 1, 1, tzinfo=UTC)) == 0
    assert abort_uploads(objects, datetime(2011, 1, 1, tzinfo=UTC)) == 1
    upload(objects, "big", file, lambda _: None, part=5 * MIB)


def test_a_download_goes_on_where_it_stopped(s3: S3Server, tmp_path: Path) -> None:
    objects = s3.bucket()
    objects.put("thing", b"0123456789")
    (item,) = objects.list()
    target = tmp_path / "thing"
    target.write_bytes(b"0123")
    ranges: list[object] = []
    amounts: list[int] = []
    with watching(objects, lambda request: ranges.append(request.headers.get("Range"))):
        objects.download(item, target, amounts.append)
    assert target.read_bytes() == b"0123456789"
    assert (ranges, amounts) == ([b"bytes=4-"], [4, 6])


def test_an_object_that_was_replaced_meanwhile_is_told(s3: S3Server, tmp_path: Path) -> None:
    objects = s3.bucket()
    objects.put("thing", b"old")
    (item,) = objects.list()
    objects.delete(["thing"])
    with pytest.raises(StorageUnreachable, match="changed or removed while it was read"):
        objects.download(item, tmp_path / "thing")


def test_a_missing_bucket_is_told(s3: S3Server, tmp_path: Path) -> None:
    store = _store(Objects(S3Address("no-such-bucket", "", s3.endpoint)), tmp_path)
    with pytest.raises(StorageRefused, match="create the bucket"):
        store.clean()


def test_a_server_that_does_not_answer_is_worth_a_retry(s3: S3Server, tmp_path: Path) -> None:
    store = _store(Objects(S3Address("bucket", "", "http://127.0.0.1:9")), tmp_path)
    with pytest.raises(StorageUnreachable, match=r"check the endpoint \(http://127.0.0.1:9\)"):
        list(store.engines())


@pytest.mark.parametrize("url", ["s3://", "s3://A_b/x", "s3://a", "http://bucket/x"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidSpec, match=r"write s3://bucket"):
        S3Address.parse(url)


def test_keys_and_paths_are_each_other_s_inverse() -> None:
    for prefix in ("", "a", "a/b"):
        address = S3Address("bucket", prefix)
        assert address.path(address.key("x/y")) == "x/y"
    assert S3Address.parse("s3://bucket/a/b/").url == "s3://bucket/a/b"


def test_a_copy_from_a_volume_is_verified_too(engine: Path, tmp_path: Path) -> None:
    root, path = engine.parents[3], engine.relative_to(engine.parents[3])
    (tmp_path / "copy").mkdir()
    manifest = Store(root).fetch(str(path), tmp_path / "copy")
    assert open_engine(tmp_path / "copy") == manifest


def test_the_store_has_keys_of_its_own_where_they_are_given(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoint and engines may lie with two owners."""
    monkeypatch.setenv("PITCREW_STORE_AWS_ACCESS_KEY_ID", "of-the-store")
    monkeypatch.setenv("PITCREW_STORE_AWS_SECRET_ACCESS_KEY", "secret")
    source = s3.bucket()
    store = open_store(source.address, tmp_path)
    assert isinstance(store, S3Store)
    signed: list[str] = []

    def see(request: AWSPreparedRequest) -> None:
        signed.append(str(request.headers["Authorization"]))

    for objects in (source, store.objects):
        with watching(objects, see):
            assert list(objects.list()) == []
    assert "Credential=test/" in signed[0]
    assert "Credential=of-the-store/" in signed[1]
