"""The promises that `tests.mutants` breaks are still where it says."""

import pytest

from tests import mutants


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.promise)
def test_mutant_is_current(project, mutant):
    """What a mutant replaces stands in the code exactly once."""
    text = (project / mutant.file).read_text("utf-8")

    assert 1 == text.count(mutant.old)
    assert mutant.old != mutant.new
