"""Files appear whole or not at all."""

import errno

import pytest

from NetInversionLib.core.writing import replacing


@pytest.mark.parametrize("before", [None, "old"])
def test_a_full_disk_leaves_what_was_there_and_nothing_else(before, tmp_path):
    path = tmp_path / "page.html"
    if before:
        path.write_text(before)
    with pytest.raises(OSError):
        with replacing(path) as part:
            part.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")
    assert [p.name for p in tmp_path.iterdir()] == (["page.html"] if before else [])
    assert not before or path.read_text() == before
    with replacing(path) as part:
        part.write_text("whole")
    assert path.read_text() == "whole" and len(list(tmp_path.iterdir())) == 1
