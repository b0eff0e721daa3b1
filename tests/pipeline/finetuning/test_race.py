import pytest

from pipeline.finetuning.race import MAX_EPOCHS, judge_race, plan_race


def test_the_arm_from_scratch_may_cost_one_epoch_of_fine_tuning():
    assert plan_race(finetune_multiply_adds=60, scratch_multiply_adds=20) == 3
    assert plan_race(60, 59) == 1


def test_it_gets_an_epoch_however_dear_and_no_more_than_ten_however_cheap():
    assert plan_race(10, 1000) == 1
    assert plan_race(1000, 1) == MAX_EPOCHS


@pytest.mark.parametrize(("scratch", "continued"), [(0.40, False), (0.80, False), (0.81, False), (0.90, True)])
def test_it_continues_only_if_it_is_clearly_ahead(scratch, continued):
    race = judge_race(0.80, scratch, num_images=1000, epochs=3, cost=0.9)
    assert race.continued is continued
    assert ("continues" if continued else "was stopped") in race.reason
    assert f"{scratch:.1%} after 3 epochs" in race.reason
