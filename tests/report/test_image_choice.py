from __future__ import annotations

from resnet_tasks.report.image_choice import choose_images


def test_worst_surprising_and_best_are_chosen_and_each_image_once() -> None:
    rows = [{"image_id": i, "quality": i / 40, "surprise": (i * 7 % 40) / 40} for i in range(40)]
    choices, notes = choose_images({"a": {"images": rows}}, list(range(40)))
    assert len(choices) == 12
    assert notes == []
    assert [each.index for each in choices[:4]] == [0, 1, 2, 3]
    assert choices[0].reasons == ("a: worst (quality 0.00)",)
    reasons = [reason for each in choices for reason in each.reasons]
    assert sum("best" in each for each in reasons) == 4
    assert sum("surprising" in each for each in reasons) == 4
    few, _ = choose_images({"a": {"images": rows[:2]}}, [0, 1])
    assert [len(each.reasons) for each in few] == [2, 3]  # the first one surprises nobody
    alike, _ = choose_images(
        {"a": {"images": [{**each, "quality": 0.0} for each in rows]}}, range(40)
    )
    reasons = [reason for each in alike for reason in each.reasons]
    assert sum("worst" in each for each in reasons) == 4
    assert not any("best" in each for each in reasons), "no image is worst and best at once"


def test_without_judged_images_they_are_spread_and_it_is_said() -> None:
    unknown = {"a": {"images": [{"image_id": "gone", "quality": 1.0}]}}
    choices, notes = choose_images(unknown, list(range(100)), limit=3)
    assert [each.index for each in choices] == [0, 49, 99]
    assert "has no quality per image" in notes[0]
    assert choose_images({}, []) == ([], [])
