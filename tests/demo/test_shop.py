"""The shop of `offrl demo logs`: its log holds what it did, and its truth is what that comes to."""

import csv
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from offrl.demo.shop import DAYS, HEADER, OFFERS, SEEN, Floats, Seen, Shop, log_of, own_rule
from offrl.evaluation.statistics import interval

Rows = list[dict[str, str]]


def logged(customers: int = 2_000, seed: int = 0, shop: Shop | None = None) -> Rows:
    """The rows of a log."""
    page = log_of((shop or Shop()).visits(own_rule, customers, seed), seed)
    return list(csv.DictReader(io.StringIO(page)))


def columns(rows: Rows) -> Seen:
    """What a log says was seen, in rows with an offer."""
    numbers = {n: np.array([float(r[n] or "nan") for r in rows]) for n in SEEN if n != "device"}
    return {**numbers, "device": np.array([row["device"] for row in rows])}


def always(offer: str) -> Callable[[Seen], Floats]:
    chances = np.eye(len(OFFERS))[OFFERS.index(offer)]
    return lambda seen: np.tile(chances, (len(seen["day"]), 1))


def coupons_for_phones(seen: Seen) -> Floats:
    phone = (seen["device"] == "phone")[:, None]
    return np.where(phone, [0.1, 0.1, 0.8], [0.2, 0.7, 0.1])


def by_customer(rows: Rows) -> list[Rows]:
    found: dict[str, Rows] = {}
    for row in rows:
        found.setdefault(row["customer"], []).append(row)
    return list(found.values())


class TestLog:
    def test_the_same_seed_writes_the_same_bytes_and_another_others(self):
        page = log_of(Shop().visits(own_rule, 50, 3), 3)
        assert page == log_of(Shop().visits(own_rule, 50, 3), 3)
        assert page != log_of(Shop().visits(own_rule, 50, 4), 4)
        assert page.splitlines()[0] == ",".join(HEADER)

    def test_chances_follow_from_what_is_logged_alone(self):
        rows = [row for row in logged() if row["offer"]]
        chances = own_rule(columns(rows))
        offered = np.array([OFFERS.index(row["offer"]) for row in rows])
        known = chances[np.arange(len(rows)), offered]
        assert np.array_equal(known, [float(row["chance"]) for row in rows])

    def test_offers_are_made_as_often_as_their_chances_say(self):
        rows = [row for row in logged(6_000) if row["offer"]]
        chances = own_rule(columns(rows))
        for number, offer in enumerate(OFFERS):
            made = np.array([row["offer"] == offer for row in rows])
            low, high = interval(made - chances[:, number], 0.999) or (1.0, -1.0)
            assert low < 0 < high

    def test_every_customer_has_an_end_and_one_whom_the_log_lost_a_last_state(self):
        customers = by_customer(logged())
        assert len(customers) == 2_000
        ends = set[str]()
        for rows in customers:
            assert [int(row["day"]) for row in rows] == list(range(1, len(rows) + 1))
            last = next(row for row in reversed(rows) if row["offer"])
            ends.add(last["ends"])
            told = [row for row in rows if row["ends"]]
            assert told == [last]
            state_only = rows[-1] if rows[-1] is not last else None
            assert (state_only is not None) == (last["ends"] == "truncated")
            if state_only is not None:
                empty = ("offer", "chance", "profit", "ends")
                assert [state_only[name] for name in empty] == [""] * 4
            if len([row for row in rows if row["offer"]]) == DAYS:
                assert last["ends"] == "terminated"
        assert ends == {"terminated", "truncated"}

    def test_some_never_told_their_age_and_all_else_is_there(self):
        rows = logged()
        unknown = [row["age"] == "" for row in rows]
        assert 0.05 < np.mean(unknown) < 0.12
        assert all(row[name] for row in rows for name in ("device", "basket", "coupons"))

    def test_profits_of_customers_whom_the_log_did_not_lose_are_those_of_their_visits(self):
        values = Shop().visits(own_rule, 2_000, 0).values(0.9)
        for number, rows in enumerate(by_customer(logged())):
            if rows[-1]["offer"]:
                total = sum(float(row["profit"]) * 0.9**t for t, row in enumerate(rows))
                assert total == pytest.approx(values[number], abs=1e-9)


class TestTruth:
    @pytest.mark.parametrize("policy", [always("10% off"), always("none"), coupons_for_phones])
    def test_it_is_what_weighted_visits_under_the_own_rule_say(self, policy: Any):
        """Per-decision importance sampling, which knows nothing of how the shop works inside."""
        truth = Shop().truth(policy, 0.9, 40_000, 7)
        visits = Shop().visits(own_rule, 120_000, 1)
        weight, total = np.ones(120_000), np.zeros(120_000)
        for day in range(DAYS):
            chances = policy(visits.seen[day])[np.arange(120_000), visits.offer[:, day]]
            weight = np.where(visits.there[:, day], weight * chances / visits.chance[:, day], 0)
            total += weight * 0.9**day * visits.profit[:, day]
        low, high = interval(total, 0.999) or (1.0, -1.0)
        assert low < truth.value < high

    def test_of_the_own_rule_the_uplift_is_none(self):
        truth = Shop().truth(own_rule, 0.99, 500, 0)
        assert (truth.uplift, truth.uplift_ci) == (0.0, (0.0, 0.0))
        assert truth.value == truth.behavior_value

    def test_where_no_offer_moves_anybody_no_policy_is_better(self):
        truth = Shop(moved=0).truth(coupons_for_phones, 0.99, 2_000, 0)
        assert (truth.uplift, truth.uplift_ci) == (0.0, (0.0, 0.0))
        assert Shop().truth(coupons_for_phones, 0.99, 2_000, 0).uplift_ci[0] > 1

    def test_coupons_cost_what_they_teach_the_customer(self):
        """Who was given a coupon orders less without one: visits are no bandit."""

        def first_day(offer: int) -> Callable[[Seen], Floats]:
            def choose(seen: Seen) -> Floats:
                chosen = np.where(seen["day"] == 1, offer, OFFERS.index("none"))
                return np.eye(len(OFFERS))[chosen.astype(int)]

            return choose

        later = [
            Shop().visits(first_day(OFFERS.index(name)), 20_000, 0).profit[:, 1]
            for name in ("free delivery", "10% off")
        ]
        assert later[1].mean() < later[0].mean() - 0.3
