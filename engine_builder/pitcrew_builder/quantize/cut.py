"""Where a whole network's matrices lie on the ranks of a split one.

Both are drawn by the same code, so a rank's recipe is the whole one's with rows or columns cut off.
Taking those cuts away leads back to the whole, and tells which part of its codes the rank holds.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pitcrew_builder.checkpoint.coded import Coded, joined
from pitcrew_builder.graph.ir import Graph
from pitcrew_builder.graph.recipe import Columns, Rows, Source
from pitcrew_builder.quantize.sites import Site, candidates


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows and columns of a whole site's matrix, a stack's matrices lying one below the other."""

    whole: int
    """The site's number."""
    outputs: range
    inputs: range


@dataclass(frozen=True, slots=True)
class Cut:
    """A rank's site, and the pieces that it is joined from."""

    site: Site
    pieces: tuple[Piece, ...]

    def of(self, coded: Coded) -> Coded:
        """The rank's part of the whole site's codes."""
        return joined([coded.part(_slice(p.outputs), _slice(p.inputs)) for p in self.pieces])


def cuts(whole: Sequence[Site], graph: Graph) -> dict[int, Cut]:
    """By number of the whole site: what a rank's graph holds of it. Other ranks hold the rest."""
    known = dict(_pieces(whole))
    found: dict[int, Cut] = {}
    for site in candidates(graph):
        pieces = [_locate(part, known) for part in site.weight.parts]
        held = tuple(piece for piece in pieces if piece is not None)
        if held:
            assert len(held) == len(pieces), f"{site.weight.name} is narrow in part"
            assert len({piece.whole for piece in held}) == 1, f"{site.weight.name} joins sites"
            found[held[0].whole] = Cut(site, held)
    return found


def _pieces(whole: Sequence[Site]) -> Iterator[tuple[Source, Piece]]:
    for number, site in enumerate(whole):
        start = 0
        for part in site.weight.parts:
            outputs = range(start, start + part.shape[0])
            yield part, Piece(number, outputs, range(part.shape[1]))
            start = outputs.stop


def _locate(part: Source, known: Mapping[Source, Piece]) -> Piece | None:
    if part in known:
        return known[part]
    match part:
        case Rows(inner, start, stop, 1):
            found = _locate(inner, known)
            return found and Piece(found.whole, found.outputs[start:stop], found.inputs)
        case Columns(inner, start, stop):
            found = _locate(inner, known)
            return found and Piece(found.whole, found.outputs, found.inputs[start:stop])
        case _:
            return None


def _slice(part: range) -> slice:
    return slice(part.start, part.stop)
