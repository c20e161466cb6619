"""YAML files of people: read whole, or refused with the place that is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tuner.errors import InvalidInput

MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """YAML's own takes the last of two equal keys without a word, and ``1e-3`` for text."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Once constructed, a mapping has those keys too that it merges and may say anew.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue  # construction refuses the one, and takes all of the other
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value!r} is there already", problem_mark=key.start_mark
                )
            seen.add((key.tag, key.value))
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str) -> object:
    """What a text in YAML says.

    Raises:
        ValueError: It is no YAML, such as a day that no month has, or says something twice.
    """
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(error) from error


def read_yaml(path: str | Path, field: str = "file") -> object:
    """What a YAML file holds.

    Args:
        path: The file.
        field: What the message calls it.

    Raises:
        InvalidInput: It cannot be read, is no YAML, or says something twice.
    """
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(field, f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidInput(field, f"{path} is not YAML: {error}") from error
