"""Ways to damage a file: its bytes, the values of a JSON document, the parts of an ONNX model."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import onnx

STRANGE_TEXT = [
    *("", " ", "\0", "\n", "\ufeff", "\u202e", "é" * 300, "..", "/", "~nobody/x", "a" * 5000, "%s%n", "{}", "[[" * 500),
    *("no", "2024-01-01", "1e999", "0x10", "NaN", "-1", "rtsp://user:pass@[::1/x", "http://" + "h" * 70 + ".example/"),
]
STRANGE_NUMBERS = [0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf")]
STRANGE: list[Any] = [*STRANGE_TEXT, *STRANGE_NUMBERS, None, True, False, [], {}, [[]], {"": None}, [[[[[]]]]]]
TOKENS = [b"\0", b"\xff", b"\xef\xbb\xbf", b"[" * 200, b"{", b"}", b"]", b'"', b":", b",", b"\n", b"- ", b"&a ", b"*a"]
TOKENS += [b"<<: ", b"!!python/object:x ", b"NaN", b"1e999", b"9" * 400, b"\t", b"null", b"\r\n", b"\\ud800", b"# "]


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Cut, flip, insert, remove or repeat bytes, once or a few times."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 8])):
        at = rng.randrange(len(out) + 1)
        length = min(rng.choice([1, 1, 2, 8, 64, 512]), len(out) - at)
        kind = rng.randrange(6)
        if kind == 0:
            del out[at:]
        elif kind == 1 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            out[at:at] = rng.choice(TOKENS)
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out[at:at] = out[at : at + length] * rng.choice([1, 2, 50])
        else:
            out[at : at + length] = rng.randbytes(length)
    return bytes(out)


def mutate_value(rng: random.Random, value: Any) -> Any:
    """Put strange values into a JSON-like document, or remove, repeat or swap its parts."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice([1, 1, 2, 3])):
        places = list(_places(value))
        if not places:
            return rng.choice(STRANGE)
        holder, key = rng.choice(places)
        kind = rng.randrange(10)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            _, other = rng.choice(places)
            holder[key] = copy.deepcopy(rng.choice([holder[key], other, [holder[key]] * 3]))
        elif kind == 2 and isinstance(holder, dict):
            holder[rng.choice(STRANGE_TEXT)] = holder[key]
        elif kind == 3 and isinstance(holder[key], int | float):
            holder[key] = holder[key] * rng.choice([-1, 0, 2, 10**9])
        else:
            holder[key] = copy.deepcopy(rng.choice(STRANGE))
    return value


def _places(value: Any) -> Any:
    """Every container and key in a nested value."""
    if isinstance(value, dict):
        for key in value:
            yield value, key
            yield from _places(value[key])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield value, index
            yield from _places(item)


def mutate_json(rng: random.Random, value: Any) -> bytes:
    """Damage a JSON document: mostly its values, sometimes also its bytes."""
    data = json.dumps(mutate_value(rng, value), indent=rng.choice([None, 1])).encode()
    return mutate_bytes(rng, data) if rng.random() < 0.3 else data


def mutate_onnx(rng: random.Random, data: bytes) -> bytes:
    """Damage a model: in a quarter of cases its bytes, otherwise its nodes, attributes, tensors, inputs and outputs."""
    if rng.random() < 0.25:
        return mutate_bytes(rng, data)
    model = onnx.ModelProto.FromString(data)
    graph = model.graph
    for _ in range(rng.choice([1, 1, 2, 4])):
        rng.choice([_change_node, _change_attribute, _change_tensor, _change_edges, _change_lists])(rng, graph)
    if rng.random() < 0.1:
        model.opset_import[0].version = rng.choice([0, -1, 1, 5, 99, 2**62])
    return model.SerializeToString()


def _change_node(rng: random.Random, graph: Any) -> None:
    if not graph.node:
        return
    node = rng.choice(graph.node)
    kind = rng.randrange(4)
    names = [name for other in graph.node for name in (*other.input, *other.output)] + ["", "nowhere"]
    if kind == 0:
        node.op_type = rng.choice(["Conv", "MatMul", "Reshape", "If", "Loop", "NoSuchOperator", "", "QuantizeLinear"])
    elif kind == 1:
        node.domain = rng.choice(["ai.onnx", "com.microsoft", "x" * 1000])
    elif node.input and kind == 2:
        node.input[rng.randrange(len(node.input))] = rng.choice(names)
    elif node.output:
        node.output[rng.randrange(len(node.output))] = rng.choice(names)


def _change_attribute(rng: random.Random, graph: Any) -> None:
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    if not attributes:
        return
    attribute = rng.choice(attributes)
    if attribute.ints:
        attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice([0, -1, 2**31, 2**62, 3])
    else:
        attribute.i = rng.choice([0, -1, 2**31, 2**62, 7])
    if rng.random() < 0.2:
        attribute.type = rng.randrange(1, 8)


def _change_tensor(rng: random.Random, graph: Any) -> None:
    if not graph.initializer:
        return
    tensor = rng.choice(graph.initializer)
    kind = rng.randrange(4)
    if kind == 0:
        tensor.data_type = rng.choice([0, 1, 6, 7, 10, 16, 99])
    elif kind == 1 and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice([0, -1, 1, 7, 2**31, 2**62])
    elif kind == 2:
        tensor.raw_data = rng.choice([b"", tensor.raw_data[:-1], tensor.raw_data * 2, b"\xff" * len(tensor.raw_data)])
    else:
        tensor.name = rng.choice(["", "images", graph.initializer[0].name])


def _change_edges(rng: random.Random, graph: Any) -> None:
    edges = [*graph.input, *graph.output]
    if not edges:
        return
    edge = rng.choice(edges)
    tensor = edge.type.tensor_type
    if rng.random() < 0.3:
        tensor.elem_type = rng.choice([0, 2, 7, 10, 99])
    elif tensor.shape.dim:
        dim = rng.choice(tensor.shape.dim)
        if rng.random() < 0.5:
            dim.dim_value = rng.choice([0, -1, 1, 5, 2**31, 2**62])
        else:
            dim.dim_param = rng.choice(["batch", "", "x" * 1000])


def _change_lists(rng: random.Random, graph: Any) -> None:
    part = rng.choice([graph.node, graph.initializer, graph.input, graph.output])
    if not part:
        return
    index = rng.randrange(len(part))
    if rng.random() < 0.5:
        del part[index]
    else:
        part.append(copy.deepcopy(part[index]))
