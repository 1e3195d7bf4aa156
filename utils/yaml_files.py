"""YAML files in and out, with errors that name the line. Apart, as detecting with an exported file needs no YAML."""

import re
from pathlib import Path

import numpy as np
import yaml


class _YamlLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice and reads 1e-3 as a number (YAML 1.1 wants 1.0e-3)."""

    def construct_mapping(self, node, deep=False):
        first_lines = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            line = key_node.start_mark.line + 1
            if key in first_lines:
                problem = f"key {key!r} occurs twice, first on line {first_lines[key]}"
                raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key_node.start_mark)
            first_lines[key] = line
        return super().construct_mapping(node, deep)


_YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(path) -> dict:
    """The mapping in a YAML file. ValueError with file and line if it is not valid YAML, is empty or is no mapping."""
    path = Path(path)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _YamlLoader)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected a UTF-8 text file: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ValueError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if data is None:
        raise ValueError(f"{path}:1: expected 'key: value' lines, found an empty file")
    if not isinstance(data, dict):
        raise ValueError(f"{path}:1: expected 'key: value' lines, found a {type(data).__name__}")
    return data


def save_yaml(path, mapping: dict) -> None:
    """Write `mapping` in its own order; Path values become strings."""

    def plain(value):
        if isinstance(value, dict):
            return {plain(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value.item() if isinstance(value, np.generic) else value

    text = yaml.safe_dump(plain(mapping), sort_keys=False, allow_unicode=True, width=120)
    Path(path).write_text(text, encoding="utf-8")
