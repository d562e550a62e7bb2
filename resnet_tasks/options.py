"""Validation of the options of registered objects, with a sentence per problem."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import (
    GenerateJsonSchema,
    JsonSchemaValue,
    JsonSchemaWarningKind,
)
from pydantic_core import CoreSchema, ErrorDetails, to_jsonable_python

from resnet_tasks.docstrings import add_descriptions, get_first_sentence
from resnet_tasks.errors import ResnetTasksError
from resnet_tasks.json_schema import JsonSchema
from resnet_tasks.registry import suggest_nearest

Options = TypeVar("Options", bound=BaseModel)


class DescribedModel(BaseModel):
    """Base class of models whose JSON schema takes its descriptions from the docstrings."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler, /
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        definition = handler.resolve_ref_schema(schema)
        add_descriptions(definition, cls)
        for name, field in cls.model_fields.items():
            if field.default_factory is not None:  # pydantic does not call it
                default = field.get_default(call_default_factory=True, validated_data={})
                definition["properties"][name]["default"] = to_jsonable_python(default)
        return schema


class OptionsSchema(GenerateJsonSchema):
    """Generator of JSON schemas that accepts every type; a plugin may have types of its own."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {  # noqa: RUF012  # as in the base class
        "skipped-choice",
        "non-serializable-default",
    }

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        """Return the schema of any value for a type that JSON does not have."""
        del schema, error_info
        return {}


def get_options_schema(options_class: type[BaseModel]) -> JsonSchema:
    """Return the JSON schema of the options of a registered object."""
    return JsonSchema(options_class.model_json_schema(schema_generator=OptionsSchema))


def describe_problem(
    problem: ErrorDetails,
    known: Iterable[str],
    *,
    subject: str | None = None,
    unknown: str = "is not an option",
) -> str:
    """Describe one problem that pydantic's validation found, in a sentence.

    Args:
        problem: Entry of `ValidationError.errors()`.
        known: Known keys, of which the nearest one to an unknown key is suggested.
        subject: Beginning of the sentence; default: the key path.
        unknown: Predicate of an unknown key.
    """
    if subject is None:
        subject = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{subject} {unknown}{suggest_nearest(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"{subject} is missing; give it"
    reason = problem.get("ctx", {}).get("error", problem["msg"])
    sentence = f"{reason}, got {problem['input']!r}"
    return f"{subject}: {sentence}" if subject else sentence


def validate_options(
    options_class: type[Options],
    options: Options | Mapping[str, Any] | None,
    error_class: type[ResnetTasksError],
    owner: str = "",
) -> Options:
    """Validate the options of a registered object.

    Args:
        options_class: Class of the options.
        options: Name -> value; None: the defaults. Validated options stay as they are.
        error_class: Class of the error to raise.
        owner: Owner of the options, for the error message.

    Raises:
        error_class: If a key is unknown or a value is invalid; the message lists all problems.
    """
    if isinstance(options, options_class):
        return options
    if options is not None and not isinstance(options, Mapping):
        subject = f"options of {owner}" if owner else "the options"
        raise error_class(
            f"{subject}: the value has the type {type(options).__name__}; allowed: "
            f"{options_class.__name__}, a mapping of option names to values, or None"
        )
    try:
        return options_class.model_validate({str(name): v for name, v in (options or {}).items()})
    except ValidationError as error:
        known = options_class.model_fields
        sentences = _describe_problems(error, dict(options or {}), options_class)
        problems = "; ".join(dict.fromkeys(sentences))
        place = f"options of {owner}: " if owner else ""
        has_unknown = any(problem["type"] == "extra_forbidden" for problem in error.errors())
        names = f" (options are: {', '.join(known) or 'none'})" if has_unknown else ""
        raise error_class(f"{place}{problems}{names}") from None


def _describe_problems(
    error: ValidationError, options: Mapping[str, Any], options_class: type[BaseModel]
) -> Iterator[str]:
    """Describe each problem; the members of a union give the same sentence."""
    schema = get_options_schema(options_class)
    for problem in error.errors():
        if problem["type"] in ("extra_forbidden", "missing", "value_error"):
            yield describe_problem(problem, options_class.model_fields)
            continue
        path, value = locate_value(problem["loc"], options)
        name = ".".join(map(str, path))
        yield f"{name}: got {value!r}; allowed is {describe_allowed(schema, path)}"


def locate_value(loc: tuple[int | str, ...], document: Any) -> tuple[tuple[int | str, ...], Any]:
    """Return the key path of an invalid value, and the value.

    Args:
        loc: Location of a validation error, which also names the members of unions.
        document: Validated document.
    """
    path: tuple[int | str, ...] = ()
    value = document
    for part in loc:
        if isinstance(value, list | tuple):
            is_inside = isinstance(part, int) and part < len(value)
        else:
            is_inside = isinstance(value, Mapping) and part in value
        if is_inside:
            path, value = (*path, part), value[part]
    return path, value


def describe_allowed(schema: JsonSchema, path: tuple[int | str, ...]) -> str:
    """Describe the values that an option, or an entry of it, allows, and the option's meaning."""
    meaning = get_first_sentence(schema.find(path[:1]).get("description", "")).rstrip(".")
    allowed = schema.describe(schema.find(path))
    return f"{allowed} ({meaning})" if meaning else allowed
