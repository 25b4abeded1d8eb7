"""A group of settings of one of several classes, which one of its own keys selects.

    model: Annotated[ModelConfig, OneOf("network", NETWORKS, "wave_u_net")] = WaveUNetConfig()

It is what pydantic calls a discriminated union, but the key may be missing, there may be one class only, and errors
name keys as they stand in a file.
"""

import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, GetJsonSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

C = TypeVar("C", bound=BaseModel)


@dataclass(frozen=True)
class OneOf(Generic[C]):
    """Marks a field whose settings are of one of several classes."""

    key: str
    kinds: Mapping[str, type[C]]
    default: str
    """The value of the key where it is not given."""

    def kind_of(self, content: Any) -> type[C]:
        """The class of these settings; the default's where the key is missing or names no class."""
        if isinstance(content, BaseModel):
            return cast(type[C], type(content))
        name = content.get(self.key, self.default) if isinstance(content, Mapping) else self.default
        return self.kinds[name if self._is_known(name) else self.default]

    def having(self, key: str) -> list[str]:
        """The names of the classes that have a key."""
        return [name for name, kind in self.kinds.items() if key in kind.model_fields]

    def parse(self, content: Any) -> C:
        """Settings of the class that their own key names; pydantic's ValidationError where they are wrong."""
        if isinstance(content, tuple(self.kinds.values())):
            return cast(C, content)
        if isinstance(content, Mapping) and not self._is_known(content.get(self.key, self.default)):
            known = " or ".join(repr(name) for name in self.kinds)
            wrong = InitErrorDetails(
                type="literal_error", loc=(self.key,), input=content[self.key], ctx={"expected": known}
            )
            raise ValidationError.from_exception_data(self.key, [wrong])
        return self.kind_of(content).model_validate(content)

    def _is_known(self, name: Any) -> bool:
        return isinstance(name, str) and name in self.kinds

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"oneOf": [handler(kind.__pydantic_core_schema__) for kind in self.kinds.values()]}


def choice_of(field: FieldInfo) -> OneOf[Any] | None:
    """The mark of a field whose settings are of one of several classes."""
    return next((mark for mark in field.metadata if isinstance(mark, OneOf)), None)


def models_of(field: FieldInfo, content: Any) -> Iterable[type[BaseModel]]:
    """The settings classes of a field with this content."""
    choice = choice_of(field)
    return models_in(field.annotation) if choice is None else (choice.kind_of(content),)


def all_models_of(field: FieldInfo) -> Iterable[type[BaseModel]]:
    """The settings classes of a field, whatever its content."""
    choice = choice_of(field)
    return models_in(field.annotation) if choice is None else choice.kinds.values()


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The settings classes in a type, looking through unions and containers."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None or isinstance(annotation, types.UnionType):
        for argument in get_args(annotation):
            yield from models_in(argument)
