"""One real request through a Service: from the front door to tokens and back."""

from pitcrew_builder.manifest import short_id
from pitcrew_operator.ask.http import Http, NoAnswer
from pitcrew_operator.plan.questions import Proven, ProveService

_REMEDY = (
    "let the operator's namespace reach the pods' port http (NetworkPolicy, service mesh), or set "
    "operator.probeServices of the chart to false"
)


async def prove_service(http: Http, question: ProveService) -> Proven:
    """Ask `/health/proof`, which needs no key, of whichever pod the Service leads to."""
    try:
        found = await http.json(f"{question.url}/health/proof")
    except NoAnswer as error:
        return Proven(f"no answer through the Service: {error}; {_REMEDY}")
    if not isinstance(found, dict) or not found.get("tokens"):
        return Proven("the Service leads to something else than this runtime: no tokens came back")
    if found.get("engineId") != question.engine_id:
        text = f"the Service leads to a pod with engine {short_id(str(found.get('engineId')))}"
        return Proven(f"{text}, and not {short_id(question.engine_id)}; it is asked again")
    return Proven(None)
