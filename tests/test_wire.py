"""A graph that would have other files opened is refused; every other one is let through."""

import io
import random

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper
from onnx.external_data_helper import set_external_data
from tiny_model import graph, make_bundle

from stronglens.engine import wire
from stronglens.engine.bundle import load_bundle
from stronglens.engine.errors import BundleError


def check(data):
    wire.check_whole(io.BytesIO(data))


def outside(name="w", location="../../.ssh/id_rsa"):
    """A tensor that lies in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[2], raw_data=bytes(8))
    set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    return tensor


def test_the_ways_to_tensors_are_those_of_onnx():
    """Every message of ONNX in which a tensor can lie, at any depth, is searched."""
    messages = onnx.ModelProto.DESCRIPTOR.file.message_types_by_name
    ways = {
        name: {f.number: f.message_type.name for f in each.fields if f.message_type}
        for name, each in messages.items()
    }
    leading = {"TensorProto"}
    while more := {name for name, way in ways.items() if leading & {*way.values()}} - leading:
        leading |= more
    expected = {
        name: {number: to for number, to in ways[name].items() if to in leading} for name in leading
    }
    assert expected == wire.PATHS
    fields = onnx.TensorProto.DESCRIPTOR.fields_by_name
    assert fields["external_data"].number == wire.EXTERNAL_DATA
    assert fields["data_location"].number == wire.DATA_LOCATION


def initialiser(model):
    model.graph.initializer[0].CopyFrom(outside(model.graph.initializer[0].name))


def sparse(model):
    model.graph.sparse_initializer.add(dims=[4]).values.CopyFrom(outside())


def constant(model):
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.add(name="value", type=AttributeProto.TENSOR).t.CopyFrom(outside())
    model.graph.node.append(node)


def list_of_tensors(model):
    attribute = model.graph.node[0].attribute.add(name="more", type=AttributeProto.TENSORS)
    attribute.tensors.append(outside())


def branch(model, depth=3):
    inner = model.graph
    for _ in range(depth):
        inner = inner.node.add(op_type="If").attribute.add(name="then", type=AttributeProto.GRAPH).g
    inner.initializer.append(outside())


def function(model):
    node = model.functions.add(name="f").node.add(op_type="Constant")
    node.attribute.add(name="value", type=AttributeProto.TENSOR).t.CopyFrom(outside())


def training(model):
    model.training_info.add().algorithm.initializer.append(outside())


def the_location_alone(model):
    model.graph.initializer.add(name="w", data_location=TensorProto.EXTERNAL)


def the_entries_alone(model):
    model.graph.initializer.add(name="w").external_data.add(key="location", value="x")


HIDDEN = [
    initialiser,
    sparse,
    constant,
    list_of_tensors,
    branch,
    function,
    training,
    the_location_alone,
    the_entries_alone,
]


@pytest.mark.parametrize("hide", HIDDEN)
def test_weights_in_another_file_are_found_wherever_they_are_named(hide):
    model = onnx.load_from_string(graph())
    check(model.SerializeToString())
    hide(model)
    with pytest.raises(BundleError, match="keeps weights in another file"):
        check(model.SerializeToString())


def test_a_second_copy_of_a_field_hides_nothing():
    """Readers merge a message that comes twice."""
    model = onnx.ModelProto()
    the_entries_alone(model)
    for data in (graph() + model.SerializeToString(), model.SerializeToString() + graph()):
        with pytest.raises(BundleError, match="another file"):
            check(data)


def test_graphs_nested_without_end_are_searched():
    model = onnx.load_from_string(graph())
    branch(model, depth=30)
    with pytest.raises(BundleError, match="another file"):
        check(model.SerializeToString())
    data = b""
    for _ in range(3000):  # deeper than Python's own calls, and than ONNX itself would read
        for key in (0x32, 0x2A, 0x0A):  # a graph in an attribute, in a node, in a graph
            data = bytes([key]) + length(data) + data
    check(b"\x3a" + length(data) + data)


def length(data):
    n, found = len(data), b""
    while n >= 0x80:
        found, n = found + bytes([n & 0x7F | 0x80]), n >> 7
    return found + bytes([n])


def test_a_bundle_whose_weights_lie_elsewhere_is_refused(tmp_path):
    model = onnx.load_from_string(graph())
    initialiser(model)
    with pytest.raises(BundleError, match=r"model\.onnx: the graph keeps weights in another file"):
        make_bundle(tmp_path / "model", onnx_bytes=model.SerializeToString())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BundleError, match=r"model\.int8\.onnx: the graph is not one"):
        make_bundle(tmp_path / "model", files={"model.int8.onnx": b"not a graph"})
    assert load_bundle(make_bundle(tmp_path / "model").path)


@pytest.mark.parametrize(
    "data",
    [
        b"\x3a",
        b"\x3a\x05four",
        b"\x00\x00",  # number 0
        b"\x0b\x0c",  # a group
        b"\x0f",
        b"\x09" + bytes(7),
        b"\x0d" + bytes(3),
        b"\x38\x01",  # a graph that is a number
        b"\x08" + b"\xff" * 10 + b"\x01",
        b"\xba\x80\x80\x80\x10\x00",  # number 7, and a bit that some readers drop
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ],
    ids=lambda data: data.hex()[:20],
)
def test_what_is_no_protocol_buffer_is_refused(data):
    with pytest.raises(BundleError, match="breaks off at byte"):
        check(data)


def test_a_graph_of_nothing_but_keys_is_given_up(monkeypatch):
    monkeypatch.setattr(wire, "MAX_FIELDS", 1000)
    check(b"\x08\x01" * 1000)
    with pytest.raises(BundleError, match="more than 1,000 fields"):
        check(b"\x08\x01" * 1001)


WHOLE = graph(nan_above=1)


@given(st.integers(0, len(WHOLE)), st.binary(max_size=4), st.sampled_from([0, 1, 4]))
def test_what_onnx_reads_of_a_damaged_graph_is_whole_or_refused(place, there, drop):
    data = WHOLE[:place] + there + WHOLE[place + drop :]
    try:
        check(data)
    except BundleError:
        return
    try:
        model = onnx.load_from_string(data)
    except Exception:  # whatever it is: that graph is not used
        return
    assert not any(each.external_data for each in model.graph.initializer)


def test_one_changed_byte_never_lets_another_file_in():
    model = onnx.load_from_string(graph())
    initialiser(model)
    whole, rng = bytearray(model.SerializeToString()), random.Random(0)
    for place in range(len(whole)):
        data = whole.copy()
        data[place] ^= 1 << rng.randrange(8)
        try:
            check(bytes(data))
        except BundleError:
            continue
        try:
            found = onnx.load_from_string(bytes(data))
        except Exception:
            continue
        assert not any(each.external_data for each in found.graph.initializer)
