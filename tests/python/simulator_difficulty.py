#!/usr/bin/env python3
"""How hard is the simulator's world? Shows the area under the precision-recall curve (PR-AUC) by feature set.

    python3 -m venv VENV && VENV/bin/pip install lightgbm numpy pandas pyarrow scikit-learn
    TIDEMILL_BIN=target/debug/tidemill VENV/bin/python tests/python/simulator_difficulty.py DATA.parquet

DATA is a file or a folder of Parquet from the generator, with the optional fields device_id and campaign: 60 days of the default
world (9000 users) are about 1.2 million rows. Days are split by time: 35 train, 10 validation (it stops the training), 15 test.

What a row says by itself is what sql/fraud_features.sql makes of it without its history (simulator_features.yaml selects that),
computed by the program (TIDEMILL_BIN), and the signs below;
every set of features includes all of these, so that no set is easier than the SQL's own.

A world is credible if a score without history is nearly useless, velocity alone gets half of the way, and full history most of
it, but not all. Exits with 1 if a figure is outside its range. Everything is seeded.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor

import lightgbm as lgb
import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

TRAIN_DAYS, VALIDATION_DAYS, TEST_DAYS = 35, 10, 15
HOUR, DAY = 3600.0, 86400.0
LABEL_DELAY = 3 * DAY  # a label is known this long after its event
ALERTS_PER_DAY = 0.01  # of the day's transactions

STATELESS = [
    "amount", "log_amount", "is_round", "is_round_10", "is_round_50", "cents", "hour", "is_night", "is_weekend", "country", "currency",
    "merchant_word", "is_online",
]
VELOCITY = [
    "count_1h", "count_24h", "count_7d", "sum_1h", "sum_24h", "mean_amount", "amount_over_mean", "seconds_since_last", "max_24h",
]
HISTORY = [
    "is_new_merchant", "times_at_merchant", "country_share", "is_new_country", "seconds_since_other_country",
    "merchant_count_1h", "merchant_users_24h", "merchant_count_24h_over_mean", "merchant_mean_amount", "amount_over_merchant_mean",
    "merchant_fraud_rate", "merchant_micro_1h", "user_micro_24h", "amount_repeats_at_merchant_24h", "micro_then_large",
]
DEVICE = ["has_device", "is_new_device", "device_users", "device_count_24h"]

# Where the bound is an upper one, the model must not be the reason that it holds: larger and slower.
THOROUGH = {"learning_rate": 0.03, "num_leaves": 63, "num_iterations": 1000, "early_stopping_round": 100}

# name, features besides those of a single row, overrides of the training, lowest and highest PR-AUC
RANGES = [
    ("without history", [], THOROUGH, 0.0, 0.1),
    ("velocity of the user", VELOCITY, {}, 0.4, 0.6),
    ("full history", VELOCITY + HISTORY + DEVICE, {}, 0.75, 0.9),
]

def read(path):
    data = pd.read_parquet(path)
    missing = {"device_id", "campaign"} - set(data.columns)
    if missing:
        sys.exit(f"{path}: expected the optional fields device_id and campaign, found none of {sorted(missing)}; generate with them")
    data = data.sort_values(["timestamp", "transaction_id"], kind="stable").reset_index(drop=True)
    data["seconds"] = data["timestamp"].astype("datetime64[ms, UTC]").astype("int64") / 1000.0
    data["day"] = ((data["seconds"] - data["seconds"].iloc[0]) // DAY).astype(int)
    days = data["day"].max() + 1
    if days < TRAIN_DAYS + VALIDATION_DAYS + TEST_DAYS:
        sys.exit(f"{path}: expected {TRAIN_DAYS + VALIDATION_DAYS + TEST_DAYS} days of events, found {days}")
    return data


def add_stateless(data):
    cents = np.round(data["amount"] * 100)
    data["log_amount"] = np.log(data["amount"])
    data["is_round"] = (cents % 500 == 0).astype(float)
    data["is_round_10"] = (cents % 1000 == 0).astype(float)
    data["is_round_50"] = (cents % 5000 == 0).astype(float)
    data["cents"] = cents % 100
    data["hour"] = data["timestamp"].dt.hour
    data["is_night"] = (data["hour"] < 6).astype(float)
    data["is_weekend"] = (data["timestamp"].dt.day_of_week >= 5).astype(float)
    data["country"] = data["location"].astype("category").cat.codes
    data["currency"] = data["currency"].astype("category").cat.codes
    # What the merchant sells: the third word of its name.
    data["merchant_word"] = data["merchant"].str.split(" ").str[2].astype("category").cat.codes
    data["is_online"] = data["device_id"].notna().astype(float)


def sql_features(path, data):
    """What sql/fraud_features.sql makes of the rows, in their order."""
    pipeline = pathlib.Path(__file__).with_name("simulator_features.yaml")
    with tempfile.TemporaryDirectory() as folder:
        replay = [os.environ["TIDEMILL_BIN"], "replay", pipeline, "--input", f"transactions={path}", "--output", folder]
        subprocess.run(replay, check=True)
        rows = pd.read_parquet(pathlib.Path(folder) / "rows.parquet")
    rows = rows.set_index("transaction_id").loc[data["transaction_id"]].reset_index(drop=True)
    # The rest are the columns of the event, the label among them. Some features have the names of ours and another meaning.
    return rows.drop(columns=[name for name in rows.columns if name in data.columns]).add_prefix("sql_")


class Window:
    """Rows of one key in a sliding window, with their sum."""

    __slots__ = ("rows", "sum")

    def __init__(self):
        self.rows = deque()
        self.sum = 0.0

    def expire(self, before):
        rows = self.rows
        while rows and rows[0][0] < before:
            self.sum -= rows.popleft()[1]

    def push(self, at, value):
        self.rows.append((at, value))
        self.sum += value


class User:
    __slots__ = ("hour", "day", "week", "num", "sum", "last", "merchants", "countries", "devices", "last_elsewhere", "micro", "country")

    def __init__(self):
        self.hour, self.day, self.week, self.micro = Window(), Window(), Window(), Window()
        self.num, self.sum, self.last = 0, 0.0, None
        self.merchants, self.countries, self.devices = Counter(), Counter(), set()
        self.country, self.last_elsewhere = None, None


class Merchant:
    __slots__ = ("hour", "day", "micro", "users", "amounts", "num", "sum", "first", "known", "known_fraud", "labels")

    def __init__(self, first):
        self.hour, self.day, self.micro = Window(), Window(), Window()
        self.users, self.amounts, self.labels = Counter(), Counter(), deque()
        self.num, self.sum, self.first, self.known, self.known_fraud = 0, 0.0, first, 0, 0


def user_features(user, t, amount, merchant, country):
    user.hour.expire(t - HOUR)
    user.day.expire(t - DAY)
    user.week.expire(t - 7 * DAY)
    user.micro.expire(t - DAY)
    mean = user.sum / user.num if user.num else np.nan
    elsewhere = user.last_elsewhere if user.country == country else user.last
    velocity = (
        len(user.hour.rows), len(user.day.rows), len(user.week.rows), user.hour.sum, user.day.sum, mean, amount / mean,
        np.nan if user.last is None else t - user.last, max((a for _, a in user.day.rows), default=0.0),
    )
    seen = user.countries[country]
    history = (
        float(user.merchants[merchant] == 0), user.merchants[merchant], seen / user.num if user.num else np.nan, float(seen == 0),
        np.nan if elsewhere is None else t - elsewhere,
    )
    return velocity, history


def merchant_features(shop, t, amount):
    shop.hour.expire(t - HOUR)
    shop.micro.expire(t - HOUR)
    rows = shop.day.rows
    while rows and rows[0][0] < t - DAY:
        _, key, cents = rows.popleft()
        shop.users[key] -= 1
        if not shop.users[key]:
            del shop.users[key]
        shop.amounts[cents] -= 1
    while shop.labels and shop.labels[0][0] <= t:
        shop.known_fraud += shop.labels.popleft()[1]
        shop.known += 1
    mean = shop.sum / shop.num if shop.num else np.nan
    per_day = shop.num / max((t - shop.first) / DAY, 1.0)
    return (
        len(shop.hour.rows), len(shop.users), len(rows) / (per_day + 1.0), mean, amount / mean, (shop.known_fraud + 0.14) / (shop.known + 10.0),
        len(shop.micro.rows),
    )


def history(data):
    """One pass in order of time; each row sees the rows before it, and labels that are LABEL_DELAY old."""
    users, shops = defaultdict(User), {}
    device_users, device_days = defaultdict(set), defaultdict(Window)
    out = np.full((len(data), len(VELOCITY) + len(HISTORY) + len(DEVICE)), np.nan)
    columns = [data[c].tolist() for c in ("seconds", "user_id", "amount", "merchant", "location", "is_fraud")]
    devices = data["device_id"].astype(object).where(data["device_id"].notna(), None).tolist()
    for i, (t, who, amount, merchant, country, label, device) in enumerate(zip(*columns, devices)):
        user = users[who]
        shop = shops.get(merchant)
        if shop is None:
            shop = shops[merchant] = Merchant(t)
        velocity, past = user_features(user, t, amount, merchant, country)
        at_shop = merchant_features(shop, t, amount)
        cents, micro = round(amount * 100), len(user.micro.rows)
        row = velocity + past + at_shop + (micro, shop.amounts[cents], float(micro > 0 and amount > 100))
        if device is None:
            row += (0.0, np.nan, np.nan, np.nan)
        else:
            device_users[device].add(who)
            recent = device_days[device]
            recent.expire(t - DAY)
            row += (1.0, float(device not in user.devices), len(device_users[device]), len(recent.rows))
            recent.push(t, 0.0)
            user.devices.add(device)
        out[i] = row
        for window in (user.hour, user.day, user.week, shop.hour):
            window.push(t, amount)
        if amount < 2:
            user.micro.push(t, amount)
            shop.micro.push(t, amount)
        if user.country != country:
            user.last_elsewhere, user.country = user.last, country
        user.num, user.sum, user.last = user.num + 1, user.sum + amount, t
        user.merchants[merchant] += 1
        user.countries[country] += 1
        shop.day.rows.append((t, who, cents))
        shop.users[who] += 1
        shop.amounts[cents] += 1
        shop.num, shop.sum = shop.num + 1, shop.sum + amount
        shop.labels.append((t + LABEL_DELAY, label))
    return pd.DataFrame(out, columns=VELOCITY + HISTORY + DEVICE, index=data.index)


def fit(data, features, overrides):
    parts = np.digitize(data["day"], [TRAIN_DAYS, TRAIN_DAYS + VALIDATION_DAYS, TRAIN_DAYS + VALIDATION_DAYS + TEST_DAYS])
    x, y = data[features].to_numpy(np.float32), data["is_fraud"].to_numpy()
    train = lgb.Dataset(x[parts == 0], y[parts == 0])
    validation = lgb.Dataset(x[parts == 1], y[parts == 1], reference=train)
    parameters = {
        "objective": "binary", "metric": "average_precision", "learning_rate": 0.08, "num_leaves": 31, "lambda_l2": 1.0,
        "min_sum_hessian_in_leaf": 1.0, "seed": 7, "deterministic": True, "force_col_wise": True, "num_threads": 1, "verbose": -1,
        "num_iterations": 300, "early_stopping_round": 30, **overrides,
    }
    model = lgb.train(parameters, train, valid_sets=[validation])
    test = data[parts == 2]
    return model, test, model.predict(x[parts == 2], num_threads=1)


def report(test, score):
    """Recall by kind if the highest scores of the test days, one in a hundred, are alerts."""
    alerts = np.zeros(len(test), bool)
    alerts[np.argsort(-score, kind="stable")[: int(len(test) * ALERTS_PER_DAY)]] = True
    print(f"    alerts on {alerts.mean():.1%}: precision {test['is_fraud'].to_numpy()[alerts].mean():.3f}; by kind:")
    labels, kinds = test["is_fraud"].to_numpy(), test.groupby("campaign", observed=True).indices
    for kind, rows in kinds.items():
        # Of this kind and the honest rows only.
        alone = labels == 0
        alone[rows] = True
        figure = average_precision_score(labels[alone], score[alone])
        print(f"      {kind:20} recall {alerts[rows].mean():.3f} of {len(rows):4}, PR-AUC alone {figure:.3f}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    data = read(sys.argv[1])
    from_sql = sql_features(sys.argv[1], data)
    add_stateless(data)
    data = pd.concat([data, from_sql, history(data)], axis=1)
    single_row = STATELESS + list(from_sql.columns)
    print(f"{len(data)} rows, {data['is_fraud'].mean():.3%} fraud; features of the SQL: {', '.join(from_sql.columns)}")
    failed = False
    # Two at a time, the longest first; each has one thread, so that the figures do not depend on the machine.
    with ThreadPoolExecutor(2) as pool:
        fits = [pool.submit(fit, data, single_row + features, overrides) for _, features, overrides, *_ in reversed(RANGES)]
    for (name, features, _, lowest, highest), future in zip(RANGES, reversed(fits)):
        model, test, score = future.result()
        figure = average_precision_score(test["is_fraud"], score)
        good = lowest <= figure <= highest
        failed |= not good
        print(f"{name:24} {len(single_row + features):2} features, {model.best_iteration:3} trees: PR-AUC {figure:.3f}"
              f"  expected {lowest} to {highest}: {'ok' if good else 'OUTSIDE'}")
        report(test, score)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
