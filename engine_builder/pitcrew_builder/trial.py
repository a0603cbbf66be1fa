"""Between drawing a network and writing it: make it narrow, and keep what it is to be judged by."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pitcrew_builder.checkpoint.directory import Directory
from pitcrew_builder.errors import InvalidSpec
from pitcrew_builder.manifest import (
    ModelFacts,
    ProofReport,
    QuantizationRecipe,
    QuantizationReport,
)
from pitcrew_builder.network import Network as Executor
from pitcrew_builder.network import open_network
from pitcrew_builder.progress import part_of
from pitcrew_builder.prompts.choice import warnings
from pitcrew_builder.prompts.evidence import Evidence
from pitcrew_builder.prompts.tokens import Encoder
from pitcrew_builder.proof.prover import LONGEST, Question, prove_on_prompts
from pitcrew_builder.proof.tasks import Exam, examine
from pitcrew_builder.quantize.narrow import Narrowed, narrow
from pitcrew_builder.quantize.observe import Calibration
from pitcrew_builder.reference import write_reference
from pitcrew_builder.report import Phase
from pitcrew_builder.request import Request, facts
from pitcrew_builder.sources.source import Located
from pitcrew_builder.spec import Proof as Thresholds
from pitcrew_builder.targets.target import Drawn, Proof, Site


@dataclass(frozen=True, slots=True)
class Trial:
    """What the written engine is judged by, and what was done to it before."""

    question: Question | None = None
    """None where no prompts were given."""
    unquantized: Proof | None = None
    """The network as it was, where it was made narrow."""
    exams: tuple[Exam, ...] = ()
    quantization: QuantizationReport | None = None

    def judge(
        self, engine: Executor, served: Executor | None, advance: Callable[[float], None]
    ) -> ProofReport | None:
        """Measure the written engine, and the form that is `served` where that is another. Raises
        `ValidationFailed` where it is not good enough.
        """
        if self.question is None:
            return None
        reference = None
        if self.unquantized is not None:
            reference = open_network([(self.unquantized.root, self.unquantized.interface)])
        told = part_of(advance, 0, 2) if self.exams else advance
        report = prove_on_prompts(self.question, (engine, served), reference, told)
        told = part_of(advance, 1, 2)
        tasks = examine(
            self.exams, self.question.facts, self.question.shapes, (engine, reference), told
        )
        return report.model_copy(update={"tasks": tasks})


@dataclass(frozen=True, slots=True)
class Texts:
    """The prompts as tokens."""

    calibration: Sequence[list[int]] = ()
    proof: Sequence[list[int]] = ()

    @classmethod
    def of(
        cls, evidence: Evidence, checkpoint: Directory, facts: ModelFacts, longest: int
    ) -> "Texts":
        """Encode what there is. Raises `BuildError` where nothing to predict is left."""
        chosen = evidence.chosen
        if not chosen.proof:
            return cls()
        encoder, limit = Encoder(checkpoint, facts), min(LONGEST, longest)
        texts = cls(encoder.encode(chosen.calibration, limit), encoder.encode(chosen.proof, limit))
        for given, encoded, field in (
            (chosen.calibration, texts.calibration, "quantization.calibration"),
            (chosen.proof, texts.proof, "proof.prompts"),
        ):
            if given and not encoded:
                raise InvalidSpec(f"{field}: no prompt has two tokens or more; give longer texts")
        return texts


def prepare(
    drawn: Drawn,
    request: Request,
    evidence: Evidence,
    located: Located,
    thresholds: Thresholds | None,
    site: Site,
) -> tuple[Drawn, Trial]:
    """The network as it will be written, and the trial that it will have to stand."""
    checkpoint = located.directory
    shapes, known = request.identity.shapes, facts(request, drawn.parameters)
    recipe = request.identity.quantization
    texts = Texts.of(evidence, checkpoint, known, shapes.max_sequence_length)
    if evidence.proof_sha256 is None:
        return (drawn, Trial()) if recipe is None else _imported(drawn, recipe, site)
    trial = Trial(
        Question(known, shapes, texts.proof, evidence.proof_sha256, thresholds or Thresholds()),
        exams=_exams(evidence, checkpoint, known, shapes.max_sequence_length),
    )
    if recipe is None:
        return drawn, trial
    with site.tracker.phase(Phase.QUANTIZE, "writing the unquantized network"):
        reference = write_reference(drawn.whole, site, located.check_unchanged)
        calibration = Calibration(
            drawn.whole.graph,
            (reference.root / reference.interface.whole).parent,
            known,
            shapes.kv_page_size,
            texts.calibration,
        )
        narrowed = narrow(drawn, recipe, calibration, site)
    return replace(drawn, ranks=narrowed.ranks), replace(
        trial,
        unquantized=reference,
        quantization=_report(narrowed, texts, evidence),
    )


def _imported(drawn: Drawn, recipe: QuantizationRecipe, site: Site) -> tuple[Drawn, Trial]:
    """Codes of the checkpoint itself, which nobody asked to prove on prompts."""
    with site.tracker.phase(Phase.QUANTIZE, "reading the checkpoint's codes"):
        narrowed = narrow(drawn, recipe, None, site)
    report = _report(narrowed, Texts(), Evidence())
    return replace(drawn, ranks=narrowed.ranks), Trial(quantization=report)


def _exams(
    evidence: Evidence, checkpoint: Directory, facts: ModelFacts, longest: int
) -> tuple[Exam, ...]:
    if not evidence.tasks:
        return ()
    encoder = Encoder(checkpoint, facts)
    return tuple(Exam.of(paper, encoder, longest) for paper in evidence.tasks)


def _report(narrowed: Narrowed, texts: Texts, evidence: Evidence) -> QuantizationReport:
    doubts: tuple[str, ...] = ()
    if evidence.calibration is not None:
        doubts = warnings(evidence.calibration, list(texts.calibration), list(texts.proof))
    return QuantizationReport(
        prompts=len(texts.calibration),
        tokens=sum(len(text) for text in texts.calibration),
        warnings=(*doubts, *narrowed.warnings),
        matrices=narrowed.matrices,
        kept=narrowed.kept,
        kv_cache=narrowed.cache,
    )
