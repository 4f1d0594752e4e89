"""The bytes that all models together may hold."""

import pytest

from nyquist.server.scheduling.budget import QueueBudget
from nyquist.server.wire.errors import QueueFull


def test_what_fits_exactly_is_taken_and_a_byte_more_is_refused_with_the_figures() -> None:
    budget = QueueBudget(100)
    budget.take(60)
    with pytest.raises(QueueFull, match="of 100: 60 are held, the request has 41"):
        budget.take(41)
    budget.take(40)
    assert budget.held_bytes == 100


def test_a_refusal_holds_nothing_and_what_is_given_back_may_be_taken_again() -> None:
    budget = QueueBudget(100)
    budget.take(100)
    with pytest.raises(QueueFull):
        budget.take(1)
    budget.give_back(30)
    assert budget.held_bytes == 70
    budget.take(30)
    assert budget.held_bytes == budget.max_bytes == 100
