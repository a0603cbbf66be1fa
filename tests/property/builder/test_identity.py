"""An engine's id depends on every input and on nothing else."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pitcrew_builder.manifest import Identity, ResolvedShapes
from pitcrew_builder.sources.local import commit_of
from pitcrew_builder.spec import Parallelism, Precision, Target

HEX = st.text("0123456789abcdef", min_size=8, max_size=8)
WORDS = st.text(min_size=1, max_size=8)
FILES = st.dictionaries(WORDS, HEX, min_size=1, max_size=4)


@st.composite
def identities(draw: st.DrawFn) -> Identity:
    size = st.integers(1, 64)
    return Identity(
        model=draw(WORDS),
        commit=draw(HEX),
        inputs=draw(FILES),
        target=Target.ONNXRUNTIME_CPU,
        precision=Precision.FP32,
        parallelism=Parallelism(tensor=draw(size), pipeline=draw(size), expert=draw(size)),
        shapes=ResolvedShapes(
            max_batch_size=draw(size), max_sequence_length=draw(size), kv_page_size=draw(size)
        ),
        toolchain={"onnxruntime": draw(st.from_regex(r"[0-9]+(\.[0-9]+)*", fullmatch=True))},
        builder_version=draw(WORDS),
    )


@given(identities(), identities())
def test_equal_ids_mean_equal_identities(a: Identity, b: Identity) -> None:
    assert (a.engine_id == b.engine_id) == (a == b)


@given(identities())
def test_ids_survive_the_wire_and_the_order_of_inputs(identity: Identity) -> None:
    document: dict[str, Any] = identity.model_dump(mode="json", by_alias=True)
    document["inputs"] = dict(reversed(list(document["inputs"].items())))
    assert Identity.model_validate(document).engine_id == identity.engine_id


@given(identities())
def test_paths_stay_inside_the_store(identity: Identity) -> None:
    parts = identity.relative_path.split("/")
    assert len(parts) == 4
    assert not {"", ".", ".."} & {parts[0], parts[3]}


@given(FILES, FILES)
def test_commits_tell_files_apart(a: dict[str, str], b: dict[str, str]) -> None:
    assert (commit_of(a) == commit_of(b)) == (a == b)
    assert commit_of(dict(reversed(list(a.items())))) == commit_of(a)
