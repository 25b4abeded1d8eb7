"""Shapes are checked in all tests, and no time is spent where there are none."""

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from vimss.shards.computed import features_command, middle_pictures
from vimss.stream.mix import Source


def test_an_argument_of_another_shape_than_annotated_is_refused():
    assert middle_pictures(np.array([0, 0, 0, 1], np.int32)).tolist() == [1, 3]
    with pytest.raises(TypeCheckError, match="middle_pictures"):
        middle_pictures(np.zeros((4, 1), np.int32))


def test_a_field_of_another_shape_than_annotated_is_refused():
    with pytest.raises(TypeCheckError, match="Source"):
        Source("vn", None, "clip", "piece", "timbre", np.zeros(8, np.float32))


def test_a_function_without_shapes_is_not_checked():
    assert hasattr(middle_pictures, "__wrapped__") and not hasattr(features_command, "__wrapped__")
