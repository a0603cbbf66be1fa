"""The fields that hold a text to a form: OpenAI's `response_format`, and vLLM's names for the rest.

At most one constraint may be given, in whichever of the fields.
"""

import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from pitcrew_runtime.constraints.constraint import Constraint, Kind
from pitcrew_runtime.server.fields import MAX_CHOICES, Body

Schema = dict[str, Any] | bool
Choices = Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)]

_ANY_OBJECT: Schema = {"type": "object"}
_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$#&~/-])")


class JsonSchemaFormat(Body):
    """OpenAI's wrapping of a schema; `strict` changes nothing, as schemas are always enforced."""

    model_config = ConfigDict(populate_by_name=True)

    name: Annotated[str, Field(max_length=64)] = ""
    description: str | None = None
    schema_: Annotated[Schema, Field(alias="schema")] = _ANY_OBJECT
    strict: bool | None = None


class ResponseFormat(Body):
    """OpenAI's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _schema_where_it_belongs(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema: needed with type json_schema, and only there")
        return self

    @property
    def schema_wanted(self) -> Schema | None:
        """The schema that the text has to follow."""
        if self.type == "text":
            return None
        return self.json_schema.schema_ if self.json_schema else _ANY_OBJECT


class StructuredOutputs(Body):
    """vLLM's `structured_outputs`."""

    json_: Annotated[Schema | str | None, Field(alias="json")] = None
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None


class ConstraintBody(Body):
    """Every way to ask for a constraint."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | str | None = None
    guided_regex: str | None = None
    guided_choice: Choices | None = None
    guided_grammar: str | None = None

    @model_validator(mode="after")
    def _one_constraint_at_most(self) -> Self:
        given = self.given_constraints()
        if len(given) > 1:
            fields = " and ".join(constraint.field for constraint in given)
            raise ValueError(f"{fields}: a text can be held to one of them; send one")
        return self

    @property
    def constraint(self) -> Constraint | None:
        """What the text is held to."""
        return next(iter(self.given_constraints()), None)

    def given_constraints(self) -> list[Constraint]:
        """All that the body asks for."""
        return [*self._of_format(), *self._of_structured(), *self._of_guided()]

    def _of_format(self) -> Iterator[Constraint]:
        schema = self.response_format.schema_wanted if self.response_format else None
        if schema is not None:
            yield json_constraint(schema, "response_format")

    def _of_structured(self) -> Iterator[Constraint]:
        asked = self.structured_outputs
        if asked is None:
            return
        schema = _ANY_OBJECT if asked.json_object and asked.json_ is None else asked.json_
        yield from _each(schema, asked.regex, asked.choice, asked.grammar, "structured_outputs")

    def _of_guided(self) -> Iterator[Constraint]:
        yield from _each(self.guided_json, None, None, None, "guided_json")
        yield from _each(None, self.guided_regex, None, None, "guided_regex")
        yield from _each(None, None, self.guided_choice, None, "guided_choice")
        yield from _each(None, None, None, self.guided_grammar, "guided_grammar")


def json_constraint(schema: Schema | str, field: str) -> Constraint:
    """A schema, or its text."""
    source = schema if isinstance(schema, str) else json.dumps(schema, ensure_ascii=False)
    return Constraint(Kind.JSON_SCHEMA, source, field)


def _each(
    schema: Schema | str | None,
    regex: str | None,
    choice: list[str] | None,
    grammar: str | None,
    field: str,
) -> Iterator[Constraint]:
    if schema is not None:
        yield json_constraint(schema, field)
    if regex is not None:
        yield Constraint(Kind.REGEX, regex, field)
    if choice is not None:
        yield Constraint(Kind.REGEX, "|".join(_literal(text) for text in choice), field)
    if grammar is not None:
        yield Constraint(Kind.GRAMMAR, grammar, field)


def _literal(text: str) -> str:
    """An expression for this text alone."""
    return "(" + _SPECIAL.sub(r"\\\1", text).replace("\n", r"\n") + ")"
