"""Scores that are kept for a while and counted together are those that each batch would have given."""

import pytest
import torch

from lit_modules.train_metrics import AT_ONCE, TrainingScores

CPU = torch.device("cpu")


def batches(count, size=3, last=2):
    generator = torch.Generator().manual_seed(0)
    sizes = [size] * (count - 1) + [last]
    return [
        (
            torch.rand((), generator=generator),
            torch.randn(n, 4, generator=generator),
            torch.randint(4, (n,), generator=generator),
        )
        for n in sizes
    ]


def scores_of(some, **options):
    scores = TrainingScores(**options)
    scores.begin(CPU)
    for batch in some:
        scores.add(*batch)
    return scores


def expected(some):
    images = sum(len(labels) for _, _, labels in some)
    loss = sum(loss * len(labels) for loss, _, labels in some) / images
    hits = sum((logits.argmax(1) == labels).sum() for _, logits, labels in some)
    return pytest.approx((loss.item(), (hits / images).item()), rel=1e-6)


@pytest.mark.parametrize("count", [1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 3 * AT_ONCE])
def test_scores_are_means_over_images_though_the_last_batch_is_smaller(count):
    some = batches(count)
    scores = scores_of(some)
    assert (scores.loss.compute().item(), scores.top1.compute().item()) == expected(some)


def test_whichever_is_asked_first_and_whenever():
    some = batches(30)
    scores = scores_of(some[:10])
    assert scores.top1.compute() > 0
    for batch in some[10:]:
        scores.add(*batch)
    assert (scores.loss.compute().item(), scores.top1.compute().item()) == expected(some)


def test_asking_in_between_or_going_on_elsewhere_changes_no_bit():
    some = batches(70)
    whole = scores_of(some)
    first, second = scores_of(some[:33]), TrainingScores()
    second.go_on(first.so_far())
    second.begin(CPU)
    for batch in some[33:]:
        second.add(*batch)
    for name, parts in whole.so_far().items():
        assert all(map(torch.equal, parts, second.so_far()[name]))


def test_what_a_checkpoint_of_an_earlier_version_holds_is_gone_on_with():
    some = batches(5)
    scores = TrainingScores()
    scores.go_on({name: (*parts, 5) for name, parts in scores_of(some).so_far().items()})
    assert (scores.loss.compute().item(), scores.top1.compute().item()) == expected(some)


def test_an_epoch_begins_with_nothing_of_the_one_before():
    some = batches(5)
    scores = scores_of(some)
    scores.loss.reset(), scores.top1.reset()  # as Lightning does
    scores.begin(CPU)
    scores.add(*some[0])
    assert (scores.loss.compute().item(), scores.top1.compute().item()) == expected(some[:1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("bad", [0, 49, 50, 60])
def test_a_loss_that_is_not_finite_is_found_where_it_was(value, bad):
    some = batches(70)
    some[bad] = (torch.tensor(value), *some[bad][1:])
    scores = scores_of(some)
    scores.count()
    assert scores.sound == bad
    assert not scores.loss.compute().isfinite()


def test_or_left_out_of_both_scores():
    some = batches(60)
    some[7] = (torch.tensor(float("nan")), *some[7][1:])
    scores = scores_of(some, only_finite=True)
    assert (scores.loss.compute().item(), scores.top1.compute().item()) == expected(some[:7] + some[8:])
