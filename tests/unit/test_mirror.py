"""Unit tests mirror the packages: a module has its test file, or says here where it is tested."""

import pytest


TESTED_BY = {
    "agents": ("unit/agents/test_agents.py", "thin loops, tested as one application"),
    "agents/claims.py": ("unit/integrity/test_claims.py", "a thread around Claims"),
    "streamapp/broker": ("integration/test_broker_cluster.py", "starts processes"),
    "streamapp/cli": ("integration/test_cli.py", "a command is tested as users run it"),
    "streamapp/click_errors.py": ("integration/test_cli.py", "a command is tested as users run it"),
    "streamapp/integrity": ("integration/test_verify.py", "reads a disk"),
    "streamapp/integrity/duplicates.py": ("integration/test_verify_duplicates.py", "reads a disk"),
    "streamapp/integrity/free.py": ("integration/test_versions_free.py", "deletes from a disk"),
    "streamapp/integrity/versions.py": ("integration/test_versions_free.py", "reads a disk"),
    "streamapp/producer": ("integration/test_producer_run.py", "parts of one run"),
    "streamapp/producer/purge.py": ("unit/producer/test_window.py", "deletes what a window allows"),
    "streamapp/producer/rate.py": ("unit/ui/test_delivery_report.py", "shown by the report alone"),
    "streamapp/protocol/topics.py": (
        "unit/kafka/test_topic_admin.py",
        "names and numbers, tested with the topics that they describe",
    ),
    "streamapp/receiver": ("unit/receiver/test_partition.py", "parts of PartitionReceiver"),
    "streamapp/restore": ("integration/test_assemble.py", "reads a disk"),
    "streamapp/store": ("integration/test_store.py", "writes to a disk"),
    "streamapp/store/identity.py": ("integration/test_folder_identity.py", "writes to a disk"),
    "streamapp/trials": ("integration/test_selftest.py", "starts processes"),
    "streamapp/ui/verify_report.py": (
        "integration/test_verify_folders.py",
        "shows what a command has read from a disk",
    ),
    "streamapp/web": ("integration/test_views.py", "needs a socket"),
    "streamapp/worker": (
        "unit/test_wiring.py",
        "subclasses of Faust's, tested by how they are wired",
    ),
    "streamapp/worker/outputs.py": ("integration/test_outputs.py", "starts processes"),
    "streamapp/worker/scrubber.py": ("integration/test_scrubber.py", "reads a disk"),
    "streamapp/worker/supervisor.py": ("integration/test_supervisor.py", "starts processes"),
    "streamapp/worker/table_recovery.py": ("integration/test_table_recovery.py", "reads a disk"),
    "streamapp/worker/web_server.py": ("integration/test_web_server.py", "needs a socket"),
    "tables/state.py": ("unit/test_wiring.py", "declares the tables, and does nothing"),
    "tables/web": ("integration/test_views.py", "needs a socket"),
}
"""A module or package without test files of its own: where it is tested, and why there."""

NO_TEST = {"streamapp/app.py", "streamapp/__main__.py"}
"""Modules of a few lines that every test of the application, or of a command, runs."""


@pytest.fixture(scope="module")
def without_file(project):
    """The modules that have no test file of their own."""
    found = []
    for package in ("streamapp", "agents", "tables"):
        for path in sorted((project / package).rglob("*.py")):
            name = path.relative_to(project)
            if path.name == "__init__.py" or name.parts[:2] in {
                ("streamapp", "agents"),
                ("streamapp", "tables"),
            }:
                continue
            folder = project.joinpath("tests", "unit", *name.parent.parts)
            if package == "streamapp":
                folder = project.joinpath("tests", "unit", *name.parent.parts[1:])
            if not (folder / f"test_{path.name}").is_file():
                found.append(name)
    return found


def test_every_module_is_tested(without_file):
    """A new module comes with its test file, or with a line in `TESTED_BY`."""
    missing = [
        str(module)
        for module in without_file
        if str(module) not in NO_TEST
        and not {str(module), *map(str, module.parents)} & TESTED_BY.keys()
    ]

    assert [] == missing


@pytest.mark.parametrize("name", TESTED_BY)
def test_line_is_needed(project, without_file, name):
    """Each line names tests that exist, and a module or package that needs the line."""
    tests, reason = TESTED_BY[name]

    assert (project / "tests" / tests).is_file()
    assert reason
    assert any(name in {str(module), *map(str, module.parents)} for module in without_file)
