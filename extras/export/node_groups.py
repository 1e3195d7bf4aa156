"""The parts of a network that quantisation harms together, found by the graph's structure. For any format of graph."""

from dataclasses import dataclass

IMAGE, CONSTANT = "image", "constant"
LAYERS = ("Conv", "MatMul")  # with a constant weight
NORMS, GELUS, SILUS = ("ReduceMean", "MVN", "LayerNormalization"), ("Erf", "Gelu"), ("Sigmoid", "Swish")
ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Clip", "Relu", *NORMS, *GELUS, *SILUS)
CHUNKS = 8  # parts of the ordinary convolutions; more, and so smaller, ones have not saved more accuracy


@dataclass
class Node:
    """An operator. inputs: for each one the name of the node it comes from, or IMAGE or CONSTANT."""

    name: str
    op: str  # ONNX's name
    inputs: tuple
    kernel: tuple = ()  # a depthwise convolution's, px

    @property
    def is_layer(self) -> bool:
        return self.op in LAYERS and CONSTANT in self.inputs


def group_nodes(nodes: list, candidates: set) -> dict:
    """Return {group: names} of those of the Nodes (in an order of computation) whose names are in `candidates`."""
    roles = _roles(nodes)
    groups = {}
    for node in nodes:
        if node.name in candidates and roles[node.name] != "convolutions":
            groups.setdefault(roles[node.name], []).append(node.name)
    plain = [node.name for node in nodes if node.name in candidates and roles[node.name] == "convolutions"]
    count = min(CHUNKS, len(plain))
    for i in range(count):
        part = plain[i * len(plain) // count : (i + 1) * len(plain) // count]
        groups[f"convolutions {i + 1}/{count}"] = part
    return groups


def _roles(nodes: list) -> dict:
    """Return {name: group} of all nodes, "convolutions" for the ordinary ones."""
    before, after = _layers_around(nodes)
    clusters = _arithmetic_clusters(nodes)
    roles = {}
    for node in nodes:
        if node.is_layer:
            role = _layer_role(node, node.name in before, node.name in after)
        elif node.name not in after:
            role = "decoding of boxes"
        elif node.name in clusters:
            role = clusters[node.name]
        else:
            role = {"MatMul": "attention products", "Softmax": "softmax", "Add": "sums"}.get(node.op, "data movement")
        roles[node.name] = role
    return roles


def _layer_role(node: Node, has_layer_before: bool, has_layer_after: bool) -> str:
    if not has_layer_before:
        return "first convolution"
    if not has_layer_after:
        return "last convolutions"
    if node.kernel:
        return f"depthwise {'x'.join(map(str, node.kernel))} convolutions"
    return "convolutions"


def _layers_around(nodes: list):
    """Return (names of the nodes with a layer before them, names of those with one after them)."""
    before, after = set(), set()
    by_name = {node.name: node for node in nodes}
    for node in nodes:
        if any(name in before or (name in by_name and by_name[name].is_layer) for name in node.inputs):
            before.add(node.name)
    for node in reversed(nodes):
        if node.is_layer or node.name in after:
            after.update(name for name in node.inputs if name in by_name)
    return before, after


def _arithmetic_clusters(nodes: list) -> dict:
    """Return {name: group} of the arithmetic inside norms and activations.

    Nodes of ARITHMETIC that are joined form one cluster, and the tell-tale operator in it says what it computes. Sums
    of two results join whole blocks, so they are in none.
    """
    members = {}
    for node in nodes:
        is_sum = node.op == "Add" and CONSTANT not in node.inputs
        if node.op not in ARITHMETIC or is_sum:
            continue
        cluster = [node]
        for name in node.inputs:
            other = members.get(name)
            if other is not None and other is not cluster:
                cluster = other + cluster
                members.update(dict.fromkeys((member.name for member in other), cluster))
        members.update(dict.fromkeys((member.name for member in cluster), cluster))
    return {name: _cluster_role({member.op for member in cluster}) for name, cluster in members.items()}


def _cluster_role(ops: set) -> str:
    for tell_tales, role in ((NORMS, "norms"), (GELUS, "GELU"), (SILUS, "SiLU")):
        if ops & set(tell_tales):
            return role
    return "other arithmetic"
