"""Every test that docs/faults.md names is there."""

from named_tests import NAMED, ROOT, defined_in


def test_every_row_of_the_page_names_tests_that_exist():
    page = (ROOT / "docs" / "faults.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not row.startswith("| fault ")]
    assert len(rows) > 60
    for row in rows:
        named = NAMED.findall(row)
        assert named, row
        assert row.count("`tests/") == len(named), row
        for path, group, name in named:
            assert (group, name) in defined_in(path), f"{path}::{group}::{name}"
