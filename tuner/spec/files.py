"""YAML files of people: read whole, or refused with the place that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tuner.errors import InvalidInput


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML's own takes the last one without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # refused below
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} is there already", problem_mark=key.start_mark
                )
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path, field: str = "file") -> object:
    """What a YAML file holds.

    Args:
        path: The file.
        field: What the message calls it.

    Raises:
        InvalidInput: It cannot be read, is no YAML, or says something twice.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(field, f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(field, f"{path} is not YAML: {error}") from error
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise InvalidInput(field, f"{path} is not YAML: {error}") from error
