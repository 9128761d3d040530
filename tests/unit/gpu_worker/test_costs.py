import pytest

from services.gpu_worker.costs import MeasuredCosts, Work


def test_estimates_from_the_first_job_and_follows_later_ones_slowly() -> None:
    costs = MeasuredCosts()
    work = Work("studio", 16, 16, steps=4, images=2)
    assert costs.estimate_s(work) == 0
    costs.observe(work, denoise_s=8.0, total_s=10.0)
    assert costs.estimate_s(Work("studio", 16, 16, steps=8, images=1)) == pytest.approx(8 * 1.0 + 1.0)
    costs.observe(work, denoise_s=16.0, total_s=18.0)
    (cost,) = costs.known()
    assert (cost.step_s, cost.fixed_s) == pytest.approx((1.2, 1.0))


def test_another_recipe_or_size_is_not_guessed_at() -> None:
    costs = MeasuredCosts()
    costs.observe(Work("studio", 16, 16, steps=4, images=1), denoise_s=4.0, total_s=5.0)
    assert costs.estimate_s(Work("studio", 32, 32, steps=4, images=1)) == 0


def test_a_job_without_images_teaches_nothing() -> None:
    costs = MeasuredCosts()
    costs.observe(Work("studio", 16, 16, steps=4, images=0), denoise_s=0.0, total_s=5.0)
    assert costs.known() == ()
