"""The objects within a value."""

from router.classification.nesting import nested_objects


def test_no_depth_is_too_deep() -> None:
    """Thousands of levels are walked like one."""
    value: object = {"type": "x"}
    for _ in range(100_000):
        value = [value]
    assert list(nested_objects(value)) == [{"type": "x"}]


def test_what_is_skipped_is_skipped_whole() -> None:
    """Below that key nothing is seen, the object that has it is."""
    inner = {"input": {"a": {}}, "b": {"c": 1}}
    assert list(nested_objects([inner], skip="input")) == [inner, {"c": 1}]
