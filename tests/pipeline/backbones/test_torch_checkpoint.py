import hashlib
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backbones.torch_checkpoint import MAGIC_NUMBER, PROTOCOL_VERSION, parse_checkpoint, read_checkpoint
from pipeline.errors import DamagedError


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return b"J" + struct.pack("<i", value)


def tuple_of(*items):
    return b"(" + b"".join(items) + b"t"


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def call(function, *arguments):
    return function + tuple_of(*arguments) + b"R"


def a_tensor(key, shape, stride, offset=0, kind="FloatStorage", count=0, persistent="storage"):
    """What `torch.save` writes for a tensor: a call that rebuilds it from a storage kept elsewhere."""
    storage = tuple_of(text(persistent), name("torch", kind), text(key), text("cpu"), number(count), b"N") + b"Q"
    numbers = [tuple_of(*map(number, values)) for values in (shape, stride)]
    no_hooks = call(name("collections", "OrderedDict"))
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return call(rebuild, storage, number(offset), *numbers, b"\x89", no_hooks)


def a_checkpoint(tensors, storages, magic=MAGIC_NUMBER, version=PROTOCOL_VERSION, little_endian=True):
    """The bytes of a file: `tensors` name -> opcodes, `storages` key -> array."""
    items = b"".join(text(key) + opcodes for key, opcodes in tensors.items())
    state = b"\x80\x02" + call(name("collections", "OrderedDict")) + b"(" + items + b"u."
    system = {"protocol_version": version, "little_endian": little_endian, "type_sizes": {"int": 4}}
    head = b"".join(pickle.dumps(part, 2) for part in (magic, version, system))
    raw = b"".join(struct.pack("<q", values.size) + values.tobytes() for values in storages.values())
    return head + state + pickle.dumps(list(storages), 2) + raw


VALUES = np.arange(24, dtype="<f4")
GOOD = a_checkpoint({"conv.weight": a_tensor("a", (2, 3, 4), (12, 4, 1))}, {"a": VALUES})


def test_tensors_come_back_by_name_with_their_shapes():
    found = parse_checkpoint(
        a_checkpoint(
            {
                "weight": a_tensor("a", (2, 3), (3, 1)),
                "scalar": a_tensor("b", (), (), kind="LongStorage"),
                "bias": a_tensor("c", (4,), (1,)),
            },
            {"a": VALUES[:6], "b": np.array([7], "<i8"), "c": VALUES[:4] + 0.5},
        )
    )
    assert list(found) == ["weight", "scalar", "bias"]
    assert found["weight"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["scalar"] == 7
    assert found["scalar"].dtype == np.int64
    assert found["bias"].tolist() == [0.5, 1.5, 2.5, 3.5]


def test_strides_and_offsets_are_honoured():
    found = parse_checkpoint(
        a_checkpoint(
            {
                "transposed": a_tensor("a", (4, 6), (1, 4)),
                "every_other": a_tensor("a", (12,), (2,)),
                "tail": a_tensor("a", (4,), (1,), offset=20),
                "expanded": a_tensor("a", (3, 2), (0, 1), offset=5),
            },
            {"a": VALUES},
        )
    )
    assert np.array_equal(found["transposed"], VALUES.reshape(6, 4).T)
    assert np.array_equal(found["every_other"], VALUES[::2])
    assert np.array_equal(found["tail"], VALUES[20:])
    assert found["expanded"].tolist() == [[5, 6]] * 3


def test_arrays_are_copies_that_do_not_share_memory():
    found = parse_checkpoint(
        a_checkpoint({"one": a_tensor("a", (4,), (1,)), "two": a_tensor("a", (4,), (1,))}, {"a": VALUES})
    )
    found["one"][0] = 99
    assert found["two"][0] == 0


def test_a_file_with_the_right_digest_is_read(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(GOOD)
    found = read_checkpoint(path, hashlib.sha256(GOOD).hexdigest())
    assert np.array_equal(found["conv.weight"], VALUES.reshape(2, 3, 4))


def read_as_expected(folder, data):
    """Read bytes whose digest is right: what is refused now is refused for what is in them."""
    path = folder / "weights.pth"
    path.write_bytes(data)
    return read_checkpoint(path, hashlib.sha256(data).hexdigest())


def test_another_file_is_refused_before_it_is_interpreted(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(GOOD)
    with pytest.raises(DamagedError, match=r"weights.pth has SHA-256 .*, wanted 00000000.* Reinstall the package"):
        read_checkpoint(path, "0" * 64)


@pytest.mark.parametrize(
    "evil",
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch", "DoubleStorage"),
        ("collections", "OrderedDict.fromkeys"),
        ("pipeline.backbones.torch_checkpoint", "Path"),
    ],
    ids=".".join,
)
def test_a_pickle_that_asks_for_code_is_refused_and_not_run(tmp_path, evil):
    sign = tmp_path / "it ran"
    data = a_checkpoint({"weight": call(name(*evil), text(f"touch '{sign}'"))}, {"a": VALUES})
    with pytest.raises(DamagedError, match=f"asks for {evil[0]}.{evil[1]}, which is refused"):
        read_as_expected(tmp_path, data)
    assert not sign.exists()


def test_even_the_first_pickle_is_restricted(tmp_path):
    sign = tmp_path / "it ran"
    with pytest.raises(DamagedError, match=r"posix\.system, which is refused"):
        read_as_expected(tmp_path, b"\x80\x02" + call(name("posix", "system"), text(f"touch '{sign}'")) + b".")
    assert not sign.exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is no legacy PyTorch checkpoint"),
        (b"PK\x03\x04 a zip, as PyTorch writes since 1.6", "is no legacy PyTorch checkpoint"),
        (a_checkpoint({}, {}, magic=1), "magic number"),
        (a_checkpoint({}, {}, version=1002), "protocol version 1001"),
        (a_checkpoint({}, {}, little_endian=False), "big-endian"),
        (GOOD[:-1], "no legacy PyTorch checkpoint"),
        (GOOD[: -len(VALUES.tobytes()) - 3], "no legacy PyTorch checkpoint"),
        (a_checkpoint({"w": a_tensor("a", (25,), (1,))}, {"a": VALUES}), "no legacy PyTorch checkpoint"),
        (a_checkpoint({"w": a_tensor("a", (24,), (1,), offset=1)}, {"a": VALUES}), "no legacy PyTorch checkpoint"),
        (a_checkpoint({"w": a_tensor("a", (2, 2), (23, 1))}, {"a": VALUES}), "no legacy PyTorch checkpoint"),
        (a_checkpoint({"w": a_tensor("a", (4,), (1,), offset=-2)}, {"a": VALUES}), "no legacy PyTorch checkpoint"),
        (a_checkpoint({"w": a_tensor("a", (4,), (-1,), offset=2)}, {"a": VALUES}), "no legacy PyTorch checkpoint"),
        (a_checkpoint({"w": a_tensor("a", (-4,), (1,))}, {"a": VALUES}), "no legacy PyTorch checkpoint"),
        (a_checkpoint({"w": a_tensor("a", (2, 2), (1,))}, {"a": VALUES}), "no legacy PyTorch checkpoint"),
        (a_checkpoint({"w": a_tensor("a", (4,), (1,), persistent="module")}, {"a": VALUES}), "refers to 'module'"),
        (a_checkpoint({"w": a_tensor("elsewhere", (4,), (1,))}, {"a": VALUES}), "no legacy PyTorch checkpoint"),
        (a_checkpoint({"w": a_tensor("a", (4,), (1,))}, {"a": VALUES, "b": VALUES}), "no legacy PyTorch checkpoint"),
        (a_checkpoint({"w": number(5)}, {}), "no legacy PyTorch checkpoint"),
    ],
    ids=[
        "empty", "zip", "magic", "version", "endian", "cut", "cut in the count", "too large", "shifted", "wide stride",
        "negative offset", "negative stride", "negative size", "one stride too few", "no storage", "missing storage",
        "unused storage", "no tensor",
    ],
)  # fmt: skip
def test_a_file_that_is_not_as_it_should_be_is_refused(tmp_path, data, reason):
    with pytest.raises(DamagedError, match=reason):
        read_as_expected(tmp_path, data)


@given(st.integers(0, len(GOOD) - 1))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, length):
    with pytest.raises(DamagedError):
        read_as_expected(tmp_path_factory.getbasetemp(), GOOD[:length])


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_changed_byte_anywhere_is_refused(tmp_path_factory, place, difference):
    path = tmp_path_factory.getbasetemp() / "weights.pth"
    path.write_bytes(GOOD[:place] + bytes([GOOD[place] ^ difference]) + GOOD[place + 1 :])
    with pytest.raises(DamagedError, match="SHA-256"):
        read_checkpoint(path, hashlib.sha256(GOOD).hexdigest())
