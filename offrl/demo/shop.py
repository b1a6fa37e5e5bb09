"""A small web shop in a sale of three days, whose customers are known through and through.

    customer  day  age  device  basket  coupons  offer          chance  profit  ends
    17        1    37   phone   42.10   0        10% off        0.25    10.53
    17        2    37   phone   55.90   1        free delivery  0.25    0.00    truncated
    17        3    37   phone   48.70   1
    18        1         tablet  31.00   0        none           0.50    0.00    terminated

On each day a customer sees one offer and buys or not. Free delivery makes small baskets worth
ordering; 10% off wins the young and those on a phone, costs where they would have bought anyway,
and teaches them to wait for the next one. Customers may stay away afterwards, and after the third
day the sale is over: terminated. Where only the log stops (truncated), one more row holds what was
seen last. The shop's own rule gives coupons to large baskets, and every chance is logged.

What customers bring and their luck are drawn from the seed before any offer is made: two policies
meet the same customers, and the difference between them is paired.
"""

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from offrl.evaluation.statistics import interval

OFFERS = ("none", "free delivery", "10% off")
DEVICES = ("phone", "tablet", "desktop")
SEEN = ("day", "age", "device", "basket", "coupons")  # what an offer is chosen by
HEADER = ("customer", *SEEN, "offer", "chance", "profit", "ends")
DAYS = 3
MARGIN = 0.35  # of a basket, before what the offer costs
DELIVERY = 4.0  # euros
OFF = 0.1  # of a basket
AGE_UNKNOWN = 0.08  # of customers
LOG_STOPS = 0.06  # of visits after which the customer would have come again

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Seen = dict[str, npt.NDArray[Any]]  # the columns SEEN of n customers; an age not told is NaN
Choosing = Callable[[Seen], Floats]  # what is seen -> the chance of each offer, [n, 3]


def own_rule(seen: Seen) -> Floats:
    """Return the shop's own chances: coupons for large baskets, and something of everything."""
    large = (seen["basket"] > 50)[:, None]
    return np.where(large, [0.3, 0.3, 0.4], [0.4, 0.3, 0.3])


@dataclass(frozen=True)
class Visits:
    """What n customers saw, were offered and brought in, day by day."""

    seen: tuple[Seen, ...]  # one for each day
    there: Flags  # [n, DAYS], whether they came
    offer: npt.NDArray[np.int64]  # [n, DAYS], of OFFERS
    chance: Floats  # [n, DAYS], of that offer
    profit: Floats  # [n, DAYS] euros, 0 where they did not come

    def values(self, discount: float) -> Floats:
        """Return the discounted profit of each customer, [n] euros."""
        return self.profit @ discount ** np.arange(DAYS)


@dataclass(frozen=True)
class Truth:
    """What a policy is worth where the customers are known, beside the shop's own rule."""

    customers: int
    seed: int
    discount: float
    value: float  # discounted euros a customer
    value_ci: tuple[float, float]
    behavior_value: float
    behavior_ci: tuple[float, float]
    uplift: float
    uplift_ci: tuple[float, float]  # of the paired difference


@dataclass(frozen=True)
class Shop:
    """The shop; `moved` scales what an offer does and what it costs, 0 being neither."""

    moved: float = 1.0

    def visits(self, choosing: Choosing, customers: int, seed: int) -> Visits:
        """Run the sale for `customers` customers under the policy `choosing`."""
        n, rng = customers, np.random.default_rng(seed)
        age = np.clip(np.round(rng.normal(42, 14, n)), 18, 90)
        told = rng.uniform(size=n) >= AGE_UNKNOWN
        device = rng.choice(len(DEVICES), n, p=[0.5, 0.15, 0.35])
        size = rng.normal(3.8, 0.25, (n, 1)) + rng.normal(0, 0.25, (n, DAYS))
        basket = np.round(np.exp(size), 2)
        luck = rng.uniform(size=(3, n, DAYS))  # of the offer, of the order, of coming again
        coupons, here = np.zeros(n), np.ones(n, np.bool_)
        seen = list[Seen]()
        there, chance, profit = (
            np.zeros((n, DAYS), np.bool_),
            np.ones((n, DAYS)),
            np.zeros_like(size),
        )
        offer = np.zeros((n, DAYS), np.int64)
        for day in range(DAYS):
            now: Seen = {
                "day": np.full(n, day + 1),
                "age": np.where(told, age, np.nan),
                "device": np.array(DEVICES)[device],
                "basket": basket[:, day],
                "coupons": coupons.astype(np.int64),
            }
            chances = choosing(now)
            drawn = (luck[0, :, day, None] >= chances.cumsum(1)[:, :-1]).sum(1)
            orders = luck[1, :, day] < self._orders(now, age, drawn)
            earned = orders * self._earns(now, drawn)
            seen.append(now)
            there[:, day], offer[:, day] = here, drawn
            chance[:, day] = chances[np.arange(n), drawn]
            profit[:, day] = np.round(np.where(here, earned, 0.0), 2)
            coupons = coupons + (drawn == OFFERS.index("10% off"))
            here = here & (luck[2, :, day] >= np.where(orders, 0.2, 0.35))
        return Visits(tuple(seen), there, offer, chance, profit)

    def truth(self, choosing: Choosing, discount: float, customers: int, seed: int) -> Truth:
        """Return the value of `choosing` and of the own rule, met by the same customers."""
        ours = self.visits(choosing, customers, seed).values(discount)
        own = self.visits(own_rule, customers, seed).values(discount)
        found = [(float(x.mean()), interval(x)) for x in (ours, own, ours - own)]
        flat = [(mean, bounds or (mean, mean)) for mean, bounds in found]
        (value, value_ci), (behavior, behavior_ci), (uplift, uplift_ci) = flat
        return Truth(
            customers, seed, discount, value, value_ci, behavior, behavior_ci, uplift, uplift_ci
        )

    def _orders(self, seen: Seen, age: Floats, offer: npt.NDArray[np.int64]) -> Floats:
        """The probability of an order, [n]."""
        small, phone = seen["basket"] < 45, seen["device"] == "phone"
        waiting = -0.6 * np.minimum(seen["coupons"], 2)
        delivery = np.where(small, 1.8, -0.2)
        coupon = -0.4 + 2.0 * phone + 1.0 * (age < 35)
        pull = np.choose(offer, [waiting, delivery, coupon])
        return 1 / (1 + np.exp(0.8 - 0.01 * (seen["basket"] - 45) - self.moved * pull))

    def _earns(self, seen: Seen, offer: npt.NDArray[np.int64]) -> Floats:
        """The profit of an order, [n] euros."""
        costs = np.choose(
            offer, [0 * seen["basket"], DELIVERY + 0 * seen["basket"], OFF * seen["basket"]]
        )
        return MARGIN * seen["basket"] - self.moved * costs


def log_of(visits: Visits, seed: int) -> str:
    """Return what the shop logged of its visits, as CSV; the log of some stops too early."""
    stops = np.random.default_rng([seed, 1]).uniform(size=visits.there.shape) < LOG_STOPS
    page = io.StringIO()
    rows = csv.writer(page, lineterminator="\n")
    rows.writerow(HEADER)
    for customer in range(len(visits.there)):
        for day in range(DAYS):
            comes_again = day + 1 < DAYS and bool(visits.there[customer, day + 1])
            cut = comes_again and bool(stops[customer, day])
            ends = "truncated" if cut else "" if comes_again else "terminated"
            offer, chance = visits.offer[customer, day], visits.chance[customer, day]
            what = (OFFERS[offer], f"{chance:.10g}", f"{visits.profit[customer, day]:.2f}", ends)
            rows.writerow((customer, *_row(visits.seen[day], customer), *what))
            if cut:
                rows.writerow((customer, *_row(visits.seen[day + 1], customer), "", "", "", ""))
            if ends:
                break
    return page.getvalue()


def _row(seen: Seen, customer: int) -> list[str]:
    cells = [seen[name][customer] for name in SEEN]
    return ["" if cell != cell else str(cell) for cell in cells]
