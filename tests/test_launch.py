"""Errors of Ray Tune itself in words."""

import errno
import os
import re

from vimss.errors import PlaceError, StorageError
from vimss.search.launch import tune_has_ended


def test_a_disk_on_which_tune_finds_no_space_is_an_error_of_the_disk(tmp_path):
    met = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    error = tune_has_ended(RuntimeError(f"Traceback\n  open()\nOSError: {met}\n"), tmp_path)
    assert isinstance(error, StorageError)
    assert re.match(rf"{tmp_path} must fit on the disk; got No space left on device with \d+ MB free", str(error))


def test_any_other_error_of_tune_is_named_by_its_last_line(tmp_path):
    error = tune_has_ended(RuntimeError("a traceback\n\n  the reason \n"), tmp_path)
    assert isinstance(error, PlaceError)
    assert str(error) == (
        "Ray Tune must run a search to its end; got the reason. To fix: run the same command again, which resumes it"
    )
