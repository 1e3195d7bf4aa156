"""Groups of nodes, in small graphs written by hand; those of real models are in test_onnx_quantizer.py."""

import pytest

from extras.export.node_groups import CONSTANT, IMAGE, Node, group_nodes


def conv(name, source, kernel=()):
    return Node(name, "Conv", (source, CONSTANT, CONSTANT), kernel)


HEAD = [conv("head", "stem"), Node("decode", "Sigmoid", ("head",))]


@pytest.mark.parametrize(
    ("inner", "groups"),
    [
        ([conv("mid", "stem")], {"convolutions 1/1": ["mid"]}),
        ([conv("mid", "stem", (3, 3))], {"depthwise 3x3 convolutions": ["mid"]}),
        ([Node("mid", "MatMul", ("stem", CONSTANT))], {"convolutions 1/1": ["mid"]}),
        ([Node("mid", "MatMul", ("stem", "stem"))], {"attention products": ["mid"]}),
        ([Node("mid", "Softmax", ("stem",))], {"softmax": ["mid"]}),
        ([Node("mid", "Transpose", ("stem",))], {"data movement": ["mid"]}),
        ([Node("mid", "Add", ("stem", "stem"))], {"sums": ["mid"]}),
        ([Node("a", "Sigmoid", ("stem",)), Node("mid", "Mul", ("stem", "a"))], {"SiLU": ["a", "mid"]}),
        ([Node("a", "Div", ("stem", CONSTANT)), Node("mid", "Erf", ("a",))], {"GELU": ["a", "mid"]}),
        (  # a norm whose result joins another one in a sum
            [
                Node("a", "ReduceMean", ("stem",)),
                Node("b", "Sub", ("stem", "a")),
                Node("c", "Mul", ("b", "b")),
                Node("mid", "Add", ("c", "stem")),
            ],
            {"norms": ["a", "b", "c"], "sums": ["mid"]},
        ),
        ([Node("mid", "Mul", ("stem", CONSTANT))], {"other arithmetic": ["mid"]}),
    ],
)
def test_roles(inner, groups):
    nodes = [Node("scale", "Mul", (IMAGE, CONSTANT)), conv("stem", "scale"), *inner, conv("head", "mid"), HEAD[1]]
    ends = {"first convolution": ["stem"], "last convolutions": ["head"], "decoding of boxes": ["decode"]}
    found = group_nodes(nodes, {node.name for node in nodes} - {"scale"})
    assert found == {**ends, **groups}


def test_only_candidates_and_each_once():
    nodes = [conv("stem", IMAGE)]
    for i in range(20):
        nodes.append(conv(f"c{i}", nodes[-1].name))
    nodes += [conv("head", "c19"), HEAD[1]]
    candidates = {f"c{i}" for i in range(0, 20, 2)} | {"head"}
    groups = group_nodes(nodes, candidates)
    names = [name for group in groups.values() for name in group]
    assert sorted(names) == sorted(candidates) and groups["last convolutions"] == ["head"]
    assert len(groups) == 9 and groups["convolutions 1/8"] == ["c0"]
    assert group_nodes(nodes, set()) == {}
