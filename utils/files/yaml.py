"""YAML files in and out, with errors that name the line. Apart, as detecting with an exported file needs no YAML."""

import re
from pathlib import Path

import numpy as np
import yaml

from utils.files import read_text, write_whole

MAX_BYTES = 16 << 20
MAX_DEPTH = 64
TOO_DEEP = f"its values are nested more than {MAX_DEPTH} deep"
MAX_VALUES = 1_000_000  # in all mappings and lists, where an alias counts as much as its target


class _YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
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
    """Return the mapping in a YAML file. ValueError with file and line if it is broken, empty or no mapping."""
    path, text = Path(path), read_text(path, MAX_BYTES)
    marks = sum(map(text.count, ",\n:[{"))  # No text has more values, and counting them takes no time.
    if marks > MAX_VALUES // 3:
        raise ValueError(f"{path}: expected at most {MAX_VALUES // 3:,} values, found about {marks:,}")
    try:
        loader = _YamlLoader(text)
        node = loader.get_single_node()
        if node is not None:
            _check_size(node, {})
        data = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ValueError(f"{where}: not valid YAML: {_first_line(getattr(error, 'problem', None) or error)}") from None
    except RecursionError:  # in PyYAML's own part
        raise ValueError(f"{path}: not valid YAML: {TOO_DEEP}") from None
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:  # as PyYAML leaves them
        raise ValueError(f"{path}: not valid YAML: {_first_line(error)}") from None
    if data is None:
        raise ValueError(f"{path}:1: expected 'key: value' lines, found an empty file")
    if not isinstance(data, dict):
        raise ValueError(f"{path}:1: expected 'key: value' lines, found a {type(data).__name__}")
    return data


def _first_line(error: object) -> str:
    return (str(error).splitlines() or ["of no kind"])[0][:200]


def _check_size(node: yaml.Node, seen: dict[int, tuple[int, int]], depth: int = 0) -> tuple[int, int]:
    """Return how many values a node leads to, and how deep; each is looked at once. ValueError for too much of them."""
    if isinstance(node, yaml.ScalarNode):
        return 1, 0
    if id(node) not in seen and depth <= MAX_DEPTH:  # It grows without end for a node within itself.
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        sizes = [_check_size(child, seen, depth + 1) for child in children]
        seen[id(node)] = 1 + sum(count for count, _ in sizes), 1 + max((height for _, height in sizes), default=0)
    count, height = seen.get(id(node), (0, MAX_DEPTH + 1))
    if height > MAX_DEPTH:
        raise ValueError(TOO_DEEP)
    if count > MAX_VALUES:
        raise ValueError(f"its aliases lead to more than {MAX_VALUES:,} values")
    return count, height


def save_yaml(path, mapping: dict) -> None:
    """Write `mapping` in its own order; Path values become strings."""

    def plain(value):
        if isinstance(value, dict):
            return {plain(k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value.item() if isinstance(value, np.generic) else value

    text = yaml.safe_dump(plain(mapping), sort_keys=False, allow_unicode=True, width=120)
    write_whole(path, text)
