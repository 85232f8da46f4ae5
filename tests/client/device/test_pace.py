"""What a device remembers of its own speed."""

from pathlib import Path

import pytest

from fedloom_client.device.pace import PaceBook, Point, pace_of

_POINTS = [Point(4, 0.06, 40_000_000), Point(16, 0.12, 100_000_000)]


def test_two_measurements_make_a_line_of_time_and_of_memory() -> None:
    pace = pace_of(_POINTS, 1e6, hot=False)
    assert pace is not None
    assert (pace.step, pace.example) == pytest.approx((0.04, 0.005))
    assert (pace.memory, pace.memory_example) == pytest.approx((20e6, 5e6))
    assert pace.bytes(32) == pytest.approx(180e6)


def test_with_one_measurement_a_smaller_batch_is_thought_no_faster() -> None:
    pace = pace_of([Point(16, 0.5)], 0, hot=False)
    assert pace is not None
    assert pace.seconds(2) == 0.5


def test_nothing_measured_is_no_pace() -> None:
    assert pace_of([], 1e6, hot=False) is None


def test_a_real_round_corrects_every_batch_size_and_keeps_what_it_takes_of_memory(tmp_path: Path) -> None:
    book = PaceBook(tmp_path / "pace.json")
    book.measured("a", "", _POINTS)
    book.trained("a", "", 16, 0.36)  # three times what was expected: half of the way
    assert [(p.batch, p.seconds, p.bytes) for p in book.points("a", "")] == [
        (4, pytest.approx(0.12), 40_000_000),
        (16, pytest.approx(0.24), 100_000_000),
    ]


def test_it_survives_the_agent_and_is_of_one_artefact(tmp_path: Path) -> None:
    book = PaceBook(tmp_path / "pace.json")
    book.measured("a", "", _POINTS)
    book.sent(1_000_000, 2.0)
    again = PaceBook(tmp_path / "pace.json")
    assert again.points("a", "") == _POINTS
    assert again.points("b", "") == []
    assert again.uplink == 500_000


def test_a_damaged_file_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "pace.json").write_text('{"uplink": 3, "artefact"')
    book = PaceBook(tmp_path / "pace.json")
    assert book.uplink == 0
    book.sent(100_000, 1)
    assert PaceBook(tmp_path / "pace.json").uplink == 100_000


def test_a_short_upload_says_only_that_the_uplink_is_at_least_so_fast(tmp_path: Path) -> None:
    book = PaceBook(tmp_path / "pace.json")
    book.sent(1_000_000, 1)
    book.sent(1000, 1)
    assert book.uplink == 1_000_000
    book.sent(1_000_000, 4)
    assert book.uplink == pytest.approx(625_000)


@pytest.mark.parametrize(
    ("trained", "seconds", "whole", "last"),
    [
        ("", 2.0, 1.5, 0.15),  # half as fast again: a smaller part too
        ("", 0.5, 0.75, 0.075),
        ("last:1", 0.2, 1.05, 0.15),  # 0.05 s more, which the larger part takes too
        ("last:1", 0.05, 0.75, 0.075),
    ],
)
def test_a_round_with_one_part_tells_of_the_others(
    tmp_path: Path, trained: str, seconds: float, whole: float, last: float
) -> None:
    book = PaceBook(tmp_path / "pace.json")
    book.measured("a", "", [Point(16, 1.0)])
    book.measured("a", "last:1", [Point(16, 0.1)])
    book.trained("a", trained, 16, seconds)
    again = PaceBook(tmp_path / "pace.json")
    assert [again.points("a", part)[0].seconds for part in ("", "last:1")] == pytest.approx([whole, last])
