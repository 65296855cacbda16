"""Values of packages that are not installed where a store is read, and other rare values."""

from __future__ import annotations

import array
import datetime as dt
import sys

import numpy
import pandas
import PIL.Image
import pydantic
import pytest
import pytz

import checkpointdb as ckpt
from checkpointdb import DecodeError
from checkpointdb.values.codec import decode, encode

OF_PACKAGES = {
    "numpy": numpy.float32(1.5),
    "pandas": pandas.Timestamp(2026, 1, 1),
    "PIL": PIL.Image.new("L", (2, 2)),
    "pydantic": pydantic.HttpUrl("http://localhost/"),
    "pytz": pytz.timezone("Europe/Zurich").localize(dt.datetime(2026, 1, 1)),
}


@pytest.mark.parametrize("package", OF_PACKAGES)
def test_a_value_of_a_package_that_is_not_installed_says_so(package, monkeypatch):
    """Nothing is made up in its place."""
    data = encode(OF_PACKAGES[package])
    hidden = {name: None for name in sys.modules if name.partition(".")[0] == package}
    for name in {package, *hidden}:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DecodeError, match="not installed"):
        decode(data)


@pytest.mark.parametrize("dtype", ["<f8", "<i4", "|u1"])
def test_an_array_is_a_memoryview_where_numpy_is_not_installed(dtype, monkeypatch):
    """Of the same shape and numbers; one of a type that Python has none for is an error."""
    stored = numpy.arange(6).astype(dtype).reshape(2, 3)
    data, other = encode(stored), encode(stored.astype("<f2" if dtype == "<f8" else ">i4"))
    hidden = [name for name in sys.modules if name.partition(".")[0] == "numpy"]
    for name in hidden:
        monkeypatch.setitem(sys.modules, name, None)
    view = decode(data)
    assert isinstance(view, memoryview)
    assert view.tolist() == stored.tolist()
    if dtype != "<f8":
        with pytest.raises(DecodeError, match="install numpy to read it"):
            decode(other)


def test_a_memoryview_of_no_dimension_comes_back():
    """One number, of the type that it was."""
    stored = memoryview(array.array("i", [7])).cast("B").cast("i", [])
    again = decode(encode(stored))
    assert (again.shape, again.format, again.tolist()) == ((), "i", 7)


def test_register_takes_two_functions():
    """At the call, not when the first value comes."""

    class Mine:
        pass

    with pytest.raises(TypeError, match="to= and back= must be functions"):
        ckpt.register(Mine, to="text", back=Mine)
    with pytest.raises(TypeError, match="to= and back= must be functions"):
        ckpt.register(Mine, to=str, back=None)
